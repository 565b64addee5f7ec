"""Models as the benchmarks need them: a classifier and a stratified sample of its test images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from harden.data import Entry, ImageSet, SplitPlan, open_data
from harden.models.classifier import Classifier
from harden.recipe import read_recipe, resolve
from harden.workflows.job import selection_entries
from harden.workflows.narrator import Silent
from harden.workflows.prepare import Images, ModelSpec, images_for, open_model
from harden.workflows.run_folder import RunFolder
from harden.workflows.settings import FitSettings


@dataclass(frozen=True, eq=False)
class Opened:
    """A model with images to attack it on, and the eps of its training."""

    classifier: Classifier
    images: ImageSet
    eps: float


def open_run(
    path: Path,
    *,
    arch: str | None,
    samples: int,
    split: str = "test",
    initial: bool = False,
    seed_path: str = "autoattack",
) -> Opened:
    """Open a run folder.

    Args:
        path: of the run.
        arch: code that builds the network, where the run itself may not be trusted with it.
        samples: images, stratified; the same ones for every model of the same data.
        split: "test", or "val" for held-out images that selection did not use.
        initial: the model before hardening.
    """
    run = RunFolder(path)
    training = run.read_json(run.config)["training"]
    classifier = run.load_classifier(arch=arch, initial=initial).eval()
    settings = resolve(read_recipe(run.recipe), {})
    images = images_for(classifier, open_data(training["data"], settings.reading))
    plan = SplitPlan.from_json(run.read_json(run.splits))
    entries = plan.test if split == "test" else _unseen(images, plan, settings)
    chosen = images.sample(entries, samples, 0, "autoattack")
    return Opened(classifier, images.decode(chosen, Silent(), "images"), training["eps"])


def open_other(spec: ModelSpec, *, data: str, samples: int, eps: float) -> Opened:
    """Open a model that is no run folder, with test images of `data`; a network of timm gets random weights.

    Args:
        spec: of the model.
        data: images with a test split.
        samples: images, stratified.
        eps: of no training; it is handed on.
    """
    source = open_data(data)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        classifier, images = open_model(spec, source, source.listings["test"], Silent())
    chosen = images.sample(source.listings["test"], samples, 0, "autoattack")
    return Opened(classifier.eval(), images.decode(chosen, Silent(), "images"), eps)


def _unseen(images: Images, plan: SplitPlan, settings: FitSettings) -> tuple[Entry, ...]:
    """Return the validation images of a run that its canary and selection did not use."""
    used = {entry.file for entry in selection_entries(images, plan, settings)}
    return tuple(entry for entry in plan.val if entry.file not in used)
