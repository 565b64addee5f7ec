"""The one table behind every format: clean, each attack and the worst case as rows, the models as columns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum

from harden.audit.metrics import Proportion
from harden.audit.result import AttackOutcome, AuditResult, Exposure
from harden.report.figures import radius
from harden.report.report import Report

MEMBER_MARK = "left "
"""Stands before the figure of a cell whose `member` is true."""

MEMBER_NOTE = (
    f"{MEMBER_MARK.strip()}: by a member of an ensemble, which attacked only the images that still stood when its turn "
    "came; the figure is what stands after it and all attacks above it."
)
"""Explains such a cell; every format shows it where there is one."""


class RowKind(Enum):
    """What a row shows."""

    CLEAN = "clean"
    ATTACK = "attack"
    WORST = "worst"


@dataclass(frozen=True)
class Cell:
    """The accuracy of one model in one row.

    Attributes:
        accuracy: with its interval.
        member: whether the attack did not have every image, and the accuracy is that after it and all before it.
    """

    accuracy: Proportion
    member: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        kind: clean, attack or worst case.
        label: unique among the rows.
        exposure: of the attack to the subject (to the baselines where only they met it); None for clean and worst case.
        definition: of the attack, else empty.
        cells: one per model, None where the model was not attacked in this way.
    """

    kind: RowKind
    label: str
    exposure: Exposure | None
    definition: str
    cells: tuple[Cell | None, ...]


AttackKey = tuple[str, str, float, str, int]


def attack_keys(result: AuditResult) -> dict[AttackKey, AttackOutcome]:
    """Return the attacks of an audit under keys that match between audits only where the attacks are the same."""
    keyed: dict[AttackKey, AttackOutcome] = {}
    for outcome in result.outcomes:
        nth = 0
        while (key := (outcome.name, outcome.norm, outcome.eps, outcome.identity, nth)) in keyed:
            nth += 1
        keyed[key] = outcome
    return keyed


def labels_of(result: AuditResult) -> dict[str, AttackOutcome]:
    """Return the attacks of one audit by labels that are unique among them."""
    keyed = attack_keys(result)
    return {label: keyed[key] for key, label in _labels(list(keyed)).items()}


def rows(report: Report) -> tuple[Row, ...]:
    """Return clean, then every attack in the order in which the subject met it, then the worst case."""
    keyed = [attack_keys(result) for result in report.results]
    order = list(dict.fromkeys(key for attacks in (keyed[-1], *keyed[:-1]) for key in attacks))
    labels = _labels(order)
    attacks = [
        Row(
            kind=RowKind.ATTACK,
            label=labels[key],
            exposure=next(found[key].exposure for found in (keyed[-1], *keyed[:-1]) if key in found),
            definition=next(found[key].definition for found in (keyed[-1], *keyed[:-1]) if key in found),
            cells=tuple(
                _cell(result, found[key]) if key in found else None
                for result, found in zip(report.results, keyed, strict=True)
            ),
        )
        for key in order
    ]
    clean = Row(RowKind.CLEAN, "clean", None, "", tuple(Cell(r.clean_accuracy()) for r in report.results))
    if not any(result.measured for result in report.results):
        return (clean, *attacks)
    worst = Row(
        RowKind.WORST,
        "worst case",
        None,
        "",
        tuple(Cell(result.worst_case()) if result.measured else None for result in report.results),
    )
    return (clean, *attacks, worst)


def attack_rows(report: Report) -> tuple[Row, ...]:
    """Return the rows that are attacks."""
    return tuple(row for row in rows(report) if row.kind is RowKind.ATTACK)


def any_member(table: tuple[Row, ...]) -> bool:
    """Whether `MEMBER_NOTE` is needed."""
    return any(cell is not None and cell.member for row in table for cell in row.cells)


def _cell(result: AuditResult, outcome: AttackOutcome) -> Cell:
    if outcome.complete:
        return Cell(result.robust_accuracy(outcome))
    return Cell(result.accuracy_after(outcome), member=True)


def _labels(keys: list[AttackKey]) -> dict[AttackKey, str]:
    """Name each attack; the radius is added where there are several, a number where that does not tell them apart."""
    several = len({(norm, eps) for _, norm, eps, _, _ in keys}) > 1
    seen: Counter[str] = Counter()
    labels = {}
    for key in keys:
        name, norm, eps, _, _ = key
        label = f"{name}, {norm} {radius(eps)}" if several else name
        seen[label] += 1
        labels[key] = label if seen[label] == 1 else f"{label} ({seen[label]})"
    return labels
