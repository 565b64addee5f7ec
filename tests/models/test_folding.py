from __future__ import annotations

import copy
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harden.attacks import FGSM, craft, frozen
from harden.attacks.objectives import Objective
from harden.attacks.oracle import input_gradient
from harden.models.folding import find_folding
from harden.models.layout import laid_out, lay_out
from harden.models.tap import Tap
from harden.vision import import_timm
from tests.attacks.nets import as_classifier, gen

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


CLASSES = ("a", "b", "c")


def settled(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with the statistics, weights and shifts of BatchNorm that training might have left, in eval mode."""
    generator = gen(seed)
    for m in network.modules():
        if isinstance(m, NORMS):
            if m.running_mean is not None:
                m.running_mean.normal_(0, 0.5, generator=generator)
                m.running_var.uniform_(0.3, 3, generator=generator)
            if m.affine:
                m.weight.data.uniform_(-1.5, 1.5, generator=generator)
                m.bias.data.normal_(0, 0.5, generator=generator)
    return network.eval()


def seeded(build, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return settled(build(), seed)


class Residual(nn.Module):
    """A shortcut around a layer with BatchNorm, which ends in place."""

    def __init__(self, width: int):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x):
        out = self.norm(self.conv(x))
        out += x
        return F.relu_(out)


class UsedTwice(nn.Module):
    """What the convolution makes goes into BatchNorm and around it."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x):
        made = self.conv(x)
        return self.norm(made) + made


class CalledTwice(nn.Module):
    """One convolution with two BatchNorms, as networks that share weights between scales have them."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm, self.other = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x):
        return self.other(self.conv(F.relu(self.norm(self.conv(x)))))


class OneNorm(CalledTwice):
    """One BatchNorm behind two convolutions."""

    def __init__(self, width: int = 4):
        super().__init__(width)
        self.other = nn.Conv2d(width, width, 1)

    def forward(self, x):
        return self.norm(self.other(self.norm(self.conv(x))))


class InPlaceBetween(UsedTwice):
    """The very tensor of the convolution goes into BatchNorm, but no longer with the values that it had."""

    def forward(self, x):
        return self.norm(F.relu_(self.conv(x)))


def between(*middle: nn.Module, width: int = 4, channels: int = 3) -> nn.Sequential:
    """A classifier of 3 classes around layers that keep `width` channels; its own first layer has no BatchNorm."""
    first = nn.Conv2d(channels, width, 3, padding=1)
    return nn.Sequential(first, *middle, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 3))


def block(width: int, **settings) -> list[nn.Module]:
    return [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width, **settings), nn.ReLU(inplace=True)]


def drawn(seed: int) -> nn.Module:
    """A network of random parts, all of which fold but a BatchNorm without a layer before it."""
    dice = random.Random(seed)
    layers: list[nn.Module] = []
    for _ in range(dice.randint(2, 5)):
        kind = dice.choice(["plain", "residual", "alone", "pool"])
        settings = {
            "affine": dice.random() < 0.7,
            "momentum": dice.choice([None, 0.1]),
            "eps": dice.choice([1e-5, 0.1]),
        }
        if kind == "plain":
            layers += [
                nn.Conv2d(
                    8, 8, dice.choice([1, 3]), padding=dice.choice([0, 1, "same"]), groups=dice.choice([1, 2, 8]),
                    bias=dice.random() < 0.5, dilation=dice.choice([1, 2]),
                    padding_mode=dice.choice(["zeros", "circular"]),
                ),
                nn.BatchNorm2d(8, **settings),
                dice.choice([nn.ReLU(), nn.ReLU(inplace=True), nn.SiLU(), nn.Identity()]),
            ]  # fmt: skip
        elif kind == "residual":
            layers.append(Residual(8))
        elif kind == "alone":
            layers.append(nn.BatchNorm2d(8, **settings))
        else:
            layers.append(nn.AvgPool2d(2))
    head = [nn.Flatten(), nn.Linear(32, 6, bias=dice.random() < 0.5), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)]
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), *layers, nn.AdaptiveAvgPool2d(2), *head)


def images_of(count: int = 6, channels: int = 3, side: int = 24) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=gen(1))


def same_function(classifier, folding, images) -> None:
    """Scores and gradients to the images are those of the network itself, up to rounding."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    before = copy.deepcopy(classifier.state_dict())
    with frozen(classifier):
        expected = input_gradient(classifier, images, labels, Objective.MARGIN)
    with folding.on(), frozen(classifier):
        found = input_gradient(classifier, images, labels, Objective.MARGIN)
    scale = expected.scores.abs().max()
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=float(1e-5 * scale))
    # A pixel in front of a ReLU within rounding of 0 may change sides.
    assert (found.gradient - expected.gradient).norm() <= 1e-3 * expected.gradient.norm()
    after = classifier.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any("forward" in m.__dict__ for m in classifier.modules())


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "last"])
@pytest.mark.parametrize("seed", range(20))
def test_a_network_of_random_parts_stays_the_same_function(seed, last):
    classifier = as_classifier(classes=CLASSES, module=seeded(lambda: drawn(seed), seed), size=(3, 24, 24))
    if last:
        lay_out(classifier)
    images = laid_out(images_of(), classifier)
    folding = find_folding(classifier, images)
    layers = [m for m in classifier.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(folding) == len(layers) - 1  # all but the last one, which has no BatchNorm
    same_function(classifier, folding, images)


@pytest.mark.parametrize(
    ("middle", "pairs"),
    [
        (UsedTwice, 0),
        (CalledTwice, 0),
        (OneNorm, 0),
        (InPlaceBetween, 0),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)), 0),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), 0),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4)), 0),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.Identity(), nn.BatchNorm2d(4)), 1),
        (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4)), 0),
        (lambda: Residual(4), 1),
    ],
    ids=[
        "used twice", "called twice", "one norm for two", "in place between", "an activation between", "no statistics",
        "another norm", "a tensor handed on", "a layer that is parametrised", "residual",
    ],
)  # fmt: skip
def test_what_cannot_be_folded_is_left_alone_and_the_rest_is_folded(middle, pairs):
    network = seeded(lambda: between(*block(4), middle(), *block(4), *block(4)))
    classifier = as_classifier(network, classes=CLASSES, size=(3, 24, 24))
    folding = find_folding(classifier, images_of())
    assert len(folding) == pairs + 3
    same_function(classifier, folding, images_of())


