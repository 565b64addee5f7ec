"""Square (Andriushchenko et al., 2020): random search in squares, which needs nothing but scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harden.access import Access
from harden.attacks.norms import Ball, Norm
from harden.attacks.oracle import Oracle, judge
from harden.attacks.protocol import Attack
from harden.attacks.square_mass import SMALLEST, tiled, with_mass_moved

_SHRINKS_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of ten thousand, at which the squares shrink to half their area."""


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Vertical stripes at first, then one square after the other moved to a corner of the ball where the margin falls.

    For l_2 and l_1 a tiled pattern at first, then mass moved from one square to another; see `square_mass`.

    With `hope`, an image is given up when its margin, falling for each doubling of the queries by `hope` times what it
    fell in the last doubling, would still be positive at the end of the budget. It is looked at from a tenth of the
    budget on. That ends most of the search on images that stand clear of it.

    Attributes:
        queries: the budget for each image, the first one included.
        area: share of the image that the first squares cover.
        hope: see above; infinite asks for the whole budget, as published.
    """

    access: ClassVar[Access] = Access.SCORES
    pass_cost: ClassVar[float] = 1.0
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2, Norm.L1)

    queries: int = 5000
    area: float = 0.8
    hope: float = math.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queries < 1 or not 0 < self.area <= 1 or not self.hope > 0:
            raise ValueError("Square needs at least one query, an area in (0, 1] and a positive hope")

    @property
    def name(self) -> str:
        """Square, with the number of queries where none is saved."""
        return f"Square-{self.queries}" if math.isinf(self.hope) else "Square"

    @property
    def definition(self) -> str:
        """The convention in words."""
        given_up = (
            ""
            if math.isinf(self.hope)
            else f"; given up where the margin would stay positive at {self.hope:g} times its pace"
        )
        moves = (
            "vertical stripes of +-eps, then random squares of +-eps for each channel"
            if self.norm is Norm.LINF
            else "tiles of two hills of random sign, then mass moved between random squares"
        )
        return (
            f"{self.queries} queries of scores; {moves}, at first {self.area:g} of the image, kept where the margin "
            f"falls{given_up}; {self.radius()}"
        )

    @property
    def passes(self) -> int:
        """One forward pass for each query; with `hope` about a fifth of them."""
        return self.queries if math.isinf(self.hope) else max(1, self.queries // 5)

    def pursue(self, oracle: Oracle, generator: torch.Generator) -> None:
        """Search."""
        rows = oracle.standing()
        if len(rows) == 0:
            return
        ball = oracle.ball.at(rows)
        points = self._first(ball, generator)
        margin = judge(oracle.ask(points, rows), oracle.labels[rows])[1]
        earlier = margin
        look = max(2, self.queries // 10)
        for nth in range(1, self.queries):
            trial = self._tried(ball, points, nth, generator)
            new = judge(oracle.ask(trial, rows), oracle.labels[rows])[1]
            better = new < margin
            margin = torch.where(better, new, margin)
            points[better] = trial[better]
            keep = oracle.thinned(rows)
            if nth == look:
                hopeful = self._hopeful(margin, earlier, nth)
                keep = hopeful if keep is None else keep & hopeful
                look, earlier = 2 * look, margin
            elif 2 * nth == look:
                earlier = margin
            if keep is not None and not bool(keep.all()):
                rows, ball, points = rows[keep], ball.at(keep), points[keep]
                margin, earlier = margin[keep], earlier[keep]
                if len(rows) == 0:
                    return

    def _first(self, ball: Ball, generator: torch.Generator) -> Tensor:
        """Return the points of the first query."""
        if self.norm is not Norm.LINF:
            return tiled(ball, generator)
        count, channels, _, width = ball.clean.shape
        stripes = self._signs((count, channels, 1, width), generator, ball.clean)
        return torch.where(stripes > 0, ball.high, ball.low)

    def _tried(self, ball: Ball, points: Tensor, nth: int, generator: torch.Generator) -> Tensor:
        """Return the points of query `nth`, near the best so far."""
        count, channels, height, width = points.shape
        side = self._side(nth, channels, height, width)
        if self.norm is not Norm.LINF:
            side = min(max(side, SMALLEST) | 1, height, width)
            return with_mass_moved(ball, points, side, generator)
        top, left = (self._below(limit - side + 1, generator) for limit in (height, width))
        window = (slice(None), slice(None), slice(top, top + side), slice(left, left + side))
        signs = self._signs((count, channels, 1, 1), generator, points)
        trial = points.clone()
        trial[window] = torch.where(signs > 0, ball.high[window], ball.low[window])
        return trial

    def _hopeful(self, margin: Tensor, earlier: Tensor, queries: int) -> Tensor:
        """Return which images may still fall: the margin falls about as the logarithm of the queries."""
        if math.isinf(self.hope):
            return torch.ones_like(margin, dtype=torch.bool)
        doublings = math.log2(self.queries / queries)
        return margin - self.hope * doublings * (earlier - margin) < 0

    def _side(self, nth: int, channels: int, height: int, width: int) -> int:
        """Side of the square at query `nth`."""
        passed = sum(nth / self.queries * 10_000 > at for at in _SHRINKS_AT)
        side = round(math.sqrt(self.area / 2**passed * height * width))
        return max(1, min(side, height, width))

    @staticmethod
    def _signs(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
        return torch.randint(0, 2, shape, generator=generator, device=generator.device).to(like.device)

    @staticmethod
    def _below(limit: int, generator: torch.Generator) -> int:
        return int(torch.randint(0, limit, (), generator=generator, device=generator.device))
