"""`harden compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harden.cli import completion, options
from harden.cli.running import run_command, stoppable, typed_command

if TYPE_CHECKING:
    from harden.cli.console import Terminal

METHOD, TRAIN, AUDIT, RUN = "Method", "Training", "Audit", "Run"


def compare(
    methods: Annotated[
        list[str] | None,
        typer.Option(
            help="What to compare, with commas between: nt, sat, eat, atda, pat, adv4adv, adv4adv-star; sat@nfgsm for "
            "another source attack, adv4adv:beta=0:gamma=1 for other settings. \\[all seven]",
            autocompletion=completion.variants,
            rich_help_panel=METHOD,
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help=options.MODEL_HELP, rich_help_panel="Model")] = None,
    data: Annotated[str | None, typer.Option(help=options.DATA_HELP, rich_help_panel="Data")] = None,
    arch: options.Arch = None,
    trust_pickle: options.TrustPickle = False,
    class_map: options.ClassMap = None,
    mean: options.Mean = None,
    std: options.Std = None,
    image_size: options.ImageSize = None,
    class_order: options.ClassOrder = None,
    gray_bits: options.GrayBits = None,
    replace_head: options.ReplaceHead = False,
    pretrain: options.Pretrain = None,
    epochs: Annotated[
        int | None, typer.Option(help="Equal epochs: passes over the training images. [20]", rich_help_panel=TRAIN)
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Equal time: minutes of training for each, as 5m.", rich_help_panel=TRAIN)
    ] = None,
    passes: Annotated[
        float | None,
        typer.Option(
            help="Equal work: passes over networks for each training image, forward and backward, crafting included "
            "(an epoch of sat takes 6, of pat 44).",
            rich_help_panel=TRAIN,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each method.", rich_help_panel=TRAIN)] = 1,
    source_attack: Annotated[
        list[str] | None,
        typer.Option(
            help="What crafts the training examples of those that say no other. \\[fgsm-ep; pgd for pat]",
            autocompletion=completion.source_attacks,
            rich_help_panel=TRAIN,
        ),
    ] = None,
    static: options.Static = None,
    eps: options.Eps = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Settings that all share, from a TOML file or a recipe that ships.",
            autocompletion=completion.recipes,
            rich_help_panel=TRAIN,
        ),
    ] = None,
    attacks: Annotated[
        str | None,
        typer.Option(
            help="Presets or names of attacks, with commas. \\[paper,standard]",
            autocompletion=completion.attacks,
            rich_help_panel=AUDIT,
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Test images to audit, stratified. \\[all]", rich_help_panel=AUDIT)
    ] = None,
    surrogate: Annotated[
        list[str] | None,
        typer.Option(
            help="Craft black-box examples on this model; 'auto' trains a network of another family once, 'none' "
            "leaves them out. Repeatable. \\[auto]",
            rich_help_panel=AUDIT,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder; the same command goes on with what is there.", rich_help_panel=RUN),
    ] = None,
    seed: Annotated[int, typer.Option(help="The first one.", rich_help_panel=RUN)] = 0,
    device: options.Device = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Compare methods: train each at an equal budget, audit all on the same images, and say which wins.

    [bold]Examples[/bold]

      harden compare --data ./imgs --model model.pt --methods sat,adv4adv --epochs 10

      harden compare --data ./imgs --model model.pt --methods sat,sat@nfgsm,pat,adv4adv --budget 10m --seeds 3

      harden compare --data ./imgs --model model.pt --methods adv4adv,adv4adv:beta=0:gamma=1,adv4adv:classwise=false
    """

    def body(terminal: Terminal) -> None:
        from harden.defences import DEFENCES, STATIC_DEFENCES
        from harden.errors import UsageError
        from harden.models.factory import is_reference
        from harden.recipe import find_recipe, read_recipe, resolve, resolve_variants
        from harden.workflows.compare import ATTACKS, CompareSettings
        from harden.workflows.compare import compare as workflow
        from harden.workflows.variants import parse_variants

        variants = parse_variants(methods or list(DEFENCES))
        values: dict[str, Any] = read_recipe(find_recipe(recipe)) if recipe else {}
        if sum(given is not None for given in (epochs, budget, passes)) > 1:
            raise UsageError("--epochs, --budget and --passes exclude each other", hint="say one thing that is equal")
        if any(given is not None for given in (epochs, budget, passes)):
            values.pop("epochs", None)
            values.pop("budget", None)
        if passes is not None and not passes > 0:
            raise UsageError(f"--passes {passes:g} is no amount of work", hint="--passes 120")
        if not 1 <= seeds <= 1000:
            raise UsageError(f"--seeds {seeds} is no number of trainings", hint="--seeds 3")
        if samples is not None:
            options.within(samples, "--samples", "audit_samples")
        if static and all(variant.method not in STATIC_DEFENCES for variant in variants):
            raise UsageError(
                "--static is for eat, which is not among the methods", hint="add it, or leave --static out"
            )
        if model is None and "model" not in values:
            raise UsageError("which model?", hint="harden compare --data ./imgs --model model.pt --methods sat,adv4adv")
        if data is None and "data" not in values:
            raise UsageError("which images?", hint="give --data DIR")
        flags: dict[str, Any] = {
            **options.model_flags(
                model,
                data,
                arch=arch,
                trust_pickle=trust_pickle,
                class_map=class_map,
                mean=mean,
                std=std,
                image_size=image_size,
                class_order=class_order,
                gray_bits=gray_bits,
                pretrain=pretrain,
            ),
            "replace_head": replace_head or None,
            "epochs": epochs,
            "budget": budget,
            "source_attack": tuple(source_attack) if source_attack else None,
            "static": tuple(static) if static else None,
            "eps": eps,
            "seed": seed,
            "device": device,
        }
        common, alone = resolve_variants(values, flags, variants)
        for flag, code in ((model, common.model), (arch, common.arch), *((static, name) for name in common.static)):
            if not flag and code is not None and is_reference(code):
                terminal.warn(f"the recipe {recipe} names code that builds a network, and it runs: {code}")
        surrogates = tuple(surrogate or ("auto",))
        settings = CompareSettings(
            common=common,
            variants=variants,
            settings=alone,
            seeds=tuple(range(seed, seed + seeds)),
            passes=passes,
            attacks=tuple(part.strip() for part in attacks.split(","))
            if attacks
            else common.attacks
            if "attacks" in values
            else ATTACKS,
            samples=samples if samples is not None else common.audit_samples,
            surrogates=() if surrogates == ("none",) else surrogates,
        )
        with stoppable() as stop:
            found, folder = workflow(
                settings,
                out=out,
                narrator=terminal,
                stop_requested=stop,
                command=typed_command(),
                read_settings=lambda run: resolve(read_recipe(run.recipe), {}),
            )
        if as_json:
            document = found.to_json()
            shown = {key: document[key] for key in ("title", "basis", "verdict", "table")}
            terminal.json({"folder": str(folder), **shown})
            return
        from harden.report.comparison_text import render

        terminal.result(render(found, width=terminal.width))
        terminal.result(f"Everything is in {folder}")

    run_command(body, quiet=quiet or as_json)
