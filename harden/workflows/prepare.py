"""From what a user typed to a classifier, its data and its split point, with everything checked on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from harden.data import (
    DataSource,
    Entry,
    Format,
    ImageSet,
    Probe,
    Unreadable,
    decode_cached,
    stratified_sample,
)
from harden.data.names import composed
from harden.errors import DataError
from harden.models import accepted_channels, load_model, output_classes, stated_size
from harden.models.classifier import Basis, Classifier, Normalisation
from harden.models.head import replace_head
from harden.models.loaded import LoadedModel
from harden.models.normalisations import own_statistics
from harden.models.output_subset import OutputSubset
from harden.models.own_normalisation import inside_network
from harden.models.preflight import remembered
from harden.randomness import stream
from harden.workflows.class_order import class_order
from harden.workflows.narrator import Narrator
from harden.workflows.normalising import DOUBTED_IMAGES, PREFLIGHT_IMAGES, given_normalisation, run_preflight
from harden.workflows.other_classes import names_others, subset_of, told_of
from harden.workflows.run_folder import RunFolder, is_run
from harden.workflows.telling_apart import MEASURED, by_accuracy

FALLBACK_SIZE = 224
LISTED_FILES = 5
LISTED_SIZES = 3
_LOOKED_AT = 4
COLOURS = {1: "gray", 3: "RGB"}


def default_eps(shape: tuple[int, int, int]) -> float:
    """Return the eps for images (C, H, W) when nobody says: 0.1 for gray up to 32 pixels (the paper's), else 4/255."""
    return 0.1 if shape[0] == 1 and max(shape[1:]) <= 32 else 4 / 255


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model as the user typed it, with what was said about it.

    Attributes:
        model: a weights file, a pickled module, `timm:NAME`, `torchvision:NAME`, `file.py:callable`, or a run folder.
        arch: what builds the network that a weights file belongs to.
        trust_pickle: unpickle whatever the file asks for.
        class_map: output of the model for each class of the data; None: the same order.
        mean, std: normalisation per channel on the [0, 1] scale; None: found by the preflight.
        image_size: height and width in pixels; None: what its config.json says, the data's own, or 224.
        replace_head: put a new last layer on it, with as many outputs as the data has classes.
        ignore_other_classes: leave out outputs that `class_map` does not name; otherwise an answer of one of them is a
            wrong one.
    """

    model: str
    arch: str | None = None
    trust_pickle: bool = False
    class_map: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int | None = None
    replace_head: bool = False
    ignore_other_classes: bool = False


@dataclass(frozen=True, eq=False)
class Images:
    """A data set that is opened, and how its images are decoded for one model.

    Attributes:
        source: the data.
        image_format: channels and size.
        classes: names in the order of the model's outputs.
        mapping: the model's output for each class of the data.
        probe: what a look at a few of the images found.
        is_fallback: whether their size is `FALLBACK_SIZE`, for want of one that they share.
        unreadable: file -> why it could not be read, for all that was decoded so far.
    """

    source: DataSource
    image_format: Format
    classes: tuple[str, ...]
    mapping: tuple[int, ...]
    probe: Probe
    is_fallback: bool = False
    unreadable: dict[str, str] = field(default_factory=dict)

    def decode(self, entries: Sequence[Entry], narrator: Narrator, what: str) -> ImageSet:
        """Decode `entries` through the cache, with labels as the model numbers them; unreadable files are told of.

        Raises:
            DataError: nothing could be read.
        """

        def progress(done: int, total: int) -> None:
            narrator.progress(f"reading {what}", done, total)

        images, unreadable = decode_cached(self.source, entries, self.image_format, progress=progress)
        self.unreadable.update((item.file, item.reason) for item in unreadable)
        tell_unreadable(unreadable, narrator, what)
        return images if self.mapping == tuple(range(len(self.mapping))) else images.relabelled(self.mapping)

    def sample(self, entries: Sequence[Entry], count: int | None, seed: int, *path: str) -> tuple[Entry, ...]:
        """Return a stratified sample of `entries` (all of them for None), drawn without opening an image."""
        if count is None or count >= len(entries):
            return tuple(entries)
        labels = torch.tensor([entry.label for entry in entries])
        rows = stratified_sample(labels, count, generator=stream(seed, "sample", *path))
        return tuple(entries[i] for i in rows.tolist())


def tell_unreadable(unreadable: Sequence[Unreadable], narrator: Narrator, what: str) -> None:
    """Warn of files that could not be decoded, the first few by name."""
    if unreadable:
        named = "; ".join(f"{u.file} ({u.reason})" for u in unreadable[:LISTED_FILES])
        more = f"; and {len(unreadable) - LISTED_FILES} more" if len(unreadable) > LISTED_FILES else ""
        narrator.warn(f"{len(unreadable)} files of {what} cannot be read and are left out: {named}{more}")


def open_images(
    source: DataSource,
    *,
    channels: int | None,
    size: tuple[int, int] | None,
    class_map: Sequence[int] | None,
) -> Images:
    """Decide how the images of `source` are decoded.

    Args:
        source: the data.
        channels: 1 or 3, or None for what the images have.
        size: (height, width), or None for the images' own where they all share one, else 224 x 224.
        class_map: see `class_order`.
    """
    probe = source.probe()
    classes, mapping = class_order(source, class_map)
    is_fallback = size is None and not probe.uniform
    chosen = (FALLBACK_SIZE, FALLBACK_SIZE) if is_fallback else size or probe.size
    image_format = Format(channels or probe.channels, chosen)
    return Images(source, image_format, classes, mapping, probe, is_fallback=is_fallback)


def tell_fallback(images: Images, narrator: Narrator) -> None:
    """Say which sizes the images have, where they have several and nobody chose one."""
    if images.is_fallback:
        found = images.probe.sizes
        named = ", ".join(f"{height} x {width} ({count})" for (height, width), count in found[:LISTED_SIZES])
        more = f" and {len(found) - LISTED_SIZES} more sizes" if len(found) > LISTED_SIZES else ""
        narrator.note(
            f"{sum(count for _, count in found)} images looked at have the sizes {named}{more}; all are read as "
            f"{FALLBACK_SIZE} x {FALLBACK_SIZE}: give --image-size to choose another size"
        )


def images_for(classifier: Classifier, source: DataSource) -> Images:
    """Return how the images of `source` are decoded for a model whose classes are known by name.

    Raises:
        DataError: the classes of the data are not those of the model.
    """
    known = len(classifier.subset.chosen) if classifier.subset is not None else len(classifier.classes)
    outputs = {composed(name): k for k, name in enumerate(classifier.classes[:known])}
    unknown = [name for name in source.classes if name not in outputs]
    if unknown or len(outputs) != len(source.classes):
        raise DataError(
            f"the model knows {len(outputs)} classes and the data has {len(source.classes)}"
            + (f", among them some that the model does not know: {', '.join(unknown[:3])}" if unknown else ""),
            hint="use data with the classes that the model was trained on",
        )
    channels, height, width = classifier.input_size
    mapping = tuple(outputs[name] for name in source.classes)
    images = open_images(source, channels=channels, size=(height, width), class_map=mapping)
    return replace(images, classes=classifier.classes)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model as loaded, and the images in the format that it takes; its normalisation is not known yet.

    Attributes:
        subset: which of its outputs the classes of the data are, where it knows more; None where it knows as many.
    """

    loaded: LoadedModel
    images: Images
    subset: OutputSubset | None = None


def load_candidate(spec: ModelSpec, source: DataSource, entries: Sequence[Entry], narrator: Narrator) -> Candidate:
    """Load a model that is no run folder, for the images of `source`, and say what was done.

    Args:
        spec: the model.
        source: the data.
        entries: those of its images that may tell apart networks which fit the same weights.
        narrator: hears what was done.

    Raises:
        ModelError, UnsafeInputError: the model cannot or must not be loaded, or takes neither gray nor RGB images.
        PreflightError: it has another number of outputs than the data has classes, and nobody says which they are.
    """
    size = (spec.image_size, spec.image_size) if spec.image_size else stated_size(spec.model, arch=spec.arch)
    images = open_images(source, channels=None, size=size, class_map=spec.class_map)
    tell_fallback(images, narrator)

    def labelled(channels: int) -> tuple[ImageSet, tuple[str, ...]]:
        seen = open_images(source, channels=channels, size=images.image_format.size, class_map=spec.class_map)
        chosen = seen.sample(entries, MEASURED, 0, "telling apart")
        return seen.decode(chosen, narrator, "images to tell networks apart"), seen.classes

    loaded = load_model(
        spec.model,
        arch=spec.arch,
        classes=None if spec.replace_head or names_others(spec.class_map) else len(source.classes),
        in_channels=images.image_format.channels,
        image_size=images.image_format.size,
        trust_pickle=spec.trust_pickle,
        decide=None
        if spec.replace_head
        else by_accuracy(
            labelled,
            lambda channels: given_normalisation(spec.mean, spec.std, channels),
            channels=images.image_format.channels,
            size=images.image_format.size,
            narrator=narrator,
        ),
    )
    stored = images.image_format
    known = None if names_others(spec.class_map) else len(source.classes)
    channels = accepted_channels(loaded.module, stored.channels, stored.size, classes=known)
    if spec.replace_head:
        loaded = replace_head(loaded, classes=len(source.classes), in_channels=channels, image_size=stored.size)
    for note in loaded.notes:
        narrator.note(note)
    if channels != stored.channels:
        narrator.note(
            f"the network reads {COLOURS[channels]} images: the {COLOURS[stored.channels]} ones are converted"
        )
    class_map = spec.class_map if spec.class_map is not None else _by_name(loaded.stated.labels, source, narrator)
    if channels != stored.channels or class_map != spec.class_map:
        images = open_images(source, channels=channels, size=size, class_map=class_map)
    outputs = output_classes(loaded.module, channels, stored.size, classes=known)
    subset = subset_of(outputs, source.classes, class_map, ignore_others=spec.ignore_other_classes)
    if subset is not None:
        images = of_subset(images, subset)
        narrator.note(told_of(subset))
    return Candidate(loaded, images, subset)


def of_subset(images: Images, subset: OutputSubset) -> Images:
    """Return images whose labels are numbered in the data's order, as the scores of `subset` are."""
    classes = images.source.classes
    return replace(images, classes=subset.names(classes), mapping=tuple(range(len(classes))))


def _by_name(labels: tuple[str, ...] | None, source: DataSource, narrator: Narrator) -> tuple[int, ...] | None:
    """Return the output of each class of the data, by the names that the model has for its outputs; None without."""
    if labels is None or len(labels) != len(source.classes):
        return None
    labels = tuple(map(composed, labels))
    if set(labels) != set(source.classes):
        narrator.note(
            f"the model's own names of its classes ({', '.join(labels[:3])}, ...) are not those of the data, which are "
            "taken in their order"
        )
        return None
    return tuple(labels.index(name) for name in source.classes)


def open_model(
    spec: ModelSpec, source: DataSource, entries: Sequence[Entry], narrator: Narrator
) -> tuple[Classifier, Images]:
    """Load a model that is no run folder and find its normalisation on a sample of `entries`.

    A network without weights gets the statistics of the images.
    """
    candidate = load_candidate(spec, source, entries, narrator)
    sample = preflight_sample(candidate.images, entries, narrator)

    def more() -> ImageSet:
        return preflight_sample(candidate.images, entries, narrator, most=DOUBTED_IMAGES)

    normalisation = find_normalisation(spec, candidate, sample, narrator, more=more)
    return classifier_of(candidate, normalisation), candidate.images


def preflight_sample(
    images: Images, entries: Sequence[Entry], narrator: Narrator, *, most: int = PREFLIGHT_IMAGES
) -> ImageSet:
    """Decode at most `most` of `entries`, stratified."""
    chosen = images.sample(entries, most, 0, "preflight")
    return images.decode(chosen, narrator, "images for the preflight")


def find_normalisation(
    spec: ModelSpec,
    candidate: Candidate,
    sample: ImageSet,
    narrator: Narrator,
    *,
    must_know: bool = True,
    more: Callable[[], ImageSet] | None = None,
) -> Normalisation:
    """Return the normalisation that is known, or found by the preflight, or else the images' own statistics.

    Known is what the user gives, what the network does by itself, and what its files state, in this order.

    These are for a network without weights, and for one that does not know the images and need not: which of many
    normalisations its guesses happen to be best under means nothing.

    Raises:
        PreflightError: the model and the images do not fit; see `run_preflight` for `must_know` and `more`.
    """
    channels, loaded = candidate.images.image_format.channels, candidate.loaded
    given = (
        given_normalisation(spec.mean, spec.std, channels)
        or inside_network(loaded.module, sample.batch(slice(_LOOKED_AT))[0])
        or given_normalisation(None, None, channels, loaded.stated)
    )
    if spec.replace_head:
        return _under_new_head(given, loaded.module, sample, narrator)
    if loaded.has_weights:
        module, classes, subset = loaded.module, candidate.images.classes, candidate.subset
        found = run_preflight(module, classes, sample, given, narrator, must_know=must_know, more=more, subset=subset)
        if found.problem is None:
            return found.chosen
        why = "does not know the images"
    else:
        why = "has no trained weights yet"
    floats, _ = sample.batch(slice(None))
    normalisation = given or replace(own_statistics(floats), basis=Basis.TRAINED)
    narrator.note(f"the network {why}; normalisation: {normalisation.name}")
    return normalisation


def _under_new_head(
    given: Normalisation | None, module: nn.Module, sample: ImageSet, narrator: Narrator
) -> Normalisation:
    """Return the normalisation of a network whose scores say nothing of it, since its last layer is new."""
    floats, _ = sample.batch(slice(None))
    if given is not None:
        narrator.note(f"normalisation: {given.name}")
        return given
    known = remembered(module, floats)
    if known is not None:
        narrator.note(f"normalisation: {known.name}, the nearest to what the first BatchNorm was trained on")
        return replace(known, basis=Basis.TRAINED)
    own = replace(own_statistics(floats), basis=Basis.TRAINED)
    narrator.warn(
        f"nothing tells which normalisation the network was trained with; {own.name} is taken: give --mean and --std "
        "if you know it"
    )
    return own


def classifier_of(candidate: Candidate, normalisation: Normalisation) -> Classifier:
    """Put a normalisation and class names around a loaded module."""
    image_format = candidate.images.image_format
    return Classifier(
        candidate.loaded.module,
        normalisation=normalisation,
        classes=candidate.images.classes,
        input_size=(image_format.channels, *image_format.size),
        origin=candidate.loaded.origin,
        subset=candidate.subset,
    )


def as_run(model: str) -> RunFolder | None:
    """Return the run folder that `model` names, or None."""
    path = Path(model)
    return RunFolder(path) if path.is_dir() and is_run(path) else None
