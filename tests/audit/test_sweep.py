from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from harden.attacks import APGD, Objective, run_attack
from harden.audit.curve import EpsCurve
from harden.audit.sweep import LARGEST, STEPS, sweep
from harden.data.dataset import ImageSet
from tests.attacks.nets import Counting, as_classifier, digits, gen, trained_cnn

EPS = 0.08


@pytest.fixture(scope="module")
def images() -> ImageSet:
    pixels, labels = digits()
    return ImageSet(
        pixels[1500:1600].mul(255).round().to(torch.uint8), labels[1500:1600], tuple(f"digit-{i}" for i in range(100))
    )


@pytest.fixture(scope="module")
def curve(images: ImageSet) -> EpsCurve:
    return sweep(as_classifier(trained_cnn()), images, EPS, seed=1)


def test_it_starts_clean_falls_and_ends_where_nothing_is_left(images: ImageSet, curve: EpsCurve) -> None:
    with torch.no_grad():
        right = int((trained_cnn()(images.batch(slice(None))[0]).argmax(1) == images.labels).sum())
    assert curve.eps[0] == 0
    assert curve.standing[0] == right
    assert list(curve.standing) == sorted(curve.standing, reverse=True)
    assert list(curve.eps) == sorted(curve.eps)
    assert any(abs(eps - EPS) < 1e-9 for eps in curve.eps)
    assert curve.standing[-1] == 0
    assert curve.eps[-1] < LARGEST  # nothing was left before, and then it stops
    assert curve.total == 100


def test_at_the_audited_eps_it_is_the_attack_that_it_says(images: ImageSet, curve: EpsCurve) -> None:
    pixels, labels = images.batch(slice(None))
    attack = APGD(eps=EPS, iterations=STEPS, raises=Objective.MARGIN)
    found = run_attack(attack, trained_cnn(), pixels, labels, generator=gen(5))
    there = curve.standing[[abs(eps - EPS) < 1e-9 for eps in curve.eps].index(True)]
    assert abs(there - int((found.margins >= 0).sum())) <= 3


def test_only_what_stood_before_is_attacked(images: ImageSet) -> None:
    counting = Counting(trained_cnn())
    curve = sweep(as_classifier(counting), images, EPS)
    most = sum(before * (STEPS + 1) for before in curve.standing[:-1])
    assert 100 < counting.images <= 100 + most
    assert most < 100 * (STEPS + 1) * (len(curve.eps) - 1)


def test_a_model_that_nothing_moves_is_followed_to_gray(images: ImageSet) -> None:
    class Deaf(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.eye(10)[0] + 0 * pixels.flatten(1).sum(1, keepdim=True)

    curve = sweep(as_classifier(Deaf()), images, EPS)
    assert curve.eps[-1] == LARGEST
    assert set(curve.standing) == {int((images.labels == 0).sum())}


def test_round_trip_and_intervals(curve: EpsCurve) -> None:
    again = EpsCurve.from_json(json.loads(json.dumps(curve.to_json())))
    assert dataclasses.asdict(again) == dataclasses.asdict(curve)
    first = curve.accuracies()[0]
    assert first.low < first.value <= first.high
