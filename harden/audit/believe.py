"""What a reader should hold against an audit's own number: named checks with a verdict, a reason and a remedy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """The verdict of a check."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"
    """The audit did not run what the check needs."""


@dataclass(frozen=True)
class Check:
    """One reason to believe or to doubt a robust accuracy.

    Attributes:
        name: what was looked at, a key of `CHECKS`, in words that do not give the verdict away ("black-box against
            white-box").
        status: the verdict.
        finding: one or two sentences with the figures behind it.
        remedy: what to do; empty where it passes.
        concerns_figure: whether a failure means that the robust accuracy itself may be too high; a gate on it is then
            not met. A failure of any other check is about how far the figure reaches.
    """

    name: str
    status: Status
    finding: str
    remedy: str = ""
    concerns_figure: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary; `from_json` reads it."""
        return asdict(self) | {"status": self.status.value}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Check:
        """Read what `to_json` wrote; in reports of earlier versions no check says that it concerns the figure."""
        return cls(
            data["name"],
            Status(data["status"]),
            data["finding"],
            data["remedy"],
            data.get("concerns_figure", False),
        )
