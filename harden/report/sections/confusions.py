"""What attacks turn images into: the pairs of classes that are confused most."""

from __future__ import annotations

from harden.report.bars import plain_bar
from harden.report.figures import count, counted, percent
from harden.report.markup import Html, element, joined
from harden.report.report import Report
from harden.report.section import Section

SHOWN = 10


def confusions(report: Report) -> Section | None:
    """Return the table, or None where no image of the subject fell."""
    subject = report.subject
    pairs = subject.confusions()
    if not pairs:
        return None
    fallen = sum(number for _, _, number in pairs)
    shown = pairs[:SHOWN]
    heads = (
        element("th", {"scope": "col"}, "Class"),
        element("th", {"scope": "col"}, "taken for"),
        element("th", {"scope": "col", "class": "number"}, "Images"),
        element("th", {"scope": "col", "class": "drawing"}, element("span", {"class": "spoken"}, "Drawn")),
        element("th", {"scope": "col", "class": "number"}, "of its class"),
    )
    lines = [
        _line(
            subject.classes[true],
            subject.classes[guess],
            number,
            number / int((subject.labels == true).sum()),
            number / shown[0][2],
        )
        for true, guess, number in shown
    ]
    caption = element("caption", {"class": "spoken"}, "Pairs of classes most often confused under attack")
    table = element(
        "table",
        {"class": "classes confusions"},
        caption,
        element("thead", None, element("tr", None, *heads)),
        element("tbody", None, *lines),
    )
    covered = sum(number for _, _, number in shown)
    note = (
        f"Of {counted(fallen, 'image')} that fell to attacks, each counted once, with the first attack that fooled it, "
        f"{percent(covered / fallen)} are in this table. The figure at the right is the share of all audited "
        "images of the class."
    )
    parts = (element("div", {"class": "wide"}, table), element("p", {"class": "footnote"}, note))
    return Section("Most confused pairs", joined(parts))


def _line(true: str, guess: str, number: int, share: float, length: float) -> Html:
    bar = plain_bar(length, title=f"{true} taken for {guess}: {count(number)}")
    return element(
        "tr",
        None,
        element("th", {"scope": "row"}, true),
        element("td", None, element("span", {"class": "turned", "aria-hidden": "true"}, "→ "), guess),
        element("td", {"class": "number"}, count(number)),
        element("td", {"class": "drawing"}, bar),
        element("td", {"class": "number quiet"}, percent(share)),
    )
