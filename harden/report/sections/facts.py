"""How the numbers came about, so that someone else can get them again."""

from __future__ import annotations

from harden.report.figures import count
from harden.report.markup import element
from harden.report.report import Report
from harden.report.section import Section


def facts(report: Report) -> Section:
    """Return what the audit knows of itself, then what the command that ran it adds."""
    subject = report.subject
    known = [
        ("Images", f"{subject.dataset}, {count(len(subject))} audited"),
        ("Seed", str(subject.seed)),
        ("Machine", subject.machine),
    ]
    added = {label.casefold() for label, _ in report.facts}
    pairs = [*report.facts, *(pair for pair in known if pair[0].casefold() not in added)]
    entries = (element("div", None, element("dt", None, label), element("dd", None, value)) for label, value in pairs)
    return Section("How these numbers came about", element("dl", {"class": "pairs"}, *entries))
