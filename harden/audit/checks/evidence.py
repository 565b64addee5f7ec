"""What the checks look at: the audit so far, the model, and a small sample of images to probe it with."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from harden.attacks import Ball, Norm, Objective, frozen, judge
from harden.audit.checks.answers import ASKED, Randomness, randomness_of
from harden.audit.checks.ascents import Ascents, climb
from harden.audit.checks.ranking import Ranking, measure_ranking
from harden.audit.checks.words import percent
from harden.audit.metrics import Flags
from harden.audit.result import AttackOutcome, AuditResult, Floats
from harden.audit.runner import batch_of
from harden.data import ImageSet, stratified_sample
from harden.models.black_box import Audited
from harden.models.user_code import backward_pass
from harden.randomness import stream
from harden.stopping import ask

PROBED = 100
"""Images in the sample."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything that a check may look at; what is measured once for several checks is kept.

    Attributes:
        result: the audit so far: attacks, and the curve where it was measured.
        classifier: the audited model; one that is no module has no gradients.
        rows: (n,) int64, which of the audited images are the sample; right when clean, unless none is.
        images: (n, C, H, W) float in [0, 1], on the classifier's device.
        labels: (n,) int64, there too.
        copies: (training file, audited file) of equal pixels; None where the training images are not known.
        repeats: forward passes that one answer of the audit was the mean of.
        seed: of the probes' noise.
        ranking: whether the scores rank the classes; None where no attack depends on that.
    """

    result: AuditResult
    classifier: Audited
    rows: Tensor
    images: Tensor
    labels: Tensor
    copies: tuple[tuple[str, str], ...] | None = None
    repeats: int = 1
    seed: int = 0
    ranking: Ranking | None = None

    @classmethod
    def gather(
        cls,
        result: AuditResult,
        classifier: Audited,
        images: ImageSet,
        *,
        copies: tuple[tuple[str, str], ...] | None = None,
        repeats: int = 1,
        probes: int = PROBED,
        seed: int = 0,
        ranking: Ranking | None = None,
    ) -> Evidence:
        """Draw the sample, stratified, from the images that are right when clean.

        Args:
            result: the audit of `classifier` on `images`, in this order.
            classifier, images, copies, repeats, seed: see the attributes.
            ranking: as it was measured before the audit; None: it is measured here where attacks had scores alone.
            probes: images in the sample.

        Raises:
            ValueError: the audit is not of these images.
        """
        if not np.array_equal(result.labels, images.labels.cpu().numpy()):
            raise ValueError("the audit is not of these images")
        right = torch.from_numpy(np.flatnonzero(result.clean_correct))
        pool = right if len(right) else torch.arange(len(images))
        labels = images.labels.cpu()[pool]
        rows = pool[stratified_sample(labels, probes, generator=stream(seed, "checks", "sample"))]
        pixels, truth = images.batch(rows)
        device = classifier.device
        evidence = cls(result, classifier, rows, pixels.to(device), truth.to(device), copies, repeats, seed, ranking)
        by_scores = any(outcome.access.climbs_scores for outcome in result.outcomes)
        if ranking is None and by_scores and not evidence.gradient_attacks and evidence.attacked is not None:
            norm, eps = evidence.attacked
            ranking = measure_ranking(classifier, images, eps=eps, norm=norm, seed=seed)
        return replace(evidence, ranking=ranking)

    @property
    def differentiable(self) -> bool:
        """Whether the model has gradients."""
        return isinstance(self.classifier, nn.Module)

    @property
    def attacked(self) -> tuple[Norm, float] | None:
        """Norm and eps of the audit; None where no attack was run or its radius is 0."""
        outcomes = self.result.outcomes
        return (Norm(outcomes[0].norm), outcomes[0].eps) if outcomes and outcomes[0].eps > 0 else None

    @property
    def gradient_attacks(self) -> tuple[AttackOutcome, ...]:
        """The white-box attacks of the audit."""
        return tuple(o for o in self.result.outcomes if not o.access.black_box)

    def iterative(self, outcome: AttackOutcome) -> bool:
        """Whether a white-box attack took more than one gradient of an image."""
        return outcome.backwards > self.repeats * int(outcome.attacked.sum())

    @property
    def withstood_gradients(self) -> Flags:
        """(N,) whether an audited image is right when clean and after every white-box attack."""
        flags = self.result.clean_correct
        for outcome in self.gradient_attacks:
            flags = flags & self.result.survived(outcome)
        return flags

    def answers(self, points: Tensor) -> Tensor:
        """Return the scores (n, K) float32 of points (n, C, H, W), one pass, in batches of the audit's size."""
        with self._eval(), torch.no_grad():
            found = []
            for chunk in torch.split(points, self.batch):
                ask()
                found.append(self.classifier(chunk).float())
            return torch.cat(found)

    def averaged(self, points: Tensor) -> Tensor:
        """Return the mean of as many answers (n, K) as one of the audit is the mean of."""
        scores = self.answers(points)
        for _ in range(self.repeats - 1):
            scores = scores + self.answers(points)
        return scores / self.repeats

    def slopes(self, points: Tensor, objective: Objective) -> Tensor:
        """Return the input gradient (n, C, H, W) of the objective as it is, without mending what is not finite."""
        found = []
        with self._eval(), torch.enable_grad():
            for chunk, labels in zip(
                torch.split(points, self.batch), torch.split(self.labels, self.batch), strict=True
            ):
                ask()
                leaf = chunk.detach().clone().requires_grad_(True)
                value = objective.of(self.classifier(leaf).float(), labels).sum()
                with backward_pass():
                    found.append(torch.autograd.grad(value, leaf)[0])
        return torch.cat(found)

    @property
    def batch(self) -> int:
        """Images in one pass."""
        return batch_of((self.images.shape[1], self.images.shape[2], self.images.shape[3]))

    @cached_property
    def clean(self) -> Tensor:
        """Scores (n, K) of the sample."""
        return self.answers(self.images)

    @cached_property
    def randomness(self) -> Randomness:
        """How much the answers to the sample differ."""
        return randomness_of([self.clean, *(self.answers(self.images) for _ in range(ASKED - 1))])

    @cached_property
    def margins(self) -> Tensor:
        """Margins (n,) of the sample."""
        return judge(self.clean, self.labels)[1]

    @cached_property
    def margin_slopes(self) -> Tensor:
        """Input gradient (n, C, H, W) of the margin objective at the sample."""
        return self.slopes(self.images, Objective.MARGIN)

    @cached_property
    def promised(self) -> Floats:
        """(n,) how far the margin of each image of the sample falls at the audited radius if it is linear."""
        if self.attacked is None:
            return np.zeros(len(self.rows), dtype=np.float32)
        norm, eps = self.attacked
        slopes = self.margin_slopes.nan_to_num().flatten(1)
        dual = {Norm.LINF: 1.0, Norm.L2: 2.0, Norm.L1: math.inf}[norm]
        steepness = torch.linalg.vector_norm(slopes, ord=dual, dim=1)
        found: Floats = (eps * steepness).cpu().numpy()
        return found

    @cached_property
    def ball(self) -> Ball:
        """The audited ball around the sample.

        Raises:
            ValueError: no attack was run.
        """
        if self.attacked is None:
            raise ValueError("there is no audited radius")
        norm, eps = self.attacked
        return Ball.around(self.images, eps, norm)

    @cached_property
    def ascents(self) -> Ascents:
        """Where ascents on the margin to the audited radius end; see `climb`."""
        return climb(
            self.ball,
            self.labels,
            slopes=lambda points: self.slopes(points, Objective.MARGIN),
            answers=self.averaged,
        )

    def generator(self, purpose: str) -> torch.Generator:
        """Return the noise of one probe."""
        return stream(self.seed, "checks", purpose)

    def share(self, flags: Tensor) -> str:
        """Write how many of the probed images (n,) count, as "12 of 100 probed images (12.0 %)"."""
        count, total = int(flags.sum()), len(flags)
        return f"{count:,} of {total:,} probed images ({percent(count / total)})"

    def _eval(self) -> AbstractContextManager[None]:
        return frozen(self.classifier) if isinstance(self.classifier, nn.Module) else nullcontext()
