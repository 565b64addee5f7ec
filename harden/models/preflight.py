"""Does this model know this data? The test before anything expensive, and the finder of an unwritten normalisation.

Every usual normalisation is tried on a sample of labelled images, and the most plausible is chosen
(`harden.models.choice`). If none is better than guessing, the classes may be in another order: a permutation that
explains the predictions is looked for, and told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from harden.errors import ModelError, PreflightError
from harden.models.choice import KNOWN, Choice, Tried, choose, divergence_limit
from harden.models.classifier import Basis, Normalisation, network_scores
from harden.models.first_norm import training_divergence
from harden.models.modes import evaluating
from harden.models.normalisations import CANDIDATES, apply, candidates
from harden.models.output_subset import OutputSubset
from harden.models.outputs import Readings
from harden.stopping import ask
from harden.tensors import as_float_images

_BATCH = 250
_NEARLY = 1.5
_MANY, _FIRST_LOOK = 500, 0.2
"""Of so many images or more a share is looked at first, drawn at random."""
_MOST_COMPARED = 500
"""Images whose first features are compared with what BatchNorm remembers."""
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
        chosen: the normalisation to use, with the doubt about it.
        rows: every normalisation that was tried.
        reason: why it was chosen, in a sentence.
        images: how many images were looked at.
        problem: why the model does not know the images, where it need not.
    """

    chosen: Normalisation
    rows: tuple[CandidateScore, ...]
    reason: str
    images: int
    problem: PreflightError | None = None


def preflight(
    module: nn.Module,
    *,
    images: Tensor,
    labels: Tensor,
    classes: tuple[str, ...],
    given: Normalisation | None,
    must_know: bool = True,
    more: Callable[[], tuple[Tensor, Tensor]] | None = None,
    subset: OutputSubset | None = None,
) -> Preflight:
    """Find the normalisation under which `module` knows the images, or say why there is none.

    Args:
        module: the user's network; modes are restored.
        images: (N, C, H, W) float in [0, 1] or uint8, a sample of the training data.
        labels: (N,) int64 in [0, K), in the order of the model's outputs.
        classes: K class names.
        given: what the normalisation is known to be; then nothing else is tried.
        must_know: whether a model that does not know the images is an error; one that is trained on them first, or
            only looked at, need not.
        more: returns more images and labels, asked where these leave a doubt; None: there are no more.
        subset: which of the network's outputs the scores of `classes` are; None: all of them.

    Raises:
        PreflightError: the model has another number of classes; or, if it must know the images, it is near chance
            under every normalisation, or its classes are in another order (the message has the --class-map that
            repairs it).
        ModelError: scores that are not finite under every normalisation.
    """
    labels, wanted = labels.cpu(), (given,) if given is not None else candidates(as_float_images(images))
    network = _Network(module, classes, subset)
    trials = _tried(network, wanted, images, labels)
    if not any(len(trial.seen) == len(labels) for trial in trials):
        trials = _tried(network, wanted, images, labels, first_look=1.0)
    tried = [trial.whole() for trial in trials if len(trial.seen) == len(labels)]
    if not tried:
        raise ModelError(
            "the model's scores are NaN or infinite for ordinary images",
            hint="its weights are damaged or training had diverged; use an earlier checkpoint",
        )
    rows = tuple(trial.row() for trial in trials)
    problem = _problem([(t.normalisation.name, t.scores.argmax(1)) for t in tried], rows, labels, network)
    if problem is not None and must_know:
        raise problem
    if given is not None:
        reason = f"{given.basis or Basis.GIVEN}; {tried[0].accuracy:.1%} of {len(labels)} images right"
        return Preflight(given, rows, reason, len(labels), problem=problem)
    choice = choose(tried, labels, of=len(trials))
    looked_at = len(labels)
    if choice.rivals and more is not None:
        choice, looked_at = _chosen_on_more(network, choice, more(), looked_at, of=len(trials))
    why = f"{choice.why[0].upper()}{choice.why[1:]}"
    reason = f"{why}: {choice.tried.accuracy:.1%} of {looked_at} images right"
    return Preflight(choice.normalisation, rows, reason, looked_at, problem)


