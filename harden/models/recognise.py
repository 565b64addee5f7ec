"""Whose weights are these? The networks of timm and torchvision that a weights file fits, by names and shapes.

Names and shapes do not show everything: pooling, activations and the like may differ. So the networks that fit are
built, and it is looked whether they compute the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from harden.errors import ModelError
from harden.models.agreement import agree
from harden.models.architectures import architectures, digest, similarity, sketch_of
from harden.models.classifier import network_scores
from harden.models.loaded import LoadedModel
from harden.models.modes import evaluating
from harden.models.state_dict import Candidate, MisfitError, readings, weight_shapes
from harden.models.timm_models import made_for
from harden.models.trial import RGB, output_classes

_ALIKE = 0.3
"""Networks that have a smaller share of names and shapes in common with a file are not worth naming."""
_LISTED = 6
_TORCHVISION_SIZE = (224, 224)


@dataclass(frozen=True)
class Recognised:
    """The networks that have exactly the names and shapes of a weights file.

    Attributes:
        names: `timm:NAME` or `torchvision:NAME`, at least one.
        classes: of the weights; None where they do not say.
        channels: of the images; None for networks that have no choice.
    """

    names: tuple[str, ...]
    classes: int | None
    channels: int | None


@dataclass(frozen=True, eq=False)
class Fit:
    """A network with the weights in it, and the names of all that compute the same."""

    loaded: LoadedModel
    names: tuple[str, ...]


@dataclass(frozen=True)
class Decision:
    """Which of several networks the weights belong to.

    Attributes:
        chosen: its place among them; None: nothing tells.
        told: of each of them in words how it did; none where nothing was measured.
    """

    chosen: int | None
    told: tuple[str, ...]


Decide = Callable[[Sequence[Fit]], Decision]
"""Asked where the networks that fit compute different things."""


def recognise(candidates: Sequence[Candidate]) -> Recognised | None:
    """Return the networks that the first reading that is known fits, averaged (EMA) weights before raw ones."""
    for reading in _every(candidates):
        shapes = weight_shapes(reading.tensors)
        keys = digest(shapes)
        found = [one for one in architectures() if one.keys == keys and one.has(shapes)]
        if found:
            places = [(one.classes, one.channels) for one in found]
            classes = next((place.read(shapes) for place, _ in places if place), None)
            channels = next((place.read(shapes) for _, place in places if place), None)
            return Recognised(tuple(name for one in found for name in one.names), classes, channels)
    return None


def nearest(candidates: Sequence[Candidate], count: int = 3) -> tuple[tuple[str, float], ...]:
    """Return the networks that have the most names and shapes in common with a file, each with the share in [0, 1]."""
    read = [sketch_of(_texts(reading)) for reading in _every(candidates)]
    best = [(max(similarity(one.sketch, other) for other in read), one) for one in architectures()] if read else []
    best.sort(key=lambda pair: -pair[0])
    return tuple((one.names[0], share) for share, one in best[:count] if share >= _ALIKE)


def only_one(
    path: Path,
    found: Recognised,
    load: Callable[[str], LoadedModel],
    image_size: tuple[int, int],
    decide: Decide | None,
) -> LoadedModel:
    """Return the network that the weights in `path` belong to, if all that they fit compute the same or one is chosen.

    Networks that cannot take such images are not among them.

    Args:
        path: for the messages.
        found: the networks.
        load: builds one of them and puts the weights in.
        image_size: (height, width) of the images that they are compared on.
        decide: chooses among those that compute different things; None: nothing does.

    Raises:
        ModelError: several fit and compute different things and none is chosen, or none takes such images.
    """
    groups: list[tuple[LoadedModel, Tensor, list[str]]] = []
    refusals: list[tuple[str, ModelError]] = []
    for name in found.names:
        try:
            loaded = load(name)
            output_classes(loaded.module, found.channels or RGB, image_size)
        except ModelError as error:
            refusals.append((name, error))
            continue
        scores = _answer(loaded, found.channels or RGB, image_size)
        same = next((names for _, known, names in groups if agree(known, scores)), None)
        if same is None:
            groups.append((loaded, scores, [name]))
        else:
            same.append(name)
    if not groups:
        raise _refused(path, *refusals[0], image_size)
    fits = [Fit(loaded, tuple(names)) for loaded, _, names in groups]
    if len(fits) == 1:
        return _noted(fits[0], "")
    decision = decide(fits) if decide is not None else Decision(None, ())
    if decision.chosen is None:
        raise _undecided(path, fits, decision.told)
    compared = "; ".join(f"{fit.names[0]} {told}" for fit, told in zip(fits, decision.told, strict=True))
    return _noted(fits[decision.chosen], f", the best by far of those that fit: {compared}")


def _noted(fit: Fit, why: str) -> LoadedModel:
    also = f" ({', '.join(_some(fit.names[1:]))}, which fits too, computes the same)" if fit.names[1:] else ""
    note = f"recognised by names and shapes as the weights of {fit.names[0]}{also}{why}"
    return replace(fit.loaded, notes=(note, *fit.loaded.notes))


def _undecided(path: Path, fits: Sequence[Fit], told: Sequence[str]) -> ModelError:
    measured = told or [""] * len(fits)
    listed = "\n".join(
        f"  --arch {' or '.join(_some(fit.names))}" + (f": {words}" if words else "")
        for fit, words in zip(fits, measured, strict=True)
    )
    unclear = ", and none is clearly more accurate than the others" if told else ""
    return ModelError(
        f"the weights in {path} fit several networks that compute different things (in pooling, activations or "
        f"the like, which weights do not show){unclear}:\n{listed}",
        hint=f"say which one it is, as --arch {fits[0].names[0]}",
    )


def _every(candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    """Yield the readings in the order in which `fit_candidates` tries them."""
    for candidate in candidates:
        yield from sorted(readings(candidate, {}), key=lambda reading: not reading.averaged)


def _texts(reading: Candidate) -> list[str]:
    return [f"{key} {'x'.join(map(str, shape))}" for key, shape in weight_shapes(reading.tensors).items()]


def _answer(loaded: LoadedModel, channels: int, image_size: tuple[int, int]) -> Tensor:
    images = torch.randn(2, channels, *image_size, generator=torch.Generator().manual_seed(0))
    with evaluating(loaded.module):
        return network_scores(loaded.module, images)


def _some(names: Sequence[str]) -> list[str]:
    return [*names[:_LISTED], *(["..."] if len(names) > _LISTED else [])]


def _refused(path: Path, name: str, error: ModelError, image_size: tuple[int, int]) -> ModelError:
    kind, _, reference = name.partition(":")
    size = made_for(reference) if kind == "timm" else _TORCHVISION_SIZE
    hint = error.hint
    if isinstance(error, MisfitError) and size is not None and size != image_size and size[0] == size[1]:
        hint = f"resize the images to what {name} is made for: --image-size {size[0]}"
    return ModelError(
        f"the weights in {path} are those of {name} by their names and shapes, but {error.message}", hint=hint
    )
