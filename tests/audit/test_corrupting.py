"""What every corruption of the table must keep to, and what is particular to some."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_sample_image
from torch import nn

from harden.audit.corrupting import CORRUPTIONS, SEVERITIES, corrupted_outcomes
from harden.audit.result import AuditResult
from harden.data.dataset import ImageSet
from harden.models.black_box import BlackBox, Program
from harden.models.classifier import Normalisation

from ..attacks.nets import as_classifier, digits, gen, trained_cnn
from ..report.builders import build_result

every = pytest.mark.parametrize("key", CORRUPTIONS)
RANDOM = {"gaussian-noise", "shot-noise", "impulse-noise", "haze"}


def photograph(channels: int, side: int, count: int = 2) -> torch.Tensor:
    """Crops of a photograph, (count, channels, side, side): natural images, for which the severities were chosen."""
    picture = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1).float() / 255
    crops = torch.stack([picture[:, 50 * k : 50 * k + 224, 100 * k : 100 * k + 224] for k in range(count)])
    small = nn.functional.adaptive_avg_pool2d(crops, side)
    return small if channels == 3 else small.mean(dim=1, keepdim=True)


@every
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 224, 224), (3, 48, 70), (1, 65, 100)])
def test_every_size_and_colour_keeps_shape_and_range(key, shape):
    images = torch.rand(2, *shape, generator=gen())
    kept = images.clone()
    for severity in SEVERITIES:
        found = CORRUPTIONS[key](images, severity, gen(1))
        assert found.shape == images.shape
        assert found.dtype == images.dtype
        assert found.amin() >= 0
        assert found.amax() <= 1
        assert not found.isnan().any()
    assert torch.equal(images, kept)


@every
@settings(max_examples=8, deadline=None)
@given(
    value=st.floats(0, 1),
    channels=st.sampled_from([1, 3]),
    height=st.integers(4, 90),
    width=st.integers(4, 90),
    severity=st.sampled_from(SEVERITIES),
)
def test_images_of_one_value_and_of_odd_sizes_are_no_exception(key, value, channels, height, width, severity):
    found = CORRUPTIONS[key](torch.full((1, channels, height, width), value), severity, gen())
    assert found.shape == (1, channels, height, width)
    assert found.isfinite().all()
    assert 0 <= found.amin() <= found.amax() <= 1


@every
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (1, 28), (3, 32), (3, 224)])
def test_a_higher_severity_distorts_more(key, channels, side):
    images = photograph(channels, side)
    distances = [float((CORRUPTIONS[key](images, s, gen(5)) - images).square().mean().sqrt()) for s in SEVERITIES]
    assert distances[0] > 0 or side == 8  # a blur or a pixel less may be nothing on 8 pixels
    assert distances[-1] > 1.2 * distances[0]
    for lower, higher in itertools.pairwise(distances):
        assert higher >= lower * 0.99
    assert 0.005 < distances[-1] < 0.6


@every
def test_the_generator_alone_decides(key):
    images = photograph(3, 32)
    first, again, other = (CORRUPTIONS[key](images, 3, gen(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (key not in RANDOM)
    assert not torch.equal(first, images)


@every
def test_what_is_not_random_does_not_depend_on_the_rest_of_the_batch(key):
    if key in RANDOM:
        pytest.skip("draws for the whole batch")
    images = photograph(3, 32)
    alone = torch.cat([CORRUPTIONS[key](image[None], 3, gen()) for image in images])
    torch.testing.assert_close(CORRUPTIONS[key](images, 3, gen()), alone)


@every
def test_the_table_is_five_rising_or_falling_parameters_and_says_them(key):
    corruption = CORRUPTIONS[key]
    for parameters in (corruption.small, corruption.large):
        assert len(parameters) == len(SEVERITIES)
        assert list(parameters) in (sorted(set(parameters)), sorted(set(parameters), reverse=True))
    assert len({corruption.definition(s, (28, 28)) for s in SEVERITIES}) == len(SEVERITIES)
    for size, parameters in (((32, 32), corruption.small), ((224, 224), corruption.large)):
        assert all(f"{p:.3g}" in corruption.definition(s, size) for s, p in zip(SEVERITIES, parameters, strict=True))
    for severity in (0, 6):
        with pytest.raises(ValueError, match="1 to 5"):
            corruption.parameter(severity, (28, 28))


def test_names_tell_the_corruptions_apart():
    assert len({corruption.name for corruption in CORRUPTIONS.values()}) == len(CORRUPTIONS) >= 10


@pytest.mark.parametrize("key", [key for key, found in CORRUPTIONS.items() if found.in_pixels])
def test_blur_grows_with_the_image_and_never_shrinks_below_that_of_small_ones(key):
    corruption = CORRUPTIONS[key]
    for severity in SEVERITIES:
        radii = [corruption.parameter(severity, (side, 2 * side)) for side in (8, 32, 64)]
        assert radii == [corruption.small[severity - 1] * factor for factor in (1, 1, 2)]
        large = [corruption.parameter(severity, (side, side)) for side in (65, 112, 224, 448)]
        assert large == sorted(large)
        assert large[0] >= corruption.small[severity - 1]
        assert large[-1] == 2 * large[-2] == 2 * corruption.large[severity - 1]


def test_noises_have_the_spread_that_they_say():
    half = torch.full((4, 3, 64, 64), 0.5)
    assert (CORRUPTIONS["gaussian-noise"](half, 5, gen()) - half).std().item() == pytest.approx(0.1, rel=0.02)
    assert (CORRUPTIONS["shot-noise"](half, 5, gen()) - half).std().item() == pytest.approx((0.5 / 50) ** 0.5, rel=0.02)
    hit = CORRUPTIONS["impulse-noise"](half, 5, gen())
    assert (hit == 0).float().mean().item() == pytest.approx(0.035, rel=0.1)
    assert (hit == 1).float().mean().item() == pytest.approx(0.035, rel=0.1)
    assert torch.equal(hit[(hit != 0) & (hit != 1)].unique(), torch.tensor([0.5]))


def test_blurs_keep_the_mean_and_spread_a_point_evenly():
    point = torch.zeros(1, 1, 33, 33)
    point[..., 16, 16] = 1
    for key in ("gaussian-blur", "defocus-blur"):
        spread = CORRUPTIONS[key](point, 5, gen())
        assert spread.sum().item() == pytest.approx(1, rel=1e-4)
        torch.testing.assert_close(spread, spread.flip(2))
        torch.testing.assert_close(spread, spread.transpose(2, 3))
    square = (torch.arange(33) - 16.0).square()
    gaussian = CORRUPTIONS["gaussian-blur"](point, 5, gen())[0, 0]
    assert (gaussian.sum(0) * square).sum().item() == pytest.approx((33 / 32) ** 2, rel=0.05)  # the variance


def test_pixelation_by_hand():
    ramp = torch.tensor([0.0, 0.2, 0.4, 1.0]).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    halves = CORRUPTIONS["pixelate"](ramp, 5, gen())  # int(4 * .65) = 2 columns
    torch.testing.assert_close(halves[0, 0, 0], torch.tensor([0.1, 0.1, 0.7, 0.7]))


def test_brightness_and_contrast_by_hand():
    image = torch.tensor([0.1, 0.3, 0.9, 0.9]).view(1, 1, 2, 2)
    bright = CORRUPTIONS["brightness"](image, 5, gen()).flatten()
    torch.testing.assert_close(bright, torch.tensor([0.4, 0.6, 1.0, 1.0]))
    flat = CORRUPTIONS["contrast"](image, 2, gen()).flatten()  # half way to the mean, .55
    torch.testing.assert_close(flat, torch.tensor([0.325, 0.425, 0.725, 0.725]))


def as_set(images: torch.Tensor, labels: torch.Tensor) -> ImageSet:
    pixels = images.mul(255).round().to(torch.uint8)
    return ImageSet(pixels, labels, tuple(f"{k}.png" for k in range(len(labels))))


@pytest.fixture(scope="module")
def held() -> ImageSet:
    images, labels = digits()
    return as_set(images[1500:], labels[1500:])


def test_outcomes_are_the_predictions_on_every_image_in_eval_mode(held):
    classifier = as_classifier(nn.Sequential(nn.Dropout(0.5), trained_cnn())).train()
    heard = []
    outcomes = corrupted_outcomes(classifier, held, seed=3, progress=lambda *told: heard.append(told))
    assert classifier.training
    assert classifier.module[0].training
    assert [(o.name, o.severity) for o in outcomes] == [(c.name, s) for c in CORRUPTIONS.values() for s in (1, 3, 5)]
    assert all(o.predictions.shape == (len(held),) and o.predictions.dtype == np.int64 for o in outcomes)
    assert heard[-1] == ("corruptions", 30 * len(held), 30 * len(held))
    again = corrupted_outcomes(classifier, held, seed=3)
    other = corrupted_outcomes(classifier, held, seed=4)
    same = [np.array_equal(a.predictions, b.predictions) for a, b in zip(outcomes, again, strict=True)]
    differs = [not np.array_equal(a.predictions, b.predictions) for a, b in zip(outcomes, other, strict=True)]
    assert all(same)
    assert any(differs)
    clean = classifier.eval()(held.batch(slice(None))[0]).argmax(1).numpy()
    accuracies = {(o.name, o.severity): (o.predictions == held.labels.numpy()).mean() for o in outcomes}
    assert (clean == held.labels.numpy()).mean() - accuracies["Gaussian noise", 1] < 0.03
    assert accuracies["defocus blur", 5] < accuracies["defocus blur", 1]
    result = dataclasses.replace(build_result(images=10), corruptions=outcomes)
    back = AuditResult.from_json(result.to_json()).corruptions
    assert [o.definition for o in back] == [o.definition for o in outcomes]


def test_a_black_box_is_asked_for_nothing_but_scores(held):
    box = BlackBox(
        Program("net", "function", trained_cnn(), "x"),
        normalisation=Normalisation("none", (0.0,), (1.0,)),
        classes=tuple("0123456789"),
        input_size=(1, 8, 8),
        probabilities=False,
    )
    found = corrupted_outcomes(box, held, severities=(2,))
    expected = corrupted_outcomes(as_classifier(trained_cnn()), held, severities=(2,))
    assert all(np.array_equal(a.predictions, b.predictions) for a, b in zip(found, expected, strict=True))
