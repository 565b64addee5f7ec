"""Which kind of model file this is, decided by its content and never by its name."""

from __future__ import annotations

import enum
import re
import struct
import zipfile
from pathlib import Path

from harden.archives import ArchiveError, check_archive
from harden.errors import ModelError, UnsafeInputError
from harden.models import foreign
from harden.models.foreign import Foreign

ZIP_MAGIC = b"PK\x03\x04"
"""How torch tells a zip archive; what stands at the end of the file, where other readers look, does not count."""
_TEXT_PICKLE = re.compile(rb"c[\w.]+\n[\w.]+\n|\([dl]p")
"""How the old text protocol of pickle begins: with a global, a dictionary or a list."""


class FileKind(enum.Enum):
    """The kinds of model files that are told apart."""

    TORCH_ZIP = "a file of torch.save"
    PICKLE = "a pickle"
    SAFETENSORS = "safetensors"
    TORCHSCRIPT = "TorchScript"
    EXPORTED_PROGRAM = "an exported program (.pt2)"
    ONNX = "ONNX"


def kind_of(path: Path) -> FileKind:
    """Return what kind of file `path` is.

    Raises:
        ModelError: it is empty, truncated, or nothing that holds a torch model.
        UnsafeInputError: it is a zip archive that breaks a rule of `check_archive`.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", hint="check the path and its permissions") from error
    if not head:
        raise ModelError(f"{path} is empty", hint="download or copy the file again")
    # The structure of safetensors goes before any magic number: it begins with the length of its header, whose lowest
    # byte may be that of a pickle (0x80), of an ONNX file (0x08) or of anything else.
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 2**28:
        return FileKind.SAFETENSORS
    if head.startswith(ZIP_MAGIC):
        return _kind_of_zip(path)
    if head[0] == 0x80 or _TEXT_PICKLE.match(head):
        return FileKind.PICKLE
    if head[0] == 0x08 and 2 <= head[1] < 32 and head[2] in b"\x12\x1a\x3a\x42":
        return FileKind.ONNX
    raise _not_a_model(path, foreign.of_head(head))


def _not_a_model(path: Path, found: Foreign | None) -> ModelError:
    if found is not None:
        return ModelError(f"{path} is {found.what}, which torch does not read", hint=found.way)
    return ModelError(
        f"{path} is not a model file",
        hint="expected a torch.save file (.pt, .pth, .th, .bin, .ckpt), .safetensors, TorchScript or ONNX",
    )


def unsafe_archive(path: Path, error: Exception) -> UnsafeInputError:
    """Return the error for a file that two readers could read differently, or that asks for much memory or time."""
    return UnsafeInputError(f"{path} is not opened: {error}", hint="save it again, or ask its author for another copy")


def _kind_of_zip(path: Path) -> FileKind:
    try:
        entries = [entry.filename for entry in check_archive(path)]
    except ArchiveError as error:
        raise unsafe_archive(path, error) from error
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, struct.error) as error:
        raise ModelError(f"{path} is truncated or damaged", hint="download or copy the file again") from error
    names = {name.partition("/")[2] for name in entries}
    if "archive_format" in names or "models/model.json" in names:
        return FileKind.EXPORTED_PROGRAM
    if "constants.pkl" in names:
        return FileKind.TORCHSCRIPT
    if "data.pkl" in names:
        return FileKind.TORCH_ZIP
    found = foreign.of_archive(entries)
    if found is not None:
        raise _not_a_model(path, found)
    raise ModelError(
        f"{path} is a zip archive without a torch model in it",
        hint="unpack it and pass the weights file inside",
    )
