"""Looking names up in the plain literal tables (`ATTACKS`, `DEFENCES`, ...), with the near miss in the error."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from harden.errors import UsageError

T = TypeVar("T")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean X?"` for the nearest known name, capitals or not, or an empty string."""
    by_folded: dict[str, str] = {}
    for one in known:
        by_folded.setdefault(one.casefold(), one)
    near = difflib.get_close_matches(name.casefold(), list(by_folded), n=1, cutoff=0.6)
    return f"; did you mean {by_folded[near[0]]!r}?" if near else ""


def lookup(table: Mapping[str, T], name: str, *, kind: str) -> T:
    """Return `table[name]`.

    Raises:
        UsageError: the name is not in the table; the message names the nearest one and the hint lists all.
    """
    if name in table:
        return table[name]
    raise UsageError(
        f"unknown {kind} {name!r}{did_you_mean(name, table)}",
        hint=f"known {kind}s: {', '.join(table)}",
    )
