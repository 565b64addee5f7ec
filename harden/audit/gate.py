"""Quality gates: accuracies that a model must reach for certain, for continuous integration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harden.audit.believe import Status
from harden.audit.metrics import Proportion
from harden.audit.result import AuditResult
from harden.errors import UsageError
from harden.registry import did_you_mean

ROBUST, CLEAN = "robust", "clean"
"""Gates on the worst case over all attacks, and on clean images; any other is on one attack, by its printed name."""

_FORM = "write it as robust=0.40,clean=80%"


@dataclass(frozen=True)
class Gate:
    """A floor under an accuracy.

    Attributes:
        subject: `ROBUST`, `CLEAN`, or the name of an attack as it is printed.
        floor: in [0, 1]; the lower bound of the 95 % interval must reach it.
    """

    subject: str
    floor: float

    @property
    def name(self) -> str:
        """In print: "robust >= 0.4"."""
        return f"{self.subject} >= {self.floor:g}"


@dataclass(frozen=True)
class GateVerdict:
    """What became of a gate.

    Attributes:
        gate: what was asked.
        accuracy: what was found, with its interval; None where it was not measured.
        failed_checks: names of the failed checks that concern the accuracy.
        ignores_checks: whether a failed check leaves the gate as it is (`--gate-ignores-checks`).
    """

    gate: Gate
    accuracy: Proportion | None
    failed_checks: tuple[str, ...] = ()
    ignores_checks: bool = False

    @property
    def met(self) -> bool:
        """Whether the lower bound reaches the floor, and no check doubts it: luck is no reason to pass."""
        if self.accuracy is None or (self.failed_checks and not self.ignores_checks):
            return False
        return self.accuracy.low >= self.gate.floor

    def sentence(self) -> str:
        """Say it in one line: "gate robust >= 0.4 not met: 39.0 % [36.0, 42.1], the lower bound counts"."""
        found, word = self.accuracy, "met" if self.met else "not met"
        figure = "the accuracy was not measured"
        if found is not None:
            spread = f"{100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"
            figure = f"{spread} of {found.total:,} images, the lower bound counts"
        doubt = ""
        if self.failed_checks:
            names = "; ".join(self.failed_checks)
            doubt = f"; failed checks{', ignored here' if self.ignores_checks else ''}: {names}"
        return f"gate {self.gate.name} {word}: {figure}{doubt}"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary; `from_json` reads it."""
        return {
            "subject": self.gate.subject,
            "floor": self.gate.floor,
            "met": self.met,
            "found": asdict(self.accuracy) if self.accuracy is not None else None,
            "failed_checks": list(self.failed_checks),
            "ignores_checks": self.ignores_checks,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> GateVerdict:
        """Read what `to_json` wrote; gates of earlier versions did not ask the checks."""
        return cls(
            Gate(data["subject"], data["floor"]),
            Proportion(**data["found"]) if data["found"] is not None else None,
            tuple(data.get("failed_checks", ())),
            data.get("ignores_checks", False),
        )


def parse_gates(text: str, *, attacks: Mapping[str, str], members: Mapping[str, str] | None = None) -> tuple[Gate, ...]:
    """Read gates as they are typed, "robust=0.40,PGD-20=55%", before anything is attacked.

    Args:
        text: pairs of what is judged and its floor, in [0, 1] or in percent; separated by commas.
        attacks: of the audit, those that have every image: name on the command line -> name in print. Both are
            understood, in any case.
        members: the same of the members of ensembles; a gate on one is refused, because it meets only what still
            stands.

    Raises:
        UsageError: no such attack, no number, a floor outside [0, 1], or the same gate twice.
    """
    names = {ROBUST: ROBUST, CLEAN: CLEAN, **_both(attacks)}
    gates: dict[str, Gate] = {}
    for key, floor in read_floors(text):
        subject = names.get(_folded(key))
        if subject is None:
            if _folded(key) in _both(members or {}):
                raise UsageError(
                    f"no gate on {key}: it attacks only the images that still stand when its turn comes",
                    hint="set the gate on robust, or name the attack itself with --attacks",
                )
            known = list(dict.fromkeys((ROBUST, CLEAN, *attacks)))
            near = did_you_mean(key, known) or did_you_mean(key, attacks.values())
            raise UsageError(f"no gate {key!r}{near}", hint=f"gates: {', '.join(known)}")
        if subject in gates:
            raise UsageError(f"two gates on {subject}", hint="give one floor for each")
        gates[subject] = Gate(subject, floor)
    return tuple(gates.values())


def read_floors(text: str) -> tuple[tuple[str, float], ...]:
    """Return what is judged, as it is typed, and its floor in [0, 1] for each gate in `text`.

    Raises:
        UsageError: a part is no gate, or its floor is no number or outside [0, 1].
    """
    found = []
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key:
            raise UsageError(f"{part.strip()!r} is not a gate", hint=_FORM)
        found.append((key, _floor(key, value)))
    return tuple(found)


def judge_gates(result: AuditResult, gates: Sequence[Gate], *, ignores_checks: bool = False) -> tuple[GateVerdict, ...]:
    """Judge an audit by gates, in their order.

    A gate on an accuracy under attack is not met where that was not measured, or where a check that concerns it failed.

    Args:
        result: with its checks.
        gates: see `parse_gates`.
        ignores_checks: judge the accuracies alone; one that was not measured meets no gate even so.

    Raises:
        UsageError: a gate on an attack that was not run or did not have every image, though attacks were measured.
    """
    doubts = tuple(check.name for check in result.checks if check.concerns_figure and check.status is Status.FAIL)
    return tuple(
        GateVerdict(gate, _found(result, gate.subject), () if gate.subject == CLEAN else doubts, ignores_checks)
        for gate in gates
    )


def _found(result: AuditResult, subject: str) -> Proportion | None:
    if subject == CLEAN:
        return result.clean_accuracy()
    if subject == ROBUST:
        return result.worst_case() if result.measured else None
    outcome = next((outcome for outcome in result.outcomes if outcome.name == subject), None)
    if outcome is None and not result.measured:
        return None
    if outcome is None or not outcome.complete:
        why = "was not run" if outcome is None else "attacked only the images that still stood"
        complete = [outcome.name for outcome in result.outcomes if outcome.complete]
        raise UsageError(
            f"no gate on {subject}: it {why}{did_you_mean(subject, complete) if outcome is None else ''}",
            hint=f"gates: {', '.join((ROBUST, CLEAN, *complete))}",
        )
    return result.robust_accuracy(outcome)


def _floor(key: str, value: str) -> float:
    number = value.removesuffix("%").strip()
    if not re.fullmatch(r"\+?(\d+(\.\d*)?|\.\d+)", number):
        raise UsageError(f"{value!r} is not a floor for {key}", hint=_FORM)
    floor = float(number) / 100 if value.endswith("%") else float(number)
    if not floor <= 1:
        typed = f"did you mean {number}%? " if floor <= 100 and value == number else ""
        raise UsageError(f"the floor of {key} is a share in [0, 1] or in percent, got {value}", hint=typed + _FORM)
    return floor


def _both(attacks: Mapping[str, str]) -> dict[str, str]:
    """Return the names in print by every spelling that is understood."""
    return {_folded(name): printed for typed, printed in attacks.items() for name in (typed, printed)}


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()
