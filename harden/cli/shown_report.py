"""A report at the end of a command, for a person or for a program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harden.cli.console import Terminal


def show_report(terminal: Terminal, report: Any, *, as_json: bool, where: Path) -> None:
    """Print a report for a person, or its figures for a program."""
    if as_json:
        from harden.report.report import summary_of

        shown = {"folder": str(where), "models": [summary_of(result) for result in report.results]}
        ending = {"ending": report.ending.to_json()} if report.ending else {}
        terminal.json({**shown, "data": dict(report.data), **ending})
        return
    from harden.report.terminal import render

    terminal.result(render(report, width=terminal.width))
    terminal.result(f"Everything is in {where}")
