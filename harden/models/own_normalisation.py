"""The normalisation that a network itself applies, or that its weights file or a configuration beside it states.

What is held is the truth, and is not guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from harden.models.agreement import agree
from harden.models.classifier import Basis, Normalisation, network_scores
from harden.models.held import Pair, numbers_in, only, pairs_in, plausible
from harden.models.loaded import LoadedModel, Stated
from harden.models.modes import evaluating
from harden.models.normalisations import apply
from harden.models.timm_folder import CONFIG, WEIGHTS, read
from harden.models.trial import RGB, expected_channels

PREPROCESSOR = "preprocessor_config.json"
"""As transformers calls what it does to an image."""
_BYTES = 255.0
_LOOKED_AT = 4


def with_held(loaded: LoadedModel, content: object, path: Path) -> LoadedModel:
    """Return a loaded model that states the normalisation in its file, or in a configuration beside it.

    Args:
        loaded: what was loaded; a config that was read already is left.
        content: of the file, as it was read.
        path: the file.
    """
    if loaded.stated.mean is not None:
        return loaded
    channels = expected_channels(loaded.module) or RGB
    pair = only(pairs_in(content), channels)
    if pair is not None:
        held = pair.stated()
        note = f"the file holds mean {_text(held.mean)} and std {_text(held.std)} ({'.'.join(pair.path)})"
    else:
        beside = _beside(path)
        if beside is None:
            return loaded
        held, note = beside, f"{beside.where} mean {_text(beside.mean)} and std {_text(beside.std)}"
    stated = replace(loaded.stated, mean=held.mean, std=held.std, flip_channels=held.flip_channels, where=held.where)
    return replace(loaded, stated=stated, notes=(*loaded.notes, note))


def inside_network(module: nn.Module, images: Tensor) -> Normalisation | None:
    """Return what a network takes that normalises its images by itself; None for one that does not.

    It does if it holds a mean and a std and its scores depend on them.

    Args:
        module: the network; it is restored.
        images: (N, C, H, W) float in [0, 1], a few.
    """
    channels = images.shape[1]
    for owner in module.modules():
        held = _fields(owner)
        pair = only(pairs_in({"normalize": held}), channels)
        if pair is None:
            continue
        scale = _BYTES if pair.in_bytes else 1.0
        name = "none" if scale == 1 else "0-255"
        taken = Normalisation(name, (0.0,) * channels, (1 / scale,) * channels, basis=Basis.INSIDE)
        if _depends_on(module, owner, pair.path[-1], apply(taken, images[:_LOOKED_AT])):
            return taken
    return None


def _depends_on(module: nn.Module, owner: nn.Module, name: str, inputs: Tensor) -> bool:
    """Return whether scores change with a mean that a layer holds; whatever fails with another one uses it."""
    value = getattr(owner, name)
    device = next((tensor.device for tensor in module.parameters()), inputs.device)
    kept = value.clone() if isinstance(value, Tensor) else value
    with evaluating(module):
        try:
            before = network_scores(module, inputs.to(device))
            if isinstance(value, Tensor):
                value.copy_(value * 1.5 + 0.3)
            else:
                setattr(owner, name, _moved(value))
            return not agree(before, network_scores(module, inputs.to(device)))
        except Exception:  # whatever the user's forward raises
            return True
        finally:
            if isinstance(value, Tensor):
                value.copy_(kept)
            else:
                setattr(owner, name, kept)


def _moved(value: Any) -> Any:
    return type(value)(v * 1.5 + 0.3 for v in value) if isinstance(value, (list, tuple)) else value * 1.5 + 0.3


def _fields(owner: nn.Module) -> dict[str, object]:
    """Return what a layer itself holds: parameters, buffers and plain attributes."""
    own = {**dict(owner.named_parameters(recurse=False)), **dict(owner.named_buffers(recurse=False))}
    return {**own, **{name: value for name, value in vars(owner).items() if not isinstance(value, Mapping)}}


def _beside(path: Path) -> Stated | None:
    """Return the normalisation in a configuration of transformers or timm beside a weights file."""
    try:
        data = json.loads(path.with_name(PREPROCESSOR).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        data = None
    if isinstance(data, dict):
        if data.get("do_normalize") is False:
            return Stated(mean=(0.0,), std=(1.0,), where=f"{PREPROCESSOR}'s")
        mean, std = numbers_in(data.get("image_mean")), numbers_in(data.get("image_std"))
        if mean and std and plausible(mean, std):
            return replace(Pair(("image_mean",), mean, std).stated(), where=f"{PREPROCESSOR}'s")
    config = read(path.with_name(CONFIG)) if path.name in WEIGHTS else None
    return config.stated if config is not None and config.stated.mean is not None else None


def _text(numbers: tuple[float, ...] | None) -> str:
    return ",".join(f"{number:.4g}" for number in numbers or ())
