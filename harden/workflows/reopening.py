"""A run folder back into the job that it was, for `harden fit --resume` and for the processes that follow a leader."""

from __future__ import annotations

import time

import torch

from harden.data import open_data
from harden.randomness import derive_seed
from harden.workflows.data_facts import facts_of
from harden.workflows.devices import choose_device
from harden.workflows.encounters import Encounters
from harden.workflows.job import Job, StopRequested, selection_entries
from harden.workflows.narrator import Narrator
from harden.workflows.prepare import images_for
from harden.workflows.run_folder import RunFolder
from harden.workflows.settings import FitSettings


def reopened(
    run: RunFolder, settings: FitSettings, narrator: Narrator, stop_requested: StopRequested, *, arch: str | None
) -> Job:
    """Return the job of a run folder, as it was when its training began."""
    config = run.read_config()
    splits = run.read_splits()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(derive_seed(settings.seed, "weights"))
        kept = (path for path in (run.initial_weights, run.starting_weights) if path.exists())
        classifier = run.build_classifier(next(kept, None), arch=arch)
    source = open_data(settings.data, settings.reading)
    facts_of(source, [run], data=settings.data).tell(narrator)
    images = images_for(classifier, source)
    training_images = images.decode(splits.train, narrator, "training images")
    val = images.decode(selection_entries(images, splits, settings), narrator, "validation images")
    classifier.to(choose_device(settings.device))
    return Job(
        settings=settings,
        images=images,
        splits=splits,
        train=training_images,
        val=val,
        classifier=classifier,
        narrator=narrator,
        stop_requested=stop_requested,
        began=time.monotonic(),
        command=config.get("command", ""),
        earlier=Encounters.from_json(config.get("earlier")),
    )
