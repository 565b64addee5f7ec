"""The table: clean, each attack and the worst case, the models side by side."""

from __future__ import annotations

from harden.report.figures import MISSING, interval, percent
from harden.report.markup import Html, element, joined
from harden.report.report import Report
from harden.report.section import Section
from harden.report.side_by_side import MEMBER_MARK, MEMBER_NOTE, Cell, Row, RowKind, any_member, rows


def accuracy(report: Report) -> Section:
    """Return the table with what its figures mean below it."""
    title = "Accuracy before and after" if len(report.results) == 2 else "Accuracy"
    table = rows(report)
    columns = (element("th", {"scope": "col", "class": "number"}, result.model) for result in report.results)
    head = element("thead", None, element("tr", None, element("th", {"scope": "col"}, "Images"), *columns))
    body = element("tbody", None, *(_line(row) for row in table))
    caption = element("caption", {"class": "spoken"}, "Accuracy of each model on clean and on attacked images")
    look = "accuracy many" if len(report.results) > 2 else "accuracy"
    drawn = element("div", {"class": "wide"}, element("table", {"class": look}, caption, head, body))
    return Section(title, joined((drawn, *_notes(table))))


def _line(row: Row) -> Html:
    label: list[Html] = [element("span", {"class": "label"}, row.label)]
    if row.exposure is not None:
        label.append(element("span", {"class": "exposure"}, row.exposure.value))
    cells = (element("td", {"class": "number"}, _figure(cell)) for cell in row.cells)
    return element("tr", {"class": row.kind.value}, element("th", {"scope": "row"}, *label), *cells)


def _figure(cell: Cell | None) -> Html:
    if cell is None:
        return element("span", {"class": "value"}, MISSING)
    value = element("span", {"class": "value"}, f"{MEMBER_MARK if cell.member else ''}{percent(cell.accuracy.value)}")
    return joined((value, Html(" "), element("span", {"class": "interval"}, interval(cell.accuracy))))


def _notes(table: tuple[Row, ...]) -> list[Html]:
    notes = ["In brackets: 95 % intervals (Wilson), in percent."]
    if any(row.kind is RowKind.WORST for row in table):
        notes[0] += " Worst case: an image counts only if it is right when clean and under every attack."
    if any_member(table):
        notes.append(MEMBER_NOTE)
    return [element("p", {"class": "footnote"}, note) for note in notes]
