"""Whether a model's scores rank the classes: an attack by scores finds nothing where they never move.

A search by scores keeps a change where the margin falls. Labels, labels as one-hot rows and scores that are rounded or
saturated stay the same under nearly every change, so that the search stands still, however weak the model is.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from harden.attacks import Norm, Square, frozen, judge, run_attack
from harden.audit.believe import Check, Status
from harden.audit.checks.words import NO_RADIUS
from harden.audit.runner import batch_of
from harden.data import ImageSet, stratified_sample
from harden.models.black_box import Audited
from harden.randomness import stream

if TYPE_CHECKING:
    from harden.audit.checks.evidence import Evidence

_LOOKED_AT = 100
_MOVES = 40
_STILL = 1 / 3
"""A search is blind on an image where more of its changes than this leave the margin as it is. Logits in steps of 0.25
do that to 0.46 of the changes, and Square then leaves 56 % standing instead of 28 %; steps of 0.1 do it to 0.25, and
32 % stand (a network for Fashion-MNIST, eps 0.03, 1,500 queries); float16 does it to less than 0.1."""
_FEW = 0.05
"""A search that is blind on this share of the images leaves at most 3 % more standing: most of them stand anyhow."""
_LABELS = 0.9


@dataclass(frozen=True)
class Ranking:
    """How many images the scores say nothing about.

    Attributes:
        still: images that stand and whose margin stays the same, to the last bit, under many changes.
        probed: images in all.
    """

    still: int
    probed: int

    @property
    def ranks(self) -> bool:
        """Whether an attack by scores can be believed: it is blind on so few images that its figure hardly moves."""
        return self.still <= _FEW * self.probed

    @property
    def labels_only(self) -> bool:
        """Whether the scores say nothing on nearly every image."""
        return self.still >= _LABELS * self.probed > 0

    def sentence(self) -> str:
        """Say what the model shows, as a sentence without its full stop."""
        found = f"on {self.still:,} of {self.probed:,} probed images the margin often stays the same under a change"
        if self.ranks:
            return f"The scores rank the classes: {found}"
        if self.labels_only:
            return f"This model shows labels only: {found}"
        return f"The scores are too coarse to rank the classes (rounded or saturated): {found}"


def measure_ranking(
    classifier: Audited, images: ImageSet, *, eps: float, norm: Norm = Norm.LINF, seed: int = 0
) -> Ranking:
    """Watch a short Square on at most 100 images: 40 passes on each.

    Args:
        classifier: restored afterwards; a black box is asked as it is.
        images: what is audited; a stratified sample is taken, and those that are right when clean are probed.
        eps: radius of the audit in `norm`, on the [0, 1] scale.
        norm: of the radius.
        seed: of the sample and of the search.
    """
    rows = stratified_sample(images.labels.cpu(), _LOOKED_AT, generator=stream(seed, "ranking", "sample"))
    attack = Square(eps=eps, norm=norm, queries=_MOVES)
    still = probed = 0
    with frozen(classifier) if isinstance(classifier, nn.Module) else nullcontext(), torch.no_grad():
        for number, chunk in enumerate(torch.split(rows, batch_of(classifier.input_size))):
            points, labels = (part.to(classifier.device) for part in images.batch(chunk))
            right = judge(classifier(points), labels)[1] >= 0
            points, labels = points[right], labels[right]
            watched = _Watched(classifier, labels)
            generator = stream(seed, "ranking", number)
            run_attack(attack, watched.answer, points, labels, generator=generator, drop_fooled=False)
            still += int(watched.still().sum())
            probed += len(labels)
    return Ranking(still, probed)


def scores_that_rank(evidence: Evidence) -> Check:
    """Whether the scores say which change brings an image nearer to another class.

    Attacks with gradients do without them. Fails where an attack by scores is blind on more than 3 % of the images.
    """
    said = partial(Check, "scores that rank the classes")
    if evidence.gradient_attacks:
        return said(Status.PASS, "The model was attacked along its gradients too, not by its scores alone.")
    if evidence.ranking is None:
        return said(Status.SKIP, NO_RADIUS)
    if evidence.ranking.ranks:
        return said(Status.PASS, f"{evidence.ranking.sentence()}.")
    return said(
        Status.FAIL,
        f"{evidence.ranking.sentence()}, so attacks by scores were not run and robust accuracy was not measured.",
        "Audit the model with its weights, or let it return unrounded scores, best its logits.",
    )


class _Watched:
    """Answers a search by scores that drops no image, and counts the changes that it cannot tell from none."""

    def __init__(self, classifier: Audited, labels: Tensor) -> None:
        self._classifier = classifier
        self._labels = labels
        self._best: tuple[Tensor, Tensor] | None = None
        self._changes = torch.zeros_like(labels)
        self._ties = torch.zeros_like(labels)

    def answer(self, points: Tensor) -> Tensor:
        scores: Tensor = self._classifier(points)
        margins = judge(scores, self._labels)[1]
        if self._best is None:
            self._best = points.clone(), margins
            return scores
        kept, best = self._best
        changed = (points != kept).flatten(1).any(dim=1)
        self._changes += changed
        self._ties += changed & (margins == best)
        better = margins < best
        kept[better] = points[better]
        self._best = kept, torch.where(better, margins, best)
        return scores

    def still(self) -> Tensor:
        """Return which images stand (n,) though most changes were ties."""
        if self._best is None:
            return torch.zeros_like(self._labels, dtype=torch.bool)
        return (self._best[1] >= 0) & (self._ties > _STILL * self._changes)
