from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from harden.attacks import FAB, FGSM, MIM, PGD, Examples, Norm, Planned, run_attack
from harden.audit.exhibits import LARGEST, Gallery, exhibit_of
from harden.audit.gallery import Exhibit
from harden.audit.keeping import Keeping
from harden.audit.result import AuditResult
from harden.audit.runner import audit
from harden.data.dataset import ImageSet
from tests.attacks.nets import as_classifier, digits, gen, held_out, trained_cnn

EPS = 0.1
ATTACKS = (FGSM(eps=EPS), PGD(eps=EPS, iterations=5), FAB(eps=EPS, iterations=5, finalists=3))


@pytest.fixture(scope="module")
def images() -> ImageSet:
    pixels, labels = digits()
    return ImageSet(
        pixels[1500:].mul(255).round().to(torch.uint8), labels[1500:], tuple(f"{i}.png" for i in range(297))
    )


def run(images: ImageSet, gallery: Gallery, attacks=ATTACKS, **options) -> AuditResult:
    planned = [Planned(attack) for attack in attacks]
    return audit(
        as_classifier(trained_cnn()),
        images,
        planned,
        model="net",
        dataset="digits",
        exposures={},
        witness=gallery,
        **options,
    )


@pytest.fixture(scope="module")
def seen(images: ImageSet) -> tuple[tuple[Exhibit, ...], AuditResult]:
    gallery = Gallery(images)
    result = run(images, gallery)
    return gallery.exhibits(), result


def test_twelve_images_spread_over_classes_and_attacks(seen) -> None:
    exhibits, _ = seen
    assert len(exhibits) == 12
    assert len({exhibit.file for exhibit in exhibits}) == 12
    assert len({exhibit.true for exhibit in exhibits}) >= 9
    assert {exhibit.attack for exhibit in exhibits} == {attack.name for attack in ATTACKS}


def test_each_exhibit_is_what_the_audit_found(images: ImageSet, seen) -> None:
    exhibits, result = seen
    for exhibit in exhibits:
        row = images.files.index(exhibit.file)
        outcome = result.outcome(exhibit.attack)
        assert exhibit.true == exhibit.before == result.labels[row] == result.clean_predictions[row]
        assert exhibit.after == outcome.predictions[row] != exhibit.true
        assert exhibit.distance == pytest.approx(outcome.distances[row], abs=1e-6)
        assert exhibit.norm == "linf"
        assert np.array_equal(exhibit.clean[..., 0], images.images[row, 0].numpy())


def test_the_adversarial_pixels_fool_and_the_difference_is_theirs(seen) -> None:
    exhibits, _ = seen
    pixels = torch.tensor(np.stack([exhibit.adversarial for exhibit in exhibits])).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        guesses = trained_cnn()(pixels).argmax(1)
    true = torch.tensor([exhibit.true for exhibit in exhibits])
    assert (guesses != true).sum() >= 9  # the nearest examples lie on the boundary: rounding saves some
    for exhibit in exhibits:
        moved = exhibit.adversarial.astype(float) - exhibit.clean.astype(float)
        shown = (exhibit.difference.astype(float) - 128) / exhibit.amplified
        assert np.abs(moved - shown).max() <= 1.01


def test_the_smallest_perturbation_of_a_class_is_preferred(images: ImageSet, seen) -> None:
    exhibits, result = seen
    outcome = result.outcome("FAB-T-5")
    for exhibit in exhibits:
        if exhibit.attack == outcome.name:
            others = outcome.attacked & (outcome.predictions != result.labels) & (result.labels == exhibit.true)
            assert exhibit.distance <= outcome.distances[others].min() + 0.01 * EPS


def test_the_batches_do_not_matter(images: ImageSet) -> None:
    pixels, labels = images.batch(slice(None))
    examples = run_attack(PGD(eps=EPS, iterations=5), trained_cnn(), pixels, labels, generator=gen())

    def by(size: int) -> list[dict]:
        gallery = Gallery(images, limit=4)
        for rows in torch.arange(297).split(size):
            parts = (getattr(examples, field.name)[rows] for field in dataclasses.fields(Examples))
            gallery(ATTACKS[1], rows, pixels[rows], Examples(*parts))
        return [exhibit.to_json() for exhibit in gallery.exhibits()]

    assert by(297) == by(50) == by(1)
    assert len(by(297)) == 4


