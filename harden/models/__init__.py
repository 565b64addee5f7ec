"""Getting a network: from a name, from the user's code, from a file. `SOURCES` is the table of what can be rebuilt.

A model is named by one string. `timm:NAME[@TAG]`, `torchvision:NAME` and `file.py:callable` build a network; a path
is a file, whose content decides what it is: a pickled network, or weights. Which network weights belong to is said by
`arch`, by a config.json in timm's layout beside them (`local-dir:FOLDER` and `hf-hub:ORG/NAME` name both at once), or
by the names and shapes in them. torchvision and timm are imported only when one of them is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import nn

from harden.errors import MissingModelError, ModelError
from harden.models import factory, foreign, recognise, timm_folder, timm_models, torchvision_models, trust
from harden.models.formats import FileKind, kind_of
from harden.models.frozen import keep_frozen
from harden.models.head import renew
from harden.models.loaded import LoadedModel, one_line
from harden.models.origin import Origin
from harden.models.own_normalisation import with_held
from harden.models.pickled import load_pickled, module_in, read_pickle
from harden.models.soundness import require_sound
from harden.models.state_dict import Candidate, MisfitError, candidates_in, fit_candidates, read_safetensors, sizes_in
from harden.models.timm_folder import TimmConfig
from harden.models.trial import GRAY, RGB, accepted_channels, expected_channels, initialise, output_classes
from harden.registry import did_you_mean, lookup

__all__ = [
    "SOURCES",
    "LoadedModel",
    "accepted_channels",
    "expected_channels",
    "load_model",
    "output_classes",
    "rebuild",
    "stated_size",
]

LIBRARY_CLASSES = 1000
"""Classes of a network of torchvision where nobody says."""


class Sizes(NamedTuple):
    """What a network is built for; None leaves a number to the network."""

    classes: int | None
    in_channels: int | None


Build = Callable[[str, Sizes], LoadedModel]


def _rebuild_factory(origin: Origin, folder: Path) -> nn.Module:
    trust.require_trust(origin, folder)
    return factory.rebuild(origin)


def _rebuild_pickled(origin: Origin, folder: Path) -> nn.Module:
    return load_pickled(folder / Path(origin.reference).name, trust=False)


SOURCES: dict[str, Callable[[Origin, Path], nn.Module]] = {
    "timm": lambda origin, folder: timm_models.rebuild(origin),
    "torchvision": lambda origin, folder: torchvision_models.rebuild(origin),
    "factory": _rebuild_factory,
    "pickled": _rebuild_pickled,
}
"""By `Origin.kind`: how a run folder's network is built again, without its weights."""


def load_model(
    spec: str,
    *,
    arch: str | None = None,
    classes: int | None,
    in_channels: int | None,
    image_size: tuple[int, int],
    trust_pickle: bool = False,
    decide: recognise.Decide | None = None,
) -> LoadedModel:
    """Return the network that `spec` names, with its weights where it has any.

    Args:
        spec: `timm:NAME[@TAG]`, `torchvision:NAME`, `path/file.py:callable`, `pkg.mod:callable`, `local-dir:FOLDER`,
            `hf-hub:ORG/NAME[@REVISION]`, or a file.
        arch: what builds the network that a weights file belongs to; any of the first four forms. None: what the
            config.json beside it says, or what it is recognised as; then the number of classes is that of the weights.
        classes: number of classes of the data; passed on where a network is built. None: the network's own number,
            or that of its weights.
        in_channels: channels of the images, 1 or 3; passed on where a network is built. A network whose weights or
            code want the other number is returned too: ask `accepted_channels`. None: the network's own number.
        image_size: (height, width) in pixels.
        trust_pickle: let a pickle run the code that it brings along.
        decide: chooses among networks that fit the weights and compute different things; None: these are refused.

    Raises:
        ModelError: there is no such model, it cannot be built or read, or it cannot take such images.
        UnsafeInputError: a file would run code, and `trust_pickle` is off.
    """

    def build(what: str, sizes: Sizes) -> LoadedModel:
        return _build(what, sizes, image_size)

    sizes = Sizes(classes, in_channels)
    stored = _stored(spec, arch)
    path = stored.weights if stored is not None else Path(spec).expanduser()
    if not path.exists() and _is_buildable(spec):
        if arch is not None:
            raise ModelError(
                f"{spec!r} builds a network by itself; --arch {arch} would build another",
                hint="leave --arch out, or pass a weights file as the model",
            )
        loaded = build(spec, sizes)
    else:
        _check_file(path, spec)
        config = stored.config if stored is not None and arch is None else None

        def load(path: Path, candidates: list[Candidate]) -> LoadedModel:
            if arch is not None:
                return _with_weights(path, candidates, arch=arch, build=build, sizes=sizes)
            if config is not None:
                return _with_config(path, candidates, config, image_size)
            return _recognised(path, candidates, build, image_size, decide)

        loaded = _load_file(path, load, whole=arch is None, trust_pickle=trust_pickle)
    accepted_channels(loaded.module, in_channels, image_size, classes=classes)
    require_sound(loaded.module, spec)  # the pass may have changed it
    return loaded


