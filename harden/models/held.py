"""Mean and std of images among the tensors and numbers of a checkpoint, recognised by their names.

Names are compared by words: `normalize.mean`, `pixel_mean`, `_std`,
`image_mean`; the numbers are one for each channel or one for all, of any shape, on the scale of [0, 1] or of 0-255.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from harden.models.classifier import Normalisation
from harden.models.loaded import Stated
from harden.models.normalisations import CANDIDATES, same

_MEANS, _STDS = ("mean", "means", "mu"), ("std", "stds", "stdev", "stddev", "sigma")
_IMAGE_WORDS = ("pixel", "image", "images", "img", "rgb", "channel", "norm", "input", "inputs", "data", "dataset")
_STEMS = ("normal", "preproc", "transform")
"""What a word may begin with; `normaliser`, `normalize` and `normalization` are one."""
_HOLDERS = (
    "args",
    "cfg",
    "config",
    "opt",
    "hparams",
    "hyper",
    "parameters",
    "params",
    "state",
    "dict",
    "model",
    "module",
)
"""Names under which anything may stand."""
_DEPTH, _MOST = 5, 4
"""Of nested names, and numbers of a mean."""
_BYTES = 255.0
_LARGEST = 16.0
"""A std above this is one of 0-255."""


@dataclass(frozen=True)
class Pair:
    """Mean and std as they are held.

    Attributes:
        path: the names that lead to the mean.
        mean, std: one number per channel, or one for all.
    """

    path: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def identity(self) -> bool:
        """Whether it changes nothing, as a layer that was never set."""
        return set(self.mean) == {0.0} and set(self.std) == {1.0}

    @property
    def in_bytes(self) -> bool:
        """Whether it is for images of 0-255."""
        return max(map(abs, self.mean)) > 1 or max(self.std) > _LARGEST

    def stated(self) -> Stated:
        """Return the normalisation on the [0, 1] scale; BGR where the numbers are those of a usual one that is."""
        scale, count = _BYTES if self.in_bytes else 1.0, max(len(self.mean), len(self.std))
        mean, std = (
            tuple(v / scale for v in values) * (count if len(values) == 1 else 1) for values in (self.mean, self.std)
        )
        held = Normalisation("", mean, std)
        usual = [c for c in CANDIDATES.get(count, ()) if same(replace(c, flip_channels=False), held)]
        flipped = bool(usual) and all(c.flip_channels for c in usual)
        return Stated(mean=mean, std=std, flip_channels=flipped, where="the weights file's")


def pairs_in(content: object) -> list[Pair]:
    """Return every mean with its std in a mapping of mappings, tensors and numbers, such as a checkpoint."""
    values = dict(_walk(content, ()))
    found = []
    for path, value in values.items():
        *_, name = path
        words = _words(name)
        if not words or words[-1] not in _MEANS or not _about_images(path):
            continue
        stem = name.rstrip("_")[: -len(words[-1])]
        for word in _STDS:
            twin = values.get((*path[:-1], stem + (word.upper() if name.isupper() else word)))
            if twin is not None and plausible(value, twin):
                found.append(Pair(path, value, twin))
                break
    return found


def only(pairs: Sequence[Pair], channels: int) -> Pair | None:
    """Return the pair for images of so many channels; None where there is none, or several that differ."""
    fitting = [p for p in pairs if {len(p.mean), len(p.std)} <= {1, channels} and not p.identity]
    return fitting[0] if len({(p.mean, p.std) for p in fitting}) == 1 else None


def held_keys(tensors: Mapping[str, Tensor]) -> set[str]:
    """Return the keys of a state dict that are a mean of images, or its std."""
    found = set()
    for pair in pairs_in(tensors):
        key = ".".join(pair.path)
        found |= {k for k in tensors if k == key or (k.rpartition(".")[0] == key.rpartition(".")[0] and _is_std(k))}
    return found


def _walk(content: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], tuple[float, ...]]]:
    """Yield the numbers in nested mappings under the names that lead to them; keys with dots are several names."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            if isinstance(key, str) and len(path) < _DEPTH:
                yield from _walk(value, (*path, *key.split(".")))
        return
    numbers = numbers_in(content)
    if numbers is not None and path:
        yield path, numbers


def numbers_in(value: object) -> tuple[float, ...] | None:
    """Return one to four numbers in a tensor, an array, a list or alone; None for anything else."""
    if isinstance(value, (bool, str, bytes)):
        return None
    if isinstance(value, (int, float)):
        return (float(value),)
    if not isinstance(value, (Tensor, Sequence, np.ndarray)):
        return None
    if value.numel() > _MOST if isinstance(value, Tensor) else len(value) > _MOST:  # type: ignore[arg-type]
        return None
    try:
        flat = torch.as_tensor(value).detach().cpu().double().flatten()
    except (TypeError, ValueError, RuntimeError):
        return None
    return tuple(round(v, 7) for v in flat.tolist()) if 1 <= len(flat) <= _MOST else None


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z]+", name.lower()) if word]


def _is_std(key: str) -> bool:
    words = _words(key.rpartition(".")[2])
    return bool(words) and words[-1] in _STDS


def _about_images(path: tuple[str, ...]) -> bool:
    """Return whether names say that a mean is that of images, and not of a layer's features or of losses."""

    def known(word: str) -> bool:
        return word in _IMAGE_WORDS or word.startswith(_STEMS)

    *before, name = path
    rest = _words(name)[:-1]
    if not all(map(known, rest)):
        return False
    parents = [word for part in before for word in _words(part)]
    return bool(rest) or not parents or any(known(w) for w in parents) or all(w in _HOLDERS for w in parents)


def plausible(mean: tuple[float, ...], std: tuple[float, ...]) -> bool:
    """Return whether numbers can be a mean and a std of images, on either scale."""
    return min(std) > 0 and max(std) <= _BYTES and min(mean) >= -1 and max(mean) <= _BYTES
