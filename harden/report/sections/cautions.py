"""What a reader must know before quoting the verdict; right under it."""

from __future__ import annotations

from harden.report.markup import element
from harden.report.report import Report
from harden.report.section import Section
from harden.report.verdict import cautions


def caution_list(report: Report) -> Section | None:
    """Return the caveats as a list, or None where there are none."""
    notes = cautions(report)
    if not notes:
        return None
    return Section(
        "Before you quote these numbers", element("ul", None, *(element("li", None, note) for note in notes))
    )