def _chosen_on_more(
    network: _Network, choice: Choice, more: tuple[Tensor, Tensor], looked_at: int, *, of: int
) -> tuple[Choice, int]:
    """Return the choice among what was in doubt, on more images if there are more, and on how many it was made."""
    images, labels = more
    if len(labels) <= looked_at:
        return choice, looked_at
    wanted = [t.normalisation for t in (choice.tried, *choice.rivals)]
    trials = _tried(network, wanted, images, labels.cpu(), first_look=1.0)
    again = [trial.whole() for trial in trials]
    return (choose(again, labels.cpu(), of=of), len(labels)) if again else (choice, looked_at)


@dataclass(frozen=True, eq=False)
class _Network:
    """The network, the names of its scores, and which of its outputs they are."""

    module: nn.Module
    classes: tuple[str, ...]
    subset: OutputSubset | None = None

    def scores(self, normalisation: Normalisation, images: Tensor) -> Tensor:
        """Return the scores (N, K) of images (N, C, H, W) float in [0, 1] or uint8, on the CPU."""
        outputs = self.subset.outputs if self.subset is not None else len(self.classes)
        scores = _scores(self.module, normalisation, images, outputs)
        if scores.shape[1] != outputs:
            raise other_number(scores.shape[1], self.classes)
        return scores if self.subset is None else self.subset.of(scores)

    def class_map(self, mapping: Sequence[int]) -> tuple[int, ...] | None:
        """Return the output of each class of the data if class k is score `mapping[k]`; None where none is."""
        if self.subset is None:
            return tuple(mapping)
        known = mapping[: len(self.subset.chosen)]
        return tuple(self.subset.chosen[k] for k in known) if max(known) < len(known) else None


class _Trial:
    """A network under one normalisation, on as many of the images as it was given so far."""

    def __init__(self, normalisation: Normalisation, labels: Tensor) -> None:
        self.normalisation = normalisation
        self.seen = torch.zeros(0, dtype=torch.int64)
        self._labels = labels
        self.divergence: float | None = None
        self._scores = torch.zeros(0)

    def look(self, network: _Network, images: Tensor, rows: Tensor) -> None:
        scores = network.scores(self.normalisation, images[rows])
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
        return self._right.double().mean().item()

    @property
    def _right(self) -> Tensor:
        return self._scores.argmax(1) == self._labels[self.seen]

    def row(self) -> CandidateScore:
        nll = nn.functional.cross_entropy(self._scores.double(), self._labels[self.seen]).item()
        return CandidateScore(self.normalisation.name, self.accuracy, nll, len(self.seen))

    def whole(self) -> Tried:
        scores, right = torch.empty_like(self._scores), torch.empty_like(self._right)
        scores[self.seen], right[self.seen] = self._scores, self._right
        return Tried(self.normalisation, scores, right, self.divergence)


def _tried(
    network: _Network,
    wanted: Sequence[Normalisation],
    images: Tensor,
    labels: Tensor,
    *,
    first_look: float = _FIRST_LOOK,
) -> list[_Trial]:
    """Return a trial of each normalisation under which scores are finite; the hopeless ones see some images only."""
    count = len(labels)
    first = round(first_look * count) if len(wanted) > 1 and count >= _MANY else count
    rows = torch.randperm(count, generator=torch.Generator().manual_seed(0)) if first < count else torch.arange(count)
    trials = [_Trial(normalisation, labels) for normalisation in wanted]
    for trial in trials:
        trial.look(network, images, rows[:first])
    trials = [trial for trial in trials if trial.finite]
    if len(wanted) > 1:
        some = images[rows[:_MOST_COMPARED]]
        for trial in trials:
            trial.divergence = training_divergence(network.module, trial.normalisation, some)
    if first == count:
        return trials
    least = min((t.divergence for t in trials if t.divergence is not None), default=math.inf)
    limit = divergence_limit(least, len(some)) if least <= KNOWN else -math.inf
    promises = [trial.promise for trial in trials]
    for trial, promise in zip(trials, promises, strict=True):
        near = trial.divergence is not None and trial.divergence <= limit
        if near or promise >= max(promises) - _HOPELESS:
            trial.look(network, images, rows[first:])
    return [trial for trial in trials if trial.finite]


