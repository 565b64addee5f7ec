"""How the models are told apart in drawings: a class each, and the legend that shows them."""

from __future__ import annotations

from harden.report.markup import Html, element
from harden.report.report import Report


def looks(report: Report) -> tuple[str, ...]:
    """Return one class per model: the last is "subject", the ones before it "baseline-1", "baseline-2", ..."""
    return (*(f"baseline-{nth}" for nth in range(1, len(report.results))), "subject")


def legend(report: Report, *, mark: str = "swatch") -> Html:
    """Return the legend, or nothing where there is one model only; `mark` is "swatch" for bars, "stroke" for lines."""
    if len(report.results) == 1:
        return Html()
    items = (
        element("li", None, element("span", {"class": f"{mark} {look}"}), result.model)
        for look, result in zip(looks(report), report.results, strict=True)
    )
    return element("ul", {"class": "legend"}, *items)
