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
from harden.audit.checks.words import NO_RADIUS, of, percent
from harden.audit.runner import batch_of
from harden.data import ImageSet, stratified_sample
from harden.models.black_box import Audited
from harden.randomness import stream

if TYPE_CHECKING:
    from harden.audit.checks.evidence import Evidence

_LOOKED_AT = 100
_MOVES = 40
_SEARCH = 5000
"""Queries of the search whose loss is estimated: those of Square in a black-box audit."""
_LOSES = 1 / 8
"""What a change that ties loses, in steps of the scores: half of them would be better, by a quarter of a step."""
_BEARABLE = 0.15
"""A search that may lose this share of the margin is blind. On a network for Fashion-MNIST (eps 0.03, 1,500 queries)
Square leaves 26 % standing, 27 % with logits in float16 and 26 % in steps of 0.01, both of which it can bear. It leaves
31 % with bfloat16, 35 % in steps of 0.05, 42 % in steps of 0.1, and more in coarser ones, which it cannot bear."""
_FEW = 0.07
"""A search that is blind on this share of the images leaves at most 3 % more standing: most of them stand anyhow."""
_LABELS = 0.9
"""Share of ties from which on scores are called labels."""


@dataclass(frozen=True)
class Ranking:
    """On how many images a search by scores is blind.

    Attributes:
        blind: images that stand and on which a search would lose too much to changes that leave the margin the same.
        probed: images in all.
        ties: share of the changes, on the images that stand, that left the margin the same.
    """

    blind: int
    probed: int
    ties: float

    @property
    def ranks(self) -> bool:
        """Whether an attack by scores can be believed: it is blind on so few images that its figure hardly moves."""
        return self.blind <= _FEW * self.probed

    def sentence(self) -> str:
        """Say what the model shows, as a sentence without its full stop."""
        share = f"{percent(self.ties)} of small changes leave the margin exactly as it is"
        found = f"{share}, and {of(self.blind, self.probed, 'probed images')} cannot be searched by scores"
        if self.ranks:
            return f"The scores rank the classes: {found}"
        if self.ties >= _LABELS:
            return f"This model shows labels only: {found}"
        return f"This model shows labels only or little more, such as rounded or saturated scores: {found}"


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
    blind = probed = ties = changes = 0
    with frozen(classifier) if isinstance(classifier, nn.Module) else nullcontext(), torch.no_grad():
        for number, chunk in enumerate(torch.split(rows, batch_of(classifier.input_size))):
            points, labels = (part.to(classifier.device) for part in images.batch(chunk))
            right = judge(classifier(points), labels)[1] >= 0
            points, labels = points[right], labels[right]
            watched = _Watched(classifier, labels)
            generator = stream(seed, "ranking", number)
            run_attack(attack, watched.answer, points, labels, generator=generator, drop_fooled=False)
            found = watched.found()
            blind, ties, changes = blind + found[0], ties + found[1], changes + found[2]
            probed += len(labels)
    return Ranking(blind, probed, ties / max(1, changes))


def scores_that_rank(evidence: Evidence) -> Check:
    """Whether the scores say which change brings an image nearer to another class.

    Attacks with gradients do without them. Fails where an attack by scores is blind on more than 7 % of the images.
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
        self._step = torch.zeros(0)
        self._changes = torch.zeros_like(labels)
        self._ties = torch.zeros_like(labels)

    def answer(self, points: Tensor) -> Tensor:
        scores: Tensor = self._classifier(points)
        margins = judge(scores, self._labels)[1]
        if self._best is None:
            self._best = points.clone(), margins
            self._step = torch.full_like(margins, torch.inf)
            return scores
        kept, best = self._best
        changed, tied = (points != kept).flatten(1).any(dim=1), margins == best
        self._changes += changed
        self._ties += changed & tied
        self._step = torch.where(tied, self._step, torch.minimum(self._step, (margins - best).abs()))
        better = margins < best
        kept[better] = points[better]
        self._best = kept, torch.where(better, margins, best)
        return scores

    def found(self) -> tuple[int, int, int]:
        """Return, over the images that stand: those that are blind, the ties, and the changes."""
        if self._best is None:
            return 0, 0, 0
        best = self._best[1]
        stands = best >= 0
        ties, changes = self._ties[stands], self._changes[stands]
        step = torch.where(self._step.isfinite(), self._step / best, 1.0)[stands]
        blind = ties * step * (_LOSES * _SEARCH) > _BEARABLE * changes
        return int(blind.sum()), int(ties.sum()), int(changes.sum())
