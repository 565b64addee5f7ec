"""The list of commands. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from harden import __version__
from harden.cli.compare import compare
from harden.cli.demo import demo
from harden.cli.doctor import doctor
from harden.cli.export import export
from harden.cli.fit import fit
from harden.cli.inspect import inspect
from harden.cli.push import push
from harden.cli.report import report
from harden.cli.verify import verify

app = typer.Typer(
    name="harden",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Harden any torch or timm image classifier against adversarial inputs, audit it, and ship it.",
    epilog="Exit codes: 0 ok, 1 failure, 2 usage, 3 gate not met, 4 unsafe input, 5 export disagrees, 130 stopped.",
)
for command in (fit, report, compare, export, verify, push, inspect, demo, doctor):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"harden {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    if debug:
        os.environ["HARDEN_DEBUG"] = "1"


def main() -> None:
    """Run the command line."""
    # Threads that wait by spinning slow a run three to five times where anything else uses the processor; waiting
    # passively costs little where nothing does. It has to be said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
