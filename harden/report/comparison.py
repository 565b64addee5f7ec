"""Methods compared at an equal budget: what was trained and found, and every figure that is derived from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from harden.access import Access
from harden.audit.believe import Status
from harden.audit.metrics import Z95, Difference, Proportion
from harden.audit.result import AuditResult
from harden.errors import DataError
from harden.report.figures import counted, percent
from harden.report.judging import at_chance
from harden.training.canary import Collapse
from harden.training.history import History

SCHEMA = "harden-comparison/1"


@dataclass(frozen=True, eq=False)
class Trial:
    """One method trained with one seed.

    Attributes:
        variant: its name in print; trials of one variant differ in their seed.
        method: the key of its defence.
        sources: keys of the crafters that were to craft its examples; none for clean training.
        seed: of the training.
        audit: of the trained model, on the same images for every trial.
        history: of its training.
    """

    variant: str
    method: str
    sources: tuple[str, ...]
    seed: int
    audit: AuditResult
    history: History

    @property
    def switched(self) -> bool:
        """Whether another attack than its own crafted at some time: it is then no longer just this method."""
        return any(epoch.source_attacks not in ((), self.sources) for epoch in self.history.epochs)

    @property
    def collapses(self) -> tuple[str, ...]:
        """What went wrong in training, in words, each once."""
        found = {epoch.collapse for epoch in self.history.epochs}
        return tuple(kind.value for kind in Collapse if kind in found and kind is not Collapse.NONE)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary; `from_json` reads it."""
        return {
            "variant": self.variant,
            "method": self.method,
            "sources": list(self.sources),
            "seed": self.seed,
            "history": self.history.to_json(),
            "audit": self.audit.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trial:
        """Read what `to_json` wrote."""
        return cls(
            data["variant"],
            data["method"],
            tuple(data["sources"] if "sources" in data else data["source"].split(" + ")),
            data["seed"],
            AuditResult.from_json(data["audit"]),
            History.from_json(data["history"]),
        )


@dataclass(frozen=True)
class Figure:
    """A figure over seeds: the mean, and the spread (sample standard deviation; None for one seed)."""

    mean: float
    spread: float | None

    @classmethod
    def over(cls, values: Sequence[float]) -> Figure:
        """Of one value for each seed."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Column:
    """A column of accuracies.

    Attributes:
        name: of the attack, or what else it is the accuracy on.
        crafted_by: the attack that crafted on another network; empty for attacks on the model itself.
    """

    name: str
    crafted_by: str = ""

    @property
    def black_box(self) -> bool:
        """Whether the examples were crafted on another network."""
        return bool(self.crafted_by)

    @property
    def group(self) -> str:
        """What it belongs to, in print; empty for clean accuracy and the worst case."""
        return BLACK_BOX if self.black_box else "" if self in (CLEAN, WORST) else WHITE_BOX

    @property
    def shown(self) -> str:
        """The name within its group."""
        return self.crafted_by or self.name


CLEAN, WORST = Column("clean"), Column("worst case")
ADV4ADV = ("adv4adv", "adv4adv-star")
"""Keys of the defences that are variants of the paper's method."""
WHITE_BOX, BLACK_BOX = "white-box", "black-box"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Trials of several variants, with the same seeds, at an equal budget.

    Attributes:
        title: one line.
        basis: what is equal, in words ("10 epochs each").
        trials: at least one.
        facts: (label, value) pairs that say how the numbers came about.
        caveats: sentences that a reader must see beside the numbers.
    """

    title: str
    basis: str
    trials: tuple[Trial, ...]
    facts: tuple[tuple[str, str], ...] = ()
    caveats: tuple[str, ...] = ()

    @property
    def variants(self) -> tuple[str, ...]:
        """In the order in which they were named."""
        return tuple(dict.fromkeys(trial.variant for trial in self.trials))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of all trials."""
        return tuple(sorted({trial.seed for trial in self.trials}))

    def marked(self, variant: str) -> str:
        """Return its name, with a dagger where one of its trials switched to another source attack."""
        return f"{variant} †" if any(trial.switched for trial in self.of(variant)) else variant

    def of(self, variant: str) -> tuple[Trial, ...]:
        """Return the trials of a variant, by seed."""
        return tuple(sorted((t for t in self.trials if t.variant == variant), key=lambda trial: trial.seed))

    @property
    def columns(self) -> tuple[Column, ...]:
        """Clean, the attacks that every image met, the worst case, then those from surrogates."""
        outcomes = self.trials[0].audit.outcomes
        complete = [o for o in outcomes if all(t.audit.outcome(o.name).complete for t in self.trials)]
        white = [Column(o.name) for o in complete if o.access is not Access.TRANSFER]
        black = [Column(o.name, o.crafted_by or o.name) for o in complete if o.access is Access.TRANSFER]
        return (CLEAN, *white, WORST, *black)

    def figure(self, variant: str, column: Column) -> Figure:
        """Return the accuracy in a column, over seeds."""
        return Figure.over([accuracy(trial.audit, column).value for trial in self.of(variant)])

    def passes(self, variant: str) -> float:
        """Passes of training, mean over seeds."""
        return fmean(trial.history.passes for trial in self.of(variant))

    def seconds(self, variant: str) -> float:
        """Seconds of training, mean over seeds."""
        return fmean(trial.history.seconds for trial in self.of(variant))

    def at_chance(self, variant: str) -> bool:
        """Whether the clean accuracy of one of its trials is at chance: its worst case is then no robustness."""
        return any(at_chance(trial.audit) for trial in self.of(variant))

    def ranked(self) -> tuple[str, ...]:
        """Return the variants, the highest mean worst case first, and those at chance last."""
        return tuple(
            sorted(self.variants, key=lambda v: (not self.at_chance(v), self.figure(v, WORST).mean), reverse=True)
        )

    def gain(self, variant: str, other: str, *, among: int = 1) -> Difference | None:
        """Return how much more of the worst case `variant` withstands than `other`, with an interval; None without a
        seed that both were trained with.

        Two things are uncertain and add up as squares: what another sample of images would change (of the paired
        images, the mean over seeds) and, with several seeds, what other seeds would (Student's, of the differences
        seed by seed). With one seed the interval knows nothing of other seeds.

        Args:
            variant, other: of `variants`.
            among: differences that are looked at together; the interval of each is widened so that all of them hold
                with 95 % (Bonferroni).
        """
        from scipy.stats import norm, t

        pairs = [(a, b) for a in self.of(variant) for b in self.of(other) if a.seed == b.seed]
        if not pairs:
            return None
        level = 1 - 0.05 / among / 2
        found = [a.audit.worst_case_gain(b.audit) for a, b in pairs]
        mean = fmean(difference.value for difference in found)
        wider = float(norm.ppf(level)) / Z95
        # Each side by itself: of few images the interval reaches much further to one side than to the other.
        below = wider * fmean(difference.value - difference.low for difference in found)
        above = wider * fmean(difference.high - difference.value for difference in found)
        seeds = 0.0
        if len(found) > 1:
            spread = stdev(difference.value for difference in found) / math.sqrt(len(found))
            seeds = float(t.ppf(level, len(found) - 1)) * spread
        return Difference(mean, max(-1.0, mean - math.hypot(below, seeds)), min(1.0, mean + math.hypot(above, seeds)))

    def verdict(self) -> tuple[str, ...]:
        """Return what withstands most and by how much, in sentences, the most important first."""
        best, *rest = self.ranked()
        figure = self.figure(best, WORST)
        judged = [other for other in rest if not self.at_chance(other)]
        found = [self._first(best, figure, judged)]
        if figure.mean > 0 and not self.at_chance(best):
            found += [self._against(best, other, len(judged)) for other in judged]
        found += [
            f"{variant} is at chance on clean images, so its {written(self.figure(variant, WORST))} in the worst case "
            "means nothing."
            for variant in self.ranked()
            if self.at_chance(variant)
        ]
        ours = next((v for v in judged if self.of(v)[0].method in ADV4ADV), None)
        lead = self.gain(best, ours, among=len(judged)) if ours is not None else None
        if lead is not None and lead.low > 0 and self.of(best)[0].method not in ADV4ADV:
            found.insert(1, f"No variant of Adv-4-Adv wins here: the best of them, {ours}, comes after {best}.")
        return tuple(found)

    def _first(self, best: str, figure: Figure, others: Sequence[str]) -> str:
        """Return the sentence that the comparison begins with."""
        if self.at_chance(best):
            return f"No method left a model above chance on clean images, at {self.basis}: there is nothing to compare."
        if figure.mean == 0:
            who = "any method" if others else best
            return f"No image withstands the attacks on {who}, at {self.basis}."
        if not others:
            return f"{best} withstands {written(figure)} in the worst case, at {self.basis}."
        gains = [self.gain(best, other, among=len(others)) for other in others]
        told_apart = all(gain is not None and gain.low > 0 for gain in gains)
        tied = [other for other in others if self.figure(other, WORST).mean == figure.mean]
        if tied:
            names = ", ".join((best, *tied[:-1]))
            return f"{names} and {tied[-1]} withstand the same: {written(figure)} in the worst case, at {self.basis}."
        found = f"{best} withstands most: {written(figure)} in the worst case, at {self.basis}."
        return found if told_apart else f"{found[:-1]}, but not every lead is beyond chance."

    def _against(self, one: str, other: str, among: int) -> str:
        gain = self.gain(one, other, among=among)
        if gain is None:
            return f"{one} and {other} have no seed in common: nothing can be said of the two."
        half = (gain.high - gain.low) / 2
        cost, theirs = self.passes(one), self.passes(other)
        ratio = f", at {cost / theirs:.1f}x its passes" if cost and theirs else ""
        evidence = f"{counted(len(self.seeds), 'seed')} and {counted(len(self.trials[0].audit), 'image')}"
        if gain.low > 0:
            return f"{one} beats {other} by {100 * gain.value:.1f} ± {100 * half:.1f} points{ratio}."
        if round(abs(gain.value), 3) == 0:  # in print 0.0 points, which is no lead
            return f"{one} and {other} differ by 0.0 ± {100 * half:.1f} points{ratio}, from {evidence}."
        ahead, behind = (one, other) if gain.value > 0 else (other, one)
        seeds = "" if gain.value > 0 else " on the seeds that both have"
        return (
            f"{ahead} is ahead of {behind} by {100 * abs(gain.value):.1f} ± {100 * half:.1f} points{seeds}{ratio}: too "
            f"little to tell from {evidence}."
        )

    def remarks(self) -> tuple[str, ...]:
        """Return what a reader must know of single variants: switched sources, collapses, failed checks."""
        found = []
        for variant in self.variants:
            trials = self.of(variant)
            switched = [str(trial.seed) for trial in trials if trial.switched]
            if switched:
                kinds = dict.fromkeys(kind for trial in trials for kind in trial.collapses)
                found.append(
                    f"† {variant} (seed {', '.join(switched)}): {', '.join(kinds)}; it was rolled back and for a time "
                    "trained on N-FGSM examples, so it is no longer that method alone."
                )
            other = [t for t in trials if t.collapses and not t.switched]
            if other:
                kinds = dict.fromkeys(kind for trial in other for kind in trial.collapses)
                found.append(
                    f"{variant} (seed {', '.join(str(t.seed) for t in other)}): {', '.join(kinds)} in training."
                )
        return (*found, *self._doubts(), *self.caveats)

    def _doubts(self) -> list[str]:
        """Return the checks of whether to believe an audit that fail, each with the variants that fail it."""
        failing: dict[str, list[str]] = {}
        findings: dict[str, str] = {}
        for trial in self.trials:
            for check in trial.audit.checks:
                if check.status is Status.FAIL:
                    findings.setdefault(check.name, check.finding)
                    failing.setdefault(check.name, []).append(trial.variant)
        return [
            f"{'All' if set(whose) == set(self.variants) else ', '.join(dict.fromkeys(whose))}: the check "
            f'"{name}" fails, so do not believe the figures as they are. {findings[name]}'
            for name, whose in failing.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the `comparison.json` document; `from_json` reads it."""
        return {
            "schema": SCHEMA,
            "title": self.title,
            "basis": self.basis,
            "verdict": list(self.verdict()),
            "table": [
                {
                    "variant": variant,
                    **{
                        column.name: {
                            "mean": round(f.mean, 6),
                            "spread": None if f.spread is None else round(f.spread, 6),
                        }
                        for column in self.columns
                        for f in (self.figure(variant, column),)
                    },
                    "passes": round(self.passes(variant)),
                    "seconds": round(self.seconds(variant), 1),
                }
                for variant in self.variants
            ],
            "facts": [list(fact) for fact in self.facts],
            "caveats": list(self.caveats),
            "trials": [trial.to_json() for trial in self.trials],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Comparison:
        """Read what `to_json` wrote.

        Raises:
            DataError: the document has another schema.
        """
        if data.get("schema") != SCHEMA:
            raise DataError(
                f"this comparison has schema {data.get('schema')!r}; this version reads {SCHEMA!r}",
                hint="run the same `harden compare` again: it only writes it anew",
            )
        return cls(
            data["title"],
            data["basis"],
            tuple(Trial.from_json(trial) for trial in data["trials"]),
            tuple((fact[0], fact[1]) for fact in data["facts"]),
            tuple(data["caveats"]),
        )


def accuracy(audit: AuditResult, column: Column) -> Proportion:
    """Return the accuracy of one audit in a column."""
    if column == CLEAN:
        return audit.clean_accuracy()
    if column == WORST:
        return audit.worst_case()
    return audit.robust_accuracy(audit.outcome(column.name))


def written(figure: Figure) -> str:
    """Write a figure as "66.2 %", or "66.2 % ± 0.8" with the spread over seeds."""
    spread = "" if figure.spread is None else f" ± {100 * figure.spread:.1f}"
    return percent(figure.mean) + spread
