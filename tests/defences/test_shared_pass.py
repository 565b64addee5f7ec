"""Examples out of the clean images' own pass: the same examples, losses and gradients, with fewer passes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from harden.attacks import CRAFTERS, FGSM, craft, finish, sees_one_gradient
from harden.defences import DEFENCES, Craft, DefenceContext, DefenceSettings
from harden.models.tap import Tap
from tests.attacks.nets import as_classifier, gen

CLASSES, LAYER, WIDTH = 4, "2", 4 * 5 * 5
ATTACK = FGSM(eps=0.1)


def classifier(channels=1):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(channels, 6, 3), nn.Tanh(), nn.Conv2d(6, 4, 2), nn.Flatten(), nn.Linear(100, 4))
    return as_classifier(net, classes=tuple("abcd"), size=(channels, 8, 8))


def batch(channels=1, n=7):
    return torch.rand(n, channels, 8, 8, generator=gen(1)), torch.randint(CLASSES, (n,), generator=gen(2))


class Watch:
    """Counts forward and backward passes in images, at the last and at the first layer."""

    def __init__(self, model):
        self.forwards = self.backwards = 0
        model.module[-1].register_forward_hook(self._forward)
        model.module[2].register_full_backward_hook(self._backward)

    def _forward(self, module, inputs, output):
        self.forwards += len(output)

    def _backward(self, module, inputs, outputs):
        self.backwards += len(outputs[0])


def train_once(name, channels, shared):
    model, examples = classifier(channels), []
    images, labels = batch(channels)
    watch = Watch(model)

    def make(network, clean, truth):
        examples.append(craft(ATTACK, network, clean, truth, generator=gen()))
        return tuple(examples)

    def from_gradient(clean, gradient):
        examples.append(finish(ATTACK, clean, gradient))
        return tuple(examples)

    defence = DEFENCES[name](
        DefenceContext(CLASSES, WIDTH, gen()), DefenceSettings(beta=0.7, gamma=0.3, grl_warmup=0.0)
    )
    with Tap(model, LAYER) as tapped:
        result = defence.step_loss(tapped, images, labels, Craft(make, from_gradient if shared else None), gen())
    trained = [*model.parameters(), *defence.parameters()]
    result.loss.backward(inputs=trained)
    counted = 2 * tapped.seen + result.backwards
    return examples[0], result, [p.grad for p in trained], watch, counted


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["sat", "adv4adv", "adv4adv-star", "atda"])
def test_examples_are_bit_equal_and_losses_and_gradients_the_same(name, channels):
    plain, shared = (train_once(name, channels, shared) for shared in (False, True))
    assert torch.equal(plain[0], shared[0])
    torch.testing.assert_close(plain[1].loss, shared[1].loss)
    assert plain[1].scalars.keys() == shared[1].scalars.keys()
    for key, value in plain[1].scalars.items():
        torch.testing.assert_close(value, shared[1].scalars[key])
    for ours, theirs in zip(shared[2], plain[2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "plain", "shared"),
    [("sat", (3, 3), (2, 2)), ("adv4adv", (3, 3), (2, 3)), ("atda", (3, 3), (2, 3))],
)
def test_passes_of_a_step(name, plain, shared):
    """3F+1b+2B where crafting is apart; 2F+2B (SAT) and 2F+1b+2B where it is not. The loop counts what there was."""
    for is_shared, (forwards, backwards) in ((False, plain), (True, shared)):
        *_, watch, counted = train_once(name, 3, is_shared)
        assert (watch.forwards, watch.backwards) == (7 * forwards, 7 * backwards)
        crafted_apart = 0 if is_shared else 2 * 7
        assert counted + crafted_apart == 7 * (forwards + backwards)


def test_a_split_behind_which_alone_is_trained_is_refused_here_too():
    from harden.errors import ModelError

    model = classifier()
    for parameter in model.module[:3].parameters():
        parameter.requires_grad_(False)
    defence = DEFENCES["adv4adv"](DefenceContext(CLASSES, WIDTH, gen()), DefenceSettings())
    making = Craft(lambda *rest: (), lambda clean, gradient: (finish(ATTACK, clean, gradient),))
    with Tap(model, LAYER) as tapped, pytest.raises(ModelError, match="is frozen"):
        defence.step_loss(tapped, *batch(), making, gen())


@pytest.mark.parametrize("name", [name for name in CRAFTERS if sees_one_gradient(CRAFTERS[name](0.1))])
def test_what_sees_one_gradient_makes_the_same_of_it(name):
    attack, model = CRAFTERS[name](0.1), classifier()
    images, labels = batch()
    gradients = []
    expected = craft(attack, watched(model, gradients), images, labels, generator=gen())
    assert len(gradients) == 1
    assert torch.equal(finish(attack, images, gradients[0]), expected)
    assert torch.equal(finish(attack, images, gradients[0] / 7), expected)


def watched(model, gradients):
    class Watched(nn.Module):
        def forward(self, points):
            points.register_hook(gradients.append)
            return model(points)

    return Watched()


def test_attacks_that_begin_elsewhere_or_go_on_are_not_among_them():
    assert {name for name in CRAFTERS if sees_one_gradient(CRAFTERS[name](0.1))} == {"fgsm"}
