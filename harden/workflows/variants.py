"""What `harden compare` trains: methods, each with its own source attacks and settings where these are said."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harden.attacks import CRAFTERS
from harden.defences import DEFENCES, SOURCES
from harden.errors import UsageError
from harden.registry import did_you_mean

NAMES = {
    "nt": "NT",
    "sat": "SAT",
    "eat": "EAT",
    "atda": "ATDA",
    "pat": "PAT",
    "adv4adv": "Adv-4-Adv",
    "adv4adv-star": "Adv-4-Adv*",
}
"""Methods as the paper writes them."""

SETTINGS = (
    "augment",
    "batch_size",
    "beta",
    "classwise",
    "ema",
    "eps_ramp",
    "gamma",
    "grl_warmup",
    "lr",
    "lr_warmup",
    "on_collapse",
    "shared_trunk",
    "split",
    "weight_decay",
)
"""Keys of a recipe that may differ between the variants of a comparison; what else would make it unfair is common."""

_FORM = "write METHOD, METHOD@SOURCE or METHOD:key=value, such as sat@nfgsm or adv4adv:beta=0:gamma=1"


@dataclass(frozen=True)
class Variant:
    """One row of a comparison.

    Attributes:
        spec: as typed, without spaces; its place in the folder is named after it.
        method: a key of `DEFENCES`.
        changes: keys of a recipe with their values, the source attacks among them.
    """

    spec: str
    method: str
    changes: Mapping[str, Any]

    @property
    def name(self) -> str:
        """For print: "SAT from nfgsm, lr 0.01"."""
        name = NAMES.get(self.method, self.method)
        sources = self.changes.get("source_attack")
        if sources:
            name += f" from {' + '.join(sources)}"
        others = [f"{key} {value}" for key, value in self.changes.items() if key not in ("source_attack", "method")]
        return ", ".join((name, *others))

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return re.sub(r"[^A-Za-z0-9._=+@-]+", "-", self.spec)


def parse_variants(texts: Sequence[str]) -> tuple[Variant, ...]:
    """Return the variants of `--methods`, from texts with commas between them.

    Raises:
        UsageError: listing everything that is no variant, or one that is named twice.
    """
    specs = [part.strip().replace(" ", "") for text in texts for part in text.split(",") if part.strip()]
    if not specs:
        raise UsageError("which methods?", hint=f"--methods {','.join(DEFENCES)}")
    found, problems = [], []
    for spec in specs:
        try:
            found.append(_parsed(spec))
        except UsageError as error:
            problems.append(error.message)
    problems += [f"{spec} is named twice" for spec in dict.fromkeys(specs) if specs.count(spec) > 1]
    if problems:
        raise UsageError("--methods cannot be used:\n" + "\n".join(f"  - {p}" for p in problems), hint=_FORM)
    return tuple(found)


def _parsed(spec: str) -> Variant:
    head, *settings = spec.split(":")
    method, at, sources = head.partition("@")
    if method not in DEFENCES:
        raise UsageError(f"there is no method {method!r}{did_you_mean(method, DEFENCES)}")
    changes: dict[str, Any] = {"method": method}
    if at:
        if SOURCES.get(method) == ():
            raise UsageError(f"{method} crafts no examples, so {spec!r} has a source attack too many")
        named = tuple(sources.split("+"))
        unknown = [name for name in named if name not in CRAFTERS]
        if unknown:
            raise UsageError(f"there is no source attack {unknown[0]!r}{did_you_mean(unknown[0], CRAFTERS)}")
        changes["source_attack"] = named
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key not in SETTINGS:
            raise UsageError(f"{setting!r} in {spec!r} is no setting of a variant{did_you_mean(key, SETTINGS)}")
        changes[key] = value if key == "split" else _value(value)  # layers may have numbers for names
    return Variant(spec, method, changes)


def _value(text: str) -> Any:
    """Read a value as a recipe would; what is none there is a text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
