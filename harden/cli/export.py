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
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help="Of the ONNX file: fp32, fp16 or int8 (calibrated on validation images). Repeatable. \\[fp32]",
            autocompletion=completion.precisions,
            rich_help_panel="Export",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files. \\[RUN/export]", rich_help_panel="Export")
    ] = None,
    any_size: Annotated[
        bool,
        typer.Option(
            "--any-size",
            help="Let the ONNX files take images of any height and width: they cut out the middle and resize it, as "
            "was done for training.",
            rich_help_panel="Export",
        ),
    ] = False,
    opset: Annotated[int, typer.Option(help="Of the ONNX file; 18 or later.", rich_help_panel="Export")] = 20,
    tolerance: Annotated[
        float,
        typer.Option(
            help="Largest difference of any score that counts as agreement, as a share of the scale of the scores; of "
            "fp32.",
            rich_help_panel="Export",
        ),
    ] = 1e-4,
    max_drop: Annotated[
        float,
        typer.Option(
            help="Largest drop of accuracy that counts as agreement, as a share: clean, on adversarial examples of the "
            "model, and under Square on the file.",
            rich_help_panel="Export",
        ),
    ] = 0.02,
    anyway: Annotated[
        bool,
        typer.Option(
            "--anyway",
            help="Export a run that did not harden its model, too; the model card says so.",
            rich_help_panel="Export",
        ),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(help="Images to prove agreement on. \\[the run's validation images]", rich_help_panel="Data"),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(help="Images to prove agreement on. \\[32 to 256, by the network's cost]", rich_help_panel="Data"),
    ] = None,
    arch: options.Arch = None,
    trust_pickle: options.TrustPickle = False,
    class_map: options.ClassMap = None,
    ignore_other_classes: options.IgnoreOtherClasses = False,
    mean: options.Mean = None,
    std: options.Std = None,
    image_size: options.ImageSize = None,
    class_order: options.ClassOrder = None,
    gray_bits: options.GrayBits = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Export a model to safetensors and ONNX, and prove that each file gives the model's answers, under attack too.

    [bold]Examples[/bold]

      harden export runs/imgs-adv4adv --to safetensors --to onnx

      harden export runs/imgs-adv4adv --precision fp32 --precision int8
    """

    def body(terminal: Terminal) -> None:
        from harden.workflows.export import export as workflow
        from harden.workflows.export_subject import ExportSettings

        settings = ExportSettings(
            spec=options.model_spec(
                model,
                arch=arch,
                trust_pickle=trust_pickle,
                class_map=class_map,
                ignore_other_classes=ignore_other_classes,
                mean=mean,
                std=std,
                image_size=image_size,
            ),
            formats=tuple(to or ("safetensors", "onnx")),
            precisions=tuple(precision or ("fp32",)),
            data=data,
            reading=options.reading(class_order, gray_bits),
            samples=options.within(samples, "--samples", "audit_samples"),
            opset=opset,
            tolerance=tolerance,
            max_drop=max_drop,
            any_size=any_size,
            anyway=anyway,
        )
        exported = workflow(settings, out=out, narrator=terminal)
        if as_json:
            rows = [
                {
                    "format": item.format,
                    "precision": item.precision,
                    "path": str(item.path),
                    "bytes": item.path.stat().st_size,
                    "parity": [parity.to_json() for parity in item.parities],
                    "accuracy": [standing.to_json() for standing in item.standings],
                }
                for item in exported
            ]
            terminal.json(rows)
            return
        for item in exported:
            name = f"{item.format} {item.precision}" if item.format == "onnx" else item.format
            terminal.result(f"{name}: {item.path} agrees with the model")

    run_command(body, quiet=quiet or as_json)
