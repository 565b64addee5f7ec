"""Unseen shifts in words: what the terminal and the Markdown say of other norms, corruptions and the spread."""

from __future__ import annotations

from harden.audit.result import AuditResult
from harden.audit.spread import Family, Spread, spread
from harden.report.figures import counted, percent, with_interval


def shifted(result: AuditResult) -> bool:
    """Whether anything beyond the threat model was tried."""
    return bool(result.shifts or result.corruptions)


def shift_lines(result: AuditResult) -> tuple[str, ...]:
    """Return one sentence each on the other norms, the corruptions and the spread; none where nothing was tried."""
    if not shifted(result):
        return ()
    found = spread(result)
    lines = [f"{shift.name}: {with_interval(shift.accuracy)}" for shift in found.of(Family.NORMS)]
    if result.corruptions:
        kinds = counted(len({outcome.name for outcome in result.corruptions}), "common corruption")
        means = ", ".join(f"{s.name} {percent(s.accuracy.value)}" for s in found.of(Family.CORRUPTIONS))
        lines.append(f"mean over {kinds}: {means} (clean {percent(result.clean_accuracy().value)})")
    told = spread_sentence(found)
    return (*lines, *((told,) if told else ()))


def spread_sentence(found: Spread) -> str:
    """Return the range of the adversarial accuracies with both its ends; empty where there is only one."""
    reach = found.range()
    families = [family for family in Family if family.adversarial]
    lowest, highest = found.lowest(*families), found.highest(*families)
    if reach is None or lowest is None or highest is None:
        return ""
    if lowest.accuracy.value == highest.accuracy.value:
        return f"spread over attacks: 0.0 points, {percent(lowest.accuracy.value)} under each"
    return (
        f"spread over attacks: {100 * reach:.1f} points, from {percent(highest.accuracy.value)} ({highest.name}) down "
        f"to {percent(lowest.accuracy.value)} ({lowest.name})"
    )
