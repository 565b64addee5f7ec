"""`harden export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harden.cli import completion, options
from harden.cli.running import run_command

if TYPE_CHECKING:
    from harden.cli.console import Terminal


def export(
    model: Annotated[str, typer.Argument(help=options.MODEL_HELP)],
    to: Annotated[
        list[str] | None,
        typer.Option(
            help="safetensors or onnx. Repeatable. \\[both]",
            autocompletion=completion.formats,
            rich_help_panel="Export",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files. \\[RUN/export]", rich_help_panel="Export")
    ] = None,
    opset: Annotated[int, typer.Option(help="Of the ONNX file; 18 or later.", rich_help_panel="Export")] = 20,
    tolerance: Annotated[
        float, typer.Option(help="Largest difference of any score that counts as agreement.", rich_help_panel="Export")
    ] = 1e-4,
    data: Annotated[
        str | None,
        typer.Option(help="Images to prove agreement on. \\[the run's validation images]", rich_help_panel="Data"),
    ] = None,
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
    """Export a model to safetensors and ONNX, and prove that each file gives the model's answers.

    [bold]Examples[/bold]

      harden export runs/imgs-adv4adv --to safetensors --to onnx
    """

    def body(terminal: Terminal) -> None:
        from harden.workflows.export import ExportSettings
        from harden.workflows.export import export as workflow

        settings = ExportSettings(
            spec=options.model_spec(
                model,
                arch=arch,
                trust_pickle=trust_pickle,
                class_map=class_map,
                mean=mean,
                std=std,
                image_size=image_size,
            ),
            formats=tuple(to or ("safetensors", "onnx")),
            data=data,
            reading=options.reading(class_order, gray_bits),
            opset=opset,
            tolerance=tolerance,
        )
        exported = workflow(settings, out=out, narrator=terminal)
        if as_json:
            import json

            rows = [
                {"format": e.format, "path": str(e.path), "parity": [p.to_json() for p in e.parities]} for e in exported
            ]
            print(json.dumps(rows))
            return
        for item in exported:
            terminal.result(f"{item.format}: {item.path} agrees with the model")

    run_command(body, quiet=quiet or as_json)
