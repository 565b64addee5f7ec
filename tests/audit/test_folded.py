"""An audit attacks a folded network and reports what the network itself says."""

from __future__ import annotations

import functools
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from examples.resnet_cifar import CifarResNet
from harden.attacks import APGD, FGSM, PGD, Objective, Planned, Square
from harden.audit import runner, sweep
from harden.audit.runner import audit
from harden.data.dataset import ImageSet
from harden.models.folding import Folding
from tests.attacks.nets import as_classifier, digits, gen

EPS = 0.08
ATTACKS = (
    FGSM(eps=EPS),
    PGD(eps=EPS, iterations=10, random_start=True),
    APGD(eps=EPS, iterations=20, raises=Objective.MARGIN),
    Square(eps=EPS, queries=50),
)


@functools.cache
def resnet() -> nn.Module:
    """A ResNet of 8 layers after an epoch on the first 1,400 digits."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = CifarResNet(1, 10, 1)
    pixels, labels = digits()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for rows in torch.randperm(1400, generator=gen()).split(50):
        optimizer.zero_grad()
        F.cross_entropy(network(pixels[rows]), labels[rows]).backward()
        optimizer.step()
    return network.eval()


@functools.cache
def images() -> ImageSet:
    pixels, labels = digits()
    return ImageSet(pixels[1500:1620].mul(255).round().to(torch.uint8), labels[1500:1620], tuple(map(str, range(120))))


def run(attacks=ATTACKS, network=None, **kwargs):
    planned = [Planned(attack) for attack in attacks]
    classifier = as_classifier(network or resnet())
    return audit(classifier, images(), planned, model="net", dataset="digits", exposures={}, **kwargs)


@pytest.fixture
def unfolded(monkeypatch):
    """Call a function with nothing folded."""

    def call(function):
        with monkeypatch.context() as patch:
            patch.setattr(runner, "find_folding", lambda classifier, images: Folding())
            return function()

    return call


def test_the_outcomes_are_those_of_the_network_itself(unfolded):
    plain, folded, again = unfolded(run), run(), run()
    assert len(runner.folding_of(as_classifier(resnet()), images(), 1)) == 7
    assert plain.clean_accuracy().value > 0.8
    assert np.array_equal(plain.clean_margins, folded.clean_margins)
    fallen = [int((outcome.predictions != plain.labels).sum()) for outcome in plain.outcomes]
    assert min(fallen) > 10
    assert max(fallen) < 118
    for one, other, third in zip(plain.outcomes, folded.outcomes, again.outcomes, strict=True):
        assert np.array_equal(one.predictions, other.predictions)
        # Square's random search takes another way where two candidates tie within rounding; none did here.
        np.testing.assert_allclose(one.margins, other.margins, atol=1e-2)
        assert np.array_equal(other.margins, third.margins)
        assert other.forwards == one.forwards + one.attacked.sum()


class Notes:
    """A witness that keeps what it sees."""

    def __init__(self):
        self.kept = []

    def __call__(self, attack, rows, batch, examples):
        self.kept.append((rows, examples))

    def unite(self, attack, processes):
        assert processes.size == 1


def test_margins_are_what_the_network_itself_says_of_the_examples():
    notes = Notes()
    outcome = run((PGD(eps=EPS, iterations=5),), witness=notes)
    network = resnet()
    for rows, found in notes.kept:
        with torch.no_grad():
            scores = network(found.images)
        assert torch.equal(scores.argmax(1), found.predictions)
        assert np.array_equal(outcome.outcomes[0].predictions[rows], found.predictions.numpy())


class Wavering(nn.Module):
    """Answers otherwise while it is "folded", which no rounding would do."""

    def __init__(self, otherwise):
        super().__init__()
        self.inner, self.wavers, self.otherwise = resnet(), False, otherwise

    def forward(self, x):
        scores = self.inner(x)
        return self.otherwise(scores) if self.wavers else scores


class Wrong(Folding):
    """Lets a network waver."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def __len__(self):
        return 1

    @contextmanager
    def on(self):
        self.network.wavers = True
        try:
            yield
        finally:
            self.network.wavers = False


@pytest.mark.parametrize(
    "otherwise", [lambda scores: scores.roll(1, dims=1), lambda scores: 1.02 * scores], ids=["verdicts", "margins"]
)
def test_a_batch_with_another_answer_is_attacked_again_unfolded(otherwise, monkeypatch, unfolded):
    attacks = (PGD(eps=EPS, iterations=3, random_start=True),)
    plain = unfolded(lambda: run(attacks))
    network = Wavering(otherwise).eval()
    monkeypatch.setattr(runner, "find_folding", lambda classifier, images: Wrong(network))
    found = run(attacks, network)
    assert np.array_equal(found.outcomes[0].predictions, plain.outcomes[0].predictions)
    assert np.array_equal(found.outcomes[0].margins, plain.outcomes[0].margins)
    assert np.array_equal(found.outcomes[0].closest, plain.outcomes[0].closest)
    assert found.outcomes[0].forwards > plain.outcomes[0].forwards


def test_means_of_several_answers_are_asked_of_the_network_itself():
    assert len(runner.folding_of(as_classifier(resnet()), images(), repeats=2)) == 0


def test_the_curve_against_eps_is_that_of_the_network_itself(unfolded):
    def curve():
        return sweep.sweep(as_classifier(resnet()), images(), EPS)

    assert unfolded(curve) == curve()
