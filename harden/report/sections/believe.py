"""Can I believe this? What speaks against the number, with what to do about it; failures first."""

from __future__ import annotations

import re
from dataclasses import replace

from harden.audit.believe import Check, Status
from harden.report.beliefs import MARKS, failing_others, in_order, tally
from harden.report.markup import Html, element, joined
from harden.report.report import Report
from harden.report.section import Section

_FOLDED = {Status.PASS: "What passes", Status.SKIP: "What could not be checked"}


def believe(report: Report) -> Section | None:
    """Return the panel of the subject's checks and what fails for the others, or None where nothing was checked."""
    checks, others = in_order(report.subject.checks), failing_others(report)
    if not checks and not others:
        return None
    parts: list[Html] = []
    if checks:
        parts.append(element("p", None, f"{tally(checks)}."))
        parts.append(_panel([check for check in checks if check.status not in _FOLDED]))
    for status, words in _FOLDED.items():
        rows = [check for check in checks if check.status is status]
        if rows:
            heading = element("summary", None, f"{words} ({len(rows)})")
            parts.append(element("details", None, heading, _panel(rows)))
    for model in dict.fromkeys(model for model, _ in others):
        parts.append(element("h3", None, f"What fails for {model}"))
        parts.append(_panel([replace(check, remedy="") for name, check in others if name == model]))
    return Section("Can I believe this?", joined(parts))


def _panel(checks: list[Check]) -> Html:
    return element("ul", {"class": "checks"}, *map(_row, checks)) if checks else Html()


def _unbroken(words: str) -> list[str]:
    """Keep flags from being broken after their dashes."""
    return [
        element("span", {"class": "flag"}, part) if part.startswith("--") else part
        for part in re.split(r"(--[a-z][a-z-]*)", words)
    ]


def _row(check: Check) -> Html:
    sign = element("span", {"class": "sign", "aria-hidden": "true"}, MARKS[check.status])
    mark = element("span", {"class": "mark"}, sign, check.status.value)
    words = [
        element("p", {"class": "name"}, f"{check.name[:1].upper()}{check.name[1:]}"),
        element("p", None, check.finding),
    ]
    if check.remedy:
        words.append(element("p", {"class": "remedy"}, *_unbroken(check.remedy)))
    return element("li", {"class": check.status.value}, mark, element("div", None, *words))
