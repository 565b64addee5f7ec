"""Validation accuracy over the epochs, and what the program did on the way."""

from __future__ import annotations

import math

from harden.durations import duration
from harden.report.curves import Axis, Curve, Scale, line_chart
from harden.report.figures import counted, percent
from harden.report.markup import Html, element, joined
from harden.report.report import Report
from harden.report.section import Section
from harden.training.history import EpochRecord, History

_CURVES = {
    "val_clean": ("clean", "clean validation images"),
    "val_robust": ("robust", "under the attack used for selection (averaged weights)"),
    "val_canary": ("canary", "under an attack that training does not use, to notice a collapse"),
    "val_source": ("source", "under the source attack that training began with"),
}
"""Scalar -> what stands at the end of its line (its class, too), what the legend says."""


def training(report: Report) -> Section | None:
    """Return the curves, or None where the model was not trained here."""
    history = report.history
    if history is None:
        return None
    curves = {scalar: Curve(name, name, values_of(history, scalar)) for scalar, (name, _) in _CURVES.items()}
    shown = {scalar: curve for scalar, curve in curves.items() if any(map(math.isfinite, curve.values))}
    if not shown:
        return None
    chart = line_chart(
        list(shown.values()),
        axis_of(history),
        Scale(),
        title="Validation accuracy by epoch",
        description=" ".join(_spoken(curve) for curve in shown.values()),
    )
    items = (
        element("li", None, element("span", {"class": f"stroke {_CURVES[s][0]}"}), f"{_CURVES[s][0]}: {_CURVES[s][1]}")
        for s in shown
    )
    parts = (chart, element("ul", {"class": "legend"}, *items), _ran(history), _events(history))
    return Section("Training", joined(parts))


def values_of(history: History, scalar: str) -> tuple[float, ...]:
    """Return a scalar for every epoch, NaN where an epoch has none."""
    return tuple(epoch.scalars.get(scalar, math.nan) for epoch in history.epochs)


def axis_of(history: History) -> Axis:
    """Return the epochs for the bottom of a chart."""
    kept = [i for i, e in enumerate(history.epochs) if e.epoch == history.chosen_epoch and not e.rolled_back]
    return Axis(
        epochs=tuple(epoch.epoch for epoch in history.epochs),
        undone=tuple(epoch.rolled_back for epoch in history.epochs),
        noted=tuple(bool(epoch.event) for epoch in history.epochs),
        chosen=kept[-1] if kept else None,
    )


def _spoken(curve: Curve) -> str:
    finite = [value for value in curve.values if math.isfinite(value)]
    return f"{curve.name} from {percent(finite[0])} to {percent(finite[-1])}, at best {percent(max(finite))}."


def _ran(history: History) -> Html:
    sources = dict.fromkeys(epoch.sources for epoch in history.epochs if epoch.source_attacks)
    words = f"{counted(len(history.epochs), 'epoch')} in {duration(sum(e.seconds for e in history.epochs))}."
    if sources:
        words += f" Training examples were crafted by {', '.join(sources)}."
    if history.chosen_epoch is not None:
        words += f" The model kept is that of epoch {history.chosen_epoch}."
    return element("p", {"class": "footnote"}, words)


def _events(history: History) -> Html:
    found = [epoch for epoch in history.epochs if epoch.event or epoch.rolled_back]
    if not found:
        return Html()
    return element("ul", {"class": "events"}, *(_event(epoch) for epoch in found))


def _event(epoch: EpochRecord) -> Html:
    head = f"Epoch {epoch.epoch}{', rolled back' if epoch.rolled_back else ''}"
    return element("li", None, element("strong", None, head), f": {epoch.event}" if epoch.event else "")
