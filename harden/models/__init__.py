"""Getting a network: from a name, from the user's code, from a file. `SOURCES` is the table of what can be rebuilt.

A model is named by one string. `timm:NAME[@TAG]`, `torchvision:NAME` and `file.py:callable` build a network; a path
is a file, whose content decides what it is: a pickled network, or weights that need `arch` to say which network they
belong to. torchvision and timm are imported only when one of them is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import nn

from harden.errors import ModelError
from harden.models import factory, timm_models, torchvision_models, trust
from harden.models.formats import FileKind, kind_of
from harden.models.frozen import keep_frozen
from harden.models.loaded import LoadedModel
from harden.models.origin import Origin
from harden.models.pickled import load_pickled, module_in, read_pickle
from harden.models.state_dict import Candidate, candidates_in, fit_candidates, read_state_dict, sizes_in
from harden.models.trial import GRAY, RGB, accepted_channels, expected_channels, output_classes
from harden.registry import did_you_mean, lookup

__all__ = [
    "SOURCES",
    "LoadedModel",
    "accepted_channels",
    "expected_channels",
    "load_model",
    "output_classes",
    "rebuild",
]

LIBRARY_CLASSES = 1000
"""Classes of a network of timm or torchvision where nobody says."""


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
) -> LoadedModel:
    """Return the network that `spec` names, with its weights where it has any.

    Args:
        spec: `timm:NAME[@TAG]`, `torchvision:NAME`, `path/file.py:callable`, `pkg.mod:callable`, or a file.
        arch: what builds the network that a weights file belongs to; any of the first four forms.
        classes: number of classes of the data; passed on where a network is built. None: the network's own number.
        in_channels: channels of the images, 1 or 3; passed on where a network is built. A network whose weights or
            code want the other number is returned too: ask `accepted_channels`. None: the network's own number.
        image_size: (height, width) in pixels.
        trust_pickle: let a pickle run the code that it brings along.

    Raises:
        ModelError: there is no such model, it cannot be built or read, or it cannot take such images.
        UnsafeInputError: a file would run code, and `trust_pickle` is off.
    """

    def build(what: str, sizes: Sizes) -> LoadedModel:
        return _build(what, sizes, image_size)

    sizes = Sizes(classes, in_channels)
    path = Path(spec).expanduser()
    if not path.exists() and _is_buildable(spec):
        if arch is not None:
            raise ModelError(
                f"{spec!r} builds a network by itself; --arch {arch} would build another",
                hint="leave --arch out, or pass a weights file as the model",
            )
        loaded = build(spec, sizes)
    else:
        _check_file(path, spec)
        loaded = _load_file(path, arch=arch, build=build, sizes=sizes, trust_pickle=trust_pickle)
    accepted_channels(loaded.module, in_channels, image_size)
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


def _is_buildable(spec: str) -> bool:
    return spec.startswith(("timm:", "torchvision:")) or factory.is_reference(spec)


def _build(what: str, sizes: Sizes, image_size: tuple[int, int]) -> LoadedModel:
    kind, _, reference = what.partition(":")
    classes = sizes.classes or LIBRARY_CLASSES
    if kind == "timm":
        return timm_models.build(
            reference, classes=classes, in_channels=sizes.in_channels or RGB, image_size=image_size
        )
    if kind == "torchvision":
        return torchvision_models.build(reference, classes=classes, image_size=image_size)
    if not factory.is_reference(what):
        raise ModelError(
            f"--arch {what} names no network",
            hint="--arch takes path/file.py:callable, pkg.mod:callable, timm:NAME or torchvision:NAME",
        )
    loaded = factory.build(what, classes=sizes.classes, in_channels=sizes.in_channels)
    if trust.remember(loaded.origin):
        return loaded
    note = f"could not write {trust.ledger_path()}; commands on the run folder will ask for --arch again"
    return replace(loaded, notes=(*loaded.notes, note))


def _check_file(path: Path, spec: str) -> None:
    if path.is_file():
        return
    if path.is_dir():
        raise ModelError(f"{spec} is a folder, not a model file", hint="name the weights file inside")
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise ModelError(
        f"no model file {spec}{did_you_mean(path.name, siblings)}",
        hint="a model is a file, timm:NAME, torchvision:NAME or path/file.py:callable",
    )


def _load_file(path: Path, *, arch: str | None, build: Build, sizes: Sizes, trust_pickle: bool) -> LoadedModel:
    kind = kind_of(path)
    if kind in (FileKind.TORCHSCRIPT, FileKind.EXPORTED_PROGRAM, FileKind.ONNX):
        raise ModelError(
            f"{path} is {kind.value}: a finished program, which cannot be fine-tuned",
            hint="pass the weights (a state_dict) that it was exported from, and the network: FILE --arch "
            "path/file.py:callable; `harden report` audits ONNX and TorchScript as they are",
        )
    if kind is FileKind.SAFETENSORS:
        if arch is None:
            raise _needs_arch(path)
        return _with_weights(path, read_state_dict(path), arch=arch, build=build, sizes=sizes)
    content = read_pickle(path, trust=trust_pickle)
    trusted = ("ran whatever code the file brings along (--trust-pickle)",) if trust_pickle else ()
    module = module_in(content)
    if module is not None and arch is None:
        origin = Origin("pickled", path.name, weights=str(path))
        notes = (*trusted, f"the file holds the whole network ({type(module).__name__})", *keep_frozen(module.float()))
        return LoadedModel(module, origin, has_weights=True, notes=notes)
    candidates = candidates_in(content, path)
    if arch is None:
        raise _needs_arch(path)
    loaded = _with_weights(path, candidates, arch=arch, build=build, sizes=sizes)
    return replace(loaded, notes=(*trusted, *loaded.notes))


def _with_weights(path: Path, candidates: list[Candidate], *, arch: str, build: Build, sizes: Sizes) -> LoadedModel:
    """Return the network with the weights; built again as the weights want it where they do not fit otherwise."""
    refusal: ModelError | None = None
    for tried in (sizes, _sizes_of(candidates[0], sizes)):
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


def _sizes_of(candidate: Candidate, given: Sizes) -> Sizes:
    """Return the sizes to try second. Of what is known only the channels may be otherwise: images can be converted."""
    classes, channels = sizes_in(candidate)
    if given.in_channels is not None:
        channels = GRAY if given.in_channels == RGB else RGB
    return Sizes(given.classes or classes, channels)


def _needs_arch(path: Path) -> ModelError:
    return ModelError(
        f"{path} holds weights but not the network they belong to",
        hint="say what builds the network: --arch path/file.py:callable, or --arch timm:NAME if it is one of timm's",
    )
