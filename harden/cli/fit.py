"""`harden fit`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harden.cli import completion, options
from harden.cli.layers import layers
from harden.cli.processes import following, together
from harden.cli.running import run_command, stoppable, typed_command
from harden.cli.shown_report import show_report

if TYPE_CHECKING:
    from harden.cli.console import Terminal

METHOD, TRAIN, RUN = "Method", "Training", "Run"


def fit(
    model: Annotated[str | None, typer.Argument(help=options.MODEL_HELP, show_default=False)] = None,
    data: Annotated[str | None, typer.Option(help=options.DATA_HELP, rich_help_panel="Data")] = None,
    arch: options.Arch = None,
    trust_pickle: options.TrustPickle = False,
    class_map: options.ClassMap = None,
    ignore_other_classes: options.IgnoreOtherClasses = False,
    mean: options.Mean = None,
    std: options.Std = None,
    image_size: options.ImageSize = None,
    class_order: options.ClassOrder = None,
    gray_bits: options.GrayBits = None,
    replace_head: options.ReplaceHead = False,
    pretrain: options.Pretrain = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="nt, sat, eat, atda, pat, adv4adv or adv4adv-star. \\[adv4adv]",
            autocompletion=completion.methods,
            rich_help_panel=METHOD,
        ),
    ] = None,
    source_attack: Annotated[
        list[str] | None,
        typer.Option(
            help="What crafts the training examples: fgsm, fgsm-ep, rfgsm, nfgsm, pgd or mim. Repeatable: each makes "
            "an adversarial domain. \\[fgsm-ep; pgd for pat]",
            autocompletion=completion.source_attacks,
            rich_help_panel=METHOD,
        ),
    ] = None,
    static: options.Static = None,
    eps: options.Eps = None,
    beta: Annotated[
        float | None,
        typer.Option(
            help="Strength of the reversed gradient of the feature discriminators; 0 leaves them out. [1]",
            rich_help_panel=METHOD,
        ),
    ] = None,
    gamma: Annotated[
        float | None,
        typer.Option(help="The same for the logit discriminators. [0]", rich_help_panel=METHOD),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="The layer between extractor and predictor; `harden inspect` lists them.",
            autocompletion=layers,
            rich_help_panel=METHOD,
        ),
    ] = None,
    single_discriminator: Annotated[
        bool,
        typer.Option(
            "--single-discriminator",
            help="One discriminator for all classes instead of one per class.",
            rich_help_panel=METHOD,
        ),
    ] = False,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training images. [20]", rich_help_panel=TRAIN)
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Time for the whole run, audit included: 15m, 90s, 1h30m. Chooses the epochs.", rich_help_panel=TRAIN
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate of Adam. [0.005; 0.0005 with LayerNorm]",
            rich_help_panel=TRAIN,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Clean images per step. [256; fewer for few images or steps]", rich_help_panel=TRAIN),
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            help="Pass a step's images through the network in so many parts, one after the other: the same step with "
            "less memory (BatchNorm sees the parts). [1]",
            rich_help_panel=TRAIN,
        ),
    ] = None,
    recompute: Annotated[
        bool,
        typer.Option(
            "--recompute",
            help="Run blocks of the network again in backward passes instead of keeping what is inside them: less "
            "memory, a forward pass more.",
            rich_help_panel=TRAIN,
        ),
    ] = False,
    sync_batchnorm: Annotated[
        bool,
        typer.Option(
            "--sync-batchnorm",
            help="With several processes: BatchNorm normalises by the images of all of them, so that the training is "
            "that of one process; each layer takes four small exchanges more per step.",
            rich_help_panel=TRAIN,
        ),
    ] = False,
    shard: Annotated[
        bool,
        typer.Option(
            "--shard",
            help="With several processes: each keeps a part of the weights, gradients, averages and Adam's moments "
            "(FSDP2), for networks that do not fit otherwise.",
            rich_help_panel=TRAIN,
        ),
    ] = False,
    precision: Annotated[
        str | None,
        typer.Option(
            help="What the network computes in while it is trained: fp32, or bf16 where it can (autocast), which some "
            "hardware is faster at. Examples are crafted, and everything is measured, in fp32. \\[fp32]",
            autocompletion=completion.training_precisions,
            rich_help_panel=TRAIN,
        ),
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            help="none, flip, shift or flip+shift. \\[none for gray images, else flip+shift]",
            autocompletion=completion.augmentations,
            rich_help_panel=TRAIN,
        ),
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            help="Parameters that keep their values, as patterns: 'layer1.*'. Repeatable.", rich_help_panel=TRAIN
        ),
    ] = None,
    ema: Annotated[
        float | None, typer.Option(help="Decay of the weight average that is shipped. [0.998]", rich_help_panel=TRAIN)
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="L2 penalty of Adam. [0]", rich_help_panel=TRAIN)] = None,
    on_collapse: Annotated[
        str | None,
        typer.Option(
            help="After catastrophic overfitting: switch (roll back, go on from N-FGSM), stop or keep. \\[switch]",
            rich_help_panel=TRAIN,
        ),
    ] = None,
    max_clean_drop: Annotated[
        float | None,
        typer.Option(
            help="Largest loss of clean validation accuracy to accept, 0.05 for five points.", rich_help_panel=TRAIN
        ),
    ] = None,
    selection_samples: Annotated[
        int | None,
        typer.Option(help="Validation images for the canary and selection. [1000]", rich_help_panel=TRAIN),
    ] = None,
    attacks: Annotated[
        str | None,
        typer.Option(
            help="Attacks of the final audit: full, paper, fast, or names. \\[full]",
            autocompletion=completion.attacks,
            rich_help_panel="Audit",
        ),
    ] = None,
    audit_samples: Annotated[
        int | None,
        typer.Option(
            help="Test images of the final audit. \\[all, or what fits into --budget]", rich_help_panel="Audit"
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A TOML file, or the name of a recipe that ships. Flags win over it.",
            autocompletion=completion.recipes,
            rich_help_panel=RUN,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; must not exist. \\[runs/DATA-METHOD]", rich_help_panel=RUN)
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue this run folder from its last checkpoint.", rich_help_panel=RUN)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random. [0]", rich_help_panel=RUN)] = None,
    device: options.Device = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            "--gpus",
            help="Train with so many processes on this machine, each on a GPU of its own, or all on the CPU where "
            "there is none. The batch size stays that of all together. [1]",
            rich_help_panel=RUN,
        ),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(
            help="Tell every epoch to tensorboard, mlflow or wandb as well, if that is installed. Repeatable.",
            autocompletion=completion.trackers,
            rich_help_panel=RUN,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Stop after the preflight and the plan: passes, step time, estimated duration.",
            rich_help_panel=RUN,
        ),
    ] = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Harden a classifier: train it against adversarial examples, audit it before and after.

    [bold]Examples[/bold]

      harden fit model.pt --data ./imgs --source-attack fgsm

      harden fit weights.pth --arch net.py:build --data ./imgs --eps 4/255 --budget 15m

      harden fit timm:resnet18 --data ./imgs --image-size 64 --pretrain 3

      harden fit --resume runs/imgs-adv4adv

      harden fit timm:resnet50 --data ./imgs --gpus 4
    """
    began = time.monotonic()  # before what takes long to import

    def body(terminal: Terminal) -> None:
        from harden.errors import UsageError
        from harden.models.factory import is_reference
        from harden.recipe import find_recipe, read_recipe, resolve
        from harden.workflows import fit as workflow
        from harden.workflows.ending import require_hardened
        from harden.workflows.first_checks import what_there_is
        from harden.workflows.run_files import read_run_file
        from harden.workflows.run_folder import RunFolder

        flags: dict[str, Any] = {
            **options.model_flags(
                model,
                data,
                arch=arch,
                trust_pickle=trust_pickle,
                class_map=class_map,
                ignore_other_classes=ignore_other_classes,
                mean=mean,
                std=std,
                image_size=image_size,
                class_order=class_order,
                gray_bits=gray_bits,
                pretrain=pretrain,
            ),
            "replace_head": replace_head or None,
            "method": method,
            "source_attack": tuple(source_attack) if source_attack else None,
            "static": tuple(static) if static else None,
            "eps": eps,
            "beta": beta,
            "gamma": gamma,
            "split": split,
            "classwise": False if single_discriminator else None,
            "epochs": epochs,
            "budget": budget,
            "lr": lr,
            "batch_size": batch_size,
            "accumulate": accumulate,
            "recompute": recompute or None,
            "sync_batchnorm": sync_batchnorm or None,
            "shard": shard or None,
            "precision": precision,
            "augment": augment,
            "freeze": tuple(freeze) if freeze else None,
            "ema": ema,
            "weight_decay": weight_decay,
            "on_collapse": on_collapse,
            "max_clean_drop": max_clean_drop,
            "selection_samples": selection_samples,
            "attacks": attacks,
            "audit_samples": audit_samples,
            "seed": seed,
            "device": device,
            "track": tuple(track) if track else None,
        }
        with stoppable() as stop, together(processes) as group:
            if not group.leads:
                values = read_recipe(find_recipe(recipe)) if recipe and resume is None else {}
                code = named_code(model or values.get("model"), arch or values.get("arch"))
                following(group, lambda: workflow.follow(group, stop_requested=stop, arch=code))
                return
            if resume is not None:
                run = RunFolder(resume)
                given = {
                    **flags,
                    "arch": None,
                    "trust_pickle": None,
                    "recipe": recipe,
                    "out": out,
                    "dry_run": dry_run or None,
                }
                refused = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
                if refused:
                    raise UsageError(
                        f"--resume goes on with the run's own settings; {', '.join(refused)} cannot change them",
                        hint=f"harden fit --resume {resume}, or start a new run",
                    )
                if not run.recipe.exists():
                    why = "it has no recipe.toml" if resume.exists() else "there is nothing at that path"
                    raise UsageError(f"{resume} is no run folder: {why}", hint=what_there_is(resume))
                result = workflow.resume(
                    run,
                    read_run_file(
                        run.recipe, lambda path: resolve(read_recipe(path), {"trust_pickle": trust_pickle or None})
                    ),
                    narrator=terminal,
                    stop_requested=stop,
                    command=typed_command(),
                    arch=arch,
                    processes=group,
                )
            else:
                values = read_recipe(find_recipe(recipe)) if recipe else {}
                if model is None and "model" not in values:
                    raise UsageError("which model?", hint="harden fit model.pt --data ./imgs --source-attack fgsm")
                if data is None and "data" not in values:
                    raise UsageError(
                        "which images?",
                        hint=f"harden fit {model or values['model']} --data ./imgs --source-attack fgsm",
                    )
                if epochs is not None:
                    values.pop("budget", None)
                if budget is not None:
                    values.pop("epochs", None)
                settings = resolve(values, flags)
                statics = ((static, name) for name in settings.static)
                for flag, named in ((model, settings.model), (arch, settings.arch), *statics):
                    if not flag and named is not None and is_reference(named):
                        terminal.warn(f"the recipe {recipe} names code that builds the network, and it runs: {named}")
                result = workflow.fit(
                    settings,
                    out=out,
                    dry_run=dry_run,
                    narrator=terminal,
                    stop_requested=stop,
                    command=typed_command(),
                    processes=group,
                    began=began,
                )
        if result.run is not None and result.report is not None:
            show_report(terminal, result.report, as_json=as_json, where=result.run.path)
            require_hardened(result.report.ending, result.run)
        elif as_json and result.plan is not None:
            from dataclasses import asdict

            terminal.json({**asdict(result.plan), "seconds": result.plan.seconds, "data": dict(result.data)})

    run_command(body, quiet=quiet or as_json, shared=True)


def named_code(model: str | None, arch: str | None) -> str | None:
    """Return what the user named to build the network, if anything."""
    from harden.models.factory import is_reference

    return arch or (model if model is not None and is_reference(model) else None)
