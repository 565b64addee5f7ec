"""Which of the normalisations that were tried is the one that a network was trained with.

What speaks for one is asked in this order; each question is asked about what the ones before have left:

1. The first BatchNorm remembers the mean and variance of its inputs in training. What is far from them is out, as long
   as something is near.
2. Accuracy, paired: of the images that the network has right under one normalisation and not under another, McNemar's
   exact test asks how often as many would fall to the better one if it were not better.
3. The loss, after a temperature of its own has been fitted to the scores of each normalisation (Guo et al. 2017,
   "On Calibration of Modern Neural Networks"): the plain loss rewards contrast. What is worse beyond its statistical
   error is out.
4. The plainest: no normalisation before a data set's statistics before 0-255. Low contrast costs a network that was
   trained with high contrast its accuracy, since the biases drown the inputs; high contrast costs nothing that shows.
   This decides nothing: what it leaves out is told as a doubt. So is evidence that contradicts itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from harden.models.agreement import scale_of
from harden.models.classifier import Basis, Conflict, Doubt, Normalisation
from harden.models.normalisations import OWN_STATISTICS, changes_eps, same

NLL_TIE = 0.01
"""Mean losses that differ by less than this many nats say nothing about which normalisation is right."""
NO_LOSS = 0.001
"""Below this mean loss, after a temperature has been fitted, every answer is right and the loss says nothing."""
CLEAR = 0.001
"""How often chance alone may make a normalisation that is no better look as much better as this."""
CONTRADICTED = 0.01
"""The same for one that something else has ruled out: then both are told."""
_SEPARATED, _WORSE = 3.0, 1.1
"""Standard errors by which a loss must be worse to count as worse, and how many times as large it must be: less is what
a few epochs of training leave to chance, and a small network's loss has been 3 standard errors lower under statistics
that it was not trained with."""
_SIMILAR = 0.25
"""Share of the std by which similar normalisations differ in mean and std."""
KNOWN, _FAR = 0.25, 4.0
"""BatchNorm tells something if the best divergence is below the first (nats); what is beyond the second times the best
is not what it was trained with. ResNet-20 on CIFAR-10: 0.001 nats with the statistics it was trained with, 0.014 and
more with others that are alike, 1 without any."""
_NEAR = 0.01
"""Divergences below this are no different, as running statistics lag behind the weights; on N images those below 1 / N,
as much as the mean of so few varies."""


@dataclass(frozen=True, eq=False)
class Tried:
    """How the model did under one normalisation.

    Attributes:
        normalisation: the one.
        scores: (N, K) float on the CPU.
        right: (N,) bool, the images that are right.
        divergence: of the first BatchNorm's inputs from what it remembers, in nats; None without BatchNorm.
    """

    normalisation: Normalisation
    scores: Tensor
    right: Tensor
    divergence: float | None

    @property
    def accuracy(self) -> float:
        """The share of the images that are right."""
        return self.right.double().mean().item()


@dataclass(frozen=True, eq=False)
class Choice:
    """The normalisation to use.

    Attributes:
        tried: the one.
        why: what speaks for it.
        rivals: what may be right instead, as it was tried; none where it is clear.
        conflict: why these may be.
    """

    tried: Tried
    why: str
    rivals: tuple[Tried, ...] = ()
    conflict: Conflict = Conflict.TIED

    @property
    def normalisation(self) -> Normalisation:
        """What was chosen, with the doubt about it."""
        rivals = tuple(rival.normalisation for rival in self.rivals)
        doubt = Doubt(self.conflict, rivals) if rivals else None
        return replace(self.tried.normalisation, basis=Basis.FOUND, doubt=doubt)


def choose(tried: list[Tried], labels: Tensor, *, of: int | None = None) -> Choice:
    """Return the most plausible of `tried` (at least one).

    Args:
        tried: with finite scores, on the same images.
        labels: (N,) int64 of these images, on the CPU.
        of: how many there were, some of them hopeless; None: these.
    """
    near = near_to_training(tried, len(labels))
    best = max(near, key=lambda t: t.accuracy)
    close = [t for t in near if t is best or probability(best.right, t.right) >= CLEAR]
    losses = {t.normalisation.name: fitted_losses(t.scores, labels) for t in near}
    mean = {name: loss.mean().item() for name, loss in losses.items()}
    surest = min((t.normalisation.name for t in close), key=lambda name: mean[name])
    least = next(t for t in close if t.normalisation.name == surest)
    tied = [t for t in close if _alike(t, least) or not _worse(losses[t.normalisation.name], losses[surest])]
    chosen = _plainest(tied, close, mean)

    def others(some: list[Tried]) -> tuple[Tried, ...]:
        return tuple(t for t in some if not same(t.normalisation, chosen.normalisation))

    def surer(t: Tried) -> bool:
        return _worse(losses[chosen.normalisation.name], losses[t.normalisation.name])

    count = of or len(tried)
    why = _why(chosen, best, count, near=len(near) < len(tried), close=len(close), tied=bool(others(tied)))
    beyond = [t for t in tried if t not in near and probability(t.right, chosen.right) < CONTRADICTED]
    nearest = min((t for t in near if t.divergence is not None), key=lambda t: t.divergence or 0.0, default=chosen)
    contradicted = [*beyond, *([nearest] if len(near) < len(tried) and nearest not in tied else [])]
    conflicts = (
        (Conflict.BATCHNORM_AGAINST_ACCURACY, contradicted),
        (Conflict.ACCURACY_AGAINST_LOSS, [t for t in near if t not in close and surer(t)]),
        (Conflict.TIED, tied),
    )
    found = [(conflict, others(some)) for conflict, some in conflicts if others(some)]
    if not found:
        return Choice(chosen, why)
    return Choice(chosen, why, tuple(t for _, some in found for t in some), found[0][0])


def probability(better: Tensor, other: Tensor) -> float:
    """Return how often a network that is no better than another would look at least as much better.

    Args:
        better, other: (N,) bool, which of the same images each of them has right.
    """
    gained, lost = int((better & ~other).sum()), int((other & ~better).sum())
    differ = gained + lost
    as_good = sum(math.comb(differ, k) for k in range(gained, differ + 1))
    return float(as_good / 2**differ)


def fitted_losses(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy (N,) of scores (N, K) divided by the one temperature that makes its mean smallest."""
    scores = scores.double() / (scale_of(scores) or 1.0)

    def loss(log_scale: float) -> Tensor:
        return nn.functional.cross_entropy(scores * math.exp(log_scale), labels, reduction="none")

    found = minimize_scalar(
        lambda log_scale: loss(log_scale).mean().item(), bounds=(-9, 9), method="bounded", options={"xatol": 0.01}
    )
    return loss(float(found.x))


