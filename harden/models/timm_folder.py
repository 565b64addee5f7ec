"""Weights with a config.json in timm's layout beside them: `local-dir:FOLDER`, `hf-hub:ORG/NAME`, or a file in there.

The config says which network it is, for how many classes and what images, and may name the classes.
"""

from __future__ import annotations

import functools
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harden.errors import ModelError
from harden.models.loaded import Stated, one_line
from harden.models.origin import Origin
from harden.models.timm_models import require_arguments

LOCAL, HUB = "local-dir:", "hf-hub:"
CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin")
"""As timm and the hub call them, the preferred one first."""


@dataclass(frozen=True)
class TimmConfig:
    """What a config.json says.

    Attributes:
        architecture: timm's name.
        arguments: further arguments of its constructor, checked.
        classes: how many the weights know, 0 for a network without a last layer; None where it is not said.
        channels: of the images; None where it is not said.
        cropped: share of the image's side that was kept in training; 1 for all of it.
        stated: the rest.
    """

    architecture: str
    arguments: dict[str, Any]
    classes: int | None
    channels: int | None
    cropped: float
    stated: Stated


@dataclass(frozen=True)
class Stored:
    """A weights file and its config."""

    weights: Path
    config: TimmConfig


def find(spec: str) -> Stored | None:
    """Return the weights and the config that `spec` names; None where it is no folder and no file with a config.

    Args:
        spec: `local-dir:FOLDER`, `hf-hub:ORG/NAME[@REVISION]` (downloaded), a folder, or a weights file.

    Raises:
        ModelError: there is no such folder, it lacks one of the two, or it cannot be downloaded.
        UnsafeInputError: the config asks for arguments that could do more than choose the form of the network.
    """
    if spec.startswith(HUB):
        folder = _download(spec.removeprefix(HUB))
    elif spec.startswith(LOCAL):
        folder = Path(spec.removeprefix(LOCAL)).expanduser()
        if not folder.is_dir():
            raise ModelError(f"there is no folder {folder}", hint="local-dir: takes a folder as timm saves it")
    else:
        path = Path(spec).expanduser()
        if path.is_file():
            config = read(path.with_name(CONFIG))
            return Stored(path, config) if config is not None else None
        if not path.is_dir() or read(path / CONFIG) is None:
            return None
        folder = path
    config = read(folder / CONFIG)
    if config is None:
        raise ModelError(
            f"{folder} has no {CONFIG} in timm's layout (an object with an architecture)",
            hint="name the weights file inside, with --arch",
        )
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise ModelError(f"{folder} has none of {', '.join(WEIGHTS)}", hint="name the weights file inside")
    return Stored(weights, config)


def read(path: Path) -> TimmConfig | None:
    """Return what the config.json `path` says; None where there is none, or it is another program's.

    Raises:
        ModelError: a field of timm's layout has a value that it cannot have.
        UnsafeInputError: see `find`.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("architecture"), str):
        return None
    # Older configs have everything in one object.
    pretrained = data["pretrained_cfg"] if isinstance(data.get("pretrained_cfg"), dict) else data
    arguments = data.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise _odd(path, "model_args", arguments)
    architecture: str = data["architecture"]
    if not re.fullmatch(r"\w+", architecture):
        raise _odd(path, "architecture", architecture)
    require_arguments(Origin("timm", architecture, arguments), field="model_args")
    classes = data.get("num_classes", pretrained.get("num_classes"))
    if classes is not None and classes != 0 and not _is_count(classes):
        raise _odd(path, "num_classes", classes)
    size = pretrained.get("input_size")
    if size is not None and not (isinstance(size, list) and len(size) == 3 and all(map(_is_count, size))):
        raise _odd(path, "input_size", size)
    mean, std = (_numbers(path, pretrained, key) for key in ("mean", "std"))
    if std is not None and min(std) <= 0:
        raise _odd(path, "std", list(std))
    cropped = pretrained.get("crop_pct")
    given = arguments.get("in_chans")
    return TimmConfig(
        architecture=architecture,
        arguments={key: value for key, value in arguments.items() if key not in ("num_classes", "in_chans")},
        classes=classes,
        channels=given if given is not None else size[0] if size else None,
        cropped=float(cropped) if isinstance(cropped, (int, float)) and 0 < cropped <= 1 else 1.0,
        stated=Stated(
            size=(size[1], size[2]) if size else None,
            mean=mean if std is not None else None,
            std=std if mean is not None else None,
            labels=_labels(data.get("label_names", pretrained.get("label_names")), classes),
        ),
    )


def _labels(names: object, classes: int | None) -> tuple[str, ...] | None:
    """Return the class names in the order of the outputs; None unless there is one, and another, for each output."""
    if isinstance(names, dict):  # by number of the output, which JSON writes as text
        names = [names.get(str(k)) for k in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names) if len(set(names)) == len(names) == classes else None


def _numbers(path: Path, config: dict[str, Any], key: str) -> tuple[float, ...] | None:
    values = config.get(key)
    if values is None:
        return None
    numbers = isinstance(values, list) and all(isinstance(v, (int, float)) and math.isfinite(v) for v in values)
    if not numbers or not values:
        raise _odd(path, key, values)
    return tuple(map(float, values))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _odd(path: Path, key: str, value: object) -> ModelError:
    return ModelError(
        f"{path} is damaged: {key} cannot be {str(value)[:80]!r}",
        hint="name the network yourself: FILE --arch timm:NAME",
    )


@functools.cache
def _download(name: str) -> Path:
    """Return the folder of a model of the Hugging Face hub, once it is in the hub's own cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")

    def get(file: str) -> Path:
        return Path(hf_hub_download(repository, file, revision=revision or None))

    try:
        folder = get(CONFIG).parent
        for file in WEIGHTS:
            try:
                get(file)
                break
            except LocalEntryNotFoundError:  # offline: no word on whether the hub has it
                if file == WEIGHTS[-1]:
                    raise
            except EntryNotFoundError:
                continue
    except Exception as error:  # the hub's client raises a dozen unrelated types
        raise ModelError(
            f"{HUB}{name} cannot be downloaded: {one_line(error)}",
            hint=f"check the name and the connection to huggingface.co (HF_HUB_OFFLINE must not be set), or copy the "
            f"model's folder here and pass {LOCAL}FOLDER",
        ) from error
    return folder
