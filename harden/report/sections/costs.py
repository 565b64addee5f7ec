"""What the audit took: time and passes through the model, attack by attack."""

from __future__ import annotations

from harden.durations import duration
from harden.report.figures import count
from harden.report.markup import Html, element, joined
from harden.report.report import Report
from harden.report.section import Section
from harden.report.side_by_side import attack_rows


def costs(report: Report) -> Section | None:
    """Return the costs of attacking the subject, or None where no attack was run."""
    outcomes = report.subject.outcomes
    if not outcomes:
        return None
    heads = [element("th", {"scope": "col"}, "Attack")]
    heads += [element("th", {"scope": "col", "class": "number"}, name) for name in ("Time", "Forward", "Backward")]
    # The subject's attacks come first among the rows, in its order; only the rows tell namesakes apart.
    lines = [
        _line(row.label, o.seconds, o.forwards, o.backwards)
        for row, o in zip(attack_rows(report), outcomes, strict=False)
    ]
    total = _line(
        "all attacks",
        sum(o.seconds for o in outcomes),
        sum(o.forwards for o in outcomes),
        sum(o.backwards for o in outcomes),
    )
    caption = element("caption", {"class": "spoken"}, f"Cost of attacking {report.subject.model}")
    table = element(
        "table",
        None,
        caption,
        element("thead", None, element("tr", None, *heads)),
        element("tbody", None, *lines),
        element("tfoot", None, total),
    )
    whole = ", ".join(f"{result.model} {duration(result.seconds)}" for result in report.results)
    note = (
        f"Attacks on {report.subject.model}. Forward and backward count images passed through the model; an image that "
        f"goes through twice counts 2. Whole audit: {whole}. Machine: {report.subject.machine}."
    )
    return Section(
        "What it cost", joined((element("div", {"class": "wide"}, table), element("p", {"class": "footnote"}, note)))
    )


def _line(name: str, seconds: float, forwards: int, backwards: int) -> Html:
    figures = (duration(seconds), count(forwards), count(backwards))
    cells = (element("td", {"class": "number"}, figure) for figure in figures)
    return element("tr", None, element("th", {"scope": "row"}, name), *cells)
