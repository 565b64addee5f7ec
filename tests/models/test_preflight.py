import copy
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from harden.errors import ModelError, PreflightError
from harden.models import load_model
from harden.models.choice import fitted_losses
from harden.models.classifier import Conflict, Normalisation
from harden.models.normalisations import CANDIDATES, apply, what_to_type, why_in_doubt
from harden.models.preflight import preflight, remembered

CLASSES = tuple("0123456789")
ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("HARDEN_TEST_DATA", ROOT.parent / "shared" / "data"))


def by_name(channels: int, name: str) -> Normalisation:
    return next(candidate for candidate in CANDIDATES[channels] if candidate.name == name)


def digits(channels: int) -> tuple[Tensor, Tensor]:
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 16
    if channels == 3:  # tints, so that the order of the channels matters
        images = torch.cat([images, images * 0.6 + 0.1, (1 - images) * 0.5], dim=1)
    return images, torch.from_numpy(data.target).long()


def trained(
    normalisation: Normalisation, channels: int, *, epochs: int = 10, targets: Tensor | None = None
) -> nn.Module:
    images, labels = digits(channels)
    labels = labels if targets is None else targets
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(channels, 16, 3),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(576, int(labels.max()) + 1),
        )
        inputs = apply(normalisation, images)
        optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(epochs):
            for batch in torch.randperm(len(labels)).split(128):
                optimiser.zero_grad()
                nn.functional.cross_entropy(net(inputs[batch]), labels[batch]).backward()
                optimiser.step()
    return net


@pytest.fixture(scope="module")
def half() -> nn.Module:
    return trained(by_name(1, "0.5/0.5"), 1)


@pytest.mark.parametrize(
    ("channels", "name"),
    [(1, "0.5/0.5"), (1, "0-255"), (3, "ImageNet, BGR"), (3, "0-255, BGR minus ImageNet mean (Caffe)")],
)
def test_finds_the_normalisation_that_the_net_was_trained_with(channels: int, name: str) -> None:
    net = trained(by_name(channels, name), channels)
    images, labels = digits(channels)
    found = preflight(net, images=images, labels=labels, classes=CLASSES, given=None)
    assert found.chosen.name == name, found.rows
    assert next(row.accuracy for row in found.rows if row.name == name) > 0.95
    assert found.images == len(labels)
    assert net.training  # modes are the caller's
    assert all(parameter.grad is None or parameter.requires_grad for parameter in net.parameters())


def test_what_is_hopeless_on_a_first_look_is_not_tried_on_the_rest() -> None:
    net = trained(by_name(3, "0-255, BGR minus ImageNet mean (Caffe)"), 3)
    images, labels = digits(3)
    looked = []
    # What is only compared with BatchNorm ends there.
    handle = net.register_forward_hook(lambda module, inputs, output: looked.append(len(inputs[0])))
    found = preflight(net, images=images, labels=labels, classes=CLASSES, given=None)
    handle.remove()
    best = max(row.accuracy for row in found.rows)
    hopeless = {row.name for row in found.rows if row.images < len(labels)}
    assert {row.images for row in found.rows} == {len(labels), round(0.2 * len(labels))}
    assert hopeless == {row.name for row in found.rows if row.accuracy < best - 0.25}
    assert sum(looked) == sum(row.images for row in found.rows)
    assert f"of {len(found.rows)} normalisations" in found.reason
    whole = {row.name: row for row in found.rows if row.name not in hopeless}
    for name, row in whole.items():
        alone = preflight(net, images=images, labels=labels, classes=CLASSES, given=by_name(3, name), must_know=False)
        assert (row.accuracy, pytest.approx(row.nll)) == (alone.rows[0].accuracy, alone.rows[0].nll)


@pytest.mark.parametrize(("classes", "name", "order"), [(2, "0-255", "1,0"), (3, "ImageNet", "2,0,1")])
def test_an_order_of_few_classes_is_found_though_accuracy_is_lowest_where_it_shows(
    classes: int, name: str, order: str
) -> None:
    """The right normalisation has hardly an image right then, and the wrong ones as many as guessing has."""
    channels = 1 if classes == 2 else 3
    images, labels = digits(channels)
    labels = (labels >= 5).long() if classes == 2 else labels % 3
    net = trained(by_name(channels, name), channels, targets=labels)
    with pytest.raises(PreflightError, match="another order") as found:
        preflight(
            net, images=images, labels=(labels + 1) % classes, classes=CLASSES[:classes], given=None, must_know=True
        )
    assert found.value.hint == f"--class-map {order}"
    right = float(found.value.message.split("order: ")[1].split("%")[0])
    assert right < 20, "what is told of all images was measured on all of them"


