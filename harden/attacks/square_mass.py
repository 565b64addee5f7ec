"""What Square tries in l_2 (Andriushchenko et al., 2020, algorithm 3) and in l_1: mass moved from window to window.

The l_1 version is that of Croce and Hein (2021): the same search with sums of absolute values for those of squares.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harden.attacks.norms import Ball, Norm
from harden.tensors import per_sample

_TINY = 1e-12
_TILES = 5
SMALLEST = 3
"""Windows of the search are never smaller, and their sides are odd."""


def tiled(ball: Ball, generator: torch.Generator) -> Tensor:
    """Return the first points: a pattern of random sign in each of about 5 x 5 tiles, of norm eps before it is cut."""
    clean = ball.clean
    count, channels, height, width = clean.shape
    side = max(1, min(height, width) // _TILES)
    moved = torch.zeros_like(clean)
    for top in range(min(height, width) % side // 2, height - side + 1, side):
        for left in range(min(height, width) % side // 2, width - side + 1, side):
            signs = _signs(count, channels, generator, clean)
            moved[:, :, top : top + side, left : left + side] = signs * _pattern(side, ball.norm, generator, clean)
    return _of_radius(ball, moved)


def with_mass_moved(ball: Ball, points: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Return points whose perturbation has left one window for another, together with what the box had cut off.

    Args:
        ball: of radius eps around the clean images, l_2 or l_1.
        points: (N, C, H, W), the best so far.
        side: of the windows, at most that of the image.
        generator: of places, signs and the direction of the pattern; places are the same for the whole batch.
    """
    clean, norm = ball.clean, ball.norm
    count, channels, height, width = clean.shape
    moved = points - clean
    into, out_of = (_window(side, height, width, generator) for _ in range(2))
    both = torch.zeros_like(moved[:1, :1])
    both[into] = 1
    both[out_of] = 1
    # Masses add up where norms do not: sums of squares in l_2, of absolute values in l_1.
    held = _mass(moved * both, norm)
    unspent = (_mass_of(ball.eps, norm) - _mass(moved, norm).sum(dim=1, keepdim=True)).clamp_min(0) / channels
    was = moved[into]
    fresh = _signs(count, channels, generator, clean) * _pattern(side, norm, generator, clean) + _unit(was, norm)
    moved[out_of] = 0
    moved[into] = _unit(fresh, norm) * _size_of(held + unspent, norm)
    return _of_radius(ball, moved)


def _of_radius(ball: Ball, moved: Tensor) -> Tensor:
    scale = ball.eps / ball.norm.of(moved).clamp_min(_TINY)
    return (ball.clean + moved * per_sample(scale, moved)).clamp(0, 1)


def _mass(values: Tensor, norm: Norm) -> Tensor:
    """Return what adds up over pixels, for each sample and channel of `values` (N, C, H, W): (N, C, 1, 1)."""
    return (values.square() if norm is Norm.L2 else values.abs()).sum(dim=(-2, -1), keepdim=True)


def _mass_of(size: float, norm: Norm) -> float:
    return size**2 if norm is Norm.L2 else size


def _size_of(mass: Tensor, norm: Norm) -> Tensor:
    return mass.sqrt() if norm is Norm.L2 else mass


def _unit(window: Tensor, norm: Norm) -> Tensor:
    return window / _size_of(_mass(window, norm), norm).clamp_min(_TINY)


def _window(side: int, height: int, width: int, generator: torch.Generator) -> tuple[slice, slice, slice, slice]:
    top, left = (
        int(torch.randint(0, limit - side + 1, (), generator=generator, device=generator.device))
        for limit in (height, width)
    )
    return slice(None), slice(None), slice(top, top + side), slice(left, left + side)


def _signs(count: int, channels: int, generator: torch.Generator, like: Tensor) -> Tensor:
    drawn = torch.randint(0, 2, (count, channels, 1, 1), generator=generator, device=generator.device)
    return (2 * drawn - 1).to(like)


def _pattern(side: int, norm: Norm, generator: torch.Generator, like: Tensor) -> Tensor:
    """Two hills side by side or above each other, one up and one down, of norm 1 together, (side, side)."""
    upper = side // 2
    pattern = _unit(torch.cat([_hill(upper, side, norm), -_hill(side - upper, side, norm)]), norm)
    turned = bool(torch.randint(0, 2, (), generator=generator, device=generator.device))
    return (pattern.T if turned else pattern).to(like)


def _hill(height: int, width: int, norm: Norm) -> Tensor:
    """(height, width) of norm 1, falling from the middle in square rings by 1, 1/4, 1/9, ..."""
    rings = torch.maximum(
        (torch.arange(height)[:, None] - height // 2).abs(), (torch.arange(width)[None] - width // 2).abs()
    )
    falls = 1 / (torch.arange(max(height, width) // 2 + 1) + 1.0).square()
    levels = falls.flip(0).cumsum(0).flip(0)
    return _unit(levels[rings], norm)
