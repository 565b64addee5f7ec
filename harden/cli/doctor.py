"""`harden doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from harden.cli import options
from harden.cli.running import run_command

if TYPE_CHECKING:
    from harden.cli.console import Terminal
    from harden.workflows.doctor import Diagnosis


def doctor(quiet: options.Quiet = False, as_json: options.Json = False) -> None:
    """Look at this machine: libraries, devices, threads, memory, folders; and say how to repair what is wrong.

    Nothing is changed. The exit code is 1 where something would stop a run: a library that is missing or cannot be
    imported, a GPU that torch sees but cannot use, hardly any memory or disk left, a working folder that cannot be
    written. Everything else is a warning.

    [bold]Examples[/bold]

      harden doctor

      harden doctor --json
    """
    stops = False

    def body(terminal: Terminal) -> None:
        nonlocal stops
        from harden.workflows.doctor import examine

        diagnosis = examine(encoding=terminal.encoding, narrator=terminal)
        stops = diagnosis.stops
        if as_json:
            terminal.json(diagnosis.to_json())
        else:
            _show(terminal, diagnosis)

    run_command(body, quiet=quiet or as_json)
    if stops:
        from harden.cli.errors import EXIT_FAILURE

        raise typer.Exit(EXIT_FAILURE)


def _show(terminal: Terminal, diagnosis: Diagnosis) -> None:
    from rich.table import Table
    from rich.text import Text

    from harden.workflows.finding import Verdict

    styles = {Verdict.FINE: "dim", Verdict.WARNS: "yellow", Verdict.STOPS: "bold red"}
    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for finding in diagnosis.findings:
        mark = Text(finding.verdict.value, style=styles[finding.verdict])
        table.add_row(mark, Text(finding.name), Text(finding.found))
    terminal.result(table)
    for finding in diagnosis.problems:
        terminal.result("")
        terminal.result(Text(f"{finding.verdict.value}: {finding.problem}", style=styles[finding.verdict]))
        terminal.verbatim(f"  {finding.repair}")
    stopping = sum(finding.verdict is Verdict.STOPS for finding in diagnosis.findings)
    terminal.result("")
    if stopping:
        terminal.result(f"{stopping} of these would stop a run.")
    else:
        terminal.result("Nothing here would stop a run.")
