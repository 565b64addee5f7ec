"""`harden inspect`: what a model is made of, where it can be split, and what the preflight finds."""

from __future__ import annotations

from dataclasses import dataclass

from harden.data import AS_IT_IS, DataSource, Reading, open_data, to_look_at
from harden.errors import ModelError, PreflightError
from harden.models import accepted_channels, load_model, output_classes, stated_size
from harden.models.classifier import Classifier, Normalisation
from harden.models.loaded import Stated
from harden.models.normalisations import plain
from harden.models.split import DefaultSplit, SplitPoint, default_split, split_points
from harden.workflows.first_checks import check_first
from harden.workflows.narrator import Narrator
from harden.workflows.normalising import given_normalisation, run_preflight
from harden.workflows.prepare import (
    FALLBACK_SIZE,
    ModelSpec,
    as_run,
    classifier_of,
    find_normalisation,
    images_for,
    load_candidate,
    open_images,
    preflight_sample,
)
from harden.workflows.run_folder import reading_for, refuse_stated


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


def inspect(spec: ModelSpec, *, data: str | None, narrator: Narrator, reading: Reading = AS_IT_IS) -> Inspection:
    """Load a model (without data: as its maker built it) and look at its layers; with data, run the preflight too.

    A model that does not know the data is warned of, and its layers are shown all the same.

    Args:
        spec: the model.
        data: images; None: none.
        reading: how they are read; what it leaves open is as in the run, where the model is one.
        narrator: hears what is found.

    Raises:
        HardenError: anything the user can repair.
    """
    check_first(models=(spec.model,), arch=spec.arch)
    run = as_run(spec.model)
    if run is not None:
        refuse_stated(run, spec, reading)
        classifier = run.load_classifier(initial=not run.weights.exists(), arch=spec.arch)
        if data is not None:
            source = open_data(data, reading_for(run, reading, other_data=True))
            _preflight_run(classifier, source, narrator)
    elif data is not None:
        classifier = _with_data(spec, open_data(data, reading), narrator)
    else:
        classifier = _without_data(spec, narrator)
    parameters = sum(p.numel() for p in classifier.module.parameters())
    points = split_points(classifier)
    try:
        return Inspection(classifier, parameters, points, default_split(classifier), "")
    except ModelError as error:
        return Inspection(classifier, parameters, points, None, error.message)


def _preflight_run(classifier: Classifier, source: DataSource, narrator: Narrator) -> None:
    images = images_for(classifier, source)
    sample = preflight_sample(images, to_look_at(source), narrator)
    normalisation = classifier.normalisation
    run_preflight(
        classifier.module,
        classifier.classes,
        sample,
        normalisation,
        narrator,
        must_know=False,
        subset=classifier.subset,
    )


def _with_data(spec: ModelSpec, source: DataSource, narrator: Narrator) -> Classifier:
    try:
        candidate = load_candidate(spec, source, to_look_at(source), narrator)
    except PreflightError as error:  # another number of classes
        narrator.warn(f"{error.message}. {error.hint or ''}")
        size = open_images(source, channels=None, size=None, class_map=None).image_format.size
        return _without_data(spec, narrator, size)
    sample = preflight_sample(candidate.images, to_look_at(source), narrator)
    return classifier_of(candidate, find_normalisation(spec, candidate, sample, narrator, must_know=False))


def _without_data(spec: ModelSpec, narrator: Narrator, size: tuple[int, int] | None = None) -> Classifier:
    """Guess the input: the channels that the network takes, and the size given or the usual ones until one fits."""
    failures = []
    stated = stated_size(spec.model, arch=spec.arch) or size
    guesses = (stated,) if stated is not None else tuple((side, side) for side in (FALLBACK_SIZE, 32, 28))
    for size in ((spec.image_size, spec.image_size),) if spec.image_size else guesses:
        try:
            loaded = load_model(
                spec.model,
                arch=spec.arch,
                classes=None,
                in_channels=None,
                image_size=size,
                trust_pickle=spec.trust_pickle,
            )
        except ModelError as error:
            failures.append(error)
            continue
        channels = accepted_channels(loaded.module, None, size)
        for note in loaded.notes:
            narrator.note(note)
        height, width = size
        narrator.note(f"images assumed {channels} x {height} x {width}; give --data or --image-size to be sure")
        outputs = output_classes(loaded.module, channels, size)
        labels = loaded.stated.labels or ()
        return Classifier(
            loaded.module,
            normalisation=_given_or_none(spec, channels, loaded.stated),
            classes=labels if len(labels) == outputs else tuple(f"output {k}" for k in range(outputs)),
            input_size=(channels, height, width),
            origin=loaded.origin,
        )
    raise failures[0]


def _given_or_none(spec: ModelSpec, channels: int, stated: Stated) -> Normalisation:
    return given_normalisation(spec.mean, spec.std, channels, stated) or plain(channels)
