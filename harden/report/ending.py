"""How a run ended: a status, the reason for it, and what to do; stored with the run and shown in every format."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class EndStatus(StrEnum):
    """What a run came to."""

    HARDENED = "hardened"
    NO_GAIN = "no measurable gain"
    WORSE = "worse"
    FAILED = "failed"
    NOT_JUDGED = "not judged"

    @property
    def is_failure(self) -> bool:
        """Whether the run did not do what it was started for."""
        return self in (EndStatus.NO_GAIN, EndStatus.WORSE, EndStatus.FAILED)


class EndCause(StrEnum):
    """Why a run ended as it did."""

    GAIN = "gain"
    AT_CHANCE = "clean at chance"
    TOO_FEW_IMAGES = "too few images"
    TOO_FEW_STEPS = "too few steps"
    EPS_TOO_LARGE = "eps too large"
    ALREADY_ROBUST = "already robust"
    TIE = "tie"
    LESS_ROBUST = "less robust"
    CLEAN_LOST = "clean accuracy lost"
    BASELINE = "baseline"
    NOT_AUDITED = "not audited"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        status: one of five.
        cause: why, for programs.
        reason: why, as a clause without a full stop.
        remedy: what to do, in sentences; empty for a run that hardened its model.
    """

    status: EndStatus
    cause: EndCause
    reason: str
    remedy: str = ""

    def sentence(self) -> str:
        """Return status and reason in one line: "Worse: the worst case fell by ..."."""
        return f"{self.status.value.capitalize()}: {self.reason}."

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary; `from_json` reads it."""
        return {
            "status": self.status.value,
            "cause": self.cause.value,
            "reason": self.reason,
            "remedy": self.remedy,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Ending:
        """Read what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: it is no such dictionary.
        """
        return cls(EndStatus(data["status"]), EndCause(data["cause"]), str(data["reason"]), str(data["remedy"]))
