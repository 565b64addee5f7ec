"""`harden demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harden.cli import options
from harden.cli.running import run_command, stoppable, typed_command
from harden.cli.shown_report import show_report

if TYPE_CHECKING:
    from harden.cli.console import Terminal


def demo(
    out: Annotated[
        Path | None, typer.Option(help="The run folder; must not exist. \\[runs/sklearn-digits-adv4adv]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Run everything on scikit-learn's digits: train, harden, audit before and after, export.

    [bold]Examples[/bold]

      harden demo

      harden demo --out ./my-first-run
    """

    def body(terminal: Terminal) -> None:
        from harden.workflows.demo import demo as workflow
        from harden.workflows.ending import require_hardened

        chosen = options.within(seed, "--seed", "seed") or 0
        with stoppable() as stop:
            result = workflow(out=out, seed=chosen, narrator=terminal, stop_requested=stop, command=typed_command())
        show_report(terminal, result.report, as_json=as_json, where=result.run.path)
        if not as_json:
            for name in ("report.html", "model.safetensors"):
                terminal.result(f"  {result.run.path / name}")
            for item in result.exported:
                terminal.result(f"  {item.path}")
        require_hardened(result.report.ending, result.run)

    run_command(body, quiet=quiet or as_json)
