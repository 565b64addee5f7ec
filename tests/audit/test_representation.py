from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import silhouette_score
from torch import nn

from harden.attacks import FGSM, PGD, Attack, Square
from harden.audit.domains import embed, own_first, represent, silhouette, told_apart
from harden.audit.representation import Representation
from harden.data.dataset import ImageSet
from tests.attacks.nets import as_classifier, digits, modal, trained_cnn

EPS = 0.1


@pytest.fixture(scope="module")
def images() -> ImageSet:
    pixels, labels = digits()
    return ImageSet(
        pixels[1500:].mul(255).round().to(torch.uint8), labels[1500:], tuple(f"{i}.png" for i in range(297))
    )


@pytest.fixture(scope="module")
def found(images: ImageSet) -> Representation:
    attacks = (FGSM(eps=EPS), PGD(eps=EPS, iterations=10, random_start=True))
    return represent(as_classifier(trained_cnn()), images, attacks, seed=3, limit=120)


def test_clean_first_then_the_attacks_all_on_the_same_images(found: Representation) -> None:
    assert [domain.name for domain in found.domains] == ["clean", "FGSM", "PGD-10"]
    assert found.images == 120
    assert all(domain.points.shape == (120, 2) for domain in found.domains)
    counts = np.bincount(found.labels, minlength=10)
    assert counts.min() >= 10
    assert counts.max() <= 14


def test_the_clean_silhouette_is_that_of_the_logits_right_or_wrong(images: ImageSet) -> None:
    with torch.no_grad():
        logits = trained_cnn()(images.batch(slice(None))[0]).numpy()
    assert (logits.argmax(1) != images.labels.numpy()).any()
    found = represent(as_classifier(trained_cnn()), images, (), limit=10_000)
    assert found.images == 297
    assert found.domains[0].silhouette == pytest.approx(silhouette_score(logits, images.labels.numpy()), abs=1e-4)
    assert math.isnan(found.domains[0].domain_accuracy)


def test_an_attack_mixes_the_classes_and_leaves_a_trace(found: Representation) -> None:
    clean, fgsm, pgd = found.domains
    assert max(fgsm.silhouette, pgd.silhouette) < clean.silhouette - 0.1
    assert pgd.domain_accuracy > 0.52
    assert pgd.class_domain_accuracy > pgd.domain_accuracy + 0.1
    assert pgd.a_distance == pytest.approx(4 * pgd.domain_accuracy - 2)


def test_an_attack_of_radius_zero_cannot_be_told_from_clean(images: ImageSet) -> None:
    found = represent(as_classifier(trained_cnn()), images, (PGD(eps=0.0, iterations=1),), limit=60)
    clean, nothing = found.domains
    assert nothing.silhouette == pytest.approx(clean.silhouette)
    assert nothing.domain_accuracy == 0.5
    assert nothing.class_domain_accuracy == 0.5
    assert nothing.a_distance == 0


def test_the_strongest_example_counts_not_the_first_that_fools(images: ImageSet) -> None:
    """With PGD at a large radius every image is fooled at once; run to the end, the true logit is far behind."""

    @dataclass(frozen=True, kw_only=True)
    class Spy(PGD):
        def pursue(self, oracle, generator) -> None:
            super().pursue(oracle, generator)
            margins.append(oracle.best.clone())

    margins: list[torch.Tensor] = []
    represent(as_classifier(trained_cnn()), images, (Spy(eps=0.3, iterations=2),), limit=50)
    represent(as_classifier(trained_cnn()), images, (Spy(eps=0.3, iterations=20),), limit=50)
    assert margins[1].mean() < margins[0].mean() - 1


def test_the_same_seed_gives_the_same_and_another_seed_another_sample(images: ImageSet) -> None:
    def once(seed: int) -> str:
        attacks: tuple[Attack, ...] = (PGD(eps=EPS, iterations=2, random_start=True),)
        return json.dumps(represent(as_classifier(trained_cnn()), images, attacks, seed=seed, limit=40).to_json())

    assert once(1) == once(1) != once(2)


