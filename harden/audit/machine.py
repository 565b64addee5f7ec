"""Saying on what machine a number was measured."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def describe_machine(device: torch.device) -> str:
    """Return processor or GPU, threads and the version of torch, in one line."""
    if device.type == "cuda":
        what = torch.cuda.get_device_name(device)
    else:
        what = f"{_processor()}, {torch.get_num_threads()} threads"
    return f"{what}, torch {torch.__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
