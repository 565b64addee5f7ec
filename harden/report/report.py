"""The report object: result objects and words in, every output format out. It knows nothing of models or data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harden.audit.believe import Status
from harden.audit.gate import GateVerdict
from harden.audit.metrics import Proportion
from harden.audit.result import AuditResult
from harden.errors import DataError
from harden.report.ending import Ending
from harden.training.history import History

SCHEMA = "harden-report/2"


@dataclass(frozen=True, eq=False)
class Report:
    """Everything a report shows.

    Attributes:
        title: one line.
        results: the audited models side by side. The last is the one that the report is about; the ones before it are
            what it is compared with (usually the model before hardening).
        history: of the training, where there was one.
        facts: (label, value) pairs that say how the numbers came about: command, method, split layer, eps, seeds,
            data, machine, versions.
        caveats: sentences that a reader must see beside the numbers.
        gates: what became of the gates that the subject was held to.
        data: counts of files that were passed over and that changed, for programs; plain JSON.
        ending: how the run ended that the report closes; None for a report on anything else.
    """

    title: str
    results: tuple[AuditResult, ...]
    history: History | None = None
    facts: tuple[tuple[str, str], ...] = ()
    caveats: tuple[str, ...] = ()
    gates: tuple[GateVerdict, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    ending: Ending | None = None

    @property
    def subject(self) -> AuditResult:
        """The model that the report is about."""
        return self.results[-1]

    @property
    def baseline(self) -> AuditResult | None:
        """What it is compared with: the first model, where there are several."""
        return self.results[0] if len(self.results) > 1 else None

    def to_json(self) -> dict[str, Any]:
        """Return the `report.json` document; `from_json` reads it."""
        return {
            "schema": SCHEMA,
            "title": self.title,
            "ending": self.ending.to_json() if self.ending else None,
            "summary": [summary_of(result) for result in self.results],
            "gates": [verdict.to_json() for verdict in self.gates],
            "results": [result.to_json() for result in self.results],
            "history": self.history.to_json() if self.history else None,
            "facts": [list(fact) for fact in self.facts],
            "caveats": list(self.caveats),
            "data": dict(self.data),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Report:
        """Read what `to_json` wrote.

        Raises:
            DataError: the document has another schema.
        """
        if data.get("schema") != SCHEMA:
            raise DataError(
                f"this report has schema {data.get('schema')!r}; this version reads {SCHEMA!r}",
                hint="run `harden report` again to write it anew",
            )
        return cls(
            title=data["title"],
            results=tuple(AuditResult.from_json(r) for r in data["results"]),
            history=History.from_json(data["history"]) if data["history"] else None,
            facts=tuple((fact[0], fact[1]) for fact in data["facts"]),
            caveats=tuple(data["caveats"]),
            gates=tuple(GateVerdict.from_json(verdict) for verdict in data["gates"]),
            data=data.get("data", {}),
            ending=Ending.from_json(data["ending"]) if data.get("ending") else None,
        )


def summary_of(result: AuditResult) -> dict[str, Any]:
    """Return the derived figures of one audit, strongest first, for readers of the JSON who do not derive them."""

    def figure(proportion: Proportion) -> dict[str, Any]:
        return {
            "value": round(proportion.value, 6),
            "low": round(proportion.low, 6),
            "high": round(proportion.high, 6),
            "count": proportion.count,
            "total": proportion.total,
        }

    return {
        "model": result.model,
        "worst_case": figure(result.worst_case()) if result.measured else None,
        "clean": figure(result.clean_accuracy()),
        "attacks": {
            outcome.name: figure(
                result.robust_accuracy(outcome) if outcome.complete else result.accuracy_after(outcome)
            )
            | {"complete": outcome.complete}
            for outcome in result.outcomes
        },
        "checks": {str(status): sum(check.status is status for check in result.checks) for status in Status},
        "curve": [
            {"norm": result.curve.norm, "eps": eps} | figure(accuracy)
            for eps, accuracy in zip(result.curve.eps, result.curve.accuracies(), strict=True)
        ]
        if result.curve
        else [],
    }
