from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from harden.attacks import FGSM, craft
from harden.errors import ModelError
from harden.models.classifier import Normalisation, scores_of
from tests.attacks.nets import as_classifier, gen

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 0.2)


def classify(module, **kwargs):
    normalisation = Normalisation("given", MEAN, STD, **kwargs)
    return as_classifier(module, classes=("a", "b", "c"), size=(3, 2, 2), normalisation=normalisation)


class Keep(nn.Module):
    """Scores are the three channel means of what arrives."""

    def forward(self, x):
        self.seen = x
        return x.mean(dim=(2, 3))


def test_the_module_sees_the_normalised_image():
    keep, images = Keep(), torch.rand(2, 3, 2, 2)
    classify(keep)(images)
    for channel in range(3):
        torch.testing.assert_close(keep.seen[:, channel], (images[:, channel] - MEAN[channel]) / STD[channel])


def test_bgr_is_flipped_before_the_modules_own_mean_and_std():
    keep, images = Keep(), torch.rand(2, 3, 2, 2)
    classify(keep, flip_channels=True)(images)
    for channel in range(3):
        torch.testing.assert_close(keep.seen[:, channel], (images[:, 2 - channel] - MEAN[channel]) / STD[channel])


@pytest.mark.parametrize("flip", [False, True])
def test_eps_means_the_same_whatever_the_normalisation(flip):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    images = 0.3 + 0.4 * torch.rand(4, 3, 2, 2, generator=gen())
    examples = craft(FGSM(eps=0.05), classify(net, flip_channels=flip), images, torch.zeros(4).long(), generator=gen())
    torch.testing.assert_close((examples - images).abs(), torch.full_like(images, 0.05), rtol=1e-4, atol=1e-6)


def test_the_modules_own_keys_are_kept_and_the_normalisation_is_in_no_state_dict():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    classifier = classify(net)
    assert list(classifier.module.state_dict()) == ["1.weight", "1.bias"]
    assert list(classifier.state_dict()) == ["module.1.weight", "module.1.bias"]
    assert classifier.module is net


def test_normalisation_round_trips_through_json():
    given = Normalisation("given", MEAN, STD, flip_channels=True)
    assert Normalisation.from_json(given.to_json()) == given


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: (s, torch.zeros(2, 7)),
        lambda s: [s],
        lambda s: {"loss": None, "logits": s},
        lambda s: SimpleNamespace(logits=s, aux_logits1=None),
        lambda s: s[:, :, None, None],
    ],
)
def test_scores_are_found_in_what_modules_return(wrap):
    scores = torch.rand(2, 3)
    assert torch.equal(scores_of(wrap(scores)), scores)


@pytest.mark.parametrize(
    "output", [None, (), torch.tensor([1, 2]), torch.rand(2, 3, 4), torch.rand(2, 3, 2, 2), {"loss": torch.rand(())}]
)
def test_anything_else_is_an_error_that_says_what_came(output):
    with pytest.raises(ModelError, match="it returned") as e:
        scores_of(output)
    assert e.value.hint