def test_progress_is_told_and_can_stop_it(images: ImageSet) -> None:
    heard = []
    attacks = (FGSM(eps=EPS), PGD(eps=EPS, iterations=3))
    represent(as_classifier(trained_cnn()), images, attacks, limit=40, progress=lambda *words: heard.append(words))
    assert list(dict.fromkeys(name for name, _, _ in heard)) == ["FGSM", "PGD-3"]
    assert [done for _, done, _ in heard] == sorted(done for _, done, _ in heard)
    assert heard[-1][1] == heard[-1][2]

    def stop(*words: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        represent(as_classifier(trained_cnn()), images, attacks, limit=40, progress=stop)


def test_modes_and_global_randomness_are_left_alone(images: ImageSet) -> None:
    net = modal(channels=1, classes=10)
    before = {name: module.training for name, module in net.named_modules()}
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    represent(as_classifier(net), images, (FGSM(eps=EPS),), limit=40)
    assert {name: module.training for name, module in net.named_modules()} == before
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


class Constant(nn.Module):
    """The same scores for every image."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor(scores))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scores.expand(len(images), -1) + 0 * images.sum()


@pytest.mark.parametrize("scores", [[1.0, 0.0, -1.0], [0.0, 0.0, 0.0], [float("nan"), 0.0, 1.0], [1.0, 0.0]])
def test_a_model_that_says_nothing_is_no_crash(scores: list[float]) -> None:
    images = ImageSet(torch.zeros(12, 1, 8, 8, dtype=torch.uint8), torch.arange(12) % len(scores), ("",) * 12)
    classifier = as_classifier(Constant(scores), classes=tuple("abc")[: len(scores)])
    attacks = () if len(scores) == 1 else (FGSM(eps=EPS),)
    found = represent(classifier, images, attacks)
    assert found.images == (0 if math.isnan(scores[0]) else 12)
    again = Representation.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert again.to_json() == found.to_json()
    assert all(np.isfinite(domain.points).all() for domain in found.domains)
    assert all(math.isnan(d.domain_accuracy) or d.domain_accuracy == 0.5 for d in found.domains)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_very_few_images_of_one_class_are_no_crash(count: int) -> None:
    pixels, labels = digits()
    rows = torch.nonzero(labels == 3).squeeze(1)[:count]
    images = ImageSet(pixels[rows].mul(255).to(torch.uint8), labels[rows], ("",) * count)
    found = represent(as_classifier(trained_cnn()), images, (FGSM(eps=EPS), Square(eps=EPS, queries=3)))
    assert math.isnan(found.domains[1].silhouette)
    assert found.domains[2].points.shape == (count, 2)


def test_domains_that_a_line_divides_are_told_apart_and_copies_are_not() -> None:
    logits = np.random.default_rng(0).normal(size=(200, 3))
    assert told_apart(logits, logits + np.array([6, 0, 0])) > 0.98
    assert told_apart(logits, logits.copy()) == 0.5
    # A discriminator that saw one version of an image in training would know the other by its first two values.
    assert told_apart(np.c_[logits, np.zeros(200)], np.c_[logits, np.full(200, 1e-3)]) > 0.98


def test_the_silhouette_is_the_one_of_the_textbook() -> None:
    """Two classes on a line, by hand: a = 1 and b = 10.5 or 9.5 on average, so s = 1 - a / b."""
    logits, labels = np.array([[0.0], [1.0], [10.0], [11.0]]), np.array([0, 0, 1, 1])
    assert silhouette(logits, labels) == pytest.approx(1 - (1 / 10.5 + 1 / 9.5) / 2)
    assert silhouette(logits, np.array([0, 1, 0, 1])) < 0


@settings(max_examples=30, deadline=None, database=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**31))
def test_the_true_class_comes_first_and_the_others_fall(rows: int, classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits, labels = random.normal(size=(rows, classes)), random.integers(0, classes, rows)
    ordered = own_first(logits, labels)
    assert np.array_equal(ordered[:, 0], logits[np.arange(rows), labels])
    assert (np.diff(ordered[:, 1:], axis=1) <= 0).all()
    assert np.array_equal(np.sort(ordered, axis=1), np.sort(logits, axis=1))


def test_classes_far_apart_stay_apart_in_the_picture() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat((0, 1), 30)
    logits = random.normal(size=(60, 4)) + 20 * labels[:, None]
    clean, attacked = embed([logits, logits + random.normal(size=(60, 4))])
    assert clean.dtype == np.float32
    for points in (clean, attacked):
        assert silhouette(points.astype(np.float64), labels) > 0.5