def test_scores_that_are_finite_on_the_first_images_only_do_not_hide_the_others(half: nn.Module) -> None:
    """The best on the first look has no numbers on the rest, and what was hopeless beside it is tried after all."""
    images, labels = digits(1)
    wide = by_name(1, "0-255")

    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.seen = nn.Sequential(half[0], *half[2:]), 0

        def forward(self, inputs: Tensor) -> Tensor:
            scores = self.net(inputs)
            if inputs.max() > 10:
                self.seen += len(inputs)
                best = nn.functional.one_hot(self.truth[: len(inputs)], 10) * 9.0
                return best if self.seen <= 359 else scores * torch.nan
            return scores.flip(1) * 0 + torch.arange(10.0)

    fickle = Fickle()
    rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:359]
    looks = iter([labels[rows[:250]], labels[rows[250:]]])

    def truth(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        module.truth = next(looks, labels) if inputs[0].max() > 10 else labels

    fickle.register_forward_pre_hook(truth)
    found = preflight(fickle, images=images, labels=labels, classes=CLASSES, given=None, must_know=False)
    assert wide.name not in {row.name for row in found.rows}
    assert {row.images for row in found.rows} == {len(labels)}


def test_few_images_are_all_looked_at(half: nn.Module) -> None:
    images, labels = digits(1)
    found = preflight(half, images=images[:499], labels=labels[:499], classes=CLASSES, given=None)
    assert {row.images for row in found.rows} == {499}


def test_modes_and_statistics_of_every_submodule_are_left_alone(half: nn.Module) -> None:
    net = copy.deepcopy(half).train()
    net[1].eval()
    before = copy.deepcopy(net.state_dict())
    images, labels = digits(1)
    preflight(net, images=images, labels=labels, classes=CLASSES, given=None)
    assert [part.training for part in net] == [True, False, True, True, True]
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_own_statistics_win_only_where_no_published_ones_are_near() -> None:
    images, labels = digits(1)
    own = Normalisation("", (images.mean().item(),), (images.std().item(),))
    odd = Normalisation("", (0.9,), (0.1,))
    shifted = images * 0.2 + 0.7
    net = trained(own, 1)
    assert preflight(net, images=images, labels=labels, classes=CLASSES, given=None).chosen.name != "0-255"
    found = preflight(net, images=shifted, labels=labels, classes=CLASSES, given=None)
    assert found.chosen.name == "the data's own"
    only = preflight(net, images=images, labels=labels, classes=CLASSES, given=own)
    assert only.chosen is own
    assert len(only.rows) == 1
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    with pytest.raises(PreflightError, match="does not know this data"):
        preflight(net, images=images, labels=shuffled, classes=CLASSES, given=odd)


def without_norm() -> nn.Module:
    """Two classes that any contrast tells apart, so that every normalisation is right all the time."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False))
    images, labels = digits(1)
    direction = images[labels == 0].mean(0) - images[labels == 1].mean(0)
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([direction.flatten(), -direction.flatten()]))
        net[1].weight.sub_(net[1].weight.mean(1, keepdim=True)).mul_(0.01)  # blind to brightness
    return net


def test_contrast_wins_nothing_where_every_normalisation_is_right() -> None:
    """The plain loss is lowest with statistics of higher contrast; the first BatchNorm knows better."""
    net = trained(by_name(1, "none"), 1, epochs=25)
    images, labels = digits(1)
    found = preflight(net, images=images, labels=labels, classes=CLASSES, given=None)
    as_good = [row for row in found.rows if row.accuracy == 1.0]
    assert len(as_good) > 1
    assert min(as_good, key=lambda row: row.nll).name != "none"
    assert found.chosen.name == "none"
    assert "BatchNorm" in found.reason
    assert found.chosen.doubt is None


def test_what_nothing_tells_apart_is_told() -> None:
    images, labels = digits(1)
    chosen = labels < 2
    net = without_norm()
    found = preflight(net, images=images[chosen], labels=labels[chosen], classes=("0", "1"), given=None)
    assert min(found.rows, key=lambda row: row.nll).name == "0-255"
    assert found.chosen.name == "none"
    assert "plainest" in found.reason
    assert found.chosen.doubt is not None
    assert found.chosen.doubt.conflict is Conflict.TIED
    assert "0-255" in {rival.name for rival in found.chosen.doubt.rivals}
    assert "0-255" in why_in_doubt(found.chosen)
    assert "0-255 (--mean 0 --std 0.003922)" in what_to_type(found.chosen)
    given = preflight(net, images=images[chosen], labels=labels[chosen], classes=("0", "1"), given=by_name(1, "none"))
    assert given.chosen.doubt is None


def test_a_temperature_takes_contrast_out_of_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(200, 5, generator=generator), torch.randint(5, (200,), generator=generator)
    scores[torch.arange(200), labels] += 1
    losses = [fitted_losses(scores * contrast, labels).mean().item() for contrast in (0.1, 1.0, 255.0)]
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-4)
    slow = min(nn.functional.cross_entropy(scores / t, labels).item() for t in torch.linspace(0.2, 5, 1000).tolist())
    assert losses[1] == pytest.approx(slow, abs=1e-4)


@pytest.mark.parametrize("order", [[3, 1, 0, 2, 4, 6, 5, 9, 7, 8], [1, 0, 2, 3, 4, 5, 6, 7, 8, 9]])
def test_a_permuted_head_is_told_with_the_map_that_repairs_it(half: nn.Module, order: list[int]) -> None:
    net = copy.deepcopy(half)
    with torch.no_grad():  # output order[k] of the model is class k of the data
        for tensor in (net[4].weight, net[4].bias):
            tensor[order] = tensor.clone()
    images, labels = digits(1)
    with pytest.raises(PreflightError, match="another order") as caught:
        preflight(net, images=images, labels=labels, classes=CLASSES, given=None)
    assert caught.value.hint == f"--class-map {','.join(map(str, order))}"
    mapped = torch.tensor(order)[labels]
    assert preflight(net, images=images, labels=mapped, classes=CLASSES, given=None).chosen.name == "0.5/0.5"


def test_a_random_net_is_refused_with_the_list_of_what_was_tried() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    images, labels = digits(1)
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    with pytest.raises(PreflightError, match="does not know this data") as caught:
        preflight(net, images=images, labels=shuffled, classes=CLASSES, given=None)
    assert "Fashion-MNIST" in caught.value.message
    assert "--pretrain" in (caught.value.hint or "")


def test_a_net_that_need_not_know_the_data_is_told_of_and_let_through(half: nn.Module) -> None:
    images, labels = digits(1)
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    for given in (None, by_name(1, "MNIST")):
        found = preflight(half, images=images, labels=shuffled, classes=CLASSES, given=given, must_know=False)
        assert found.problem is not None
        assert "does not know this data" in found.problem.message
        assert given is None or found.chosen is given
    assert preflight(half, images=images, labels=labels, classes=CLASSES, given=None, must_know=False).problem is None


def test_other_number_of_outputs_and_nan_scores(half: nn.Module) -> None:
    images, labels = digits(1)
    with pytest.raises(PreflightError, match="10 outputs, the data has 3 classes"):
        preflight(half, images=images, labels=labels % 3, classes=("a", "b", "c"), given=None)
    broken = copy.deepcopy(half)
    with torch.no_grad():
        broken[4].bias.fill_(float("nan"))
    with pytest.raises(ModelError, match="NaN"):
        preflight(broken, images=images, labels=labels, classes=CLASSES, given=None)


def from_tar(archive: Path, count: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """The first `count` training images of each class."""
    found: dict[str, list[Tensor]] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = Path(member.name).parts[-3:]
            if member.isfile() and len(parts) == 3 and parts[0] == "train" and len(found.get(parts[1], [])) < count:
                file = tar.extractfile(member)
                assert file is not None
                pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(file.read()))))
                found.setdefault(parts[1], []).append(pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1))
                if len(found) == 10 and all(len(images) == count for images in found.values()):
                    break
    classes = tuple(sorted(found))
    images = torch.stack([image for name in classes for image in found[name]])
    return images, torch.arange(10).repeat_interleave(count), classes


@pytest.mark.parametrize(
    ("checkpoint", "arch", "archive", "channels", "size", "expected"),
    [
        ("chyun_fashion_mnist_cnn.pth", "fashion_cnn.py:fashion_cnn", "fashion-mnist", 1, 28, "Fashion-MNIST"),
        ("resnet20-12fca82f.th", "resnet_cifar.py:resnet20", "cifar10", 3, 32, "ImageNet"),
    ],
)
def test_real_checkpoints(
    checkpoint: str,
    arch: str,
    archive: str,
    channels: int,
    size: int,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not (REAL / "checkpoints" / checkpoint).is_file():
        pytest.skip(f"no real data at {REAL} (set HARDEN_TEST_DATA)")
    monkeypatch.setenv("HARDEN_STATE", str(tmp_path))
    loaded = load_model(
        str(REAL / "checkpoints" / checkpoint),
        arch=str(ROOT / "examples" / arch),
        classes=10,
        in_channels=channels,
        image_size=(size, size),
    )
    images, labels, classes = from_tar(REAL / f"{archive}.tar.gz", 20)
    found = preflight(loaded.module, images=images, labels=labels, classes=classes, given=None)
    assert found.chosen.name == expected, found.rows
    assert found.chosen.doubt is None
    assert max(row.accuracy for row in found.rows) > 0.8


def test_the_first_batchnorm_remembers_a_normalisation() -> None:
    """For a network whose last layer is new: no labels, no scores."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(200, 3, 8, 8, generator=generator) * torch.tensor([0.9, 0.5, 0.3]).view(3, 1, 1)
    norm = nn.BatchNorm2d(4, momentum=None)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    for wanted in ("ImageNet", "none", "0-255"):
        norm.reset_running_stats()
        with torch.no_grad():
            module.train()(apply(by_name(3, wanted), images[:100]))
        found = remembered(module, images[100:])
        assert found is not None
        assert found.name == wanted
        assert module.training
    norm.running_mean += 1000  # type: ignore[operator]
    assert remembered(module, images) is None
    assert remembered(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), images) is None
