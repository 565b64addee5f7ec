"""The first thing on the page: the worst case in large figures, before and after, and what it cost."""

from __future__ import annotations

from harden.report.ending import EndStatus
from harden.report.figures import count, counted, interval, percent, points
from harden.report.markup import Html, element, joined
from harden.report.report import Report
from harden.report.section import Section
from harden.report.verdict import Verdict, verdict_of


def verdict(report: Report) -> Section:
    """Return the headline figure with its interval, and three smaller ones."""
    found = verdict_of(report)
    return Section(
        "Verdict",
        joined((_headline(found), _ending(report), _gates(report), _meaning(found, report), _smaller(found, report))),
    )


def _headline(found: Verdict) -> Html:
    if found.worst is None:
        lack = found.lack()
        scope = f"Clean accuracy of {counted(found.images, 'image')}; {lack[:1].lower()}{lack[1:]}"
        figure = found.clean
    else:
        scope, figure = found.scope(), found.worst
    before: list[Html] = []
    if found.worst is not None and found.worst_before is not None:
        before = [
            element("span", {"class": "before"}, _spoken("before: "), percent(found.worst_before.value)),
            element("span", {"class": "arrow", "aria-hidden": "true"}, "→"),
        ]
    after = element("span", {"class": "after"}, _spoken("now: ") if before else "", percent(figure.value))
    spread = element("p", {"class": "spread"}, f"95 % interval {interval(figure)}, {counted(found.images, 'image')}")
    return joined(
        (element("p", {"class": "scope"}, scope), element("p", {"class": "headline"}, *before, after), spread)
    )


def _ending(report: Report) -> Html:
    ending = report.ending
    if ending is None:
        return Html()
    kind = "unmet" if ending.status.is_failure else "met" if ending.status is EndStatus.HARDENED else "open"
    remedy = f" {ending.remedy}" if ending.remedy else ""
    status, reason = ending.status.value.capitalize(), f": {ending.reason}.{remedy}"
    return element("p", {"class": f"ending {kind}"}, element("strong", None, status), reason)


def _gates(report: Report) -> Html:
    if not report.gates:
        return Html()
    items = []
    for found in report.gates:
        words = found.sentence().replace(">=", "≥", 1)
        items.append(element("li", {"class": "met" if found.met else "unmet"}, words[:1].upper() + words[1:]))
    return element("ul", {"class": "gates"}, *items)


def _meaning(found: Verdict, report: Report) -> Html:
    if found.worst is None:
        return Html()
    return element(
        "p",
        {"class": "meaning"},
        element("strong", None, report.subject.model),
        f" is still right on {count(found.worst.count)} of {counted(found.worst.total, 'image')} when each image is "
        "attacked in every way listed below and the worst outcome is kept.",
    )


def _smaller(found: Verdict, report: Report) -> Html:
    entries: list[tuple[str, str, str]] = []
    if found.gain is not None and report.baseline is not None:
        entries.append(("Gain in worst case", points(found.gain.value), f"{interval(found.gain)}, paired, same images"))
    was = "" if found.clean_before is None else f", was {percent(found.clean_before.value)}"
    if found.worst is not None:
        entries.append(("Clean accuracy", percent(found.clean.value), f"{interval(found.clean)}{was}"))
    if found.strongest is not None:
        tied = f", as {counted(found.tied, 'other')} {'does' if found.tied == 1 else 'do'}" if found.tied else ""
        left = percent(report.subject.robust_accuracy(found.strongest).value)
        entries.append(("Strongest single attack", found.strongest.name, f"leaves {left}{tied}"))
    if not entries:
        return Html()
    blocks = (
        element(
            "div",
            None,
            element("dt", None, label),
            element("dd", {"class": "value"}, value),
            element("dd", {"class": "detail"}, detail),
        )
        for label, value, detail in entries
    )
    return element("dl", {"class": "smaller"}, *blocks)


def _spoken(words: str) -> Html:
    return element("span", {"class": "spoken"}, words)
