"""Does this model know this data? The test before anything expensive, and the finder of an unwritten normalisation.

Every usual normalisation is tried on a sample of labelled images, and the most plausible is chosen
(`harden.models.choice`). If none is better than guessing, the classes may be in another order: a permutation that
explains the predictions is looked for, and told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from harden.errors import ModelError, PreflightError
from harden.models.choice import KNOWN, Tried, choose
from harden.models.classifier import Normalisation, scores_of
from harden.models.first_norm import FirstNorm, watching_first_norm
from harden.models.modes import evaluating
from harden.models.normalisations import CANDIDATES, apply, candidates
from harden.stopping import ask
from harden.tensors import as_float_images

_BATCH = 250
_NEARLY = 1.5
_MANY, _FIRST_LOOK = 500, 0.2
"""Of so many images or more a share is looked at first, drawn at random."""
_HOPELESS = 0.25
"""What is so much less accurate than the best on these, whatever the order of the classes, is not tried on the rest.
Of 200 images (of 1,000) it is five standard errors of a difference at the very least."""


@dataclass(frozen=True)
class CandidateScore:
    """How the model did under one normalisation: accuracy in [0, 1], mean negative log-likelihood in nats.

    Attributes:
        images: on how many images; on fewer than there are where it was hopeless.
    """

    name: str
    accuracy: float
    nll: float
    images: int


@dataclass(frozen=True)
class Preflight:
    """What the preflight found.

    Attributes:
        chosen: the normalisation to use.
        rows: every normalisation that was tried.
        reason: why it was chosen, in a sentence.
        images: how many images were looked at.
        doubt: that really different normalisations do as well, and what to do about it; "" where none does.
        problem: why the model does not know the images, where it need not.
    """

    chosen: Normalisation
    rows: tuple[CandidateScore, ...]
    reason: str
    images: int
    doubt: str = ""
    problem: PreflightError | None = None


def preflight(
    module: nn.Module,
    *,
    images: Tensor,
    labels: Tensor,
    classes: tuple[str, ...],
    given: Normalisation | None,
    must_know: bool = True,
) -> Preflight:
    """Find the normalisation under which `module` knows the images, or say why there is none.

    Args:
        module: the user's network; modes are restored.
        images: (N, C, H, W) float in [0, 1] or uint8, a sample of the training data.
        labels: (N,) int64 in [0, K), in the order of the model's outputs.
        classes: K class names.
        given: what the user says the normalisation is; then nothing else is tried.
        must_know: whether a model that does not know the images is an error; one that is trained on them first, or
            only looked at, need not.

    Raises:
        PreflightError: the model has another number of classes; or, if it must know the images, it is near chance
            under every normalisation, or its classes are in another order (the message has the --class-map that
            repairs it).
        ModelError: scores that are not finite under every normalisation.
    """
    labels, wanted = labels.cpu(), (given,) if given is not None else candidates(as_float_images(images))
    trials = _tried(module, wanted, images, labels, classes)
    if not any(len(trial.seen) == len(labels) for trial in trials):
        trials = _tried(module, wanted, images, labels, classes, first_look=1.0)
    tried = [trial.whole() for trial in trials if len(trial.seen) == len(labels)]
    if not tried:
        raise ModelError(
            "the model's scores are NaN or infinite for ordinary images",
            hint="its weights are damaged or training had diverged; use an earlier checkpoint",
        )
    rows = tuple(trial.row() for trial in trials)
    problem = _problem([(t.normalisation.name, t.scores.argmax(1)) for t in tried], rows, labels, classes)
    if problem is not None and must_know:
        raise problem
    if given is not None:
        reason = f"given; {tried[0].accuracy:.1%} of {len(labels)} images right"
        return Preflight(given, rows, reason, len(labels), problem=problem)
    choice = choose(tried, labels, of=len(trials))
    chosen = choice.tried
    reason = f"{choice.why[0].upper()}{choice.why[1:]}: {chosen.accuracy:.1%} of {len(labels)} images right"
    doubt = ""
    if choice.doubt:
        doubt = (
            f"the model does as well with other normalisations ({', '.join(choice.doubt)}) as with "
            f"{chosen.normalisation.name!r}: give --mean and --std if you know what it was trained with"
        )
    return Preflight(chosen.normalisation, rows, reason, len(labels), doubt, problem)


class _Trial:
    """A network under one normalisation, on as many of the images as it was given so far."""

    def __init__(self, normalisation: Normalisation, labels: Tensor) -> None:
        self.normalisation = normalisation
        self.seen = torch.zeros(0, dtype=torch.int64)
        self._labels = labels
        self._scores = torch.zeros(0)
        self._first_norm = FirstNorm()

    def look(self, module: nn.Module, images: Tensor, rows: Tensor, classes: tuple[str, ...]) -> None:
        with watching_first_norm(module, self._first_norm):
            scores = _scores(module, self.normalisation, images[rows])
        if scores.shape[1] != len(classes):
            raise _other_number(scores.shape[1], classes)
        self._scores = torch.cat([self._scores, scores]) if len(self.seen) else scores
        self.seen = torch.cat([self.seen, rows])

    @property
    def finite(self) -> bool:
        return bool(self._scores.isfinite().all())

    @property
    def promise(self) -> float:
        """Its accuracy, or that after the best reordering of the classes, which is a finding too."""
        labels = self._labels[self.seen]
        return max(self.accuracy, _permute("", self._scores.argmax(1), labels, self._scores.shape[1])[2])

    @property
    def accuracy(self) -> float:
        return (self._scores.argmax(1) == self._labels[self.seen]).double().mean().item()

    def row(self) -> CandidateScore:
        nll = nn.functional.cross_entropy(self._scores.double(), self._labels[self.seen]).item()
        return CandidateScore(self.normalisation.name, self.accuracy, nll, len(self.seen))

    def whole(self) -> Tried:
        scores = torch.empty_like(self._scores)
        scores[self.seen] = self._scores
        return Tried(self.normalisation, scores, self.accuracy, self._first_norm.divergence())


def _tried(
    module: nn.Module,
    wanted: Sequence[Normalisation],
    images: Tensor,
    labels: Tensor,
    classes: tuple[str, ...],
    *,
    first_look: float = _FIRST_LOOK,
) -> list[_Trial]:
    """Return a trial of each normalisation under which scores are finite; the hopeless ones see some images only."""
    count = len(labels)
    first = round(first_look * count) if len(wanted) > 1 and count >= _MANY else count
    rows = torch.randperm(count, generator=torch.Generator().manual_seed(0)) if first < count else torch.arange(count)
    trials = [_Trial(normalisation, labels) for normalisation in wanted]
    for trial in trials:
        trial.look(module, images, rows[:first], classes)
    trials = [trial for trial in trials if trial.finite]
    if first == count:
        return trials
    promises = [trial.promise for trial in trials]
    for trial, promise in zip(trials, promises, strict=True):
        if promise >= max(promises) - _HOPELESS:
            trial.look(module, images, rows[first:], classes)
    return [trial for trial in trials if trial.finite]


def remembered(module: nn.Module, images: Tensor) -> Normalisation | None:
    """Return the usual normalisation under which the first BatchNorm gets what it got in training; None without one.

    For a network whose scores say nothing, because its last layer is new.

    Args:
        module: the user's network; modes are restored.
        images: (N, C, H, W) float in [0, 1] or uint8.
    """
    found: list[tuple[float, Normalisation]] = []
    for normalisation in CANDIDATES.get(images.shape[1], ()):
        with watching_first_norm(module) as first_norm:
            _scores(module, normalisation, images)
        divergence = first_norm.divergence()
        if divergence is not None and math.isfinite(divergence):
            found.append((divergence, normalisation))
    best = min((divergence for divergence, _ in found), default=math.inf)
    if best > KNOWN:
        return None
    # The order of the channels shows little: of those that are about as near, the one that is listed first.
    return next(normalisation for divergence, normalisation in found if divergence <= _NEARLY * best)


def _scores(module: nn.Module, normalisation: Normalisation, images: Tensor) -> Tensor:
    """Return the scores (N, K) float on the CPU."""
    device = next((tensor.device for tensor in module.parameters()), images.device)
    found = []
    with evaluating(module):
        for batch in torch.split(images, _BATCH):
            ask()
            found.append(scores_of(module(apply(normalisation, as_float_images(batch.to(device))))).float().cpu())
    return torch.cat(found)


def _problem(
    predictions: list[tuple[str, Tensor]],
    rows: tuple[CandidateScore, ...],
    labels: Tensor,
    classes: tuple[str, ...],
) -> PreflightError | None:
    """Tell if the best candidate is no better than guessing, or if another order of the classes explains more."""
    count, known = len(labels), len(classes)
    best = max(row.accuracy for row in rows if row.images == count)
    # Always answering the commonest class is what guessing can reach; four standard errors above it is no accident
    # even for the best of a dozen candidates. A tiny sample cannot ask for more than half of what is left.
    chance = torch.bincount(labels, minlength=known).max().item() / count
    floor = min(chance + 4 * math.sqrt(chance * (1 - chance) / count), (1 + chance) / 2)
    name, mapping, explained = max((_permute(n, p, labels, known) for n, p in predictions), key=lambda found: found[2])
    # A model that merely confuses classes gains nothing on images that the order was not fitted to.
    gain = max(0.05, 5 * math.sqrt(0.25 / count))
    if mapping != list(range(known)) and explained > max(best + gain, floor):
        ordered = ", ".join(f"{classes[k]} -> output {output}" for k, output in enumerate(mapping[:4]))
        return PreflightError(
            f"the model knows these classes in another order: {best:.1%} of {count} images are right as they "
            f"are, {explained:.1%} after reordering (normalisation: {name}; {ordered}{', ...' if known > 4 else ''})",
            hint=f"--class-map {','.join(map(str, mapping))}",
        )
    if best < floor:
        listed = "\n".join(f"  {row.accuracy:6.1%}  {row.name}" for row in sorted(rows, key=lambda r: -r.accuracy))
        return PreflightError(
            f"the model does not know this data: at best {best:.1%} of {count} images are right, and always "
            f"answering one class gives {chance:.1%}\n{listed}",
            hint="give the normalisation it was trained with (--mean, --std), the right --arch or the data it was "
            "trained on; or train it on this data first (--pretrain N epochs)",
        )
    return None


def _permute(name: str, predictions: Tensor, labels: Tensor, known: int) -> tuple[str, list[int], float]:
    """Return the mapping class -> output that explains the most predictions, and its accuracy.

    The accuracy is cross-fitted: each half of the images is judged by the mapping that the other half gives, because
    with many classes and few images some mapping fits anything.
    """
    even = torch.arange(len(labels)) % 2 == 0
    right = 0
    for half in (even, ~even):
        mapping = torch.tensor(_mapping(predictions[half], labels[half], known))
        right += int((mapping[labels[~half]] == predictions[~half]).sum())
    return name, _mapping(predictions, labels, known), right / len(labels)


def _mapping(predictions: Tensor, labels: Tensor, known: int) -> list[int]:
    confusion = torch.bincount(labels * known + predictions, minlength=known * known).view(known, known)
    _, columns = linear_sum_assignment(confusion.numpy(), maximize=True)
    return [int(column) for column in columns]


def _other_number(outputs: int, classes: tuple[str, ...]) -> PreflightError:
    names = ", ".join(classes[:6]) + (", ..." if len(classes) > 6 else "")
    return PreflightError(
        f"the model has {outputs} outputs, the data has {len(classes)} classes ({names})",
        hint="use the data that the model was trained on, an --arch with one output for each class of the data, or "
        "--replace-head (of `harden fit` and `harden compare`), which puts a new last layer on the model and trains "
        "that first",
    )
