"""Accuracy against eps: what is left at smaller and at larger radii than the audited one."""

from __future__ import annotations

from harden.audit.curve import EpsCurve
from harden.audit.result import AuditResult
from harden.report.figures import counted, percent, radius
from harden.report.legend import legend, looks
from harden.report.markup import element, joined
from harden.report.plot import Across, Line, plot
from harden.report.report import Report
from harden.report.section import Section

NOTHING_LEFT = 0.005
"""An accuracy that looks like 0 in the chart, where it ends."""


def reach(report: Report) -> Section | None:
    """Return the chart with the models side by side, or None where the subject has no curve."""
    curve = report.subject.curve
    if curve is None or len(curve.eps) < 2 or not report.subject.outcomes:
        return None
    shown = [
        (look, result, result.curve)
        for look, result in zip(looks(report), report.results, strict=True)
        if result.curve is not None and result.curve.norm == curve.norm
    ]
    eps = report.subject.outcomes[0].eps
    across = Across(
        end=max(eps, *(_end(found) for _, _, found in shown)),
        unit=eps,
        name=f"eps ({curve.norm}, pixels in [0, 1])",
        mark=f"audited: {radius(eps)}",
    )
    chart = plot(
        [_line(look, result, found) for look, result, found in shown],
        across,
        title="Accuracy against eps",
        description=" ".join(_spoken(result, found) for _, result, found in shown),
    )
    sample = "" if curve.total == len(report.subject) else f" on {counted(curve.total, 'image')} of the audit"
    note = (
        f"One attack at rising radii{sample} ({curve.definition}); the band is the 95 % interval. The dot is the worst "
        f"case over all attacks and {'all ' if sample else ''}images at the audited radius, which lies below the line "
        "where other attacks find more. A line that does not come down to 0 at large radii is a sign that the attack "
        "fails, not that the model withstands."
    )
    return Section(
        "Accuracy against eps",
        joined((legend(report, mark="stroke"), chart, element("p", {"class": "footnote"}, note))),
    )


def _line(look: str, result: AuditResult, curve: EpsCurve) -> Line:
    accuracies = curve.accuracies()
    return Line(
        look,
        tuple((eps, found.value) for eps, found in zip(curve.eps, accuracies, strict=True)),
        tuple((eps, found.low, found.high) for eps, found in zip(curve.eps, accuracies, strict=True)),
        marked=result.worst_case().value if result.measured else None,
    )


def _end(curve: EpsCurve) -> float:
    """Return the radius at which nothing to speak of is left, or the last one."""
    over = (eps for eps, found in zip(curve.eps, curve.accuracies(), strict=True) if found.value <= NOTHING_LEFT)
    return next(over, curve.eps[-1])


def _spoken(result: AuditResult, curve: EpsCurve) -> str:
    figures = (
        f"{percent(found.value)} at {radius(eps)}" for eps, found in zip(curve.eps, curve.accuracies(), strict=True)
    )
    return f"{result.model}: {', '.join(figures)}."
