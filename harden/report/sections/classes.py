"""Worst case class by class, the weakest first: an average hides a class that an attacker owns."""

from __future__ import annotations

from harden.audit.metrics import Proportion
from harden.report.bars import Bar, small_bar
from harden.report.figures import count, interval, percent
from harden.report.markup import Html, element, joined
from harden.report.report import Report
from harden.report.section import Section

SHOWN = 20
"""Classes in the open table; the rest folds away."""
LIMIT = 1000
"""Classes on the page; what is beyond is in report.json."""

_Class = tuple[str, Proportion, Proportion | None]


def classes(report: Report) -> Section | None:
    """Return the table, or None where no attack was run."""
    subject, baseline = report.subject, report.baseline
    if not subject.measured:
        return None
    after = subject.per_class_worst_case()
    comparable = baseline is not None and baseline.measured and baseline.classes == subject.classes
    before = baseline.per_class_worst_case() if baseline is not None and comparable else (None,) * len(after)
    names = zip(subject.classes, after, before, strict=True)
    found: list[_Class] = [(name, now, was) for name, now, was in names if now is not None]
    found.sort(key=lambda entry: entry[1].value)
    parts = [_table(found[:SHOWN], compared=comparable)]
    if found[SHOWN:]:
        rest = found[SHOWN:LIMIT]
        summary = element("summary", None, f"{count(len(rest))} more")
        parts.append(element("details", None, summary, _table(rest, compared=comparable)))
    parts.extend(_notes(subject.absent(), len(found)))
    return Section("Class by class, weakest first", joined(parts))


def _table(found: list[_Class], *, compared: bool) -> Html:
    heads = [
        element("th", {"scope": "col"}, "Class"),
        element("th", {"scope": "col", "class": "number"}, "Images"),
        element("th", {"scope": "col", "class": "number"}, "Worst case"),
        element("th", {"scope": "col", "class": "drawing"}, element("span", {"class": "spoken"}, "Drawn")),
    ]
    if compared:
        heads.append(element("th", {"scope": "col", "class": "number"}, "Before"))
    caption = element("caption", {"class": "spoken"}, "Worst-case accuracy of each class")
    body = (_line(entry, compared=compared) for entry in found)
    table = element(
        "table",
        {"class": "classes"},
        caption,
        element("thead", None, element("tr", None, *heads)),
        element("tbody", None, *body),
    )
    return element("div", {"class": "wide"}, table)


def _line(entry: _Class, *, compared: bool) -> Html:
    name, now, was = entry
    bar = small_bar(Bar("subject", now), title=f"{name}: {percent(now.value)} {interval(now)}")
    cells = [
        element("th", {"scope": "row"}, name),
        element("td", {"class": "number quiet"}, count(now.total)),
        element(
            "td",
            {"class": "number"},
            element("span", {"class": "value"}, percent(now.value)),
            Html(" "),
            element("span", {"class": "interval"}, interval(now)),
        ),
        element("td", {"class": "drawing"}, bar),
    ]
    if compared:
        cells.append(element("td", {"class": "number quiet"}, "" if was is None else percent(was.value)))
    return element("tr", None, *cells)


def _notes(empty: tuple[str, ...], found: int) -> list[Html]:
    notes = []
    if empty:
        more = f" and {count(len(empty) - SHOWN)} more" if len(empty) > SHOWN else ""
        notes.append(f"Not audited, because the sample has no image of them: {', '.join(empty[:SHOWN])}{more}.")
    if found > LIMIT:
        notes.append(f"The {count(found - LIMIT)} classes above these are in report.json.")
    return [element("p", {"class": "footnote"}, note) for note in notes]
