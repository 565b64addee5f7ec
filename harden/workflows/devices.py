"""The device that a command works on."""

from __future__ import annotations

import torch

from harden.errors import UsageError
from harden.registry import did_you_mean

DEVICES = ("auto", "cpu", "cuda")


def choose_device(name: str) -> torch.device:
    """Return the device that "auto", "cpu" or "cuda" means here.

    Raises:
        UsageError: another name, or CUDA was asked for and there is none.
    """
    if name not in DEVICES:
        raise UsageError(
            f"unknown device {name!r}{did_you_mean(name, DEVICES)}", hint=f"--device is one of: {', '.join(DEVICES)}"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no CUDA device here", hint="use --device cpu, or leave --device out")
    return torch.device(name)
