"""Bars with interval whiskers: each attack and the worst case, the models under each other."""

from __future__ import annotations

from harden.report.bars import Bar, BarGroup, bar_chart
from harden.report.figures import MISSING, percent
from harden.report.legend import legend, looks
from harden.report.markup import joined
from harden.report.report import Report
from harden.report.section import Section
from harden.report.side_by_side import Row, RowKind, rows


def attacks(report: Report) -> Section | None:
    """Return the chart, or None where no attack was run."""
    table = rows(report)
    if not any(row.kind is RowKind.ATTACK for row in table):
        return None
    ordered = sorted(table, key=lambda row: row.kind is not RowKind.WORST)
    chart = bar_chart(
        [_group(row, report) for row in ordered],
        title="Accuracy under each attack",
        description=" ".join(_spoken(row, report) for row in ordered),
    )
    return Section("Attack by attack", joined((legend(report), chart)))


def _group(row: Row, report: Report) -> BarGroup:
    bars = tuple(
        Bar(look, cell.accuracy, faint=cell.member)
        for look, cell in zip(looks(report), row.cells, strict=True)
        if cell is not None
    )
    remark = row.exposure.value if row.exposure is not None else ""
    return BarGroup(row.label, remark, bars, strong=row.kind is RowKind.WORST)


def _spoken(row: Row, report: Report) -> str:
    figures = (
        f"{result.model} {MISSING if cell is None else percent(cell.accuracy.value)}"
        for result, cell in zip(report.results, row.cells, strict=True)
    )
    return f"{row.label}: {', '.join(figures)}."
