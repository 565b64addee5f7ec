"""What `harden export` is asked for, and the model and the images that it works on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from harden.data import AS_IT_IS, Entry, Reading, open_data
from harden.errors import UsageError
from harden.export.parity import TOLERANCE
from harden.export.to_onnx import OPSET
from harden.models.classifier import Classifier
from harden.workflows.narrator import Narrator
from harden.workflows.prepare import Images, ModelSpec, default_eps, images_for, open_model
from harden.workflows.run_folder import RunFolder, reading_for, refuse_stated

MAX_DROP = 0.02


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What `harden export` is asked for.

    Attributes:
        spec: the model.
        formats: keys of `EXPORTERS`.
        precisions: keys of `PRECISIONS`, of the ONNX files.
        data: images to prove agreement on; None: the run's validation images.
        reading: how they are read; what it leaves open is as in the run.
        samples: how many of them; None: by what a forward pass of the model costs.
        opset: of the ONNX files.
        tolerance: largest difference of any score that counts as agreement, as a share of the scores' scale; of a file
            of 32-bit floats.
        max_drop: largest drop of accuracy, as a share, that counts as agreement: on clean images, on adversarial
            examples of the model, and under Square on the file itself.
        any_size: whether ONNX files take images of any size, and fit them to the network's own.
        anyway: whether to export a run that did not harden its model, too.
    """

    spec: ModelSpec
    formats: tuple[str, ...]
    precisions: tuple[str, ...] = ("fp32",)
    data: str | None = None
    reading: Reading = AS_IT_IS
    samples: int | None = None
    opset: int = OPSET
    tolerance: float = TOLERANCE
    max_drop: float = MAX_DROP
    any_size: bool = False
    anyway: bool = False


@dataclass(frozen=True, eq=False)
class ExportSubject:
    """What is exported, and the images of `data` for it: those it is proven on, others to calibrate with."""

    classifier: Classifier
    run: RunFolder | None
    images: Images
    entries: tuple[Entry, ...]
    data: str
    eps: float


def open_subject(run: RunFolder | None, settings: ExportSettings, narrator: Narrator) -> ExportSubject:
    """Open the model of a run folder, or any other, with all the outputs that its network has.

    Raises:
        HardenError: see `RunFolder.load_classifier` and `open_model`.
    """
    return _with_all_outputs(_from_run(run, settings) if run is not None else _from_model(settings, narrator))


def _from_run(run: RunFolder, settings: ExportSettings) -> ExportSubject:
    refuse_stated(run, settings.spec, settings.reading)
    classifier = run.load_classifier(arch=settings.spec.arch)
    training = run.read_training()
    reading = reading_for(run, settings.reading, other_data=settings.data is not None)
    data = settings.data or training["data"]
    source = open_data(data, reading)
    splits = run.splits_under(source.classes) if settings.data is None else None
    entries = splits.val if splits is not None else _some(source.listings)
    return ExportSubject(classifier, run, images_for(classifier, source), tuple(entries), data, float(training["eps"]))


def _from_model(settings: ExportSettings, narrator: Narrator) -> ExportSubject:
    if settings.data is None:
        raise UsageError(
            "which images? A model's export is proven on images, and its normalisation is found on them",
            hint="give --data DIR; only a finished run folder knows its own",
        )
    source = open_data(settings.data, settings.reading)
    entries = _some(source.listings)
    classifier, images = open_model(settings.spec, source, entries, narrator)
    return ExportSubject(classifier, None, images, tuple(entries), settings.data, default_eps(classifier.input_size))


def _with_all_outputs(subject: ExportSubject) -> ExportSubject:
    """Return the subject whose network gives all of its own outputs, where it knows more classes than the data."""
    subset, classifier, images = subject.classifier.subset, subject.classifier, subject.images
    if subset is None:
        return subject
    classes = subset.all_names(classifier.classes)
    whole = Classifier(
        classifier.module,
        normalisation=classifier.normalisation,
        classes=classes,
        input_size=classifier.input_size,
        origin=classifier.origin,
    )
    numbered = replace(images, classes=classes, mapping=tuple(subset.chosen[k] for k in images.mapping))
    return replace(subject, classifier=whole.to(classifier.device), images=numbered)


def _some(listings: Any) -> Any:
    return listings.get("val") or listings.get("train") or next(iter(listings.values()))
