"""Which of the normalisations that were tried is the one that a network was trained with.

Accuracy leads. On training images many normalisations may be equally accurate, and the loss then rewards contrast: a
network that was trained on [0, 1] is surest of all on inputs of 0-255. So the equally accurate ones are told apart by
evidence that contrast cannot buy, in this order:

1. The first BatchNorm remembers the mean and variance of its inputs in training. What is far from them is out, as long
   as something is near.
2. The loss, after a temperature of its own has been fitted to the scores of each normalisation (Guo et al. 2017,
   "On Calibration of Modern Neural Networks"). What is worse beyond its statistical error is out.
3. The plainest: no normalisation before a data set's statistics before 0-255. Low contrast costs a network that was
   trained with high contrast its accuracy, since the biases drown the inputs; high contrast costs nothing that shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from harden.models.agreement import scale_of
from harden.models.classifier import Normalisation
from harden.models.normalisations import OWN_STATISTICS

NLL_TIE = 0.01
"""Mean losses that differ by less than this many nats say nothing about which normalisation is right."""
NO_LOSS = 0.001
"""Below this mean loss, after a temperature has been fitted, every answer is right and the loss says nothing."""
_SEPARATED = 2.0
"""Standard errors by which a loss must be worse to count as worse."""
KNOWN, _NEAR, _FAR = 0.25, 0.005, 8.0
"""BatchNorm tells something if the best divergence is below the first (nats); what is beyond the last number times the
best, or times the second where the best is smaller still, is not what it was trained with. ResNet-20 on CIFAR-10: 0.04
nats with the statistics it was trained with, 0.02 with others that are alike, 1.1 without any."""
_SAME, _SIMILAR = 0.05, 0.25
"""Shares of the deviation by which normalisations differ: no more than samples of one data set do; and so little that
it is no matter which of them is taken."""


@dataclass(frozen=True, eq=False)
class Tried:
    """How the model did under one normalisation.

    Attributes:
        normalisation: the one.
        scores: (N, K) float on the CPU.
        accuracy: in [0, 1].
        divergence: of the first BatchNorm's inputs from what it remembers, in nats; None without BatchNorm.
    """

    normalisation: Normalisation
    scores: Tensor
    accuracy: float
    divergence: float | None


@dataclass(frozen=True, eq=False)
class Choice:
    """The normalisation to use.

    Attributes:
        tried: the one.
        why: what speaks for it.
        doubt: names of really different ones that nothing told apart from it.
    """

    tried: Tried
    why: str
    doubt: tuple[str, ...] = ()


def choose(tried: list[Tried], labels: Tensor, *, of: int | None = None) -> Choice:
    """Return the most plausible of `tried` (at least one).

    Args:
        tried: with finite scores, on the same images.
        labels: (N,) int64 of these images, on the CPU.
        of: how many there were, some of them hopeless; None: these.
    """
    best = max(t.accuracy for t in tried)
    error = math.sqrt(max(best * (1 - best), 1 / len(labels)) / len(labels))
    close = [t for t in tried if t.accuracy >= best - error]
    known = _known_to_batchnorm(close)
    losses = {t.normalisation.name: fitted_losses(t.scores, labels) for t in known}
    mean = {name: loss.mean().item() for name, loss in losses.items()}
    surest = losses[min(mean, key=lambda name: mean[name])]
    tied = [t for t in known if not _worse(losses[t.normalisation.name], surest)]

    def rank(t: Tried) -> tuple[float, ...]:
        loss = max(mean[t.normalisation.name], NO_LOSS)
        return (*_plainness(t.normalisation), loss, t.divergence or 0.0, _gain(t.normalisation))

    chosen = min(tied, key=rank)
    # Of those that are alike too, the one that is listed first: the best known.
    chosen = next(
        t
        for t in tied
        if _plainness(t.normalisation) == _plainness(chosen.normalisation)
        and _alike(t.normalisation, chosen.normalisation, _SIMILAR)
    )
    if chosen.normalisation.name == OWN_STATISTICS:
        # The sample's own statistics are a noisy copy of what somebody published: prefer numbers that somebody would
        # write down.
        limit = mean[OWN_STATISTICS] + NLL_TIE
        named = [t for t in known if t is not chosen]
        near = [
            t
            for t in named
            if _alike(t.normalisation, chosen.normalisation, _SAME)
            or (t in tied and mean[t.normalisation.name] <= limit)
        ]
        chosen = min(near, key=rank, default=chosen)
    others = [t for t in tied if not _alike(t.normalisation, chosen.normalisation, _SIMILAR)]
    nearly = "" if chosen.accuracy == best else "nearly "
    accurate = f"{nearly}as accurate as any of {of or len(tried)} normalisations" + (f" ({best:.1%})" if nearly else "")
    if len(close) == 1:
        why = f"the most accurate of {of or len(tried)} normalisations"
    elif others:
        why = f"{accurate}, and the plainest of those that nothing tells apart"
    elif len(known) == 1:
        why = f"{accurate}, and what the first BatchNorm was trained on"
    else:
        why = f"{accurate}, and its loss as low as any, contrast apart"
    return Choice(chosen, why, tuple(t.normalisation.name for t in others))


def fitted_losses(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy (N,) of scores (N, K) divided by the one temperature that makes its mean smallest."""
    scores = scores.double() / (scale_of(scores) or 1.0)

    def loss(log_scale: float) -> Tensor:
        return nn.functional.cross_entropy(scores * math.exp(log_scale), labels, reduction="none")

    found = minimize_scalar(
        lambda log_scale: loss(log_scale).mean().item(), bounds=(-9, 9), method="bounded", options={"xatol": 0.01}
    )
    return loss(float(found.x))


def _known_to_batchnorm(close: list[Tried]) -> list[Tried]:
    divergences = [t.divergence for t in close if t.divergence is not None]
    if not divergences or min(divergences) > KNOWN:
        return close
    limit = _FAR * max(min(divergences), _NEAR)
    return [t for t in close if t.divergence is not None and t.divergence <= limit]


def _worse(loss: Tensor, least: Tensor) -> bool:
    difference = loss - least
    if loss.mean().item() <= NO_LOSS or len(loss) < 2:
        return False
    return difference.mean().item() > _SEPARATED * difference.std().item() / math.sqrt(len(loss))


def _gain(normalisation: Normalisation) -> float:
    return len(normalisation.std) / sum(normalisation.std)


def _plainness(normalisation: Normalisation) -> tuple[int, int]:
    """Less is plainer: nothing, a data set's statistics, 0-255; the order of the channels as it is, or turned round."""
    gain = _gain(normalisation)
    return (0 if gain <= 1 else 1 if gain < 100 else 2), int(normalisation.flip_channels)


def _alike(one: Normalisation, other: Normalisation, share: float) -> bool:
    """Whether mean and deviation differ by less than `share` of the deviation."""
    if one.flip_channels != other.flip_channels:
        return False
    numbers = zip(one.mean, one.std, other.mean, other.std, strict=True)
    return all(abs(m - n) < share * t and abs(s - t) < share * t for m, s, n, t in numbers)
