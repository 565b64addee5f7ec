"""Which of several networks that fit the same weights they belong to, measured on labelled images.

Weights do not show pooling, activations and the like, but a network that was trained with others answers worse. All
are asked about the same images, each under the normalisation that suits it best, and the one that is right more often
is taken if that is no accident: of the images that one of two networks has right and the other has not, McNemar's exact
test asks how often as many would fall to the better one if it were not better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harden.data import ImageSet
from harden.errors import ModelError, PreflightError
from harden.models import accepted_channels
from harden.models.choice import probability
from harden.models.classifier import Classifier, Normalisation
from harden.models.loaded import LoadedModel
from harden.models.preflight import preflight
from harden.models.recognise import Decide, Decision, Fit
from harden.training.evaluate import predictions
from harden.workflows.narrator import Narrator

MEASURED = 300
"""Images, stratified."""
MOST = 5
"""Networks; more are not tried."""
CLEAR = 0.001
"""How often chance alone may make a network that is no better look as good as this."""


def by_accuracy(
    labelled: Callable[[int], tuple[ImageSet, tuple[str, ...]]],
    given: Callable[[int], Normalisation | None],
    *,
    channels: int,
    size: tuple[int, int],
    narrator: Narrator,
) -> Decide:
    """Return what decides between networks by their accuracy; it decides nothing where none is clearly the best.

    Args:
        labelled: from the channels that the networks read to labelled images, and the names of the classes.
        given: from the channels to the normalisation that is known.
        channels: of the images as they are stored.
        size: (height, width) of the images.
        narrator: hears of the progress.
    """

    def decide(fits: Sequence[Fit]) -> Decision:
        if len(fits) > MOST:
            return Decision(None, ())
        taken = accepted_channels(fits[0].loaded.module, channels, size)
        images, classes = labelled(taken)
        right = []
        for number, fit in enumerate(fits):
            narrator.progress("telling networks apart", number, len(fits))
            try:
                right.append(_right(fit.loaded, images, classes, given(taken)))
            except PreflightError:  # another number of classes: no accuracy is to be had
                return Decision(None, ())
        narrator.progress("telling networks apart", len(fits), len(fits))
        told = tuple(f"{int(r.sum()) / len(r):.1%} of {len(r)} labelled images right" for r in right)
        best = max(range(len(fits)), key=lambda k: int(right[k].sum()))
        clear = all(probability(right[best], other) < CLEAR for k, other in enumerate(right) if k != best)
        return Decision(best if clear else None, told)

    return decide


def _right(loaded: LoadedModel, images: ImageSet, classes: tuple[str, ...], given: Normalisation | None) -> Tensor:
    """Return which images (N,) a network has right, under the normalisation that it does best with."""
    floats, labels = images.batch(slice(None))
    try:
        found = preflight(loaded.module, images=floats, labels=labels, classes=classes, given=given, must_know=False)
    except PreflightError:
        raise
    except ModelError:  # scores that are not finite
        return torch.zeros(len(images), dtype=torch.bool)
    classifier = Classifier(
        loaded.module,
        normalisation=found.chosen,
        classes=classes,
        input_size=(images.images.shape[1], images.images.shape[2], images.images.shape[3]),
        origin=loaded.origin,
    )
    return predictions(classifier, images) == labels
