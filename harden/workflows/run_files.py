"""Reading the files of a run folder: whatever is wrong with one is an error that names the file and the repair."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from harden.attacks import ATTACKS, CRAFTERS
from harden.data.dataset import Written
from harden.errors import HardenError, RunFolderError, UnsafeInputError
from harden.training.history import EpochRecord

T = TypeVar("T")

_AGAIN = "copy {folder} again from where it came from, or run `harden fit` again"
_REPAIRS: Mapping[str, str] = {
    "metrics.jsonl": "copy it again from where it came from, or remove it: reports then lack the curves of training",
    "report.json": "remove it, and audit again with: harden report {folder}",
    "budget.json": "copy it again from where it came from, or start the run again",
}
"""By name of the file; `_AGAIN` for all others."""


def read_run_file(path: Path, read: Callable[[Path], T]) -> T:
    """Return what `read` makes of a file of a run folder.

    Args:
        path: the file.
        read: called with it; it may raise whatever damaged content leads it into.

    Raises:
        RunFolderError: the file is missing, cannot be read, or does not hold what it must.
        UnsafeInputError: as `read` does.
    """
    hint = _REPAIRS.get(path.name, _AGAIN).format(folder=path.parent)
    try:
        return read(path)
    except UnsafeInputError:
        raise
    except FileNotFoundError:
        raise RunFolderError(f"{path.parent} is no run folder: it has no {path.name}", hint="check the path") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RunFolderError(f"{path} cannot be read: {reason}", hint=hint) from error
    except HardenError as error:
        raise RunFolderError(f"{path} is damaged: {error.message}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise RunFolderError(f"{path} is damaged: it is not text in UTF-8", hint=hint) from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise RunFolderError(f"{path} is damaged ({type(error).__name__}: {str(error)[:200]})", hint=hint) from error


def read_json(path: Path) -> Any:
    """Return the JSON value in a file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_written(path: Path) -> dict[str, Written]:
    """Return the states of files that splits.json keeps; earlier versions kept none."""
    kept = read_json(path)
    return {
        str(file): Written(int(size), int(modified))
        for name, states in kept.get("written", {}).items()
        for file, size, modified in zip(kept[name]["files"], states["sizes"], states["modified"], strict=True)
        if size is not None
    }


def read_epochs(path: Path) -> tuple[EpochRecord, ...]:
    """Return the records that metrics.jsonl holds, one in each line."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                found.append(EpochRecord.from_json(json.loads(line)))
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                raise ValueError(f"line {number} is no record of an epoch: {str(error)[:100]}") from error
    return tuple(found)


def check_config(config: Any) -> dict[str, Any]:
    """Return what config.json holds, if every field that is there is of its kind.

    Raises:
        ValueError: one is not; the message names it.
    """
    fields = _checked(config, "it", {"training": _is_object, "earlier": _is_object, "command": _is_text, **_MODEL})
    for name in ("training", "earlier"):
        _checked(fields.get(name, {}), name, _TRAINING)
    missing = {"data", "eps", "method"} - fields.get("training", {}).keys() if "training" in fields else set()
    if missing:
        raise ValueError(f"training has no {' and no '.join(sorted(missing))}")
    return fields


def _checked(value: Any, name: str, kinds: Mapping[str, Callable[[Any], bool]]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {str(value)[:40]!r}, where an object was expected")
    for key, fits in kinds.items():
        left_open = value.get(key) is None and (key not in value or fits is not _is_object)
        if not left_open and not fits(value[key]):
            raise ValueError(f"{key} cannot be {str(value[key])[:40]!r}")
    return value


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are(fits: Callable[[Any], bool], *, fewest: int = 0) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) >= fewest and all(map(fits, value))


_MODEL: Mapping[str, Callable[[Any], bool]] = {
    "origin": _is_object,
    "normalisation": _is_object,
    "classes": _are(_is_text, fewest=2),
    "input_size": lambda value: _are(_is_count)(value) and len(value) == 3 and min(value) > 0,
    "statics": _are(_is_text),
}
_TRAINING: Mapping[str, Callable[[Any], bool]] = {
    "data": lambda value: _is_text(value) and "\0" not in value,
    "eps": lambda value: _is_number(value) and 0 <= value <= 1,
    "method": _is_text,
    "split": _is_text,
    "source_attacks": _are(lambda name: _is_text(name) and name in CRAFTERS),
    "selection_attacks": _are(lambda name: _is_text(name) and name in ATTACKS),
    "epochs": _is_count,
    "chosen_epoch": _is_count,
    "beta": _is_number,
    "gamma": _is_number,
    "budget": _is_number,
    "validation_worst_case": _is_number,
    "seed": _is_count,
}
"""What each field may be; null stands for none."""
