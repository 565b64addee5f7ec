"""The checks of the audits, in the order and words in which every format shows them."""

from __future__ import annotations

from harden.audit.believe import Check, Status
from harden.audit.result import AuditResult
from harden.report.figures import count, counted
from harden.report.report import Report

SHOWN_FIRST = (Status.FAIL, Status.WARN, Status.PASS, Status.SKIP)
MARKS = {Status.FAIL: "✕", Status.WARN: "!", Status.PASS: "✓", Status.SKIP: "–"}
"""Beside the word, so that neither colour nor the word alone carries the verdict."""


def in_order(checks: tuple[Check, ...]) -> tuple[Check, ...]:
    """Return the checks with the failures first, then the warnings; each kind in its own order."""
    return tuple(sorted(checks, key=lambda check: SHOWN_FIRST.index(check.status)))


def tally(checks: tuple[Check, ...]) -> str:
    """Write "Of 18 checks 1 fails, 2 warn, 14 pass and 1 could not be made", without what there is none of."""
    numbers = {status: sum(check.status is status for check in checks) for status in SHOWN_FIRST}
    words = {
        Status.FAIL: ("fails", "fail"),
        Status.WARN: ("warns", "warn"),
        Status.PASS: ("passes", "pass"),
        Status.SKIP: ("could not be made", "could not be made"),
    }
    parts = [f"{count(n)} {words[status][n != 1]}" for status, n in numbers.items() if n]
    *most, last = parts
    return f"Of {counted(len(checks), 'check')} {', '.join(most)}{' and ' if most else ''}{last}"


def failures(result: AuditResult) -> tuple[Check, ...]:
    """Return the checks that fail."""
    return tuple(check for check in result.checks if check.status is Status.FAIL)


def failing_others(report: Report) -> tuple[tuple[str, Check], ...]:
    """Return (model, check) for what fails in the audits that the subject is compared with."""
    return tuple((result.model, check) for result in report.results[:-1] for check in failures(result))


def doubts(report: Report) -> tuple[str, ...]:
    """Return a sentence for each model whose number should not stand alone, the subject's first."""
    found = []
    for result in reversed(report.results):
        failed = failures(result)
        if failed:
            names = "; ".join(check.name for check in failed)
            what = f"{len(failed)} of {counted(len(result.checks), 'check')} {'fail' if len(failed) > 1 else 'fails'}"
            sentence = f"Do not believe the robust accuracy of {result.model} yet"
            if not result.measured:
                sentence = f"The robust accuracy of {result.model} was not measured"
            found.append(f"{sentence}: {what} ({names}).")
    return tuple(found)
