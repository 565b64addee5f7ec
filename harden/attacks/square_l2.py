"""What the l_2 version of Square tries (Andriushchenko et al., 2020, algorithm 3): mass moved from window to window."""

from __future__ import annotations

import torch
from torch import Tensor

from harden.attacks.norms import Norm
from harden.tensors import per_sample

_TINY = 1e-12
_TILES = 5
SMALLEST = 3
"""Windows of the search are never smaller, and their sides are odd."""


def tiled(clean: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    """Return the first points: a pattern of random sign in each of about 5 x 5 tiles, of norm eps before it is cut."""
    count, channels, height, width = clean.shape
    side = max(1, min(height, width) // _TILES)
    moved = torch.zeros_like(clean)
    for top in range(min(height, width) % side // 2, height - side + 1, side):
        for left in range(min(height, width) % side // 2, width - side + 1, side):
            signs = _signs(count, channels, generator, clean)
            moved[:, :, top : top + side, left : left + side] = signs * _pattern(side, generator, clean)
    return _of_norm(clean, moved, eps)


def with_mass_moved(clean: Tensor, points: Tensor, eps: float, side: int, generator: torch.Generator) -> Tensor:
    """Return points whose perturbation has left one window for another, together with what the box had cut off.

    Args:
        clean: (N, C, H, W) in [0, 1].
        points: (N, C, H, W), the best so far.
        eps: l_2 radius.
        side: of the windows, at most that of the image.
        generator: of places, signs and the direction of the pattern; places are the same for the whole batch.
    """
    count, channels, height, width = clean.shape
    moved = points - clean
    into, out_of = (_window(side, height, width, generator) for _ in range(2))
    both = torch.zeros_like(moved[:1, :1])
    both[into] = 1
    both[out_of] = 1
    held = (moved * both).square().sum(dim=(2, 3), keepdim=True)
    unspent = (eps**2 - moved.square().sum(dim=(1, 2, 3), keepdim=True)).clamp_min(0) / channels
    was = moved[into]
    fresh = _signs(count, channels, generator, clean) * _pattern(side, generator, clean) + _unit(was)
    moved[out_of] = 0
    moved[into] = _unit(fresh) * (held + unspent).sqrt()
    return _of_norm(clean, moved, eps)


def _of_norm(clean: Tensor, moved: Tensor, eps: float) -> Tensor:
    scale = eps / Norm.L2.of(moved).clamp_min(_TINY)
    return (clean + moved * per_sample(scale, moved)).clamp(0, 1)


def _unit(window: Tensor) -> Tensor:
    return window / window.square().sum(dim=(2, 3), keepdim=True).sqrt().clamp_min(_TINY)


def _window(side: int, height: int, width: int, generator: torch.Generator) -> tuple[slice, slice, slice, slice]:
    top, left = (
        int(torch.randint(0, limit - side + 1, (), generator=generator, device=generator.device))
        for limit in (height, width)
    )
    return slice(None), slice(None), slice(top, top + side), slice(left, left + side)


def _signs(count: int, channels: int, generator: torch.Generator, like: Tensor) -> Tensor:
    drawn = torch.randint(0, 2, (count, channels, 1, 1), generator=generator, device=generator.device)
    return (2 * drawn - 1).to(like)


def _pattern(side: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Two hills side by side or above each other, one up and one down, of norm 1 together, (side, side)."""
    upper = side // 2
    pattern = torch.cat([_hill(upper, side), -_hill(side - upper, side)])
    pattern = pattern / pattern.square().sum().sqrt()
    turned = bool(torch.randint(0, 2, (), generator=generator, device=generator.device))
    return (pattern.T if turned else pattern).to(like)


def _hill(height: int, width: int) -> Tensor:
    """(height, width) of norm 1, falling from the middle in square rings by 1, 1/4, 1/9, ..."""
    rings = torch.maximum(
        (torch.arange(height)[:, None] - height // 2).abs(), (torch.arange(width)[None] - width // 2).abs()
    )
    falls = 1 / (torch.arange(max(height, width) // 2 + 1) + 1.0).square()
    levels = falls.flip(0).cumsum(0).flip(0)
    hill = levels[rings]
    return hill / hill.square().sum().sqrt() if hill.numel() else hill
