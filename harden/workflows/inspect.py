"""`harden inspect`: what a model is made of, where it can be split, and what the preflight finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harden.data import open_data
from harden.errors import ModelError, UsageError
from harden.models import expected_channels, load_model, output_classes
from harden.models.classifier import Classifier, Normalisation
from harden.models.split import DefaultSplit, SplitPoint, default_split, split_points
from harden.workflows.narrator import Narrator
from harden.workflows.prepare import (
    FALLBACK_SIZE,
    as_run,
    classifier_of,
    fresh_normalisation,
    given_normalisation,
    load_candidate,
    rows_for_preflight,
    run_preflight,
)

ASSUMED_CLASSES = 1000


@dataclass(frozen=True, eq=False)
class Inspection:
    """What was found.

    Attributes:
        classifier: the model.
        parameters: how many numbers it has.
        points: every layer that it can be split at.
        default: the split that `fit` would choose; None where there is none.
        points_note: why there is none.
    """

    classifier: Classifier
    parameters: int
    points: tuple[SplitPoint, ...]
    default: DefaultSplit | None
    points_note: str


def inspect(
    model: str,
    *,
    data: str | None,
    arch: str | None,
    trust_pickle: bool,
    image_size: int | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    narrator: Narrator,
) -> Inspection:
    """Load a model (without data: as a classifier of its own number of classes) and look at its layers.

    Raises:
        HardenError: anything the user can repair.
    """
    run = as_run(model)
    if run is not None:
        classifier = run.load_classifier(initial=not run.weights.exists(), arch=arch)
    elif data is not None:
        source = open_data(data)
        candidate = load_candidate(
            model, source, arch=arch, trust_pickle=trust_pickle, image_size=image_size, class_map=None
        )
        for note in candidate.loaded.notes:
            narrator.note(note)
        listed = source.listings.get("train") or next(iter(source.listings.values()))
        chosen = candidate.images.sample(listed, 2000, 0, "preflight")
        images = candidate.images.decode(chosen, narrator, "images for the preflight")
        sample = images.subset(rows_for_preflight(images.labels, 0))
        given = given_normalisation(mean, std, candidate.images.image_format.channels)
        if candidate.loaded.has_weights:
            normalisation = run_preflight(candidate, sample, given, narrator).chosen
        else:
            normalisation = given or fresh_normalisation(sample)
            narrator.note("the network has no weights: `harden fit` trains it cleanly first (--pretrain)")
        classifier = classifier_of(candidate, normalisation)
    else:
        classifier = _without_data(model, arch, trust_pickle, image_size, narrator)
    parameters = sum(p.numel() for p in classifier.module.parameters())
    points = split_points(classifier)
    try:
        return Inspection(classifier, parameters, points, default_split(classifier), "")
    except ModelError as error:
        return Inspection(classifier, parameters, points, None, error.message)


def _without_data(
    model: str, arch: str | None, trust_pickle: bool, image_size: int | None, narrator: Narrator
) -> Classifier:
    """Guess the input: the channels of the first convolution, and the size given or the usual ones until one fits."""
    sizes = (image_size,) if image_size else (FALLBACK_SIZE, 32, 28)
    failures = []
    for channels in (3, 1):
        for size in sizes:
            try:
                loaded = load_model(
                    model,
                    arch=arch,
                    classes=ASSUMED_CLASSES,
                    in_channels=channels,
                    image_size=(size, size),
                    trust_pickle=trust_pickle,
                )
                classes = output_classes(loaded.module, channels, (size, size))
            except ModelError as error:
                failures.append(error)
                continue
            if expected_channels(loaded.module) not in (None, channels):
                continue
            for note in loaded.notes:
                narrator.note(note)
            narrator.note(f"images assumed {channels} x {size} x {size}; give --data or --image-size to be sure")
            return Classifier(
                loaded.module,
                normalisation=Normalisation("none", (0.0,) * channels, (1.0,) * channels),
                classes=tuple(f"output {k}" for k in range(classes)),
                input_size=(channels, size, size),
                origin=loaded.origin,
            )
    if failures:
        raise failures[0]
    raise UsageError(f"cannot tell what images {Path(model).name} takes", hint="give --data DIR")
