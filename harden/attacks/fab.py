"""FAB, the fast adaptive boundary attack (Croce and Hein, 2020): looks for the smallest perturbation that fools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harden.attacks.norms import Norm
from harden.attacks.objectives import Objective, likeliest_targets
from harden.attacks.oracle import Oracle
from harden.attacks.protocol import Attack
from harden.tensors import per_sample

_TINY = 1e-12
_REFINEMENTS = 12


@dataclass(frozen=True, kw_only=True)
class FAB(Attack):
    """Steps onto the linearised boundary between the true class and a target, drawn back towards the clean image.

    It knows no eps: the perturbation that it finds may be larger, and then the image withstood it, but the distance is
    kept (`Examples.closest`). An image is done once it is fooled within eps.

    Attributes:
        iterations: steps for each target.
        targets: number of likeliest wrong classes to consider.
        finalists: how many of them are pursued: those whose boundary, linearised at the clean image, is nearest.
        overshoot: how far beyond the linearised boundary a step goes (eta in the paper).
        pull: largest weight of the step that starts from the clean image (alpha_max).
        retreat: after a success the next step starts at this share of the way from the clean image (beta).
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2, Norm.L1)
    pass_cost: ClassVar[float] = 1.75
    """Every third pass is backward, but its projections take a third of the time again."""

    iterations: int = 100
    targets: int = 9
    finalists: int = 9
    overshoot: float = 1.05
    pull: float = 0.1
    retreat: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1 or not 1 <= self.finalists <= self.targets:
            raise ValueError("FAB needs at least one step, and between one finalist and as many as there are targets")

    @property
    def name(self) -> str:
        """FAB-T, with the number of steps where it is not 100."""
        return "FAB-T" if self.iterations == 100 else f"FAB-T-{self.iterations}"

    @property
    def definition(self) -> str:
        """The convention in words."""
        nearest = f", the {self.finalists} with the nearest linearised boundary"
        chosen = "" if self.finalists == self.targets else nearest
        return (
            f"{self.iterations} steps to the linearised boundary with each of the {self.targets} likeliest wrong "
            f"classes (fewer where there are not so many){chosen}; overshoot {self.overshoot:g}, pull towards x at "
            f"most {self.pull:g}, retreat {self.retreat:g}, start at x; the smallest perturbation found counts "
            f"where it is within eps; {self.radius()}"
        )

    @property
    def passes(self) -> int:
        """Two forward and one backward for each step."""
        choosing = 2 * self.targets if self.finalists < self.targets else 0
        return 1 + choosing + self.finalists * 3 * self.iterations

    def pursue(self, oracle: Oracle, generator: torch.Generator) -> None:
        """Pursue one target after the other."""
        rows = oracle.standing()
        if len(rows) == 0:
            return
        scores = oracle.ask(oracle.ball.clean[rows], rows)
        likeliest = likeliest_targets(scores, oracle.labels[rows], self.targets)
        if self.finalists < likeliest.shape[1]:
            likeliest = likeliest.gather(1, self._nearest(oracle, rows, likeliest))
        targets = likeliest.new_zeros(len(oracle.labels), likeliest.shape[1])
        targets[rows] = likeliest
        for nth in range(targets.shape[1]):
            rows = oracle.standing()
            if len(rows) == 0:
                return
            self._approach(oracle, rows, targets[rows, nth])

    def _nearest(self, oracle: Oracle, rows: Tensor, likeliest: Tensor) -> Tensor:
        """Return the places of the finalists among the targets, nearest linearised boundary first."""
        clean = oracle.ball.clean[rows]
        distances = []
        for target in likeliest.unbind(1):
            found = oracle.ascend(clean, rows, Objective.MARGIN, target)
            step = to_hyperplane(self.norm, clean, found.gradient, -found.values)
            reached = (found.gradient * step).flatten(1).sum(dim=1) + found.values
            distance = self.norm.of(step)
            distances.append(torch.where(reached < -1e-4 * found.values.abs(), torch.inf, distance))
        return torch.stack(distances, dim=1).topk(self.finalists, dim=1, largest=False).indices

    def _approach(self, oracle: Oracle, rows: Tensor, targets: Tensor) -> None:
        clean = oracle.ball.clean[rows]
        points = clean
        for _ in range(self.iterations):
            found = oracle.ascend(points, rows, Objective.MARGIN, targets, anywhere=True)
            offset = (found.gradient * (clean - points)).flatten(1).sum(dim=1)
            from_point = to_hyperplane(self.norm, points, found.gradient, -found.values)
            from_clean = to_hyperplane(self.norm, clean, found.gradient, -(found.values + offset))
            near, far = self.norm.of(from_point), self.norm.of(from_clean)
            weight = per_sample((near / (near + far).clamp_min(_TINY)).clamp(0, self.pull), points)
            stepped = (1 - weight) * (points + self.overshoot * from_point)
            points = (stepped + weight * (clean + self.overshoot * from_clean)).clamp(0, 1)
            scores = oracle.ask(points, rows, anywhere=True)
            fooled = scores.argmax(dim=1) != oracle.labels[rows]
            points = torch.where(per_sample(fooled, points), clean + self.retreat * (points - clean), points)
            keep = oracle.thinned(rows)
            if keep is not None:
                rows, clean, points, targets = rows[keep], clean[keep], points[keep], targets[keep]
                if len(rows) == 0:
                    return


