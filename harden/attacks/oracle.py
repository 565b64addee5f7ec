"""A batch under attack: answers questions about points, and writes down the worst of every answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harden.attacks.norms import Ball
from harden.attacks.objectives import Objective
from harden.errors import NoGradientError
from harden.models.user_code import backward_pass
from harden.stopping import ask
from harden.tensors import margins

COMPACT_BELOW = 0.75
"""Fooled images leave the batch once less than this share of it stands: fewer distinct batch shapes, less memory."""


@dataclass
class Passes:
    """Counts images passed through the model; an image passed twice counts twice.

    Attributes:
        forwards, backwards: the counts.
        elsewhere: passes through other networks, forward and backward together.
        settled: (images that an attack is done with, the total when it was done with them).
        heard: called after every addition; may raise to stop the attack.
    """

    forwards: int = 0
    backwards: int = 0
    elsewhere: int = 0
    settled: tuple[int, int] = (0, 0)
    heard: Callable[[], None] | None = None

    def add(self, forwards: int, backwards: int = 0) -> None:
        """Count so many more images."""
        self.forwards += forwards
        self.backwards += backwards
        if self.heard is not None:
            self.heard()

    def settle(self, images: int) -> None:
        """An attack is done with so many more images."""
        self.settled = (self.settled[0] + images, self.total)

    def add_up(self, sum_of_all: Callable[[Tensor], Tensor]) -> None:
        """Count what several counters have counted, of which this is one; `sum_of_all` adds up their (3,) int64."""
        counts = torch.tensor([self.forwards, self.backwards, self.elsewhere])
        self.forwards, self.backwards, self.elsewhere = map(int, sum_of_all(counts))

    def of_another(self) -> Passes:
        """Return a counter for another network, whose passes are heard here as they are made and count as elsewhere."""
        before = self.elsewhere

        def hear() -> None:
            self.elsewhere = before + other.total
            if self.heard is not None:
                self.heard()

        other = Passes(heard=hear)  # `hear` looks it up when it is called
        return other

    @property
    def total(self) -> int:
        """All of them: how much work was done."""
        return self.forwards + self.backwards + self.elsewhere


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says of n points: (n, K) scores, (n,) values of the objective, (n, C, H, W) its gradient."""

    scores: Tensor
    values: Tensor
    gradient: Tensor


