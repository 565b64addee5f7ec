"""`harden push`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harden.cli import options
from harden.cli.running import run_command

if TYPE_CHECKING:
    from harden.cli.console import Terminal


def push(
    folder: Annotated[Path, typer.Argument(help="What `harden export` wrote.")],
    repository: Annotated[str, typer.Argument(help="ORG/NAME on the Hugging Face hub; made if it is not there.")],
    public: Annotated[
        bool,
        typer.Option("--public", help="Make a new repository public, or upload into a public one; private otherwise."),
    ] = False,
    with_images: Annotated[
        bool,
        typer.Option("--with-images", help="Upload sample.safetensors too, which holds images of your data."),
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Upload an export to the Hugging Face hub. No other command uploads anything.

    [bold]Examples[/bold]

      harden push runs/imgs-adv4adv/export my-org/my-model
    """

    def body(terminal: Terminal) -> None:
        from harden.workflows.push import PushSettings
        from harden.workflows.push import push as workflow

        settings = PushSettings(folder=folder, repository=repository, public=public, with_images=with_images)
        terminal.result(f"uploaded to {workflow(settings, narrator=terminal)}")

    run_command(body, quiet=quiet)