def test_layers_with_hooks_or_a_forward_of_their_own_and_subclasses_are_left_alone():
    class Mine(nn.Conv2d):
        pass

    network = seeded(lambda: between(*block(4), *block(4), Mine(4, 4, 1), nn.BatchNorm2d(4), *block(4)))
    network[1].register_forward_hook(lambda module, inputs, output: output + 1)
    network[5].forward = lambda values: nn.BatchNorm2d.forward(network[5], values) * 2
    folding = find_folding(as_classifier(network, classes=CLASSES, size=(3, 24, 24)), images_of())
    assert len(folding) == 1
    assert "forward" in network[5].__dict__


def test_a_network_that_answers_at_random_is_not_folded():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + 0.1 * torch.rand_like(x)

    state = torch.get_rng_state()
    network = seeded(lambda: between(*block(4), Noisy()))
    assert len(find_folding(as_classifier(network, classes=CLASSES, size=(3, 24, 24)), images_of())) == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_without_batch_norm_no_pass_is_made():
    class Never(nn.Module):
        def forward(self, x):
            raise AssertionError("a pass that tells nothing")

    assert len(find_folding(as_classifier(Never(), classes=CLASSES), images_of())) == 0


def test_convolutions_over_a_sequence_are_folded_and_a_linear_layer_over_one_is_not():
    class Sequence(nn.Module):
        """A linear layer makes (N, 5, 5), of which BatchNorm takes the middle for its channels."""

        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv1d(3, 5, 4, stride=4, bias=False), nn.BatchNorm1d(5)
            self.linear, self.other = nn.Linear(16, 5), nn.BatchNorm1d(5)
            self.head = nn.Linear(25, 3)

        def forward(self, x):
            values = F.gelu(self.norm(self.conv(x.flatten(2))))
            return self.head(self.other(self.linear(values)).flatten(1))

    classifier = as_classifier(classes=CLASSES, module=seeded(Sequence), size=(3, 8, 8))
    folding = find_folding(classifier, images_of(side=8))
    assert len(folding) == 1
    same_function(classifier, folding, images_of(side=8))


def test_it_ends_with_an_exception_and_with_ctrl_c():
    network = seeded(lambda: between(*block(4)))
    classifier = as_classifier(network, classes=CLASSES, size=(3, 24, 24))
    folding = find_folding(classifier, images_of())

    def stopped(kind):
        with folding.on():
            assert "forward" in network[1].__dict__
            raise kind

    for kind in (ValueError, KeyboardInterrupt):
        with pytest.raises(kind):
            stopped(kind)
        assert not any("forward" in m.__dict__ for m in classifier.modules())
    with folding.on(), folding.on():
        pass
    assert not any("forward" in m.__dict__ for m in classifier.modules())


def test_batch_norm_in_training_mode_takes_its_batch_and_counts_it():
    network = seeded(lambda: between(*block(4)))
    classifier = as_classifier(network, classes=CLASSES, size=(3, 24, 24))
    folding = find_folding(classifier, images_of())
    twin = copy.deepcopy(classifier).train()
    classifier.train()
    with folding.on():
        scores = classifier(images_of())
    assert torch.equal(scores, twin(images_of()))
    assert all(torch.equal(a, b) for a, b in zip(classifier.buffers(), twin.buffers(), strict=True))


