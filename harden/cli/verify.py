"""`harden verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harden.cli import options
from harden.cli.running import run_command

if TYPE_CHECKING:
    from harden.cli.console import Terminal


def verify(
    folder: Annotated[Path, typer.Argument(help="What `harden export` wrote.")],
    arch: options.Arch = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Try an export again from its folder alone: hashes, scores, accuracy under attack. Exit with 5 if it differs.

    [bold]Examples[/bold]

      harden verify runs/imgs-adv4adv/export
    """

    def body(terminal: Terminal) -> None:
        from harden.workflows.verify import require_findings
        from harden.workflows.verify import verify as workflow

        findings = workflow(folder, arch=arch, narrator=terminal)
        if as_json:
            terminal.json([finding.to_json() for finding in findings])
        require_findings(findings, folder)
        if not as_json:
            terminal.result(f"{folder} is what was exported: {len(findings)} of {len(findings)} findings hold")

    run_command(body, quiet=quiet or as_json)
