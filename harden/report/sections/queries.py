"""How many questions a score-based attack needs: robust accuracy against its budget of queries."""

from __future__ import annotations

from harden.audit.queries import QueryCurve, query_curve
from harden.report.figures import count, percent
from harden.report.legend import legend, looks
from harden.report.markup import Html, element, joined
from harden.report.report import Report
from harden.report.section import Section
from harden.report.side_by_side import attack_keys, attack_rows
from harden.report.steps import Steps, step_chart


def queries(report: Report) -> Section | None:
    """Return a chart for each score-based attack, or None where none was run."""
    keyed = [attack_keys(result) for result in report.results]
    order = list(dict.fromkeys(key for attacks in (keyed[-1], *keyed[:-1]) for key in attacks))
    drawn: list[Html] = []
    for row, key in zip(attack_rows(report), order, strict=True):
        curves: list[tuple[str, str, QueryCurve]] = []
        for result, attacks, look in zip(report.results, keyed, looks(report), strict=True):
            curve = query_curve(result, attacks[key]) if key in attacks else None
            if curve is not None:
                curves.append((result.model, look, curve))
        if curves:
            drawn.append(_chart(row.label, curves))
    if not drawn:
        return None
    meaning = element(
        "p",
        None,
        "An attacker who sees only the scores pays with queries. From left to right each image may be asked about more "
        "often; the lines show how many of all images are still right. They begin with what the attack met: images "
        "that are wrong when clean, or that an earlier attack of its ensemble had fooled, are gone already.",
    )
    return Section("What a budget of queries buys", joined((meaning, legend(report), *drawn)))


def _chart(attack: str, curves: list[tuple[str, str, QueryCurve]]) -> Html:
    lines = [
        Steps(model, look, curve.queries, tuple(standing / curve.total for standing in curve.standing))
        for model, look, curve in curves
    ]
    spoken = [_spoken(model, curve) for model, _, curve in curves]
    chart = step_chart(
        lines,
        along="queries for each image",
        title=f"Images that withstand {attack}, by queries",
        description=" ".join(spoken),
    )
    notes = (element("p", {"class": "footnote"}, sentence) for sentence in spoken)
    return joined((element("h3", None, attack), chart, *notes))


def _spoken(model: str, curve: QueryCurve) -> str:
    start, end = (percent(standing / curve.total) for standing in (curve.standing[0], curve.standing[-1]))
    if curve.standing[0] == 0:
        return f"{model}: no image was left for it to attack."
    median = curve.median()
    most = count(curve.queries[-1])
    if median is None:
        return f"{model}: none of the {start} that it met had fallen after up to {most} queries."
    return (
        f"{model}: from {start} to {end} after up to {most} queries; half of those that fell had fallen after "
        f"{count(median)}."
    )
