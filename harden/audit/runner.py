"""Running attacks on a classifier and writing down, per image, what became of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from harden.attacks import Attack, Examples, Passes, Planned, frozen, judge, run_attack
from harden.audit.keeping import Keeping
from harden.audit.machine import describe_machine
from harden.audit.meter import Meter
from harden.audit.result import AttackOutcome, AuditResult, Exposure
from harden.data.dataset import ImageSet
from harden.distributed import ALONE, Processes
from harden.memory import by_parts
from harden.models.black_box import Audited
from harden.models.classifier import Classifier
from harden.models.folding import Folding, find_folding
from harden.models.layout import laid_out, lay_out
from harden.randomness import stream
from harden.stopping import ask

AuditProgress = Callable[[str, int, int], None]
"""Called with (attack, work done, work expected in all), in forward passes."""


class Witness(Protocol):
    """Sees the examples of an audit as they are made."""

    def __call__(self, attack: Attack, rows: Tensor, batch: Tensor, examples: Examples) -> None:
        """See what an attack made of the images at `rows` (n,), `batch` (n, C, H, W) float in [0, 1]."""

    def unite(self, attack: Attack, processes: Processes) -> None:
        """An attack is over: exchange what each of the processes has seen of it."""


LARGEST_BATCH = 250
BATCH_PIXELS = 2_000_000
"""Values of input pixels in one batch: enough to keep a processor busy, few enough to fit into its memory."""
_ATTACK, _GO_ON = "attack", "go on"

FEW = 4
"""Images on which the scores of a folded network are compared with its own."""

ROUNDING = 1e-3
"""Largest difference of a margin of the folded network from its own, as a share of the largest score."""
UNFOLDED = Folding()


def batch_of(size: tuple[int, int, int]) -> int:
    """Return how many images (C, H, W) are attacked at once; it depends on nothing else, so that results do not."""
    channels, height, width = size
    return max(8, min(LARGEST_BATCH, BATCH_PIXELS // (channels * height * width)))


def audit(
    classifier: Audited,
    images: ImageSet,
    planned: Sequence[Planned],
    *,
    model: str,
    dataset: str,
    exposures: Mapping[str, Exposure],
    seed: int = 0,
    repeats: int = 1,
    progress: AuditProgress | None = None,
    keeping: Keeping | None = None,
    witness: Witness | None = None,
    processes: Processes = ALONE,
) -> AuditResult:
    """Attack the correctly classified images: each attack all of them, members of an ensemble those that still stand.

    Inside one attack an image is done as soon as it is fooled, at whichever step. Random starts depend on the seed, the
    attack and the place of an image among those that are attacked, so that the same audit twice gives the same result.

    Args:
        classifier: a network, in eval mode while attacked (its modes and parameters' flags are restored, its weights
            may stay channels last), or a black box, for which only attacks that need no gradients can be planned.
        images: N images.
        planned: in the order in which they run and are reported; all of one norm and eps.
        model, dataset: names for the report.
        exposures: per attack name what training or selection had to do with it; others are unseen.
        seed: of everything random.
        repeats: forward passes that one answer is the mean of, for a model that answers at random.
        progress: hears how far the audit is; may raise to stop it.
        keeping: keeps finished attacks, and gives back those of an earlier audit of the same model and images.
        witness: sees the examples as they are made.
        processes: that share the attacks; each is called with the same, but for `keeping`, which is the leader's, and
            returns the same, but that followers lack outcomes which were kept.
    """
    began = time.perf_counter()
    if isinstance(classifier, Classifier):
        lay_out(classifier)
    predictions, clean_margins = clean_scores(classifier, images, processes)
    labels = images.labels.cpu()
    right = predictions == labels
    plan = [(entry.attack.name, entry.attack.passes * repeats, entry.attack.pass_cost) for entry in planned]
    meter = Meter(plan, int(right.sum()), progress)
    outcomes = attack_in_turn(
        classifier,
        images,
        planned,
        predictions=predictions,
        margins=clean_margins,
        exposures=exposures,
        seed=seed,
        repeats=repeats,
        meter=meter,
        keeping=keeping,
        witness=witness,
        processes=processes,
    )
    return AuditResult(
        model=model,
        dataset=dataset,
        classes=classifier.classes,
        labels=labels.numpy(),
        files=images.files,
        clean_predictions=predictions.numpy(),
        clean_margins=clean_margins.numpy(),
        outcomes=outcomes,
        seed=seed,
        machine=describe_machine(classifier.device),
        seconds=time.perf_counter() - began,
        differentiable=isinstance(classifier, nn.Module),
    )


def clean_scores(classifier: Audited, images: ImageSet, processes: Processes = ALONE) -> tuple[Tensor, Tensor]:
    """Return predictions (N,) int64 and margins (N,) float32 on the clean images, on the CPU."""
    predictions, margins = torch.zeros(len(images), dtype=torch.int64), torch.zeros(len(images))
    own = torch.zeros(len(images), dtype=torch.bool)

    def look(_: int, __: int, rows: Tensor) -> None:
        pixels, labels = images.batch(rows)
        scores = classifier(laid_out(pixels.to(classifier.device), classifier)).cpu()
        predictions[rows], margins[rows] = judge(scores, labels.cpu())
        own[rows] = True

    with frozen(classifier) if isinstance(classifier, nn.Module) else nullcontext(), torch.no_grad():
        in_batches(torch.arange(len(images)), batch_of(classifier.input_size), look, processes)
    processes.meet()
    processes.unite(own, predictions, margins)
    return predictions, margins


def in_batches(rows: Tensor, size: int, work: Callable[[int, int, Tensor], None], processes: Processes) -> None:
    """Work on `rows` (n,) in batches of `size`, of which this process takes what no other has taken.

    Args:
        rows: (n,) int64, in order.
        size: rows of a batch; where memory runs out for one, it and those after it are worked on in parts.
        work: called with the number of the batch, the number of the part in it, and its rows.
        processes: that are called with the same.
    """
    batches = torch.split(rows, size)
    for number in processes.claims(len(batches)):
        size = by_parts(batches[number], size, partial(work, number))


def attack_in_turn(
    classifier: Audited,
    images: ImageSet,
    planned: Sequence[Planned],
    *,
    predictions: Tensor,
    margins: Tensor,
    exposures: Mapping[str, Exposure],
    seed: int,
    repeats: int,
    meter: Meter,
    keeping: Keeping | None = None,
    witness: Witness | None = None,
    processes: Processes = ALONE,
) -> tuple[AttackOutcome, ...]:
    """Run attacks of one norm and eps, in order; members of an ensemble attack only what all before left standing.

    Args:
        classifier, images, planned, exposures, seed, repeats, keeping, witness, processes: see `audit`.
        predictions, margins: (N,) of the clean images.
        meter: knows the attacks; hears of every pass.
    """
    labels = images.labels.cpu()
    right = predictions == labels
    standing = right
    folding = folding_of(classifier, images, repeats)
    outcomes = []
    for entry in planned:
        attacked = standing if entry.member else right
        outcome = keeping.find(entry.attack, attacked, repeats) if keeping is not None else None
        if processes.as_leader(partial(_what_to_do, outcome)) == _ATTACK:
            count = int(attacked.sum())
            meter.begin(count, min(processes.size, math.ceil(count / batch_of(classifier.input_size))))
            outcome = attack_images(
                classifier,
                images,
                entry.attack,
                attacked=attacked,
                predictions=predictions,
                margins=margins,
                exposure=exposures.get(entry.attack.name, Exposure.UNSEEN),
                seed=seed,
                repeats=repeats,
                passes=meter.passes(),
                folding=folding,
                witness=witness,
                processes=processes,
            )
            if keeping is not None:
                keeping.keep(entry.attack, attacked, repeats, outcome)
        guesses = torch.from_numpy(outcome.predictions) if outcome is not None else torch.zeros_like(labels)
        standing = standing & (processes.spread(guesses) == labels)
        if outcome is not None:
            outcomes.append(outcome)
        meter.end(int(standing.sum()))
    return tuple(outcomes)


def attack_images(
    classifier: Audited,
    images: ImageSet,
    attack: Attack,
    *,
    attacked: Tensor,
    predictions: Tensor,
    margins: Tensor,
    exposure: Exposure = Exposure.UNSEEN,
    seed: int = 0,
    repeats: int = 1,
    passes: Passes | None = None,
    folding: Folding = UNFOLDED,
    witness: Witness | None = None,
    processes: Processes = ALONE,
) -> AttackOutcome:
    """Run one attack on some of the images.

    What is written down of an example is what the network itself answers to it (but for `closest`, which the folded one
    found). Where it is not fooled by what fooled the folded one, or the other way round, which takes a margin within
    rounding of 0, or where margins differ by more than rounding, the batch is attacked again unfolded.

    Args:
        classifier, images, attack, exposure, seed, repeats, witness, processes: see `audit`.
        attacked: (N,) bool, which images; the others keep what they are when clean.
        predictions, margins: (N,) of the clean images.
        passes: counter that starts at 0; of this process, and in the end of all.
        folding: what of the classifier is folded while it is attacked.
    """
    began = time.perf_counter()
    passes = passes if passes is not None else Passes()
    guesses, kept, distances = predictions.clone(), margins.clone(), torch.zeros(len(images))
    queries = torch.zeros(len(images), dtype=torch.int64)
    closest = torch.where(predictions == images.labels.cpu(), torch.inf, 0.0)

    own = ~attacked if processes.leads else torch.zeros_like(attacked)

    def work(number: int, part: int, chunk: Tensor) -> None:
        batch, labels = images.batch(chunk)
        batch, labels = laid_out(batch.to(classifier.device), classifier), labels.to(classifier.device)

        def run() -> Examples:
            generator = stream(seed, attack.name, number, *([part] if part else []))
            return run_attack(attack, classifier, batch, labels, generator=generator, passes=passes, repeats=repeats)

        with folding.on():
            examples = run()
        if folding:
            ask()
            examples = _confirmed(examples, classifier, labels, passes) or run()
        passes.settle(len(chunk))
        guesses[chunk] = examples.predictions.cpu()
        kept[chunk] = examples.margins.float().cpu()
        distances[chunk] = attack.norm.of(examples.images - batch).cpu()
        queries[chunk] = examples.queries.cpu()
        closest[chunk] = examples.closest.cpu()
        own[chunk] = True
        if witness is not None:
            witness(attack, chunk, batch, examples)

    in_batches(torch.nonzero(attacked).squeeze(1), batch_of(classifier.input_size), work, processes)
    processes.meet(passes.heard)
    processes.unite(own, guesses, kept, distances, queries, closest)
    passes.add_up(processes.sum)
    if witness is not None:
        witness.unite(attack, processes)
    return AttackOutcome(
        name=attack.name,
        definition=attack.definition,
        norm=attack.norm.value,
        eps=attack.eps,
        exposure=exposure,
        predictions=guesses.numpy(),
        margins=kept.numpy(),
        distances=distances.numpy(),
        attacked=attacked.numpy().astype(np.bool_),
        seconds=time.perf_counter() - began,
        forwards=passes.forwards,
        backwards=passes.backwards,
        access=attack.access,
        queries=queries.numpy(),
        closest=closest.numpy(),
        method=attack.method,
        objective=attack.objective.value if attack.objective is not None else "",
        crafted_by=attack.crafted_by,
        identity=attack.identity,
    )


def folding_of(classifier: Audited, images: ImageSet, repeats: int) -> Folding:
    """Return what of a classifier can be folded while it is attacked (see `find_folding`); nothing of a black box.

    Args:
        classifier, images, repeats: see `audit`.
    """
    if not isinstance(classifier, Classifier) or repeats > 1:
        return UNFOLDED
    few = images.batch(slice(0, FEW))[0].to(classifier.device)
    return find_folding(classifier, laid_out(few, classifier))


def _confirmed(examples: Examples, classifier: Audited, labels: Tensor, passes: Passes) -> Examples | None:
    """Return examples with what a network itself answers to them; None where that is another answer on any."""
    assert isinstance(classifier, nn.Module)
    with frozen(classifier), torch.no_grad():
        scores = classifier(examples.images)
    passes.add(len(labels))
    predictions, margins = judge(scores, labels)
    near = (margins - examples.margins).abs().max() <= ROUNDING * scores.abs().max()
    if not near or not torch.equal(predictions == labels, examples.predictions == labels):
        return None
    return replace(examples, predictions=predictions, margins=margins)


def _what_to_do(kept: AttackOutcome | None) -> str:
    return _ATTACK if kept is None else _GO_ON


def exposures_of(*, training: Sequence[str], selection: Sequence[str]) -> dict[str, Exposure]:
    """Return what the audit should say of each attack, from the names of those that training and selection used."""
    seen = dict.fromkeys(selection, Exposure.SELECTION)
    seen.update(dict.fromkeys(training, Exposure.TRAINING))
    return seen
