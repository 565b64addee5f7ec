"""Opening a model that gives nothing but scores, and choosing the attacks that need no more."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from harden.access import Access
from harden.attacks import ATTACKS, PRESETS, Objective, attack_names, frozen, input_gradient
from harden.data import DataSource, Entry, ImageSet
from harden.errors import ModelError, NoGradientError, PreflightError, UsageError
from harden.models import factory
from harden.models.black_box import BlackBox, Program, Questions, taken_channels
from harden.models.classifier import Classifier, Normalisation
from harden.models.fingerprint import fingerprint
from harden.models.formats import FileKind, kind_of
from harden.models.normalisations import plain
from harden.models.onnx_program import open_onnx
from harden.models.output_subset import OutputSubset
from harden.models.outputs import are_probabilities
from harden.models.scoring_function import open_function
from harden.models.torchscript import open_torchscript
from harden.workflows.narrator import Narrator
from harden.workflows.normalising import given_normalisation, run_preflight
from harden.workflows.other_classes import subset_of, told_of
from harden.workflows.prepare import (
    COLOURS,
    Images,
    ModelSpec,
    of_subset,
    open_images,
    preflight_sample,
    tell_fallback,
)

DEFAULT_ATTACK = "square-5000"
_LOOKED_AT = 100
"""Images whose scores say whether they are probabilities."""


def is_black_box(model: str, *, black_box_flag: bool) -> bool:
    """Return whether `model` is one that gives nothing but scores.

    ONNX and TorchScript files are. `path/file.py:function` is where the flag says so: without it, such a name means
    code that builds a network.

    Raises:
        UsageError: the flag stands beside something that cannot be asked like that.
        ModelError: an unreadable file.
    """
    path = Path(model).expanduser()
    if path.is_file():
        found = kind_of(path) in (FileKind.ONNX, FileKind.TORCHSCRIPT)
    else:
        found = black_box_flag and factory.is_reference(model)
    if black_box_flag and not found:
        raise UsageError(
            f"--black-box is for ONNX and TorchScript files and for functions that return scores, not for {model}",
            hint="name it as path/file.py:function or pkg.mod:function, or leave --black-box out",
        )
    return found


def open_black_box(
    spec: ModelSpec, source: DataSource, entries: Sequence[Entry], narrator: Narrator
) -> tuple[BlackBox, Images]:
    """Open a model that gives nothing but scores, and check on a sample of `entries` that it knows them.

    The classes are in the data's order, unless `spec.class_map` or the file itself (`harden export` writes their names
    into it) says otherwise. A file of another tool may want normalised images: as for a network, the normalisation is
    the one that is given, or found. A function and a file of `harden export` take images in [0, 1].

    Args:
        spec: the model; `arch` has no meaning here, `trust_pickle` lets a TorchScript call whatever it likes.
        source: the data.
        entries: labelled images, in the best case such as the model was trained on.
        narrator: hears what was found.

    Raises:
        ModelError, UnsafeInputError: the model cannot or must not be opened, or gives no scores.
        PreflightError: it does not know the images.
        UsageError: what is said about it cannot be.
    """
    asked = (spec.image_size, spec.image_size) if spec.image_size else None
    as_stored = open_images(source, channels=None, size=asked, class_map=spec.class_map)
    program = _open(spec, len(source.classes), as_stored.image_format.size)
    if asked is not None and not program.any_size and program.size not in (None, asked):
        raise UsageError(
            f"{program.name} takes images of {'x'.join(map(str, program.size))}, not of --image-size {spec.image_size}",
            hint="leave --image-size out",
        )
    stored = as_stored.image_format
    size = asked or program.size or stored.size
    channels = stored.channels if program.kind == "function" else taken_channels(program, stored.channels, size)
    if channels != stored.channels:
        narrator.note(
            f"{program.name} reads {COLOURS[channels]} images: the {COLOURS[stored.channels]} ones are converted"
        )
    if asked is None and program.size is None:
        tell_fallback(as_stored, narrator)
    class_map = _class_map(spec, program, source)
    images = open_images(source, channels=channels, size=size, class_map=class_map)
    outputs = program.ask(torch.zeros(2, channels, *size)).shape[1]
    subset = subset_of(outputs, source.classes, class_map, ignore_others=spec.ignore_other_classes)
    if subset is not None:
        images = of_subset(images, subset)
        narrator.note(told_of(subset))
    sample = preflight_sample(images, entries, narrator)
    floats, _ = sample.batch(slice(0, _LOOKED_AT))
    probabilities = are_probabilities(program.ask(floats))
    what = "probabilities, whose logarithms attacks climb" if probabilities else "scores"
    narrator.note(f"{program.name} ({program.kind}) gives {what}, and no gradients: it is audited black-box only")
    box = BlackBox(
        program,
        normalisation=_normalisation(spec, program, probabilities, images, sample, narrator, subset),
        classes=images.classes,
        input_size=(channels, *size),
        probabilities=probabilities,
        subset=subset,
    )
    return box, images


def _open(spec: ModelSpec, classes: int, size: tuple[int, int]) -> Program:
    path = Path(spec.model).expanduser()
    if not path.is_file():
        return open_function(spec.model, classes=classes)
    kind = kind_of(path)
    if kind is FileKind.ONNX:
        return open_onnx(path, classes=classes, size=size)
    if kind is FileKind.TORCHSCRIPT:
        return open_torchscript(path, classes=classes, trust=spec.trust_pickle)
    raise ModelError(
        f"{path} is {kind.value}, not a finished program", hint="audit it as a network, without --black-box"
    )


def _class_map(spec: ModelSpec, program: Program, source: DataSource) -> tuple[int, ...] | None:
    """Return what is given, or the places of the data's classes among the names in the file where all are there."""
    if spec.class_map is not None or program.classes is None or not set(program.classes) >= set(source.classes):
        return spec.class_map
    if len(set(program.classes)) != len(program.classes):
        return None
    return tuple(program.classes.index(name) for name in source.classes)