def test_weights_that_are_trained_meanwhile_get_their_gradients():
    network = seeded(lambda: between(*block(4)))
    classifier = as_classifier(network, classes=CLASSES, size=(3, 24, 24))
    folding = find_folding(classifier, images_of())
    expected = torch.autograd.grad(classifier(images_of()).square().sum(), list(network.parameters()))
    with folding.on():
        found = torch.autograd.grad(classifier(images_of()).square().sum(), list(network.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_tap_between_the_two_sees_what_it_always_sees():
    network = seeded(lambda: between(*block(4)))
    classifier = as_classifier(network, classes=CLASSES, size=(3, 24, 24))
    folding = find_folding(classifier, images_of())
    with torch.no_grad(), Tap(classifier, "1") as tapped:
        expected, _ = tapped(images_of())
        with folding.on():
            found, _ = tapped(images_of())
    assert torch.equal(found, expected)


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "last"])
def test_the_first_convolution_keeps_its_quick_gradient(last):
    network = seeded(lambda: between(nn.BatchNorm2d(4), nn.ReLU(), *block(4), channels=1))
    classifier = as_classifier(network, classes=CLASSES, size=(1, 24, 24))
    if last:
        lay_out(classifier)
    images = laid_out(images_of(channels=1), classifier)
    folding = find_folding(classifier, images)
    assert len(folding) == 2
    same_function(classifier, folding, images)
    with folding.on(), frozen(classifier):
        made = network[0](images.clone().requires_grad_(True))
    assert "_ByColumns" in type(made.grad_fn).__name__


def test_others_that_lend_a_layer_a_forward_come_first():
    network = seeded(lambda: between(nn.BatchNorm2d(4), nn.ReLU(), *block(4), channels=1))
    classifier = as_classifier(network, classes=CLASSES, size=(1, 24, 24))
    folding = find_folding(classifier, images_of(channels=1))
    with frozen(classifier):
        lent = network[0].__dict__["forward"]
        with folding.on():
            assert network[0].__dict__["forward"] is lent
            assert "forward" in network[3].__dict__
        assert network[0].__dict__["forward"] is lent
    assert not any("forward" in m.__dict__ for m in classifier.modules())


def test_autograd_keeps_one_feature_map_where_it_kept_two():
    network = seeded(lambda: between(*[layer for _ in range(6) for layer in block(4)]))
    classifier = as_classifier(network, classes=CLASSES, size=(3, 24, 24))
    folding = find_folding(classifier, images_of())

    def kept() -> int:
        storages = {}

        def note(values):
            storages[values.untyped_storage().data_ptr()] = values.untyped_storage().nbytes()
            return values

        with frozen(classifier), torch.autograd.graph.saved_tensors_hooks(note, lambda values: values):
            classifier(images_of(32).requires_grad_(True))
        return sum(storages.values())

    plain = kept()
    with folding.on():
        assert kept() < 0.62 * plain  # the images themselves are kept either way


@pytest.mark.parametrize(
    ("name", "activates"),
    [("test_resnet", False), ("test_efficientnet", True), ("test_byobnet", True), ("resnet18", False)],
)
def test_networks_of_timm_are_folded(name, activates):
    network = seeded(lambda: import_timm().create_model(name, num_classes=3))
    classifier = as_classifier(network, classes=CLASSES, size=(3, 64, 64))
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert any(type(m).__name__ == "BatchNormAct2d" for m in norms) == activates
    lay_out(classifier)
    images = laid_out(images_of(4, side=64), classifier)
    folding = find_folding(classifier, images)
    assert len(folding) == len(norms)
    same_function(classifier, folding, images)
    with folding.on():
        made = craft(FGSM(eps=0.1), classifier, images, torch.arange(4) % 3, generator=gen())
    assert made.shape == images.shape


class PreActivation(nn.Module):
    """The stem's output goes to BatchNorm and to the shortcut; answers are probabilities, nearly all of them 0 or 1."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.last = nn.Linear(8, 5)

    def forward(self, images):
        x = self.stem(images)
        x = x + self.inner(F.relu(self.norm(x)))
        return (200 * self.last(x.mean(dim=(2, 3)))).softmax(dim=1)


def test_who_else_takes_an_output_is_found_by_structure_not_by_scores_that_hardly_move():
    network, images = seeded(PreActivation), images_of()
    with torch.no_grad():
        assert network(images).amax(dim=1).min() > 0.999, "scores say nothing"
    folding = find_folding(as_classifier(network, classes=tuple("abcde"), size=(3, 24, 24)), images)
    assert [pair.layer for pair in folding._pairs] == [network.inner[0]]
    same_function(as_classifier(network, classes=tuple("abcde"), size=(3, 24, 24)), folding, images)


def test_a_network_in_training_mode_is_not_folded() -> None:
    """BatchNorm in training normalises by the batch and learns from it; the folded weights do neither."""
    network = seeded(lambda: between(*block(4)))
    classifier, images = as_classifier(network, classes=CLASSES), images_of()
    folding = find_folding(classifier, images)
    assert len(folding) == 1
    alike = copy.deepcopy(network).train()
    network.train()
    with torch.no_grad(), folding.on():
        scores = network(images)
    with torch.no_grad():
        assert torch.equal(scores, alike(images))
    assert all(torch.equal(value, alike.state_dict()[name]) for name, value in network.state_dict().items())