def judge(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return predictions (N,) int64 and margins (N,) float32; a margin is negative just where the prediction is wrong.

    A prediction that ties with the true class is decided by argmax, as in the accuracy that is reported. A row that
    holds a value that is not a number is no answer and counts as wrong.

    Args:
        scores: (N, K) of any float type.
        labels: (N,) int64.
    """
    scores = scores.float()
    margin, prediction = margins(scores, labels), scores.argmax(dim=1)
    prediction = torch.where(scores.isnan().any(dim=1), (labels == 0).long(), prediction)
    just_wrong = -torch.finfo(margin.dtype).tiny
    wrong = margin.nan_to_num(nan=just_wrong).clamp(max=just_wrong)
    return prediction, torch.where(prediction != labels, wrong, margin)


def input_gradient(
    model: Callable[[Tensor], Tensor],
    points: Tensor,
    labels: Tensor | None,
    objective: Objective,
    targets: Tensor | None = None,
) -> Answer:
    """Return scores, objective and input gradient of the summed objective: a mean would underflow in half precision.

    Without labels, they are the classes that the model predicts at the points.

    A gradient that is not a number (the slope of a root at 0, say) moves its pixel nowhere. Left in, it would spoil
    what an attack accumulates or averages over the image (MIM), which would then look as if it withstood.

    Raises:
        NoGradientError: the scores have no gradient at all.
    """
    ask()
    points = points.detach().requires_grad_(True)
    with torch.enable_grad():
        scores = model(points)
        if len(points) and not scores.requires_grad:
            raise NoGradientError
        truth = scores.detach().argmax(dim=1) if labels is None else labels
        values = objective.of(scores.float(), truth, targets)
        with backward_pass():
            (gradient,) = torch.autograd.grad(values.sum(), points, allow_unused=True)
        if gradient is None:
            if len(points):
                raise NoGradientError
            gradient = torch.zeros_like(points)
    return Answer(scores.detach(), values.detach(), torch.nan_to_num(gradient))


class Oracle:
    """The model on one batch. Attacks see it only through `ask` and `ascend`, and every scored point counts.

    Args:
        model: images in [0, 1] to scores (N, K), in eval mode.
        labels: (N,) int64 true classes.
        ball: of the batch; its centres are the clean images.
        passes: counter to add to.
        drop_fooled: whether a fooled image is done.
        repeats: forward passes that one answer is the mean of, for a model that answers at random (expectation over
            randomness; Athalye et al., 2018).

    Attributes:
        passes: the counter.
        kept: (N, C, H, W) the example that fooled, or else the one with the smallest margin that was scored.
        best: (N,) the smallest margin; infinite before anything was asked.
        predicted: (N,) int64 class predicted on `kept`.
        queries: (N,) int64 questions asked until the image was fooled, or all of them.
        closest: (N,) norm of the smallest perturbation that fooled, in the ball or not; infinite without one.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Tensor],
        labels: Tensor,
        ball: Ball,
        *,
        passes: Passes,
        drop_fooled: bool = True,
        repeats: int = 1,
    ) -> None:
        self._model = model
        self.passes = passes
        self._drop_fooled = drop_fooled
        self._repeats = repeats
        self.labels = labels
        self.ball = ball
        clean = ball.clean
        self.kept = clean.clone()
        self.best = torch.full((len(clean),), float("inf"), device=clean.device)
        self.predicted = labels.clone()
        self.queries = torch.zeros(len(clean), dtype=torch.int64, device=clean.device)
        self.closest = torch.full((len(clean),), float("inf"), device=clean.device)

    def standing(self) -> Tensor:
        """Return the indices (int64) of the images to go on with: those not fooled, or all if fooled ones stay."""
        if not self._drop_fooled:
            return torch.arange(len(self.best), device=self.best.device)
        return torch.nonzero(self.best >= 0).squeeze(1)

    def thinned(self, rows: Tensor) -> Tensor | None:
        """Return which of `rows` (n,) still stand as a mask, or None while it is not worth making the batch smaller."""
        if not self._drop_fooled or len(rows) == 0:
            return None
        stand = self.best[rows] >= 0
        return stand if bool(stand.sum() < COMPACT_BELOW * len(rows)) else None

    def ask(self, points: Tensor, rows: Tensor, *, anywhere: bool = False) -> Tensor:
        """Return the scores (n, K) of `points` (n, C, H, W), without gradients.

        Args:
            points: in [0, 1], one for each of `rows`.
            rows: (n,) indices into the batch; an image may occur several times.
            anywhere: points may lie outside the ball; those are not kept as examples, but `closest` hears of them.
        """
        ask()
        with torch.no_grad():
            scores = self._model(points)
            for _ in range(self._repeats - 1):
                ask()
                scores = scores + self._model(points)
        self.passes.add(self._repeats * len(points))
        scores = scores / self._repeats if self._repeats > 1 else scores
        self._record(points, scores, rows, anywhere)
        return scores

    def ascend(
        self,
        points: Tensor,
        rows: Tensor,
        objective: Objective,
        targets: Tensor | None = None,
        *,
        anywhere: bool = False,
    ) -> Answer:
        """Return scores, objective and its input gradient at `points`; see `ask`."""
        labels = self.labels[rows]
        answer = input_gradient(self._model, points, labels, objective, targets)
        for _ in range(self._repeats - 1):
            again = input_gradient(self._model, points, labels, objective, targets)
            answer = Answer(
                answer.scores + again.scores, answer.values + again.values, answer.gradient + again.gradient
            )
        if self._repeats > 1:
            answer = Answer(*(part / self._repeats for part in (answer.scores, answer.values, answer.gradient)))
        self.passes.add(self._repeats * len(points), self._repeats * len(points))
        self._record(points, answer.scores, rows, anywhere)
        return answer

    def _record(self, points: Tensor, scores: Tensor, rows: Tensor, anywhere: bool) -> None:
        prediction, margin = judge(scores, self.labels[rows])
        self.queries[rows] += (self.best[rows] >= 0).long()
        better = margin < self.best[rows]
        if anywhere:
            distance = self.ball.norm.of(points - self.ball.clean[rows])
            reached = torch.where(margin < 0, distance, torch.inf)
            self.closest[rows] = torch.minimum(self.closest[rows], reached)
            better &= distance <= self.ball.eps
        won = rows[better]
        self.kept[won], self.best[won], self.predicted[won] = points[better], margin[better], prediction[better]

    def finish(self) -> None:
        """Let `closest` know of the examples that were kept, and check that they are where they should be.

        Raises:
            RuntimeError: an example lies outside the ball or [0, 1]: a defect of the attack.
        """
        distance = self.ball.norm.of(self.kept - self.ball.clean)
        slack = 1e-5 * max(1.0, self.ball.eps) + 1e-6
        if len(distance) and (distance.amax() > self.ball.eps + slack or self.kept.amin() < 0 or self.kept.amax() > 1):
            raise RuntimeError(f"an example left its ball: distance {float(distance.amax()):.6g}, eps {self.ball.eps}")
        self.closest = torch.where(self.best < 0, torch.minimum(self.closest, distance), self.closest)
