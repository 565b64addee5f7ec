"""The whole examination of one model: attacks, then everything that says what to make of their number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harden.attacks import ATTACKS, GRADIENT_ATTACKS, ON_LABELS, PRESETS, Planned
from harden.audit.corrupting import corrupted_outcomes
from harden.audit.diagnostics import Ranking, believe, measure_ranking, randomness
from harden.audit.domains import represent
from harden.audit.exhibits import Gallery
from harden.audit.keeping import Keeping
from harden.audit.other_norms import audit_other_norms
from harden.audit.result import AuditResult, Exposure
from harden.audit.runner import audit
from harden.audit.sweep import sweep
from harden.data import ImageSet, stratified_sample
from harden.distributed import ALONE, Processes
from harden.models.black_box import Audited
from harden.models.classifier import Classifier
from harden.randomness import stream
from harden.workflows.narrator import Narrator

CURVE_IMAGES = 300
FEWEST_PROBES, MOST_PROBES = 20, 100
REPRESENTED = ("fgsm", "pgd-20", "mim")
_RANKS, _LABELS = "ranks", "labels"


@dataclass(frozen=True, eq=False)
class Subject:
    """A model to audit.

    Attributes:
        name: for the report.
        classifier: the model.
        images: what it is attacked on, in its own format; the same files for every subject.
        exposures: per attack name what its training or selection had to do with it.
        transfers: attacks that it meets besides, from the network that it stands beside.
    """

    name: str
    classifier: Audited
    images: ImageSet
    exposures: Mapping[str, Exposure]
    transfers: tuple[Planned, ...] = ()


@dataclass(frozen=True)
class Scope:
    """What an examination consists of besides the attacks.

    Attributes:
        checks: reasons to believe or to doubt the number.
        baselines: whether the models beside the one that the report is about are checked, too.
        curve: accuracy against eps.
        shifts: other norms and common corruptions.
        representation: silhouettes, domain accuracy and embeddings of the logits.
        represented: under which attacks, of a fixed number of gradient steps.
    """

    checks: bool = True
    baselines: bool = True
    curve: bool = True
    shifts: bool = False
    representation: bool = True
    represented: tuple[str, ...] = REPRESENTED

    @classmethod
    def of(cls, attacks: Sequence[str], *, brief: bool = False) -> Scope:
        """Return the scope that goes with presets and attacks; a brief one leaves out what takes long."""
        shifts = any(name in PRESETS and PRESETS[name].shifts for name in attacks)
        return cls(baselines=not brief, curve=not brief, shifts=shifts, representation=not brief)


def examine(
    subject: Subject,
    planned: Sequence[Planned],
    *,
    eps: float,
    scope: Scope,
    dataset: str,
    seed: int,
    narrator: Narrator,
    stopping: Callable[[], None] = lambda: None,
    copies: Sequence[tuple[str, str]] | None = None,
    kept_in: Path | None = None,
    processes: Processes = ALONE,
) -> AuditResult:
    """Attack one model and find out whether the number can be believed.

    Args:
        subject: the model.
        planned: attacks of the threat model.
        eps: its l_inf radius on the [0, 1] scale.
        scope: what else to measure; a black box has no curve and no representation.
        dataset: for the report.
        seed: of everything random.
        narrator: hears how far it is.
        stopping: called often; may raise to stop.
        copies: (training file, audited file) of equal pixels; None: the training images are not known.
        kept_in: folder for finished attacks, so that an interrupted examination can go on.
        processes: that share the attacks; each calls this with the same, and what takes a small part of the time is
            measured, and what is kept is kept, by the leader alone.
    """
    classifier, images = subject.classifier, subject.images
    task = f"auditing {subject.name}"

    def told(detail: str) -> Callable[[int, int], None]:
        def progress(done: int, total: int) -> None:
            narrator.progress(f"{task}: {detail}", done, total)
            stopping()

        return progress

    def attacking(attack: str, done: int, total: int) -> None:
        narrator.progress(task, done, total, attack)
        stopping()

    repeats = int(processes.as_leader(lambda: str(randomness(classifier, images, seed=seed).repeats)))
    if repeats > 1:
        narrator.warn(f"{subject.name} answers at random; each answer to an attack is the mean of {repeats} passes")
    ranking = _ranking(subject, planned, eps, seed) if processes.leads else None
    ranks = processes.as_leader(lambda: _RANKS if ranking is None or ranking.ranks else _LABELS) == _RANKS
    if not ranks:
        planned = on_labels(planned, eps)
    if ranking is not None and not ranks:
        narrator.warn(f"{ranking.sentence()}; attacks by scores are left out")
    keeping = None
    if kept_in is not None and processes.leads:
        keeping = Keeping(kept_in, model=classifier, name=subject.name, images=images, seed=seed)
    gallery = Gallery(images)
    result = audit(
        classifier,
        images,
        planned,
        model=subject.name,
        dataset=dataset,
        exposures=subject.exposures,
        seed=seed,
        repeats=repeats,
        progress=attacking,
        keeping=keeping,
        witness=gallery,
        processes=processes,
    )
    if processes.leads:
        gallery.revisit(classifier, result, [entry.attack for entry in planned], seed=seed, repeats=repeats)
    result = replace(result, gallery=gallery.exhibits())
    if isinstance(classifier, Classifier) and scope.curve:
        few = _some(images, CURVE_IMAGES, seed)
        curve = sweep(
            classifier,
            few,
            eps,
            seed=seed,
            repeats=repeats,
            progress=told("accuracy against eps"),
            processes=processes,
        )
        result = replace(result, curve=curve)
    if isinstance(classifier, Classifier) and scope.representation and processes.leads:
        attacks = [GRADIENT_ATTACKS[name](eps) for name in scope.represented]
        found = represent(classifier, images, attacks, seed=seed, progress=lambda _, *at: told("representation")(*at))
        result = replace(result, representation=found)
    if scope.shifts and ranks:
        others = audit_other_norms(
            classifier,
            images,
            result,
            eps=eps,
            seed=seed,
            repeats=repeats,
            progress=lambda _, *at: told("other norms")(*at),
            keeping=keeping,
            processes=processes,
        )
        result = replace(result, shifts=others)
    if scope.shifts and processes.leads:
        found_corrupted = corrupted_outcomes(
            classifier, images, seed=seed, progress=lambda _, *at: told("corruptions")(*at)
        )
        result = replace(result, corruptions=found_corrupted)
    if scope.checks and processes.leads:
        checks = believe(
            result,
            classifier,
            images,
            copies=copies,
            repeats=repeats,
            probes=probes_of(len(images)),
            seed=seed,
            ranking=ranking,
            progress=told("whether it can be believed"),
        )
        result = replace(result, checks=checks)
    return result


def _ranking(subject: Subject, planned: Sequence[Planned], eps: float, seed: int) -> Ranking | None:
    """Return whether the scores rank the classes; None where no attack of the plan depends on that alone."""
    accesses = [entry.attack.access for entry in planned]
    if not all(access.black_box for access in accesses) or not any(access.climbs_scores for access in accesses):
        return None
    return measure_ranking(subject.classifier, subject.images, eps=eps, seed=seed)


def on_labels(planned: Sequence[Planned], eps: float) -> tuple[Planned, ...]:
    """Return the attacks of a plan that a model of labels only can meet: without those that climb its scores."""
    kept = (entry for entry in planned if not entry.attack.access.climbs_scores)
    return (*kept, *(Planned(ATTACKS[name](eps)) for name in ON_LABELS))


def probes_of(audited: int) -> int:
    """Return how many images the checks probe: a fifth of those audited, between 20 and 100."""
    return max(FEWEST_PROBES, min(MOST_PROBES, audited // 5))


def _some(images: ImageSet, count: int, seed: int) -> ImageSet:
    return images.subset(stratified_sample(images.labels.cpu(), count, generator=stream(seed, "examine")))
