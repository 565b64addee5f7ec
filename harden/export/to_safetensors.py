"""Weights as safetensors, under the user's own state-dict keys, in bytes that depend on nothing but the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harden.errors import ExportError
from harden.files import cannot_write, write_with


def save_weights(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, Any]) -> None:
    """Write `state` to `path` whole or not at all.

    Tensors that share memory (tied weights) are written once each, so that the file loads into the same module. The
    metadata goes under one key: the format writes several keys in random order.

    Args:
        state: the user's module's state dict.
        path: the file.
        metadata: JSON values.

    Raises:
        WriteError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    described = {"harden": json.dumps(metadata, sort_keys=True)}
    try:
        write_with(path, lambda temporary: save_file(tensors, temporary, metadata=described))
    except SafetensorError as error:
        raise cannot_write(path, str(error)) from error


def load_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors that `save_weights` wrote, on the CPU.

    Raises:
        ExportError: the file is missing or damaged.
    """
    from safetensors.torch import load_file

    try:
        return dict(load_file(path, device="cpu"))
    except Exception as error:
        raise ExportError(
            f"cannot read {path}: {error}", hint="the file is missing or damaged; export it again"
        ) from error
