"""`harden report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harden.cli import completion, options
from harden.cli.processes import following, together
from harden.cli.running import run_command, stoppable, typed_command
from harden.cli.shown_report import show_report

if TYPE_CHECKING:
    from harden.audit.gate import GateVerdict
    from harden.cli.console import Terminal
    from harden.workflows.side_by_side import ReportSettings


def report(
    model: Annotated[str, typer.Argument(help=f"{options.MODEL_HELP} Or an ONNX or TorchScript file.")],
    data: Annotated[
        str | None, typer.Option(help=options.DATA_HELP + " \\[those of the run]", rich_help_panel="Data")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Another model side by side; 'initial' is a run's model before hardening. Repeatable.",
            rich_help_panel="Audit",
        ),
    ] = None,
    attacks: Annotated[
        str | None,
        typer.Option(
            help="fast, standard (AutoAttack-class), thorough, paper (Table 1), unseen (other norms and corruptions "
            "too), or names of attacks, with commas between. \\[standard]",
            autocompletion=completion.attacks,
            rich_help_panel="Audit",
        ),
    ] = None,
    surrogate: options.Surrogates = None,
    fail_under: Annotated[
        str | None,
        typer.Option(
            help="Exit with 3 unless the lower end of the 95 % interval reaches this: robust=0.40,clean=80%.",
            rich_help_panel="Audit",
        ),
    ] = None,
    gate_ignores_checks: Annotated[
        bool,
        typer.Option(
            "--gate-ignores-checks",
            help="Let --fail-under judge the accuracies alone, though a check that concerns them fails.",
            rich_help_panel="Audit",
        ),
    ] = False,
    eps: Annotated[
        str | None, typer.Option(help="l_inf radius, as 8/255 or 0.03. \\[the run's]", rich_help_panel="Audit")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Images to audit, stratified. \\[all]", rich_help_panel="Audit")
    ] = None,
    arch: options.Arch = None,
    black_box: options.BlackBox = False,
    trust_pickle: options.TrustPickle = False,
    class_map: options.ClassMap = None,
    ignore_other_classes: options.IgnoreOtherClasses = False,
    mean: options.Mean = None,
    std: options.Std = None,
    image_size: options.ImageSize = None,
    class_order: options.ClassOrder = None,
    gray_bits: options.GrayBits = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for report.html, .json, .md and .xml (JUnit).", rich_help_panel="Run"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample and the random starts.", rich_help_panel="Run")] = 0,
    device: options.Device = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            "--gpus",
            help="Share the attacks among so many processes on this machine, each on a GPU of its own, or all on the "
            "CPU where there is none: the report of one process, on the CPU to the last bit with as many threads. [1]",
            rich_help_panel="Run",
        ),
    ] = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Audit a model: attack it, report what withstands the worst case, and whether that can be believed.

    [bold]Examples[/bold]

      harden report runs/imgs-adv4adv --data ./imgs

      harden report runs/imgs-adv4adv --against initial

      harden report weights.pth --arch net.py:build --data ./imgs --eps 8/255 --samples 1000

      harden report model.onnx --data ./imgs --surrogate auto --fail-under robust=0.40

      harden report runs/imgs-adv4adv --gpus 4
    """

    def body(terminal: Terminal) -> None:
        from harden.workflows.report import follow
        from harden.workflows.report import report as workflow

        with together(processes) as group, stoppable(group.size > 1) as stop:
            if not group.leads:
                following(group, lambda: follow(settings(), group, stop_requested=stop))
                return
            found, folder = workflow(
                settings(),
                out=out,
                narrator=terminal,
                command=typed_command(),
                stop_requested=stop,
                processes=group,
            )
        show_report(terminal, found, as_json=as_json, where=folder)
        require_gates(found.gates)

    def settings() -> ReportSettings:
        from harden.recipe import parse_eps
        from harden.workflows.side_by_side import ReportSettings

        return ReportSettings(
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
            data=data,
            reading=options.reading(class_order, gray_bits),
            against=tuple(against or ()),
            eps=parse_eps(eps) if eps else None,
            attacks=tuple(part.strip() for part in attacks.split(",")) if attacks else None,
            samples=options.within(samples, "--samples", "audit_samples"),
            seed=options.within(seed, "--seed", "seed") or 0,
            device=device or "auto",
            surrogates=tuple(surrogate or ()),
            black_box=black_box,
            fail_under=fail_under,
            gate_ignores_checks=gate_ignores_checks,
        )

    run_command(body, quiet=quiet or as_json, shared=True)


def require_gates(verdicts: Sequence[GateVerdict]) -> None:
    """Raise where a gate was not met.

    Raises:
        GateError: names every gate that was missed.
    """
    from harden.errors import GateError

    missed = [verdict for verdict in verdicts if not verdict.met]
    if not missed:
        return
    hint = "audit more images where the interval is wide, or harden it further"
    if any(verdict.accuracy is None for verdict in missed):
        hint = "audit the model with its weights, or as a function that returns its unrounded scores (--black-box)"
    elif any(verdict.failed_checks and not verdict.ignores_checks for verdict in missed):
        hint = "do what the failed checks advise, or judge the accuracy alone with --gate-ignores-checks"
    raise GateError("; ".join(verdict.sentence() for verdict in missed), hint=hint)
