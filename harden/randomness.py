"""Explicit randomness: every random stream is a `torch.Generator` named by a seed and a path of words.

Nothing here reseeds global state except `restore_global_rng`, which training uses on resume because dropout draws
from the global generators.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch


def derive_seed(seed: int, *path: str | int) -> int:
    """Return a 63-bit seed that depends on `seed` and on every element of `path`."""
    text = "/".join([str(seed), *map(str, path)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, *path: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator for the stream that `seed` and `path` name."""
    generator = torch.Generator(device=device)
    generator.manual_seed(derive_seed(seed, *path))
    return generator


def capture_global_rng() -> dict[str, Any]:
    """Return the states of torch's global generators (CPU, and every CUDA device in use)."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_global_rng(state: dict[str, Any]) -> None:
    """Put back what `capture_global_rng` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
