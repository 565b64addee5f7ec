"""The report on a terminal: the verdict in one line, then one table, as rich renderables; nothing is printed here."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from itertools import product

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harden.audit.believe import Status
from harden.audit.result import Exposure
from harden.report.beliefs import doubts, failing_others, in_order, tally
from harden.report.ending import EndStatus
from harden.report.figures import MISSING, interval, percent, points, with_interval
from harden.report.report import Report
from harden.report.side_by_side import MEMBER_MARK, MEMBER_NOTE, Cell, Row, RowKind, any_member, attack_rows, rows
from harden.report.unseen import shift_lines
from harden.report.verdict import Verdict, cautions, verdict_of

SHORT_EXPOSURE = {Exposure.TRAINING: "training", Exposure.SELECTION: "selection", Exposure.UNSEEN: "unseen"}
"""What stands in the table where "seen in training" has no room."""

STYLES = {Status.FAIL: "bold red", Status.WARN: "bold yellow"}
"""Checks that are told of one by one; the others are only counted."""

_END_STYLES = {
    EndStatus.HARDENED: "bold green",
    EndStatus.NOT_JUDGED: "",
    EndStatus.NO_GAIN: "bold yellow",
    EndStatus.WORSE: "bold red",
    EndStatus.FAILED: "bold red",
}

_GAP = 2
_LABEL_LIMIT = 26
_MODEL_LIMIT = 24
_TIE = "\x00"


@dataclass(frozen=True)
class _Layout:
    """How much of each row is shown; `exposure` is "full", "short" or "none"."""

    intervals: bool
    exposure: str


_LAYOUTS = [
    _Layout(intervals, exposure)
    for intervals, exposure in product((True, False), ("full", "short", "none"))
    if (intervals, exposure) != (True, "none")
]
"""From generous to terse: the exposure is shortened first, then the intervals go, then the exposure."""


def render(report: Report, *, width: int) -> Group:
    """Return the report for a terminal of `width` columns; no line is longer, with or without colour."""
    verdict, table = verdict_of(report), rows(report)
    parts: list[RenderableType] = [Text(_wrapped(verdict.sentence(), width), style="bold")]
    if report.ending is not None:
        parts.append(Text(_wrapped(report.ending.sentence(), width), style=_END_STYLES[report.ending.status]))
        if report.ending.remedy:
            parts.append(Text(_wrapped(report.ending.remedy, width), style="italic"))
    parts.extend(Text(_wrapped(doubt, width), style="bold red") for doubt in doubts(report))
    parts.append(Text(""))
    gates = [
        Text(_wrapped(found.sentence(), width), style="green" if found.met else "bold red") for found in report.gates
    ]
    parts.extend((*gates, Text("")) if gates else ())
    parts.extend(_tables(report, table, verdict, width))
    parts.extend(_shifts(report, width))
    parts.extend(_checks(report))
    notes = [Text(f"{report.subject.dataset}; seed {report.subject.seed}; brackets are 95 % intervals in percent.")]
    if any_member(table):
        notes.append(Text(MEMBER_NOTE))
    notes.extend(Text(f"{row.label} ({row.exposure}): {row.definition}") for row in attack_rows(report))
    for note in notes:
        note.stylize("dim")
    parts.extend((Text(""), *notes))
    warnings = [
        Text.assemble(("warning: ", "bold yellow"), caution) for caution in cautions(report)[len(doubts(report)) :]
    ]
    parts.extend((Text(""), *warnings) if warnings else ())
    return Group(*(Constrain(part, width) for part in parts))


def _shifts(report: Report, width: int) -> list[RenderableType]:
    """Return a line on each of the other norms, one on the corruptions and one on the spread."""
    lines = shift_lines(report.subject)
    if not lines:
        return []
    return [Text(""), Text("Beyond the threat model", style="bold"), *(Text(_wrapped(line, width)) for line in lines)]


def _checks(report: Report) -> list[RenderableType]:
    """Return how many checks pass, then each that does not with its remedy; of the other models only what fails."""
    checks = report.subject.checks
    parts: list[RenderableType] = [Text(f"Can I believe this? {tally(checks)}.", style="bold")] if checks else []
    loud = [("", check) for check in in_order(checks) if check.status in STYLES]
    loud += [(f"{model}: ", check) for model, check in failing_others(report)]
    advised: set[str] = set()
    for whose, check in loud:
        head = (f"{check.status.value}: ", STYLES[check.status])
        parts.append(Text.assemble(head, f"{whose}{check.name}. {check.finding}"))
        if check.remedy and not whose and check.remedy not in advised:
            advised.add(check.remedy)
            parts.append(Padding(Text(check.remedy, style="italic"), (0, 0, 0, 6)))
    return [Text(""), *parts] if parts else []


def _wrapped(sentence: str, width: int) -> str:
    """Break the line so that neither a figure and its percent sign nor the two ends of an interval come apart."""
    bound = re.sub(r" (?=%|[\d.]+\])", _TIE, sentence)
    return "\n".join(textwrap.wrap(bound, width, break_on_hyphens=False)).replace(_TIE, " ")


def _tables(report: Report, table: tuple[Row, ...], verdict: Verdict, width: int) -> list[RenderableType]:
    """Return one table, or several below each other where the models do not fit side by side."""
    everyone = range(len(report.results))
    attacked = any(row.exposure is not None for row in table)
    for layout in _LAYOUTS if attacked else (_Layout(True, "none"), _Layout(False, "none")):
        if _needed(report, table, layout, everyone) <= width:
            return [_table(report, table, layout, everyone, verdict)]
    found: list[RenderableType] = []
    terse, start = _LAYOUTS[-1], 0
    while start < len(report.results):
        stop = start + 1
        while stop < len(report.results) and _needed(report, table, terse, range(start, stop + 1)) <= width:
            stop += 1
        found.extend([Text("")] if found else [])
        found.append(_table(report, table, terse, range(start, stop), verdict))
        start = stop
    return found


def _table(report: Report, table: tuple[Row, ...], layout: _Layout, models: range, verdict: Verdict) -> Table:
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP, 0, 0), highlight=False)
    drawn.add_column("", no_wrap=True, overflow="ellipsis", max_width=_LABEL_LIMIT)
    if layout.exposure != "none":
        drawn.add_column("exposure", no_wrap=True)
    for model in models:
        name = Text(report.results[model].model, overflow="fold")
        drawn.add_column(name, justify="right", no_wrap=False, max_width=_model_width(report, table, layout, model))
    for row in table:
        drawn.add_row(
            *_words(row, layout),
            *(_aligned(_figure(row.cells[model], layout)) for model in models),
            style="bold" if row.kind is RowKind.WORST else None,
            end_section=row in table[-2:-1],
        )
    gain = verdict.gain
    if gain is not None and len(report.results) == 2 and len(models) == 2:
        shown = f"{points(gain.value)} {interval(gain)}" if layout.intervals else points(gain.value)
        drawn.add_row(*_words(_GAIN, layout), Text(""), Text(shown), style="green" if gain.low > 0 else None)
    return drawn


_GAIN = Row(RowKind.WORST, "paired gain", None, "", ())


def _words(row: Row, layout: _Layout) -> list[Text]:
    label = Text(row.label)
    if layout.exposure == "none":
        return [label]
    if row.exposure is None:
        return [label, Text("")]
    return [label, Text(row.exposure.value if layout.exposure == "full" else SHORT_EXPOSURE[row.exposure])]


def _figure(cell: Cell | None, layout: _Layout) -> str:
    if cell is None:
        return MISSING
    mark = MEMBER_MARK if cell.member else ""
    return mark + (with_interval(cell.accuracy) if layout.intervals else percent(cell.accuracy.value))


def _aligned(text: str) -> Text:
    return Text(text, no_wrap=True)


def _model_width(report: Report, table: tuple[Row, ...], layout: _Layout, model: int) -> int:
    """Return the columns that the figures of one model need; its name wraps into at least nine of them."""
    figures = max(cell_len(_figure(row.cells[model], layout)) for row in table)
    gain = 0
    if len(report.results) == 2 and model == 1:
        gain = cell_len("+100.0 points [-10.0, 100.0]" if layout.intervals else "+100.0 points")
    name = min(cell_len(report.results[model].model), _MODEL_LIMIT if layout.intervals else 14)
    return max(figures, gain, name)


def _needed(report: Report, table: tuple[Row, ...], layout: _Layout, models: range) -> int:
    """Return the width that the table takes with this layout."""
    words = max(min(cell_len(row.label), _LABEL_LIMIT) for row in table)
    if layout.exposure != "none":
        longest = max((cell_len(_words(row, layout)[1].plain) for row in table), default=0)
        words += _GAP + max(longest, cell_len("exposure"))
    return words + sum(_GAP + _model_width(report, table, layout, model) for model in models)