def test_few_fooled_images_are_all_shown_and_none_is_no_gallery(images: ImageSet) -> None:
    gallery = Gallery(images)
    run(images, gallery, attacks=(FGSM(eps=0.0),))
    assert gallery.exhibits() == ()
    pixels, labels = held_out(2)
    two = ImageSet(pixels.mul(255).round().to(torch.uint8), labels, ())
    gallery = Gallery(two)
    run(two, gallery, attacks=(PGD(eps=0.4, iterations=10), MIM(eps=0.4)))
    assert len(gallery.exhibits()) == 4
    assert {exhibit.file for exhibit in gallery.exhibits()} == {""}


def test_it_remembers_no_more_than_the_limit_of_each_attack(images: ImageSet) -> None:
    gallery = Gallery(images, limit=3)
    run(images, gallery)
    assert len(gallery.exhibits()) == 3
    assert all(len(found) <= 3 for found in gallery._found.values())


def test_attacks_known_from_an_earlier_audit_are_repeated(images: ImageSet, tmp_path) -> None:
    classifier = as_classifier(trained_cnn())
    keeping = Keeping(tmp_path, model=classifier, name="net", images=images, seed=0)
    run(images, Gallery(images), keeping=keeping)
    again = Gallery(images)
    result = run(images, again, keeping=keeping)
    assert again.exhibits() == ()
    again.revisit(classifier, result, ATTACKS)
    assert len(again.exhibits()) == 12
    assert {exhibit.attack for exhibit in again.exhibits()} == {attack.name for attack in ATTACKS}
    assert all(exhibit.after != exhibit.true for exhibit in again.exhibits())
    before = json.dumps([exhibit.to_json() for exhibit in again.exhibits()])
    again.revisit(classifier, result, ATTACKS)
    assert json.dumps([exhibit.to_json() for exhibit in again.exhibits()]) == before


@pytest.mark.parametrize(("height", "width"), [(300, 224), (97, 200), (96, 96), (8, 8), (1, 700)])
def test_large_images_are_made_smaller_and_keep_their_shape(height: int, width: int) -> None:
    clean = torch.rand(3, height, width, generator=gen())
    moved = (clean + 4 / 255 * torch.randn(3, height, width, generator=gen(1)).sign()).clamp(0, 1)
    exhibit = exhibit_of(clean, moved, file="a", attack=FGSM(eps=4 / 255), true=0, after=1)
    shown = exhibit.clean.shape
    assert max(shown[:2]) == min(LARGEST, max(height, width))
    assert shown[0] / shown[1] == pytest.approx(height / width, rel=0.02, abs=0.02)
    assert exhibit.clean.shape == exhibit.adversarial.shape == exhibit.difference.shape
    assert exhibit.distance == pytest.approx(4 / 255, abs=1e-6)
    # A pattern that alternates from pixel to pixel is still seen in the smaller picture.
    assert exhibit.amplified == 20
    assert np.abs(exhibit.difference.astype(int) - 128).mean() > 60


def test_a_large_change_of_few_pixels_is_cut_off_not_wrapped() -> None:
    clean = torch.zeros(1, 4, 4)
    moved = clean.clone()
    moved[0, 0, 0] = 1.0
    exhibit = exhibit_of(clean, moved, file="", attack=PGD(eps=1.0, iterations=1), true=0, after=1)
    assert exhibit.amplified == 1
    assert exhibit.difference[0, 0, 0] == 255
    assert (exhibit.difference.reshape(-1)[1:] == 128).all()


def test_an_exhibit_survives_json_in_gray_and_colour() -> None:
    for channels in (1, 3):
        clean = torch.rand(channels, 5, 7, generator=gen())
        exhibit = exhibit_of(clean, 1 - clean, file="a/b.png", attack=FGSM(eps=1.0), true=3, after=4, before=3)
        again = Exhibit.from_json(json.loads(json.dumps(exhibit.to_json())))
        assert again.to_json() == exhibit.to_json()
        assert again.clean.shape == (5, 7, channels)
        assert np.array_equal(again.difference, exhibit.difference)
        assert Norm(again.norm) is Norm.LINF