def rebuild(origin: Origin, *, skeleton_dir: Path, arch: str | None = None) -> nn.Module:
    """Return the network of a run folder, without its weights.

    Args:
        origin: what the run folder says about its network.
        skeleton_dir: where the run folder keeps its skeleton and its copy of the code.
        arch: build this instead; what the user names explicitly is run and remembered.

    Raises:
        ModelError: the network cannot be built here.
        UnsafeInputError: it would take code that the user never named, and `arch` does not name it.
    """
    module = _rebuild(origin, skeleton_dir, arch)
    if origin.head is not None:
        renew(module, origin.head)
    return module


def _rebuild(origin: Origin, skeleton_dir: Path, arch: str | None) -> nn.Module:
    if arch is None:
        return lookup(SOURCES, origin.kind, kind="model source")(origin, skeleton_dir)
    if origin.kind == "factory" and factory.is_reference(arch):
        renamed = factory.origin_of(arch, origin.arguments)
        module = factory.rebuild(renamed)
        trust.remember(renamed)
        return module
    kind, _, reference = arch.partition(":")
    if kind in ("timm", "torchvision") and kind == origin.kind:
        return SOURCES[kind](replace(origin, reference=reference), skeleton_dir)
    raise ModelError(
        f"--arch {arch} cannot stand for this run's network, which came from {origin.kind} ({origin.reference})",
        hint="name the same kind of source",
    )


def stated_size(spec: str, *, arch: str | None) -> tuple[int, int] | None:
    """Return the (height, width) that the config.json of the weights `spec` states; None where nothing does.

    Raises:
        ModelError, UnsafeInputError: as `load_model`, for a folder or a config that cannot be used.
    """
    stored = _stored(spec, arch)
    return stored.config.stated.size if stored is not None and arch is None else None


def _stored(spec: str, arch: str | None) -> timm_folder.Stored | None:
    """Return weights and their config; None for what is neither, and for a file of which `arch` says all."""
    if arch is not None and Path(spec).expanduser().is_file():
        return None
    return timm_folder.find(spec)


def _is_buildable(spec: str) -> bool:
    return spec.startswith(("timm:", "torchvision:")) or factory.is_reference(spec)


def _build(what: str, sizes: Sizes, image_size: tuple[int, int]) -> LoadedModel:
    kind, _, reference = what.partition(":")
    if kind == "timm":
        return timm_models.build(
            reference, classes=sizes.classes, in_channels=sizes.in_channels or RGB, image_size=image_size
        )
    if kind == "torchvision":
        return torchvision_models.build(reference, classes=sizes.classes or LIBRARY_CLASSES, image_size=image_size)
    if not factory.is_reference(what):
        raise MissingModelError(
            f"--arch {what} names no network",
            hint="--arch takes path/file.py:callable, pkg.mod:callable, timm:NAME or torchvision:NAME",
        )
    loaded = factory.build(what, classes=sizes.classes, in_channels=sizes.in_channels)
    initialise(loaded.module, sizes.in_channels or expected_channels(loaded.module) or RGB, image_size)
    if trust.remember(loaded.origin):
        return loaded
    note = f"could not write {trust.ledger_path()}; commands on the run folder will ask for --arch again"
    return replace(loaded, notes=(*loaded.notes, note))


def _check_file(path: Path, spec: str) -> None:
    if path.is_file():
        return
    if path.is_dir():
        found = foreign.of_folder(path)
        if found is not None:
            raise ModelError(f"{spec} is {found.what}", hint=found.way)
        raise MissingModelError(f"{spec} is a folder, not a model file", hint="name the weights file inside")
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise MissingModelError(
        f"no model file {spec}{did_you_mean(path.name, siblings)}",
        hint="a model is a file, timm:NAME, torchvision:NAME, local-dir:FOLDER, hf-hub:ORG/NAME or "
        "path/file.py:callable",
    )