def _normalisation(
    spec: ModelSpec,
    program: Program,
    probabilities: bool,
    images: Images,
    sample: ImageSet,
    narrator: Narrator,
    subset: OutputSubset | None,
) -> Normalisation:
    channels = images.image_format.channels
    given = given_normalisation(spec.mean, spec.std, channels)
    if program.unit_range and given is not None:
        raise UsageError(
            f"{program.name} takes images in [0, 1]: its normalisation is inside", hint="leave --mean and --std out"
        )
    if program.unit_range:
        given = Normalisation("inside", (0.0,) * channels, (1.0,) * channels)
    try:
        questions = Questions(program, probabilities=probabilities)
        found = run_preflight(questions, images.classes, sample, given, narrator, subset=subset)
    except PreflightError as error:
        if error.permuted:
            raise
        repair = (
            "it is given images in [0, 1] and must normalise them itself"
            if program.unit_range
            else "give the normalisation it was made for (--mean, --std)"
        )
        raise PreflightError(error.message, hint=f"{repair}; or use the data that it was trained on") from error
    return found.chosen


def without_gradients(classifier: Classifier, name: str) -> BlackBox | None:
    """Return a network as a black box where its scores have no gradient at all; None where they have one.

    Args:
        classifier: a network, on the CPU; its own layers may be anything (a comparison, numpy, a detach).
        name: for print.
    """
    grays = torch.linspace(0.2, 0.8, 4)[:, None, None, None].expand(-1, *classifier.input_size)
    try:
        with frozen(classifier):
            input_gradient(classifier, grays, torch.zeros(len(grays), dtype=torch.int64), Objective.MARGIN)
    except NoGradientError:
        program = Program(
            name, "network", partial(_asked, classifier), identity=fingerprint(classifier), unit_range=True
        )
        return BlackBox(
            program,
            normalisation=plain(classifier.input_size[0]),
            classes=classifier.classes,
            input_size=classifier.input_size,
            probabilities=are_probabilities(program.ask(grays)),
        )
    return None


def _asked(classifier: Classifier, images: Tensor) -> Tensor:
    with frozen(classifier), torch.no_grad():
        scores: Tensor = classifier(images)
    return scores


def score_attacks(
    names: Sequence[str] | None, *, others: bool = False, beside: bool = False
) -> tuple[tuple[str, bool], ...]:
    """Return (attack, whether it is a member of an ensemble), as `attack_names` does, of those that need only scores.

    A preset keeps its score-based attacks. Nothing named, it is Square with 5,000 queries. Where there are `others`
    (from surrogates), none need be left; where the black box only stands `beside` a network, which the names are meant
    for, it meets those that it can.

    Raises:
        UsageError: an unknown name, an attack that needs gradients, or presets without a score-based attack.
    """
    found = attack_names(names or (DEFAULT_ATTACK,))
    kept = tuple((name, member) for name, member in found if ATTACKS[name](0.0).access is Access.SCORES)
    usable = [name for name, attack in ATTACKS.items() if attack(0.0).access is Access.SCORES]
    hint = f"name {' or '.join(usable)}, or craft examples on another network with --surrogate"
    gradients = [name for name in names or () if name not in PRESETS and name not in usable]
    if gradients and not beside:
        raise UsageError(f"a black box gives no gradients, which {', '.join(gradients)} would need", hint=hint)
    if not kept and not others and not beside:
        raise UsageError(f"all attacks of {', '.join(names or ())} need gradients, which a black box lacks", hint=hint)
    return kept
