"""Models of other programs, recognised by their content, each with the way that leads from there to here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Foreign:
    """A kind of model that torch does not read.

    Attributes:
        what: its name, with an article.
        way: what to do instead.
    """

    what: str
    way: str


def _by_onnx(command: str) -> str:
    return f"export it to ONNX ({command}); `harden report model.onnx` audits that as a black box"


_KERAS = "python -m tf2onnx.convert --keras MODEL --output model.onnx"
_SAVED_MODEL = Foreign(
    "a TensorFlow SavedModel", _by_onnx("python -m tf2onnx.convert --saved-model FOLDER --output model.onnx")
)
_UNPACK = "unpack it, and pass the file inside"
_MAGIC: tuple[tuple[int, bytes, Foreign], ...] = (
    (0, b"\x89HDF", Foreign("a Keras model or another HDF5 file", _by_onnx(_KERAS))),
    (
        4,
        b"TFL3",
        Foreign("a TensorFlow Lite model", _by_onnx("python -m tf2onnx.convert --tflite FILE --output model.onnx")),
    ),
    (0, b"\x08\x01\x12", _SAVED_MODEL),
    (4, b"ET1", Foreign("an ExecuTorch program", "pass the weights (a state_dict) that it was exported from")),
    (0, b"GGUF", Foreign("a GGUF file of a language model", "pass the weights file of an image classifier")),
    (0, b"ftrt", Foreign("a TensorRT engine", "pass the ONNX file or the weights that it was built from")),
    (0, b"\x1f\x8b", Foreign("a gzip archive", _UNPACK)),
    (0, b"BZh", Foreign("a bzip2 archive", _UNPACK)),
    (0, b"\xfd7zXZ", Foreign("an xz archive", _UNPACK)),
    (257, b"ustar", Foreign("a tar archive", _UNPACK)),
    (0, b"\x93NUMPY", Foreign("a numpy array", "save the weights with torch.save(model.state_dict(), FILE)")),
    (
        0,
        b"version https://git-lfs",
        Foreign("a Git LFS pointer, which stands for the file", "fetch the file itself with `git lfs pull`"),
    ),
    (0, b"<", Foreign("a web page or XML", "download the file again: servers send a page instead of an error")),
)
_LORA = Foreign(
    "a LoRA adapter: differences to a network's weights, without the network",
    "merge it into its network first (peft: model.merge_and_unload()) and save that one's state_dict",
)


def of_head(head: bytes) -> Foreign | None:
    """Return which other program's file begins with the bytes `head`, if one is known."""
    stripped = head.lstrip()
    for offset, magic, foreign in _MAGIC:
        if head[offset:].startswith(magic) or (offset == 0 and stripped.startswith(magic)):
            return foreign
    return None


def of_archive(names: Iterable[str]) -> Foreign | None:
    """Return which other program wrote a zip archive with these entries, if one is known."""
    found = set(names)
    if "model.weights.h5" in found:
        return Foreign("a Keras model", _by_onnx(_KERAS))
    if any(name.endswith("saved_model.pb") for name in found):
        return _SAVED_MODEL
    return None


def of_folder(folder: Path) -> Foreign | None:
    """Return which other program's model the folder holds, if one is known."""
    if (folder / "saved_model.pb").is_file():
        return _SAVED_MODEL
    if (folder / "adapter_config.json").is_file():
        return _LORA
    return _of_transformers(folder)


def of_weights(path: Path, keys: Iterable[str]) -> Foreign | None:
    """Return which other program's weights the file `path` holds, by their keys and the config beside it."""
    if any(part.startswith("lora_") for key in keys for part in key.split(".")):
        return _LORA
    return _of_transformers(path.parent)


def _of_transformers(folder: Path) -> Foreign | None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(config, dict) or not {"model_type", "transformers_version"} & config.keys():
        return None
    named = config.get("architectures")
    name = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else "a model"
    return Foreign(
        f"{name[:60]} of Hugging Face transformers",
        "write a function that returns AutoModelForImageClassification.from_pretrained(FOLDER), and pass it as the "
        "model: path/file.py:function",
    )
