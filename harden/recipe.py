"""Recipes: TOML files and command-line flags in, one validated `FitSettings` out, with every error listed at once."""

from __future__ import annotations

import dataclasses
import re
import tomllib
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from harden.attacks import ATTACKS, CRAFTERS, PRESETS
from harden.data.reading import FEWEST_BITS, MOST_BITS, read_class_order
from harden.defences import DEFENCES, SOURCES, STATIC_DEFENCES
from harden.durations import parse_duration
from harden.errors import HardenError, UsageError
from harden.folders import recipe_folder
from harden.registry import did_you_mean
from harden.training.augment import AUGMENTATIONS
from harden.training.settings import TRAINING_PRECISIONS
from harden.workflows.settings import FitSettings
from harden.workflows.tracking import TRACKERS
from harden.workflows.variants import Variant

_FRACTION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)\s*")
_CHOICES: dict[str, Mapping[str, object]] = {
    "method": DEFENCES,
    "source_attack": CRAFTERS,
    "augment": AUGMENTATIONS,
    "on_collapse": {"switch": 0, "stop": 0, "keep": 0},
    "device": {"auto": 0, "cpu": 0, "cuda": 0},
    "track": TRACKERS,
    "precision": TRAINING_PRECISIONS,
}
RANGES: dict[str, tuple[float, float]] = {
    "eps": (0.0, 1.0),
    "beta": (0.0, 1000.0),
    "gamma": (0.0, 1000.0),
    "grl_warmup": (0.0, 1.0),
    "lr_warmup": (0.0, 1.0),
    "eps_ramp": (0.0, 1.0),
    "ema": (0.0, 0.999999),
    "lr": (1e-9, 100.0),
    "weight_decay": (0.0, 10.0),
    "max_clean_drop": (0.0, 1.0),
    "epochs": (1, 100_000),
    "epoch_parts": (1, 1000),
    "pretrain": (0, 100_000),
    "batch_size": (1, 1_000_000),
    "accumulate": (1, 1_000_000),
    "selection_samples": (1, 1_000_000),
    "audit_samples": (1, 10_000_000),
    "image_size": (4, 4096),
    "gray_bits": (FEWEST_BITS, MOST_BITS),
    "budget": (10.0, 30 * 86400.0),
    "seed": (0, 2**62),
}
"""By key of a recipe: the least and the largest value; the flags of other commands keep to them too."""
_OTHER_KEYS = {"single_discriminator": "classwise = false"}
"""Flags whose key in a recipe has another name."""


def parse_eps(text: str) -> float:
    """Return a radius on the [0, 1] scale from "0.1" or "8/255".

    Raises:
        UsageError: neither a number nor a fraction, or outside [0, 1].
    """
    match = _FRACTION.fullmatch(text)
    try:
        value = float(match[1]) / float(match[2]) if match else float(text)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"{text!r} is no eps", hint="write --eps 8/255 or --eps 0.03") from None
    if not 0 <= value <= 1:
        hint = f"did you mean {text}/255?" if not match and 1 < value <= 255 else "eps is on the [0, 1] scale: 8/255"
        raise UsageError(f"eps {text} lies outside [0, 1]", hint=hint)
    return value


_PARSED: dict[str, Callable[[str], object]] = {
    "eps": parse_eps,
    "budget": parse_duration,
    "class_order": read_class_order,
}
"""Keys that may be texts which stand for something else."""


def _schema() -> type[BaseModel]:
    hints = typing.get_type_hints(FitSettings)
    fields: dict[str, Any] = {
        field.name: (hints[field.name], ... if field.default is dataclasses.MISSING else field.default)
        for field in dataclasses.fields(FitSettings)
    }
    return create_model("Recipe", __config__=ConfigDict(extra="forbid", strict=True), **fields)


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the keys of a recipe file.

    Raises:
        UsageError: the file is missing or is no TOML; the message names the line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the recipe {path}: {error.strerror}", hint="check the path") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the recipe {path} is no UTF-8 text", hint="save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the recipe {path} is no TOML: {error}", hint="see recipes/ for examples") from error


