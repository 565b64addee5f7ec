"""Each attack's whole convention: two audits compare only where these agree."""

from __future__ import annotations

from harden.report.markup import Html, element
from harden.report.report import Report
from harden.report.section import Section
from harden.report.side_by_side import attack_rows


def definitions(report: Report) -> Section | None:
    """Return a list of the attacks, or None where none was run."""
    found = attack_rows(report)
    if not found:
        return None
    entries = (
        element(
            "div",
            None,
            element("dt", None, row.label, Html(" "), element("span", {"class": "exposure"}, str(row.exposure))),
            element("dd", None, row.definition),
        )
        for row in found
    )
    return Section("How each attack works", element("dl", {"class": "pairs"}, *entries))
