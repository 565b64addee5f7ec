"""Surrogates: opened from what the user names, or trained once on what is not audited."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from harden.attacks import FGSM, Norm, Planned, Transfer
from harden.audit.runner import audit
from harden.data import DataSource, open_data
from harden.errors import DataError, Interrupted, ModelError, PreflightError, UsageError
from harden.folders import cache_root
from harden.models.classifier import Classifier, Normalisation
from harden.models.origin import Origin
from harden.models.surrogate import Fitted, other_family, plain_conv, static_pair, wide_dense
from harden.workflows.prepare import Images, ModelSpec, open_images, open_model
from harden.workflows.surrogate_training import Effort, Surrogate, trained_surrogate, training_pool
from harden.workflows.surrogates import open_surrogates, transfer_attacks
from tests.conftest import MakeImages

from .builders import Notebook, Workshop, trained

CPU = torch.device("cpu")
SHORT = Effort(steps=20, seconds=60)


@pytest.fixture(scope="module")
def source(workshop: Workshop) -> DataSource:
    return open_data(str(workshop.data))


@pytest.fixture(scope="module")
def subject(workshop: Workshop, source: DataSource) -> tuple[Classifier, Images]:
    return open_model(ModelSpec(model=str(workshop.pickled)), source, source.listings["train"], Notebook())


def opened(
    subject: tuple[Classifier, Images], source: DataSource, *names: str, **spec: object
) -> tuple[Surrogate, ...]:
    classifier, images = subject
    return open_surrogates(
        names,
        spec=ModelSpec(model="subject", **spec),  # type: ignore[arg-type]
        subject=classifier,
        images=images,
        plan=None,
        audited=source.listings["test"],
        seed=0,
        device=CPU,
        narrator=Notebook(),
    )


# -- which network -----------------------------------------------------------------------------------------------------


def test_the_papers_surrogate_for_small_gray_images() -> None:
    net = wide_dense(10, (1, 28, 28))
    shapes = [tuple(p.shape) for p in net.parameters() if p.ndim > 1]
    assert shapes == [(64, 1, 3, 3), (300, 64 * 26 * 26), (300, 300), (10, 300)]
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("size", "name"),
    [
        ((1, 28, 28), "wide-dense"),
        ((3, 32, 32), "plain-conv"),
        ((1, 64, 64), "plain-conv"),
        ((3, 90, 65), "plain-conv"),
    ],
)
def test_every_size_has_a_network_that_takes_it_and_another_for_its_own_kind(
    size: tuple[int, int, int], name: str
) -> None:
    found = other_family(size, classes=4, subject=None, reference="")
    assert found.name.startswith(name)
    net = found.build(4, size).eval()
    assert net(torch.rand(2, *size)).shape == (2, 4)
    other = other_family(size, classes=4, subject=net, reference="")
    assert other.name != found.name
    assert other.build(4, size).eval()(torch.rand(2, *size)).shape == (2, 4)


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("resnet18.a1_in1k", "plain-conv"),
        ("vgg16.tv_in1k", "mobilenetv3_small_050"),
        ("torchvision:vgg11", "mobilenetv3_small_050"),
        ("/home/me/net.py:build", "plain-conv"),
    ],
)
def test_a_network_with_a_name_gets_another_family(reference: str, name: str) -> None:
    assert other_family((3, 224, 224), classes=5, subject=nn.Identity(), reference=reference).name == name


def test_large_images_are_made_smaller_inside() -> None:
    small, large = plain_conv(5, (3, 64, 64)).eval(), plain_conv(5, (3, 224, 160)).eval()
    seen: list[torch.Size] = []
    large[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    large(torch.rand(2, 3, 224, 160))
    assert seen == [(2, 3, 64, 46)]
    assert [p.shape for p in small.parameters()] == [p.shape for p in large.parameters()]


@pytest.mark.parametrize("size", [(1, 8, 8), (1, 28, 28), (1, 5, 31), (3, 2, 2), (3, 32, 32), (3, 400, 30)])
def test_eats_static_networks_take_every_size_and_differ(size: tuple[int, int, int]) -> None:
    first, second = (one.build(4, size).eval() for one in static_pair(size))
    images = torch.rand(2, *size)
    assert first(images).shape == second(images).shape == (2, 4)
    assert [p.shape for p in first.parameters()] != [p.shape for p in second.parameters()]


# -- fitting it to the subject's images --------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "inner"), [((3, 16, 16), (1, 12, 12)), ((1, 12, 12), (3, 16, 16))])
def test_images_are_converted_differentiably_and_classes_put_in_order(
    size: tuple[int, int, int], inner: tuple[int, int, int]
) -> None:
    seen: list[torch.Tensor] = []

    class Looks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x.flatten(1)[:, :3]

    plain = Normalisation("none", (0.0,) * inner[0], (1.0,) * inner[0])
    classifier = Classifier(
        Looks(), normalisation=plain, classes=("c", "a", "b"), input_size=inner, origin=Origin("factory", "x")
    )
    fitted = Fitted(classifier, size=size, order=(1, 2, 0))
    images = torch.full((2, *size), 0.25).requires_grad_()
    scores = fitted(images)
    assert fitted.converted
    assert seen[0].shape == (2, *inner)
    torch.testing.assert_close(seen[0], torch.full((2, *inner), 0.25))
    assert torch.equal(scores, seen[0].flatten(1)[:, [1, 2, 0]])
    (gradient,) = torch.autograd.grad(seen[0].sum(), images)
    assert (gradient != 0).all()


# -- models that the user names ----------------------------------------------------------------------------------------


def test_a_model_in_another_order_is_a_surrogate_in_the_subjects(
    subject: tuple[Classifier, Images], source: DataSource, workshop: Workshop, tmp_path: Path
) -> None:
    """By itself it fails the preflight; what was said about the model (--class-map) is tried then."""
    torch.save(trained(workshop.data, (2, 0, 1)), tmp_path / "other.pt")
    with pytest.raises(PreflightError, match=r"--surrogate .*other.pt: the model knows these classes in another order"):
        opened(subject, source, str(tmp_path / "other.pt"))
    (found,) = opened(subject, source, str(tmp_path / "other.pt"), class_map=(2, 0, 1))
    assert found.name == "other.pt"
    assert found.accuracy > 0.9
    pixels, labels = subject[1].decode(source.listings["test"], Notebook(), "images").batch(slice(None))
    with torch.no_grad():
        assert (found.network(pixels).argmax(1) == labels).float().mean() > 0.9


def test_weights_take_the_arch_of_the_model(
    subject: tuple[Classifier, Images], source: DataSource, workshop: Workshop
) -> None:
    (found,) = opened(subject, source, str(workshop.weights), arch=workshop.arch)
    assert found.accuracy > 0.9
    with pytest.raises(ModelError, match=r"--surrogate .*holds weights but not the network"):
        opened(subject, source, str(workshop.weights))


def test_a_surrogate_for_other_classes_is_refused(
    subject: tuple[Classifier, Images], source: DataSource, workshop: Workshop
) -> None:
    classifier, images = subject
    renamed = Classifier(
        classifier.module,
        normalisation=classifier.normalisation,
        classes=("cat", "dog", "owl"),
        input_size=classifier.input_size,
        origin=classifier.origin,
    )
    with pytest.raises(DataError, match="knows other classes"):
        opened((renamed, images), source, str(workshop.pickled))


# -- a network of our own ----------------------------------------------------------------------------------------------


def test_it_is_trained_once_and_then_comes_from_the_cache(
    subject: tuple[Classifier, Images], source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARDEN_CACHE", str(tmp_path))
    classifier, images = subject
    pool, which = training_pool(images, None, source.listings["test"])
    assert len(pool) == 120
    assert "the train split" in which
    first, again, other = Notebook(), Notebook(), Notebook()

    def train(notebook: Notebook, seed: int, effort: Effort = SHORT) -> Surrogate:
        return trained_surrogate(classifier, images, pool, seed=seed, device=CPU, narrator=notebook, effort=effort)

    made, kept = train(first, 0), train(again, 0)
    assert "training plain-conv" in first.tasks
    assert again.tasks == []
    assert "comes from the cache" in again.text
    assert made.accuracy == kept.accuracy > 0.8
    pixels, labels = images.decode(source.listings["test"], Notebook(), "images").batch(slice(None))
    with torch.no_grad():
        assert torch.equal(made.network(pixels), kept.network(pixels))
        assert (made.network(pixels).argmax(1) == labels).float().mean() > 0.8
    train(other, 1, Effort(steps=1))
    assert "training plain-conv" in other.tasks
    files = sorted((cache_root() / "surrogates").iterdir())
    assert len(files) == 2
    assert {file.suffix for file in files} == {".safetensors"}
    with safe_open(files[0], "pt") as opened_file:
        assert {"mean", "std", "accuracy"} < set(opened_file.keys())
    for file in files:  # cut off: trained again, and the same comes out
        file.write_bytes(file.read_bytes()[:1000])
    repaired = train(Notebook(), 0)
    with torch.no_grad():
        assert torch.equal(made.network(pixels), repaired.network(pixels))


def test_it_never_sees_what_is_audited(make_images: MakeImages, tmp_path: Path) -> None:
    source = open_data(str(make_images(tmp_path / "imgs", all=20)))
    images = open_images(source, channels=None, size=None, class_map=None)
    everything = source.listings["all"]
    audited = everything[::2]
    pool, which = training_pool(images, None, audited)
    assert not {entry.file for entry in pool} & {entry.file for entry in audited}
    assert len(pool) == 30
    assert "without the images that are audited" in which
    with pytest.raises(UsageError, match="too little to train a surrogate on") as caught:
        training_pool(images, None, everything)
    assert "--samples 30" in (caught.value.hint or "")


def test_a_stop_ends_its_training(subject: tuple[Classifier, Images], source: DataSource) -> None:
    with pytest.raises(Interrupted, match="plain-conv"):
        trained_surrogate(
            *subject,
            source.listings["train"],
            seed=3,
            device=CPU,
            narrator=Notebook(),
            effort=SHORT,
            stop_requested=lambda: True,
        )


# -- attacks -----------------------------------------------------------------------------------------------------------


def test_the_papers_columns_and_the_strong_pair(workshop: Workshop) -> None:
    nets = (Surrogate("a", workshop.module, 1.0), Surrogate("b", workshop.module, 1.0))
    paper = transfer_attacks(nets, eps=0.1, paper=True, member=True)
    assert [p.attack.name for p in paper] == [
        "transfer FGSM",
        "transfer PGD-20",
        "transfer R+FGSM",
        "transfer MIM",
    ]
    assert not any(p.member for p in paper)
    strong = transfer_attacks(nets, eps=0.1, member=True)
    assert [p.attack.name for p in strong] == ["transfer MIM", "transfer APGD margin"]
    assert all(p.member for p in strong)
    (l2,) = transfer_attacks(nets, eps=1.0, norm=Norm.L2)
    assert l2.attack.norm is Norm.L2
    assert "a and, in turn, b" in l2.attack.definition
    assert transfer_attacks((), eps=0.1) == []


def test_examples_transfer_to_the_subject_and_less_than_its_own_do(
    subject: tuple[Classifier, Images], source: DataSource
) -> None:
    classifier, images = subject
    surrogate = trained_surrogate(
        classifier, images, source.listings["train"], seed=0, device=CPU, narrator=Notebook(), effort=SHORT
    )
    audited = images.decode(source.listings["test"], Notebook(), "images")
    planned = [Planned(FGSM(eps=0.15)), *transfer_attacks([surrogate], eps=0.15)]
    result = audit(classifier, audited, planned, model="m", dataset="d", exposures={})
    own, *transferred = (result.robust_accuracy(outcome).value for outcome in result.outcomes)
    assert min(transferred) < result.clean_accuracy().value
    assert own <= min(transferred) + 0.1
    assert all(outcome.backwards == 0 for outcome in result.outcomes[1:])
    assert np.array_equal(result.outcomes[1].queries, result.clean_correct.astype(int))
    assert isinstance(planned[1].attack, Transfer)