def to_hyperplane(norm: Norm, points: Tensor, normal: Tensor, rise: Tensor) -> Tensor:
    """Return the smallest step, in `norm`, that raises <normal, x> by `rise` and stays in [0, 1].

    Where the box does not let it rise so far, the step that rises most. The step is clip(t |w|^q) with q = 0 for l_inf
    and 1 for l_2, towards the sides that `rise` asks for; its rise is concave and piecewise linear in t, so Newton's
    method climbs to t from below in a few exact pieces. For l_1 the largest entries of the normal move first, as far
    as they can.

    Args:
        norm: of the step.
        points: (N, C, H, W) in [0, 1].
        normal: (N, C, H, W).
        rise: (N,) of either sign.
    """
    shape = points.shape
    normal, flat = normal.flatten(1), points.flatten(1)
    side = normal.sign() * rise.sign()[:, None]
    room = torch.where(side > 0, 1 - flat, flat)
    # The step does not depend on the scale of the normal, but its squares would underflow where gradients are tiny.
    largest = normal.abs().amax(dim=1).clamp_min(torch.finfo(normal.dtype).tiny)
    slopes, wanted = normal.abs() / largest[:, None], rise.abs() / largest
    if norm is Norm.L1:
        return (side * _largest_first(slopes, room, wanted)).view(shape)
    reach = torch.ones_like(slopes) if norm is Norm.LINF else slopes
    t = wanted / (slopes * reach).sum(dim=1).clamp_min(_TINY)
    for _ in range(_REFINEMENTS):
        full = t[:, None] * reach >= room
        fixed = torch.where(full, slopes * room, 0.0).sum(dim=1)
        free = torch.where(full, 0.0, slopes * reach).sum(dim=1)
        higher = torch.where(free > _TINY, (wanted - fixed) / free.clamp_min(_TINY), t)
        if bool((higher <= t * (1 + 1e-6)).all()):
            break
        t = torch.maximum(t, higher)
    # What no step can reach within the box gets the longest one.
    short = (slopes * room).sum(dim=1) <= wanted
    step = torch.where(short[:, None], room, torch.minimum(t[:, None] * reach, room))
    return (side * step).view(shape)


def _largest_first(slopes: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    order = slopes.argsort(dim=1, descending=True)
    gains = (slopes * room).gather(1, order)
    before = gains.cumsum(dim=1) - gains
    needed = ((wanted[:, None] - before) / slopes.gather(1, order).clamp_min(_TINY)).clamp_min(0)
    steps = torch.minimum(needed, room.gather(1, order))
    return torch.zeros_like(slopes).scatter(1, order, steps)
