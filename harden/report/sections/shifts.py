"""Beyond the threat model: other norms and common corruptions beside seen and unseen attacks, in one figure."""

from __future__ import annotations

from harden.audit.metrics import Proportion, share_of
from harden.audit.result import AuditResult
from harden.audit.spread import RADII, Family, Shift, Spread, mean_accuracy, spread
from harden.report.dots import Band, Dot, DotGroup, DotLine, dot_chart
from harden.report.figures import interval, percent
from harden.report.legend import legend, looks
from harden.report.markup import Html, element, joined
from harden.report.report import Report
from harden.report.section import Section
from harden.report.unseen import shifted, spread_sentence


def shifts(report: Report) -> Section | None:
    """Return figure and table, or None where nothing beyond the threat model was tried."""
    subject = report.subject
    if not shifted(subject):
        return None
    parts = [legend(report), _figure(report), *_notes(subject)]
    if subject.corruptions:
        parts.append(_corruptions(report))
    parts.append(_definitions(subject))
    return Section("Beyond the threat model", joined(parts))


def _figure(report: Report) -> Html:
    found = [spread(result) for result in report.results]
    subject = found[-1]
    groups = tuple(
        DotGroup(
            family[0].upper() + family[1:],
            tuple(_line(shift, found, looks(report)) for shift in subject.of(family)),
        )
        for family in Family
        if subject.of(family)
    )
    told = [f"{shift.family}: {shift.name} {percent(shift.accuracy.value)}." for shift in subject.shifts]
    return dot_chart(
        groups,
        band=_band(subject),
        title="Accuracy under seen and unseen changes of the images",
        description=" ".join(told),
    )


def _line(shift: Shift, found: list[Spread], models: tuple[str, ...]) -> DotLine:
    dots = [
        Dot(look, other.accuracy)
        for look, one in zip(models, found, strict=True)
        for other in one.shifts
        if other.name == shift.name and (other.family.adversarial == shift.family.adversarial)
    ]
    return DotLine(shift.name, tuple(dots))


def _band(found: Spread) -> Band | None:
    reach = found.range()
    families = [family for family in Family if family.adversarial]
    lowest, highest = found.lowest(*families), found.highest(*families)
    if reach is None or lowest is None or highest is None:
        return None
    return Band(lowest.accuracy.value, highest.accuracy.value, f"spread over attacks: {100 * reach:.1f} points")


def _notes(subject: AuditResult) -> list[Html]:
    notes = []
    told = spread_sentence(spread(subject))
    if told:
        meaning = (
            " A defence that generalises keeps it small." if subject.outcomes and subject.worst_case().count else ""
        )
        notes.append(f"{told[0].upper()}{told[1:]}.{meaning}")
    if subject.shifts:
        notes.append(f"Of another norm the worst over its attacks counts, image by image. {RADII}")
    return [element("p", {"class": "footnote"}, note) for note in notes]


def _corruptions(report: Report) -> Html:
    subject, baseline = report.subject, report.baseline
    severities = sorted({outcome.severity for outcome in subject.corruptions})
    names = list(dict.fromkeys(outcome.name for outcome in subject.corruptions))
    head = [element("th", {"scope": "col"}, "Corruption")]
    head += [element("th", {"scope": "col", "class": "number"}, f"Severity {severity}") for severity in severities]
    body = [
        element(
            "tr",
            None,
            element("th", {"scope": "row"}, name),
            *(_cell(_accuracy(subject, name, s), _accuracy(baseline, name, s)) for s in severities),
        )
        for name in names
    ]
    foot = element(
        "tr",
        None,
        element("th", {"scope": "row"}, "mean"),
        *(_cell(_mean(subject, s), _mean(baseline, s)) for s in severities),
    )
    caption = element("caption", {"class": "spoken"}, "Accuracy under each common corruption")
    table = element(
        "table",
        {"class": "corruptions"},
        caption,
        element("thead", None, element("tr", None, *head)),
        element("tbody", None, *body),
        element("tfoot", None, foot),
    )
    return element("div", {"class": "wide"}, table)


def _cell(now: Proportion | None, was: Proportion | None) -> Html:
    if now is None:
        return element("td", {"class": "number"}, "")
    before = element("span", {"class": "was"}, f"was {percent(was.value)}") if was is not None else Html()
    value = element("span", {"class": "value", "title": f"95 % interval {interval(now)}"}, percent(now.value))
    return element("td", {"class": "number"}, before, Html(" "), value)


def _accuracy(result: AuditResult | None, name: str, severity: int) -> Proportion | None:
    for outcome in result.corruptions if result is not None else ():
        if (outcome.name, outcome.severity) == (name, severity) and result is not None:
            return share_of(outcome.predictions == result.labels)
    return None


def _mean(result: AuditResult | None, severity: int) -> Proportion | None:
    if result is None:
        return None
    same = [outcome for outcome in result.corruptions if outcome.severity == severity]
    return mean_accuracy(result, same) if same else None


def _definitions(subject: AuditResult) -> Html:
    entries = [(f"{outcome.norm} {outcome.name}", outcome.definition) for outcome in subject.shifts]
    kinds: dict[str, list[str]] = {}
    for outcome in subject.corruptions:
        kinds.setdefault(outcome.name, []).append(f"severity {outcome.severity}: {outcome.definition}")
    entries += [(name, "; ".join(found)) for name, found in kinds.items()]
    pairs = (element("div", None, element("dt", None, name), element("dd", None, words)) for name, words in entries)
    summary = element("summary", None, "How each of these changes is made")
    return element("details", None, summary, element("dl", {"class": "pairs"}, *pairs))
