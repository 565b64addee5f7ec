"""APGD, the step-size free PGD (Croce and Hein, 2020; for l_1: Croce and Hein, 2021), untargeted and targeted."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor

from harden.attacks.norms import Ball, Norm, sparse_ascent, steepest
from harden.attacks.objectives import Objective, likeliest_targets
from harden.attacks.oracle import Answer, Oracle
from harden.attacks.protocol import Attack
from harden.tensors import per_sample

MOMENTUM = 0.75
ENOUGH_RISES = 0.75
"""A window in which the objective rose in fewer than this share of the steps halves the step."""
WIDE = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
"""Radii over eps, and shares of the steps, of an ascent that begins outside the ball."""
SPARSEST = 10.0
"""The l_1 step may shrink to eps over this."""


@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Momentum steps whose length halves, image by image, where the objective has stopped rising.

    Targeted, `targets` classes are tried in a short ascent each (`screening` steps), and the full ascent is spent on
    the `finalists` whose objective came highest; as many finalists as targets means no screening, as published.

    Attributes:
        iterations: steps of a full ascent.
        raises: the objective; the ratio becomes the margin where there are too few classes for it.
        targets: number of likeliest wrong classes to aim at, each in turn; 0 is untargeted.
        finalists: how many of them get a full ascent.
        screening: steps of the short ascents.
        tries: restarts of everything, each from another random point.
        wide: whether an ascent begins in a ball of three times the radius, goes on in one of twice, and ends in the
            ball itself, each part from where the last came highest. AutoAttack's l_1 version does so.
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2, Norm.L1)

    iterations: int = 100
    raises: Objective = Objective.CROSS_ENTROPY
    targets: int = 0
    finalists: int = 0
    screening: int = 0
    tries: int = 1
    wide: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1 or self.tries < 1 or self.targets < 0:
            raise ValueError("APGD needs at least one step and one try")
        if self.targets and not 1 <= self.finalists <= self.targets:
            raise ValueError("targeted APGD needs between one finalist and as many as there are targets")
        if self.finalists < self.targets and self.screening < 1:
            raise ValueError("fewer finalists than targets need screening steps to choose them")

    @property
    def name(self) -> str:
        """APGD with its objective, targets and restarts."""
        kind = "-T" if self.targets else ""
        steps = "" if self.iterations == 100 else f"-{self.iterations}"
        wide = " wide" if self.wide else ""
        return f"APGD{steps} {self.raises.short}{kind}{wide}" + (f" x{self.tries}" if self.tries > 1 else "")

    @property
    def definition(self) -> str:
        """The convention in words."""
        first = {Norm.LINF: "2 eps", Norm.L2: "2 eps", Norm.L1: "eps along the largest entries of the gradient"}
        aim = "untargeted"
        if self.targets:
            aim = f"targeted at the {self.targets} likeliest wrong classes (fewer where there are not so many)"
        if self.finalists < self.targets:
            aim += f", {self.screening} steps at each, then the full ascent at the {self.finalists} that came highest"
        substitute = "; margin where there are too few classes for the ratio" if self.raises is Objective.DLR else ""
        tries = f", {self.tries} restarts" if self.tries > 1 else ""
        wide = "30 % of the steps in the ball of 3 eps, 30 % in that of 2 eps, the rest in that of eps; "
        return (
            f"{self.iterations} steps of {self.raises.value}{substitute}, {aim}; first step {first[self.norm]}, "
            f"momentum {MOMENTUM:g}, step halved and best point taken up again where the objective stops rising; "
            f"{wide if self.wide else ''}random start{tries}; fooled at any step counts; {self.radius()}"
        )

    @property
    def objective(self) -> Objective:
        """What is raised."""
        return self.raises

    @property
    def passes(self) -> int:
        """Two for each step, of all ascents."""
        if not self.targets:
            return self.tries * 2 * (self.iterations + 1)
        short = self.targets * 2 * (self.screening + 1) if self.finalists < self.targets else 0
        return self.tries * (1 + short + self.finalists * 2 * (self.iterations + 1))

    def pursue(self, oracle: Oracle, generator: torch.Generator) -> None:
        """Ascend untargeted, or at each target in turn."""
        for _ in range(self.tries):
            rows = oracle.standing()
            if len(rows) == 0:
                return
            if not self.targets:
                self._climb(oracle, rows, None, self.iterations, generator)
            else:
                self._climb_targets(oracle, rows, generator)

    def _climb_targets(self, oracle: Oracle, rows: Tensor, generator: torch.Generator) -> None:
        scores = oracle.ask(oracle.ball.clean[rows], rows)
        targets = torch.zeros(len(oracle.labels), scores.shape[1] - 1, dtype=torch.int64, device=rows.device)
        likeliest = likeliest_targets(scores, oracle.labels[rows], self.targets)
        count = likeliest.shape[1]
        targets = targets[:, :count]
        targets[rows] = likeliest
        if self.finalists < count:
            reached = torch.full(targets.shape, -torch.inf, device=rows.device)
            for nth in range(count):
                rows = oracle.standing()
                if len(rows) == 0:
                    return
                reached[rows, nth] = self._climb(oracle, rows, targets[rows, nth], self.screening, generator)
            best = reached.topk(self.finalists, dim=1).indices
            targets = targets.gather(1, best)
        for nth in range(targets.shape[1]):
            rows = oracle.standing()
            if len(rows) == 0:
                return
            self._climb(oracle, rows, targets[rows, nth], self.iterations, generator)

    def _climb(
        self, oracle: Oracle, rows: Tensor, targets: Tensor | None, iterations: int, generator: torch.Generator
    ) -> Tensor:
        """One ascent; return the highest objective that each of `rows` reached, (n,); -inf where it left fooled."""
        highest = oracle.best.new_full((len(rows),), -torch.inf)
        places = torch.arange(len(rows), device=rows.device)
        climb: _Climb | None = None
        for nth, (ball, steps) in enumerate(self._stages(oracle.ball, iterations)):
            ball = ball.at(rows[places])
            points = ball.start(generator) if climb is None else ball.project(climb.best_points)
            aims = targets[places] if targets is not None else None
            last = nth + 1 == len(WIDE) or not self.wide
            climb, kept = self._ascend(oracle, ball, points, rows[places], aims, steps, inside=last, first=nth == 0)
            places = places[kept]
            if len(places) == 0:
                return highest
        if climb is not None:
            highest[places] = climb.best_values
        return highest

    def _stages(self, ball: Ball, iterations: int) -> list[tuple[Ball, int]]:
        """Return the balls that an ascent goes through, and the steps in each; no part is without a step."""
        if not self.wide:
            return [(ball, iterations)]
        steps = [max(1, math.ceil(share * iterations)) for _, share in WIDE[:-1]]
        steps.append(max(1, iterations - sum(steps)))
        return [
            (Ball.around(ball.clean, wider * self.eps, self.norm), count)
            for (wider, _), count in zip(WIDE, steps, strict=True)
        ]

    def _ascend(
        self,
        oracle: Oracle,
        ball: Ball,
        points: Tensor,
        rows: Tensor,
        targets: Tensor | None,
        iterations: int,
        *,
        inside: bool,
        first: bool,
    ) -> tuple[_Climb, Tensor]:
        """Climb in one ball; return the last state, and the places among `rows` that it holds."""
        places = torch.arange(len(rows), device=rows.device)

        def answer(points: Tensor, *, last: bool = False) -> Answer:
            if last:
                scores = oracle.ask(points, rows)
                return Answer(scores, self.raises.of(scores.float(), oracle.labels[rows], targets), points)
            return oracle.ascend(points, rows, self.raises, targets, anywhere=not inside)

        found = answer(points)
        step = ball.eps if self.norm is Norm.L1 else 2 * ball.eps
        climb = _Climb.begin(points, found, step, None if first else ball.clean)
        window = _Window.of(self.norm, iterations)
        since = 0
        for nth in range(iterations):
            moved = self._move(ball, climb, first=nth == 0)
            # Nobody climbs from the last point of all, so its gradient is not needed.
            climb = climb.moved(moved, answer(moved, last=inside and nth + 1 == iterations))
            since += 1
            if since == window.length:
                climb = self._sparser(ball, climb) if self.norm is Norm.L1 else climb.halved(window.length)
                window, since = window.next(), 0
            keep = oracle.thinned(rows)
            if keep is not None:
                rows, places, ball, climb = rows[keep], places[keep], ball.at(keep), climb.at(keep)
                targets = targets[keep] if targets is not None else None
                if len(rows) == 0:
                    break
        return climb, places

    def _move(self, ball: Ball, climb: _Climb, *, first: bool) -> Tensor:
        direction = (
            sparse_ascent(climb.gradient, climb.share) if self.norm is Norm.L1 else steepest(self.norm, climb.gradient)
        )
        stepped = ball.project(climb.points + per_sample(climb.step, direction) * direction)
        if first or self.norm is Norm.L1:
            return stepped
        carried = climb.points + MOMENTUM * (stepped - climb.points) + (1 - MOMENTUM) * (climb.points - climb.previous)
        return ball.project(carried)

    def _sparser(self, ball: Ball, climb: _Climb) -> _Climb:
        """Adapt the l_1 step: long, along fewer entries, while the best perturbation gets sparser; else shorter."""
        moved = (climb.best_points - ball.clean).flatten(1)
        entries = (moved != 0).sum(dim=1).float()
        sparser = entries < 0.95 * climb.entries
        step = torch.where(sparser, torch.full_like(climb.step, ball.eps), climb.step / 1.5)
        return replace(
            climb.back_to_best(sparser),
            step=step.clamp(ball.eps / SPARSEST, ball.eps),
            share=(entries / moved.shape[1] / 1.5).clamp(max=1.0),
            entries=entries,
        )


@dataclass(frozen=True)
class _Window:
    """Steps between two looks at the progress: 22 % of all, then 3 % less each time, at least 6 %; for l_1, 4 %."""

    length: int
    shorter: int
    shortest: int

    @classmethod
    def of(cls, norm: Norm, iterations: int) -> _Window:
        if norm is Norm.L1:
            length = max(int(0.04 * iterations), 1)
            return cls(length, 0, length)
        return cls(max(int(0.22 * iterations), 1), max(int(0.03 * iterations), 1), max(int(0.06 * iterations), 1))

    def next(self) -> _Window:
        return replace(self, length=max(self.length - self.shorter, self.shortest))


@dataclass(frozen=True, eq=False)
class _Climb:
    """The state of an ascent, one row per image."""

    points: Tensor
    previous: Tensor
    gradient: Tensor
    values: Tensor
    best_points: Tensor
    best_gradient: Tensor
    best_values: Tensor
    step: Tensor
    rises: Tensor
    halved_before: Tensor
    best_before: Tensor
    share: Tensor
    entries: Tensor

    @classmethod
    def begin(cls, points: Tensor, found: Answer, step: float, clean: Tensor | None) -> _Climb:
        """Begin at random points, or, with the `clean` images, at points that an earlier climb found."""
        values = found.values.float()
        zeros = torch.zeros_like(values)
        size = points[0].numel()
        entries = torch.full_like(values, size)
        share = torch.full_like(values, 0.2)
        if clean is not None:
            entries = (points != clean).flatten(1).sum(dim=1).float()
            share = entries / size / 1.5
        return cls(
            points,
            points,
            found.gradient,
            values,
            points,
            found.gradient,
            values,
            torch.full_like(values, step),
            zeros,
            torch.ones_like(values, dtype=torch.bool),
            values,
            share,
            entries,
        )

    def moved(self, points: Tensor, found: Answer) -> _Climb:
        values = found.values.float()
        better = values > self.best_values
        wide = per_sample(better, points)
        return replace(
            self,
            points=points,
            previous=self.points,
            gradient=found.gradient,
            values=values,
            best_points=torch.where(wide, points, self.best_points),
            best_gradient=torch.where(wide, found.gradient, self.best_gradient),
            best_values=torch.where(better, values, self.best_values),
            rises=self.rises + (values > self.values).float(),
        )

    def back_to_best(self, where: Tensor) -> _Climb:
        wide = per_sample(where, self.points)
        return replace(
            self,
            points=torch.where(wide, self.best_points, self.points),
            gradient=torch.where(wide, self.best_gradient, self.gradient),
        )

    def halved(self, length: int) -> _Climb:
        """Halve the step where too few steps rose, or where nothing came of the last window without a halving."""
        few = self.rises <= ENOUGH_RISES * length
        stuck = ~self.halved_before & (self.best_before >= self.best_values)
        halve = few | stuck
        return replace(
            self.back_to_best(halve),
            step=torch.where(halve, self.step / 2, self.step),
            rises=torch.zeros_like(self.rises),
            halved_before=halve,
            best_before=self.best_values,
        )

    def at(self, keep: Tensor) -> _Climb:
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: value[keep] for name, value in parts.items() if isinstance(value, Tensor)})