def find_recipe(name: str) -> Path:
    """Return the path of a recipe: a file, or the name of one that ships with the program.

    Raises:
        UsageError: neither; the hint lists what ships.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = {file.stem: file for file in recipe_folder().glob("*.toml")}
    if path.stem in shipped:
        return shipped[path.stem]
    raise UsageError(
        f"there is no recipe {name!r}{did_you_mean(path.stem, shipped)}",
        hint=f"pass a TOML file, or one of: {', '.join(sorted(shipped))}",
    )


def resolve(recipe: Mapping[str, Any], flags: Mapping[str, Any]) -> FitSettings:
    """Return the settings that a recipe and the flags come to; flags win, and a flag of None was not given.

    Raises:
        UsageError: listing everything that is wrong, with the near miss of each unknown key.
    """
    values = {**recipe, **{name: value for name, value in flags.items() if value is not None}}
    known = {field.name for field in dataclasses.fields(FitSettings)}
    problems = [
        f"unknown key {key!r}" + (f"; write {_OTHER_KEYS[key]}" if key in _OTHER_KEYS else did_you_mean(key, known))
        for key in values
        if key not in known
    ]
    if recipe.get("trust_pickle", False) is not False:
        problems.append("trust_pickle: a recipe cannot say that a file's code may run; give the flag --trust-pickle")
    values = {key: value for key, value in values.items() if key in known}
    for key, parse in _PARSED.items():
        if isinstance(values.get(key), str):
            try:
                values[key] = parse(values[key])
            except HardenError as error:
                problems.append(f"{key}: {error.message}; {error.hint}")
                del values[key]
    for key in ("attacks", "freeze", "source_attack", "static", "track"):
        if isinstance(values.get(key), str):
            values[key] = tuple(part.strip() for part in values[key].split(",") if part.strip())
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    for key, table in _CHOICES.items():
        chosen = values.get(key)
        for name in chosen if isinstance(chosen, tuple) else (chosen,):
            if isinstance(name, str) and name not in table:
                near = did_you_mean(name, table)
                problems.append(f"{key}: unknown value {name!r}{near} (known: {', '.join(table)})")
    sources = values.get("source_attack")
    if isinstance(sources, tuple):
        if not sources:
            problems.append("source_attack: name at least one")
        twice = dict.fromkeys(name for name in sources if isinstance(name, str) and sources.count(name) > 1)
        problems += [f"source_attack: {name} is named twice" for name in twice]
    if values.get("static") and str(values.get("method")) not in STATIC_DEFENCES:
        problems.append(f"static: only {', '.join(sorted(STATIC_DEFENCES))} crafts on static models")
    named = values.get("attacks")
    if named == ():
        problems.append("attacks: name at least one")
    for name in named if isinstance(named, tuple) else ():
        if isinstance(name, str) and name not in ATTACKS and name not in PRESETS:
            problems.append(f"attacks: unknown attack {name!r}{did_you_mean(name, {**PRESETS, **ATTACKS})}")
    for key, (low, high) in RANGES.items():
        value = values.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not low <= value <= high:
            problems.append(f"{key}: {value:g} lies outside [{low:g}, {high:g}]")
    try:
        checked = _schema().model_validate(values).model_dump()
    except ValidationError as error:
        problems += [
            f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg'].lower()}" for detail in error.errors()
        ]
        checked = {}
    if (values.get("mean") is not None and (values.get("std") is None)) or (
        values.get("std") is not None and values.get("mean") is None
    ):
        problems.append("mean and std belong together: give both or none")
    if values.get("epochs") is not None and values.get("budget") is not None:
        problems.append("epochs and budget exclude each other: a budget chooses the epochs")
    if problems:
        raise UsageError(
            "the settings cannot be used:\n" + "\n".join(f"  - {problem}" for problem in problems),
            hint="`harden fit --help` lists every setting; a recipe's keys are the flags with underscores",
        )
    return FitSettings(**checked)


def resolve_variants(
    recipe: Mapping[str, Any], flags: Mapping[str, Any], variants: Sequence[Variant]
) -> tuple[FitSettings, tuple[FitSettings, ...]]:
    """Return what the variants of a comparison have in common, and the settings of each, from one recipe and the flags.

    The common ones are those of a method that takes every key. A common source attack is not for methods with one of
    their own: PAT from FGSM would be another name for SAT. Static models are for those that craft on them.

    Raises:
        UsageError: listing everything that is wrong.
    """
    common = resolve({**recipe, "method": next(iter(STATIC_DEFENCES))}, flags)
    found = []
    for variant in variants:
        skipped = set() if variant.method in STATIC_DEFENCES else {"static"}
        skipped |= {"source_attack"} if variant.method in SOURCES else set()
        own = [{key: value for key, value in given.items() if key not in skipped} for given in (recipe, flags)]
        found.append(resolve(own[0], {**own[1], **variant.changes}))
    return common, tuple(found)