def _load_file(
    path: Path, load: Callable[[Path, list[Candidate]], LoadedModel], *, whole: bool, trust_pickle: bool
) -> LoadedModel:
    """Return the network in a file (if `whole`), or that which `load` finds for the weights in it."""
    kind = kind_of(path)
    if kind in (FileKind.TORCHSCRIPT, FileKind.EXPORTED_PROGRAM, FileKind.ONNX):
        raise ModelError(
            f"{path} is {kind.value}: a finished program, which cannot be fine-tuned",
            hint="pass the weights (a state_dict) that it was exported from, and the network: FILE --arch "
            "path/file.py:callable; `harden report` audits ONNX and TorchScript as they are",
        )
    if kind is FileKind.SAFETENSORS:
        tensors = read_safetensors(path)
        return with_held(load(path, candidates_in(tensors, path)), tensors, path)
    content = read_pickle(path, trust=trust_pickle)
    trusted = ("ran whatever code the file brings along (--trust-pickle)",) if trust_pickle else ()
    module = module_in(content)
    if module is not None and whole:
        require_sound(module, str(path))
        origin = Origin("pickled", path.name, weights=str(path))
        try:
            module.float()
        except (NotImplementedError, RuntimeError) as error:
            raise ModelError(
                f"{path} holds numbers of a type that torch cannot convert to float32 ({one_line(error)})",
                hint="save the network in float32: model.float()",
            ) from error
        notes = (*trusted, f"the file holds the whole network ({type(module).__name__})", *keep_frozen(module))
        return LoadedModel(module, origin, has_weights=True, notes=notes)
    loaded = with_held(load(path, candidates_in(content, path)), content, path)
    return replace(loaded, notes=(*trusted, *loaded.notes))


def _with_config(
    path: Path, candidates: list[Candidate], config: TimmConfig, image_size: tuple[int, int]
) -> LoadedModel:
    """Return the network that a config.json in timm's layout describes, with the weights."""

    def build(reference: str, sizes: Sizes) -> LoadedModel:
        return timm_models.build(
            reference,
            classes=sizes.classes,
            in_channels=sizes.in_channels or RGB,
            image_size=image_size,
            chosen=config.arguments,
        )

    classes = config.classes if config.classes is not None else sizes_in(candidates[0])[0]
    sizes = Sizes(classes, config.channels)
    try:
        loaded = _with_weights(path, candidates, arch=config.architecture, build=build, sizes=sizes)
    except MisfitError as error:
        size = config.stated.size
        if size is None or size == image_size or size[0] != size[1]:
            raise
        hint = f"config.json says that it takes images of {size[0]} x {size[1]}: --image-size {size[0]}"
        raise ModelError(error.message, hint=hint) from error
    notes = [f"config.json: timm:{config.architecture} of {sizes.classes} classes"]
    if config.cropped < 1:
        notes.append(f"its maker cut images to the middle {config.cropped:.0%} of their sides; here they are whole")
    return replace(loaded, notes=(*notes, *loaded.notes), stated=config.stated)


def _recognised(
    path: Path,
    candidates: list[Candidate],
    build: Build,
    image_size: tuple[int, int],
    decide: recognise.Decide | None,
) -> LoadedModel:
    """Return the network whose names and shapes the weights have, with the weights."""
    found = recognise.recognise(candidates)
    if found is None:
        other = foreign.of_weights(path, candidates[0].tensors)
        if other is not None:
            raise ModelError(f"{path} holds weights of {other.what}", hint=other.way)
        raise _needs_arch(path, recognise.nearest(candidates))
    sizes = Sizes(found.classes, found.channels)
    return recognise.only_one(
        path,
        found,
        lambda name: _with_weights(path, candidates, arch=name, build=build, sizes=sizes),
        image_size,
        decide,
    )


def _with_weights(path: Path, candidates: list[Candidate], *, arch: str, build: Build, sizes: Sizes) -> LoadedModel:
    """Return the network with the weights; built again as the weights want it where they do not fit otherwise."""
    refusal: ModelError | None = None
    for tried in _tries(candidates[0], sizes):
        try:
            loaded = build(arch, tried)
            notes = fit_candidates(loaded.module, candidates, path)
        except ModelError as error:
            refusal = refusal or error
            continue
        ran = loaded.notes if loaded.origin.kind == "factory" else ()
        origin = replace(loaded.origin, weights=str(path))
        return LoadedModel(loaded.module, origin, has_weights=True, notes=(*ran, *notes))
    assert refusal is not None
    raise refusal


def _tries(candidate: Candidate, given: Sizes) -> Iterator[Sizes]:
    """Yield the sizes to try. Of what is known only the channels may be otherwise: images can be converted."""
    yield given
    classes, channels = sizes_in(candidate)
    known = Sizes(given.classes or classes, given.in_channels or channels)
    if known != given:
        yield known
    if given.in_channels is not None:
        yield known._replace(in_channels=GRAY if given.in_channels == RGB else RGB)


def _needs_arch(path: Path, nearest: tuple[tuple[str, float], ...]) -> ModelError:
    alike = ", ".join(f"{name} ({share:.0%})" for name, share in nearest)
    return ModelError(
        f"{path} holds weights but not the network they belong to, and no network of timm or torchvision has the same "
        "names and shapes" + (f"; nearest, by the share that is the same: {alike}" if alike else ""),
        hint="say what builds the network: --arch path/file.py:callable, or --arch timm:NAME if it is one of timm's",
    )
