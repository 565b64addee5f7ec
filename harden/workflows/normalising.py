"""The normalisation of a network: given by the user, stated by its config.json, or found on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from harden.data import ImageSet, stratified_sample
from harden.errors import UsageError
from harden.models.classifier import Basis, Normalisation
from harden.models.loaded import Stated
from harden.models.normalisations import what_to_type, why_in_doubt
from harden.models.output_subset import OutputSubset
from harden.models.preflight import Preflight, preflight
from harden.randomness import stream
from harden.workflows.narrator import Narrator

PREFLIGHT_IMAGES = 1000
DOUBTED_IMAGES = 4000
"""Images for normalisations that as many as the number above do not tell apart."""


def given_normalisation(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int, stated: Stated | None = None
) -> Normalisation | None:
    """Return the normalisation that `--mean` and `--std` state, or else the model's own files, or None.

    Raises:
        UsageError: only one of them, a wrong count, or a std that is not positive.
    """
    if mean is None and std is None:
        if stated is None or stated.mean is None or stated.std is None:
            return None
        mean, std = (tuple(v) * (channels if len(v) == 1 else 1) for v in (stated.mean, stated.std))
        fits = len(mean) == len(std) == channels
        return Normalisation(stated.where, mean, std, stated.flip_channels, Basis.STATED) if fits else None
    if mean is None or std is None:
        raise UsageError("--mean and --std belong together", hint="give both, or none to have them found")
    mean, std = (tuple(v) * (channels if len(v) == 1 else 1) for v in (mean, std))
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise UsageError(
            f"--mean and --std need one number per channel ({channels}), std positive; got {mean} and {std}",
            hint="on the [0, 1] scale, for instance --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
        )
    return Normalisation("given", tuple(mean), tuple(std), basis=Basis.GIVEN)


def run_preflight(
    module: nn.Module,
    classes: tuple[str, ...],
    sample: ImageSet,
    given: Normalisation | None,
    narrator: Narrator,
    *,
    must_know: bool = True,
    more: Callable[[], ImageSet] | None = None,
    subset: OutputSubset | None = None,
) -> Preflight:
    """Find the normalisation on labelled images, and say what was found and why.

    Args:
        module: the user's network.
        classes: names in the order of its outputs.
        sample: the images.
        given: what the normalisation is known to be; None: to be found.
        narrator: hears what was found.
        must_know: see `preflight`; a model that need not know the images is warned of.
        more: returns more images, for a doubt that these leave.
        subset: which of its outputs the scores of `classes` are; None: all of them.

    Raises:
        PreflightError: the model and the images do not fit.
    """
    floats, labels = sample.batch(slice(None))
    result = preflight(
        module,
        images=floats,
        labels=labels,
        classes=classes,
        given=given,
        must_know=must_know,
        more=(lambda: more().batch(slice(None))) if more is not None else None,
        subset=subset,
    )
    narrator.table(
        ("normalisation", "accuracy", "mean loss"),
        [
            (row.name, f"{row.accuracy:.1%}" + f" of {row.images}" * (row.images < result.images), f"{row.nll:.3f}")
            for row in result.rows
        ],
    )
    if result.problem is not None:
        narrator.warn(f"{result.problem.message}. {result.problem.hint or ''}")
        return result
    narrator.note(f"normalisation: {result.chosen.name}. {result.reason}")
    if result.chosen.doubt is not None:
        narrator.warn(f"{why_in_doubt(result.chosen)}. {what_to_type(result.chosen)}")
    return result


def rows_for_preflight(labels: Tensor, seed: int, *, most: int = PREFLIGHT_IMAGES) -> Tensor:
    """Return indices of at most `most` images, stratified."""
    return stratified_sample(labels, most, generator=stream(seed, "preflight"))
