"""What `harden doctor` says of one thing that it looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """How much a finding matters."""

    FINE = "ok"
    WARNS = "warning"
    """Runs go on, but slower, on less, or with less said."""
    STOPS = "stops"
    """Some command would fail."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One row of the table.

    Attributes:
        area: "versions", "devices", "threads", "memory", "folders" or "terminal".
        name: what was looked at.
        found: what was found, in a few words.
        verdict: how much it matters.
        problem: one sentence on what is wrong; empty where nothing is.
        repair: a command that repairs it; empty where nothing is wrong.
        facts: the figures behind `found`, for programs (JSON values).
    """

    area: str
    name: str
    found: str
    verdict: Verdict = Verdict.FINE
    problem: str = ""
    repair: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary."""
        return {
            "area": self.area,
            "name": self.name,
            "found": self.found,
            "verdict": self.verdict.value,
            "problem": self.problem,
            "repair": self.repair,
            "facts": dict(self.facts),
        }