def near_to_training(tried: list[Tried], count: int) -> list[Tried]:
    """Return those under which the first BatchNorm gets what it got in training; all where it tells nothing.

    Args:
        tried: at least one.
        count: images that the divergences were measured on.
    """
    best = min((t.divergence for t in tried if t.divergence is not None), default=math.inf)
    if best > KNOWN:
        return tried
    limit = divergence_limit(best, count)
    return [t for t in tried if t.divergence is not None and t.divergence <= limit]


def divergence_limit(best: float, count: int) -> float:
    """Return up to which divergence nothing is told apart from the `best`, on so many images."""
    return max(_FAR * best, _NEAR, 1 / count)


def _plainest(tied: list[Tried], close: list[Tried], mean: dict[str, float]) -> Tried:
    """Return the plainest of `tied`, or else that with the lowest loss; a published one rather than the data's own."""

    def rank(t: Tried) -> tuple[float, ...]:
        loss, divergence = max(mean[t.normalisation.name], NO_LOSS), t.divergence if t.divergence is not None else 0.0
        seen = divergence if divergence <= KNOWN else 0.0
        return (*_plainness(t.normalisation), seen, loss, divergence, _gain(t.normalisation))

    chosen = min(tied, key=rank)
    if chosen.normalisation.name != OWN_STATISTICS:
        return chosen
    # The sample's own statistics are a noisy copy of what somebody published: prefer numbers that somebody would
    # write down.
    limit = mean[OWN_STATISTICS] + NLL_TIE
    named = (t for t in close if t is not chosen)
    near = (t for t in named if same(t.normalisation, chosen.normalisation) or (t in tied and _loss(t, mean) <= limit))
    return min(near, key=rank, default=chosen)


def _loss(t: Tried, mean: dict[str, float]) -> float:
    return mean[t.normalisation.name]


def _why(chosen: Tried, best: Tried, of: int, *, near: bool, close: int, tied: bool) -> str:
    """Return what speaks for the chosen one, in words.

    Args:
        chosen, best: the chosen one and the most accurate of those that BatchNorm left.
        of: how many were tried.
        near: whether BatchNorm ruled some out.
        close: how many are as accurate, but for chance.
        tied: whether nothing told it apart from others.
    """
    nearly = "" if chosen.accuracy == best.accuracy else "nearly "
    accurate = f"{nearly}as accurate as any of {of} normalisations" + (f" ({best.accuracy:.1%})" if nearly else "")
    if near:
        accurate = f"what the first BatchNorm was trained on, and {accurate} that it leaves"
    if tied:
        return f"{accurate}, and the plainest of those that nothing tells apart"
    if close == 1:
        return accurate if near else f"clearly the most accurate of {of} normalisations"
    return accurate if near else f"{accurate}, and its loss as low as any, contrast apart"


def _alike(one: Tried, other: Tried) -> bool:
    """Return whether two are so similar that the loss is no evidence: few epochs leave it lower with more contrast."""
    return not changes_eps(one.normalisation, other.normalisation, share=_SIMILAR)


def _worse(loss: Tensor, least: Tensor) -> bool:
    difference = loss - least
    if loss.mean().item() <= max(NO_LOSS, _WORSE * least.mean().item()) or len(loss) < 2:
        return False
    return difference.mean().item() > _SEPARATED * difference.std().item() / math.sqrt(len(loss))


def _gain(normalisation: Normalisation) -> float:
    return len(normalisation.std) / sum(normalisation.std)


def _plainness(normalisation: Normalisation) -> tuple[int, int]:
    """Less is plainer: nothing, a data set's statistics, 0-255; the order of the channels as it is, or turned round."""
    gain = _gain(normalisation)
    return (0 if gain <= 1 else 1 if gain < 100 else 2), int(normalisation.flip_channels)
