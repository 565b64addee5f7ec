"""report.md: the verdict, the table, the definitions, the facts, as GitHub shows them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harden.audit.believe import Check, Status
from harden.files import write_whole
from harden.report.beliefs import MARKS, failing_others, in_order, tally
from harden.report.figures import MISSING, counted, interval, points, radius, with_interval
from harden.report.report import Report
from harden.report.side_by_side import MEMBER_MARK, MEMBER_NOTE, Cell, Row, RowKind, any_member, attack_rows, rows
from harden.report.unseen import shift_lines
from harden.report.verdict import cautions, verdict_of


def dumps(report: Report) -> str:
    """Return the report as GitHub-flavoured Markdown."""
    blocks = [f"# {plain(report.title)}", f"**{plain(verdict_of(report).sentence())}**"]
    if report.ending is not None:
        blocks.append(plain(f"{report.ending.sentence()} {report.ending.remedy}"))
    if report.gates:
        signs = {True: "✅", False: "❌"}
        blocks.append(
            "\n".join(f"- {signs[found.met]} {plain(found.sentence().replace('>=', '≥', 1))}" for found in report.gates)
        )
    notes = cautions(report)
    if notes:
        blocks.append("> [!WARNING]\n" + "\n>\n".join(f"> {plain(note)}" for note in notes))
    blocks.append(_table(report))
    blocks.extend(_footnotes(report))
    blocks.extend(_checks(report))
    attacks = attack_rows(report)
    if attacks:
        blocks.append("## Attacks")
        blocks.append(
            "\n".join(f"- **{plain(row.label)}** ({row.exposure}): {plain(row.definition)}" for row in attacks)
        )
    blocks.extend(_curve(report))
    blocks.extend(_shifts(report))
    if report.facts:
        blocks.append("## How these numbers came about")
        blocks.append("\n".join(f"- {plain(label)}: {plain(value)}" for label, value in report.facts))
    return "\n\n".join(blocks) + "\n"


def write(report: Report, path: Path) -> Path:
    """Write the report to `path`, whole or not at all.

    Raises:
        RunFolderError: the file cannot be written.
    """
    return write_whole(path, dumps(report))


def _checks(report: Report) -> list[str]:
    checks = report.subject.checks
    lines = [f"- {_checked(check)}" for check in in_order(checks) if check.status in (Status.FAIL, Status.WARN)]
    lines += [f"- {plain(model)}: {_checked(replace(check, remedy=''))}" for model, check in failing_others(report)]
    if not checks and not lines:
        return []
    told = [f"{tally(checks)}."] if checks else []
    return ["## Can I believe this?", *told, *(["\n".join(lines)] if lines else [])]


def _checked(check: Check) -> str:
    told = plain(f"{check.finding} {check.remedy}".strip())
    return f"{MARKS[check.status]} **{check.status.value}: {plain(check.name)}.** {told}"


def _shifts(report: Report) -> list[str]:
    lines = shift_lines(report.subject)
    return ["## Beyond the threat model", "\n".join(f"- {plain(line)}" for line in lines)] if lines else []


def _curve(report: Report) -> list[str]:
    """Return the accuracies at the radii of the subject's curve, the models side by side."""
    curve = report.subject.curve
    if curve is None:
        return []
    shown = [
        (result.model, dict(zip(result.curve.eps, result.curve.accuracies(), strict=True)))
        for result in report.results
        if result.curve is not None and (result.curve.norm, result.curve.definition) == (curve.norm, curve.definition)
    ]
    lines = [line([f"eps ({curve.norm})", *(plain(model) for model, _ in shown)]), line(["--:"] * (len(shown) + 1))]
    for eps in curve.eps:
        figures = (with_interval(found[eps]) if eps in found else MISSING for _, found in shown)
        lines.append(line([radius(eps), *figures]))
    note = f"{plain(curve.definition)}; {counted(curve.total, 'image')}."
    return ["## Accuracy against eps", "\n".join(lines), note]


def _table(report: Report) -> str:
    models = [plain(result.model) for result in report.results]
    lines = [line(["", "exposure", *models]), line([":--", ":--", *["--:"] * len(models)])]
    lines.extend(line(_cells(row)) for row in rows(report))
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    texts = [plain(row.label), row.exposure.value if row.exposure else "", *(_figure(cell) for cell in row.cells)]
    return [f"**{text}**" if text else "" for text in texts] if row.kind is RowKind.WORST else texts


def _figure(cell: Cell | None) -> str:
    if cell is None:
        return MISSING
    return f"{MEMBER_MARK if cell.member else ''}{with_interval(cell.accuracy)}"


def _footnotes(report: Report) -> list[str]:
    found = ["In brackets: 95 % intervals (Wilson), in percent."]
    gain = verdict_of(report).gain
    if gain is not None and report.baseline is not None:
        found.insert(
            0,
            f"Worst case, {plain(report.subject.model)} against {plain(report.baseline.model)} on the same images: "
            f"**{points(gain.value)}** {interval(gain)}.",
        )
    if any_member(rows(report)):
        found.append(MEMBER_NOTE)
    return found


def line(texts: Sequence[str]) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(texts)} |"


def plain(text: str) -> str:
    """Return text that Markdown shows as it is, on one line, in a table cell too."""
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_|~]|\](?=[(\[:]))", r"\\\1", flat)
