"""comparison.html: who wins, the table, accuracy over the epochs, and what attacks do to the logits of each variant."""

from __future__ import annotations

import itertools
import math
from statistics import fmean

from harden.report.comparison import Comparison
from harden.report.comparison_text import Shown, columns, notes, silhouette_rows
from harden.report.curves import Axis, Curve, Scale, line_chart
from harden.report.html import page
from harden.report.markup import Html, element, joined
from harden.report.section import Section
from harden.report.sections.representation import class_legend, pictures

_CHARTS = (
    ("val_robust", "Under the attack used for selection, on held-out images"),
    ("val_clean", "On clean held-out images"),
)

_EMPTY = element("td", None, "")


def dumps(comparison: Comparison) -> str:
    """Return the page."""
    sections = {
        "verdict": _verdict(comparison),
        "cautions": _remarks(comparison),
        "table": _table(comparison),
        "training": _training(comparison),
        "representation": _representation(comparison),
        "definitions": _definitions(comparison),
        "facts": _facts(comparison),
    }
    shown = [(name, section) for name, section in sections.items() if section is not None]
    return page(comparison.title, comparison.trials[0].audit.dataset, shown)


def _verdict(comparison: Comparison) -> Section:
    first, *rest = comparison.verdict()
    items = (element("li", None, sentence) for sentence in rest)
    body = joined((element("p", {"class": "meaning"}, first), element("ul", {"class": "sentences"}, *items)))
    return Section("Verdict", body)


def _remarks(comparison: Comparison) -> Section | None:
    remarks = comparison.remarks()
    if not remarks:
        return None
    return Section("Read this first", element("ul", None, *(element("li", None, remark) for remark in remarks)))


def _table(comparison: Comparison) -> Section:
    shown = columns(comparison)
    heads = (element("th", {"scope": "col"}, ""), *(element("th", _look(s), s.head) for s in shown))
    groups = [_EMPTY]
    for group, members in itertools.groupby(shown, key=lambda s: s.group):
        span = len(list(members))
        groups += [element("th", {"colspan": span, "scope": "colgroup"}, group)] if group else [_EMPTY] * span
    rows = []
    for row, variant in enumerate(comparison.variants):
        cells = [
            element("td", _look(s), element("strong", None, s.cells[row]) if row in s.best else s.cells[row])
            for s in shown
        ]
        rows.append(element("tr", None, element("th", {"scope": "row"}, comparison.marked(variant)), *cells))
    table = element(
        "table",
        {"class": "comparison"},
        element("caption", {"class": "spoken"}, "Accuracy of every variant, clean and under each attack"),
        element("thead", None, element("tr", None, *groups), element("tr", None, *heads)),
        element("tbody", None, *rows),
    )
    small = (element("p", {"class": "footnote"}, note) for note in (*notes(comparison), "Bold: the best of a column."))
    return Section("Table", joined((element("div", {"class": "wide wider"}, table), *small)))


def _look(shown: Shown) -> dict[str, str | int | float]:
    return {"class": "number strong" if shown.strong else "number"}


def _training(comparison: Comparison) -> Section | None:
    charts = [chart for scalar, title in _CHARTS if (chart := _chart(comparison, scalar, title)) is not None]
    body = element("div", {"class": "compared"}, *charts)
    return Section("Accuracy over the epochs", body) if charts else None


def _chart(comparison: Comparison, scalar: str, title: str) -> Html | None:
    longest = max(len(trial.history.epochs) for trial in comparison.trials)
    curves = []
    for nth, variant in enumerate(comparison.variants):
        histories = [trial.history.epochs for trial in comparison.of(variant)]
        values = tuple(
            _mean([epochs[at].scalars.get(scalar, math.nan) for epochs in histories if at < len(epochs)])
            for at in range(longest)
        )
        if any(map(math.isfinite, values)):
            curves.append(Curve(variant, f"k{nth % 10}", values))
    if not curves:
        return None
    numbers = tuple(range(1, longest + 1))
    nothing = (False,) * longest
    spoken = " ".join(f"{curve.name}." for curve in curves)
    drawn = line_chart(curves, Axis(numbers, nothing, nothing, None), Scale(), title=title, description=spoken)
    broken = any(not math.isfinite(value) for curve in curves for value in curve.values)
    gaps = (
        element("p", {"class": "footnote"}, "Where a line is broken, the epoch was rolled back.") if broken else Html()
    )
    return joined((element("h3", None, title), drawn, gaps))


def _mean(values: list[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return fmean(finite) if finite else math.nan


def _representation(comparison: Comparison) -> Section | None:
    table = silhouette_rows(comparison)
    if table is None:
        return None
    heads, rows = table
    parts = [
        element(
            "p",
            None,
            "Silhouette of the logits with the true classes as clusters: 1 where each class is a cluster of its own, 0 "
            "where they touch, below 0 where images lie nearer to another class (the paper's Table 2).",
        ),
        element(
            "div",
            {"class": "wide"},
            element(
                "table",
                {"class": "representation"},
                element("caption", {"class": "spoken"}, "Silhouette scores of the logits, attack by attack"),
                element(
                    "thead",
                    None,
                    element(
                        "tr",
                        None,
                        element("th", {"scope": "col"}, ""),
                        *(element("th", {"scope": "col", "class": "number"}, head) for head in heads),
                    ),
                ),
                element(
                    "tbody",
                    None,
                    *(
                        element(
                            "tr",
                            None,
                            element("th", {"scope": "row"}, name),
                            *(element("td", {"class": "number"}, value) for value in values),
                        )
                        for name, *values in rows
                    ),
                ),
            ),
        ),
    ]
    for variant in comparison.variants:
        found = comparison.of(variant)[0].audit.representation
        if found is not None and len(found.labels):
            parts.extend((element("h3", None, variant), pictures(found, len(found.domains))))
    parts.append(class_legend(comparison.trials[0].audit.classes))
    seed = comparison.seeds[0]
    parts.append(
        element(
            "p",
            {"class": "footnote"},
            f"Of seed {seed}. A dot is an image and its colour the true class; t-SNE placed clean and attacked logits "
            "of a model together. It bends distances: the pictures illustrate, the table measures.",
        )
    )
    return Section("What attacks do to the logits", element("div", {"class": "compared"}, *parts))


def _definitions(comparison: Comparison) -> Section:
    definitions = dict.fromkeys((o.name, o.definition) for o in comparison.trials[0].audit.outcomes)
    return Section("Attacks", _pairs(tuple(definitions)))


def _facts(comparison: Comparison) -> Section:
    machine = comparison.trials[0].audit.machine
    return Section("How these numbers came about", _pairs((*comparison.facts, ("machine", machine))))


def _pairs(pairs: tuple[tuple[str, str], ...]) -> Html:
    entries = (element("div", None, element("dt", None, label), element("dd", None, value)) for label, value in pairs)
    return element("dl", {"class": "pairs"}, *entries)