def remembered(module: nn.Module, images: Tensor) -> Normalisation | None:
    """Return the usual normalisation under which the first BatchNorm gets what it got in training; None without one.

    For a network whose scores say nothing, because its last layer is new.

    Args:
        module: the user's network; modes are restored.
        images: (N, C, H, W) float in [0, 1] or uint8.
    """
    usual = CANDIDATES.get(images.shape[1], ())
    found = [(training_divergence(module, normalisation, images), normalisation) for normalisation in usual]
    known = [(divergence, normalisation) for divergence, normalisation in found if divergence is not None]
    best = min((divergence for divergence, _ in known), default=math.inf)
    if best > KNOWN:
        return None
    # The order of the channels shows little: of those that are about as near, the one that is listed first.
    return next(normalisation for divergence, normalisation in known if divergence <= _NEARLY * best)


def _scores(module: nn.Module, normalisation: Normalisation, images: Tensor, classes: int | None = None) -> Tensor:
    """Return the scores (N, K) float on the CPU; of so many `classes`, where there are any."""
    device = next((tensor.device for tensor in module.parameters()), images.device)
    readings: Readings = {}
    found = []
    with evaluating(module):
        for batch in torch.split(images, _BATCH):
            ask()
            inputs = apply(normalisation, as_float_images(batch.to(device)))
            found.append(network_scores(module, inputs, classes=classes, readings=readings).float().cpu())
    return torch.cat(found)


def _problem(
    predictions: list[tuple[str, Tensor]],
    rows: tuple[CandidateScore, ...],
    labels: Tensor,
    network: _Network,
) -> PreflightError | None:
    """Tell if the best candidate is no better than guessing, or if another order of the classes explains more."""
    classes = network.classes
    count, known = len(labels), len(classes)
    best = max(row.accuracy for row in rows if row.images == count)
    # Always answering the commonest class is what guessing can reach; four standard errors above it is no accident
    # even for the best of a dozen candidates. A tiny sample cannot ask for more than half of what is left.
    chance = torch.bincount(labels, minlength=known).max().item() / count
    floor = min(chance + 4 * math.sqrt(chance * (1 - chance) / count), (1 + chance) / 2)
    name, mapping, explained = max((_permute(n, p, labels, known) for n, p in predictions), key=lambda found: found[2])
    # A model that merely confuses classes gains nothing on images that the order was not fitted to.
    gain = max(0.05, 5 * math.sqrt(0.25 / count))
    outputs = network.class_map(mapping)
    if outputs is not None and mapping != list(range(known)) and explained > max(best + gain, floor):
        ordered = ", ".join(f"{classes[k]} -> output {output}" for k, output in enumerate(outputs[:4]))
        return PreflightError(
            f"the model knows these classes in another order: {best:.1%} of {count} images are right as they "
            f"are, {explained:.1%} after reordering (normalisation: {name}; {ordered}{', ...' if known > 4 else ''})",
            hint=f"--class-map {','.join(map(str, outputs))}",
            permuted=True,
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


def other_number(outputs: int, classes: Sequence[str]) -> PreflightError:
    """Return the error for a model with another number of `outputs` than the data has `classes`."""
    names = ", ".join(classes[:6]) + (", ..." if len(classes) > 6 else "")
    return PreflightError(
        f"the model has {outputs} outputs, the data has {len(classes)} classes ({names})",
        hint="use the data that the model was trained on, an --arch with one output for each class of the data, or "
        "--replace-head (of `harden fit` and `harden compare`), which puts a new last layer on the model and trains "
        "that first"
        + (
            "; where the data's classes are among the model's, --class-map says which" if outputs > len(classes) else ""
        ),
    )
