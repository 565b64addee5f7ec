"""`harden inspect`: what a model is made of, where it can be split, and what the preflight finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harden.data import open_data
from harden.errors import ModelError, PreflightError, UsageError
from harden.models import expected_channels, load_model, output_classes
from harden.models.classifier import Classifier, Normalisation
from harden.models.split import DefaultSplit, SplitPoint, default_split, split_points
from harden.workflows.narrator import Narrator
from harden.workflows.prepare import FALLBACK_SIZE, ModelSpec, as_run, classifier_of, load_candidate, open_model

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


def inspect(spec: ModelSpec, *, data: str | None, narrator: Narrator) -> Inspection:
    """Load a model (without data: as a classifier of its own number of classes) and look at its layers.

    Raises:
        HardenError: anything the user can repair.
    """
    run = as_run(spec.model)
    if run is not None:
        classifier = run.load_classifier(initial=not run.weights.exists(), arch=spec.arch)
    elif data is not None:
        source = open_data(data)
        listed = source.listings.get("train") or next(iter(source.listings.values()))
        try:
            classifier, _ = open_model(spec, source, listed, narrator)
        except PreflightError as error:
            narrator.warn(f"{error.message}. {error.hint or ''}")
            candidate = load_candidate(spec, source, narrator)
            channels = candidate.images.image_format.channels
            classifier = classifier_of(candidate, Normalisation("none", (0.0,) * channels, (1.0,) * channels))
    else:
        classifier = _without_data(spec, narrator)
    parameters = sum(p.numel() for p in classifier.module.parameters())
    points = split_points(classifier)
    try:
        return Inspection(classifier, parameters, points, default_split(classifier), "")
    except ModelError as error:
        return Inspection(classifier, parameters, points, None, error.message)


def _without_data(spec: ModelSpec, narrator: Narrator) -> Classifier:
    """Guess the input: the channels of the first convolution, and the size given or the usual ones until one fits."""
    sizes = (spec.image_size,) if spec.image_size else (FALLBACK_SIZE, 32, 28)
    failures = []
    for channels in (3, 1):
        for size in sizes:
            try:
                loaded = load_model(
                    spec.model,
                    arch=spec.arch,
                    classes=ASSUMED_CLASSES,
                    in_channels=channels,
                    image_size=(size, size),
                    trust_pickle=spec.trust_pickle,
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
    raise UsageError(f"cannot tell what images {Path(spec.model).name} takes", hint="give --data DIR")
