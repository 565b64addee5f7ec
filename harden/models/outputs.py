"""What a network returns: which part of it holds the scores (N, K) of N images.

Networks return tuples, dictionaries and objects with features, auxiliary scores or probabilities beside the logits. Of
everything that has one row for each image:

1. what has as many columns as the data has classes comes before everything else;
2. then decides the name: "logits" before other names, auxiliary scores and probabilities last;
3. then logits come before rows that sum to one, and the first before later ones.

Two classes may have a single score z, the logit of the second one: it stands for [0, z].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from harden.errors import ModelError

_DEEPEST = 3
_HINT = "return one row of class scores for each image, or wrap the network in a module that does (--arch)"
_SUM_TOLERANCE = 1e-3

Readings = dict[tuple[tuple[str, int], ...], int]
"""Which part holds the scores, by the names and columns of all parts: decided once for each kind of output, so that
values that happen to look like probabilities do not change it later."""


class _Part(NamedTuple):
    """A tensor in an output, and its name there; `scores` (N, columns), of one column where it had none."""

    name: str
    scores: Tensor


def scores_of(
    output: object, *, images: int | None = None, classes: int | None = None, readings: Readings | None = None
) -> Tensor:
    """Return the scores (N, K) in what a module returned; float, however they came.

    Args:
        output: what it returned.
        images: N, if it is known.
        classes: of the data, if there are any; another K is returned only where no part of the output has so many.
        readings: what was decided for earlier outputs of the same network; added to.

    Raises:
        ModelError: nothing in the output looks like scores (N, K) of real numbers.
    """
    found = list(_parts(output, "", images))
    wide = [part for part in found if part.scores.shape[1] > 1]
    single = [part for part in found if part.scores.shape[1] == 1]
    fitting = [part for part in wide if part.scores.shape[1] == classes]
    if single and not fitting and (classes == 2 or (classes is None and not wide)):
        one = _choose(single, readings).scores
        return torch.cat([torch.zeros_like(one), one], dim=1)
    if not wide:
        raise _refusal(output, images)
    return _choose(fitting or wide, readings).scores


def are_probabilities(scores: Tensor) -> bool:
    """Return whether each row of `scores` (N, K) looks like the output of a softmax: in [0, 1], with a sum of 1."""
    inside = bool((scores >= 0).all()) and bool((scores <= 1 + _SUM_TOLERANCE).all())
    return inside and bool(((scores.sum(dim=1) - 1).abs() <= _SUM_TOLERANCE).all())


def _choose(parts: list[_Part], readings: Readings | None) -> _Part:
    if len(parts) == 1:
        return parts[0]
    kind = tuple((part.name, part.scores.shape[1]) for part in parts)
    if readings is not None and kind in readings:
        return parts[readings[kind]]
    order = sorted(range(len(parts)), key=lambda i: _rank(parts[i]))
    best = [i for i in order if _rank(parts[i]) == _rank(parts[order[0]])]
    chosen = next((i for i in best if not are_probabilities(parts[i].scores.detach().float())), best[0])
    if readings is not None:
        readings[kind] = chosen
    return parts[chosen]


def _rank(part: _Part) -> int:
    name = part.name.lower()
    if "prob" in name or "softmax" in name:
        return 3
    if "aux" in name:
        return 2
    return 0 if "logit" in name else 1


def _parts(output: object, name: str, images: int | None, depth: int = 0) -> Iterator[_Part]:
    """Yield everything with one row of real numbers for each image, in the order in which it is there."""
    if isinstance(output, Tensor):
        values = output.dequantize() if output.is_quantized else output
        values = values if values.layout is torch.strided else values.to_dense()
        values = values.flatten(1) if values.ndim == 4 and values.shape[2:] == (1, 1) else values
        if values.ndim == 1:
            values = values[:, None]
        # The length is looked at only if it has to be: the number of images is open while a network is exported.
        if values.ndim != 2 or values.is_complex() or (images is not None and len(values) != images):
            return
        if values.shape[1] > 1 or (values.shape[1] == 1 and values.is_floating_point()):
            yield _Part(name, values if values.is_floating_point() else values.float())
    elif depth < _DEEPEST:
        for key, value in _members(output):
            yield from _parts(value, f"{name}.{key}" if name else key, images, depth + 1)


def _members(output: object) -> Iterator[tuple[str, object]]:
    if isinstance(output, Mapping):
        yield from ((str(key), value) for key, value in output.items())
    elif isinstance(output, (tuple, list)):
        names = getattr(output, "_fields", range(len(output)))
        yield from ((str(key), value) for key, value in zip(names, output, strict=False))
    elif is_dataclass(output) and not isinstance(output, type):
        yield from ((field.name, getattr(output, field.name)) for field in fields(output))
    elif hasattr(output, "logits"):
        yield "logits", output.logits


def _refusal(output: object, images: int | None) -> ModelError:
    """Return the error for an output without scores: what it is, and what makes scores of it."""
    many = f"{images} images" if images is not None else "N images"
    wanted = f"the network must return scores of shape ({images if images is not None else 'N'}, classes) for {many}"
    tensors = dict(_tensors(output, ""))
    names = {key.rpartition(".")[2].lower() for key in tensors}
    if "boxes" in names:
        return ModelError(f"{wanted}; it returned boxes, as detectors do", hint="harden is for image classifiers")
    if any(t.ndim == 4 and t.shape[1] > 1 and t.shape[2:] != (1, 1) for t in tensors.values()):
        return ModelError(
            f"{wanted}; it returned {_described(output)}: scores for each pixel, as networks for segmentation do, or "
            "features",
            hint="harden is for classifiers of whole images; pool over the pixels in the network's forward",
        )
    if any(t.is_complex() for t in tensors.values()):
        return ModelError(
            f"{wanted}; it returned {_described(output)}: complex numbers",
            hint="return real scores, for instance scores.abs() or scores.real",
        )
    if images is not None and any(t.ndim == 2 and len(t) != images for t in tensors.values()):
        return ModelError(
            f"{wanted}; it returned {_described(output)}",
            hint="its forward must return one row for each image of the batch, whatever the size of the batch",
        )
    if images is not None and any(t.shape in ((images,), (images, 1)) for t in tensors.values()):
        return ModelError(
            f"{wanted}; it returned {_described(output)}: one number for each image",
            hint="return the scores of all classes, not the predicted class; one score is enough for two classes only",
        )
    return ModelError(f"{wanted}; it returned {_described(output)}", hint=_HINT)


def _tensors(output: object, name: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        yield name, output
    elif depth < _DEEPEST:
        for key, value in _members(output):
            yield from _tensors(value, f"{name}.{key}" if name else key, depth + 1)


def _described(output: object) -> str:
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)} of {str(output.dtype).removeprefix('torch.')}"
    shapes = [f"{key} {tuple(tensor.shape)}" for key, tensor in _tensors(output, "")]
    kind = type(output).__name__
    if output is None:
        return "None"
    return f"{kind} with {', '.join(shapes[:8])}" if shapes else f"{kind} without tensors"
