"""`harden inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harden.cli import options
from harden.cli.running import run_command

if TYPE_CHECKING:
    from harden.cli.console import Terminal


def inspect(
    model: Annotated[str, typer.Argument(help=options.MODEL_HELP)],
    data: Annotated[str | None, typer.Option(help=options.DATA_HELP, rich_help_panel="Data")] = None,
    arch: options.Arch = None,
    trust_pickle: options.TrustPickle = False,
    class_map: options.ClassMap = None,
    mean: options.Mean = None,
    std: options.Std = None,
    image_size: options.ImageSize = None,
    class_order: options.ClassOrder = None,
    gray_bits: options.GrayBits = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Show the layers a model can be split at, the default split and why, and what the preflight finds.

    [bold]Examples[/bold]

      harden inspect timm:resnet18 --image-size 64

      harden inspect weights.pth --arch net.py:build --data ./imgs
    """

    def body(terminal: Terminal) -> None:
        from harden.workflows.inspect import inspect as workflow

        found = workflow(
            options.model_spec(
                model,
                arch=arch,
                trust_pickle=trust_pickle,
                class_map=class_map,
                mean=mean,
                std=std,
                image_size=image_size,
            ),
            data=data,
            reading=options.reading(class_order, gray_bits),
            narrator=terminal,
        )
        if as_json:
            from dataclasses import asdict

            terminal.json(
                {
                    "parameters": found.parameters,
                    "classes": list(found.classifier.classes),
                    "input_size": list(found.classifier.input_size),
                    "normalisation": found.classifier.normalisation.to_json(),
                    "layers": [asdict(point) for point in found.points],
                    "default_split": found.default.point.layer if found.default else None,
                }
            )
            return
        from rich.table import Table
        from rich.text import Text

        size = " x ".join(map(str, found.classifier.input_size))
        terminal.result(f"{found.parameters:,} parameters, {len(found.classifier.classes)} classes, images {size}")
        if found.default:
            terminal.result(Text(f"default split: {found.default.point.layer} - {found.default.reason}"))
        else:
            terminal.result(Text(f"no default split: {found.points_note}"))
        table = Table(box=None, padding=(0, 1), header_style="dim")
        for column in ("layer", "kind", "output", "features", ""):
            table.add_column(column, justify="right" if column == "features" else "left", overflow="fold")
        for point in found.points:
            chosen = found.default is not None and point.layer == found.default.point.layer
            mark = "default" if chosen else "head" if point.head else ""
            shape = " x ".join(map(str, point.shape))
            row = [Text(cell) for cell in (point.layer, point.kind, shape, f"{point.width:,}", mark)]
            table.add_row(*row, style="bold" if chosen else "dim" if point.head else "")
        terminal.result(table)

    run_command(body, quiet=quiet or as_json)
