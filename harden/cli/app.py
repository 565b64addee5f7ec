"""The commands as one program. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Annotated

import typer
from typer.core import TyperGroup

from harden import __version__
from harden.cli.overview import COMMANDS, EPILOG, SUMMARY, show_overview


class _Root(TyperGroup):
    def format_help(self, *asked: object) -> None:
        show_overview()


def program(*names: str) -> typer.Typer:
    """Return the program with the commands of these names, or with all: one that is run needs no other's flags."""
    app = typer.Typer(
        cls=_Root,
        name="harden",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        help=SUMMARY,
        epilog=EPILOG,
    )
    for name in names or COMMANDS:
        app.command()(getattr(import_module(f"harden.cli.{name}"), name))
    app.callback()(_root)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        print(f"harden {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    if debug:
        os.environ["HARDEN_DEBUG"] = "1"
