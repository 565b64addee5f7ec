"""How small a perturbation is enough: the distribution of the smallest ones found, image by image."""

from __future__ import annotations

import numpy as np

from harden.audit.result import AuditResult, Floats
from harden.report.figures import percent, radius
from harden.report.legend import legend, looks
from harden.report.markup import element, joined
from harden.report.plot import Across, Line, plot
from harden.report.report import Report
from harden.report.section import Section

SPREAD = 0.1
"""Share of the fooled images whose distance must differ from eps: below it the attacks only tell what eps is."""
_POINTS = 200
_SHOWN = 0.95


def distances(report: Report) -> Section | None:
    """Return the chart, or None where no attack looked for small perturbations."""
    subject = report.subject
    if not subject.outcomes:
        return None
    eps, norm = subject.outcomes[0].eps, subject.outcomes[0].norm
    if not _says_something(subject.smallest_distances(), eps):
        return None
    shown = [
        (look, result, result.smallest_distances())
        for look, result in zip(looks(report), report.results, strict=True)
        if result.outcomes and result.outcomes[0].norm == norm
    ]
    end = max(1.25 * eps, *(float(np.quantile(_finite(found), _SHOWN)) for _, _, found in shown if len(_finite(found))))
    across = Across(
        end=end, unit=eps, name=f"{norm} norm of the perturbation (pixels in [0, 1])", mark=f"audited: {radius(eps)}"
    )
    chart = plot(
        [Line(look, _steps(found, end)) for look, _, found in shown],
        across,
        title="Share of images fooled by a perturbation of at most this norm",
        description=" ".join(_spoken(result, found, eps) for _, result, found in shown),
    )
    notes = (
        "Share of images for which some attack found a perturbation of at most this norm that changes the prediction "
        "to a wrong one; images that are wrong when clean count at 0. An upper bound on the distance: a nearer one may "
        "exist, so the true line is nowhere below this one.",
        "A step at the audited radius is made by attacks that use all of it, as most do; only those that look for the "
        "nearest example (FAB) measure less.",
    )
    median = _median(subject.smallest_distances())
    if median is not None and len(subject) > 1:
        notes = (f"For half of the images, {radius(float(f'{median:.3g}'))} is enough. {notes[0]}", *notes[1:])
    parts = (legend(report, mark="stroke"), chart, *(element("p", {"class": "footnote"}, note) for note in notes))
    return Section("How small a perturbation is enough", joined(parts))


def _finite(found: Floats) -> Floats:
    return found[np.isfinite(found) & (found > 0)]


def _says_something(found: Floats, eps: float) -> bool:
    fooled = _finite(found)
    return len(fooled) > 0 and float((np.abs(fooled - eps) > 0.02 * eps).mean()) >= SPREAD


def _steps(found: Floats, end: float) -> tuple[tuple[float, float], ...]:
    """Return the cumulative share over N images as steps, at no more than `_POINTS` distances."""
    total = len(found)
    ordered = np.sort(found[np.isfinite(found) & (found <= end)])
    ranks = np.unique(np.linspace(0, len(ordered), min(_POINTS, len(ordered)) + 1).round().astype(int))[1:]
    points, level = [(0.0, 0.0)], 0.0
    for rank in ranks.tolist():
        distance = float(ordered[rank - 1])
        points.append((distance, level))
        level = rank / total
        points.append((distance, level))
    return (*points, (end, level))


def _median(found: Floats) -> float | None:
    value = float(np.sort(found)[(len(found) - 1) // 2])
    return value if np.isfinite(value) and value > 0 else None


def _spoken(result: AuditResult, found: Floats, eps: float) -> str:
    shares = (f"{percent(float((found <= part * eps).mean()))} at {radius(part * eps)}" for part in (0, 0.5, 1))
    return f"{result.model}: {', '.join(shares)}."
