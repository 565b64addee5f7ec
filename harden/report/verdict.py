"""What the report says in one line, and what must stand beside it; worked out once for every format."""

from __future__ import annotations

from dataclasses import dataclass

from harden.audit.metrics import Difference, Proportion
from harden.audit.result import AttackOutcome
from harden.report.beliefs import doubts
from harden.report.figures import count, counted, percent, threat, with_interval
from harden.report.judging import at_chance, chance_clause
from harden.report.report import Report
from harden.report.side_by_side import attack_keys


@dataclass(frozen=True)
class Verdict:
    """The figures of the first line.

    Attributes:
        images: how many were audited.
        attacks: how many attacks were run on the subject.
        threat: their norm and radius, "linf eps 0.1".
        worst: worst-case accuracy of the subject; None where it was not measured.
        worst_before: that of the baseline; None without a baseline or without attacks on it.
        clean, clean_before: accuracy on the clean images.
        gain: worst case minus worst case before, paired; None unless both were audited on the same images.
        strongest: the attack that alone leaves the fewest images standing.
        tied: how many others leave as few.
    """

    images: int
    attacks: int
    threat: str
    worst: Proportion | None
    worst_before: Proportion | None
    clean: Proportion
    clean_before: Proportion | None
    gain: Difference | None
    strongest: AttackOutcome | None
    tied: int

    def scope(self) -> str:
        """Return what the worst case is taken over: "Worst case over 7 attacks at linf eps 0.1"."""
        return f"Worst case over {counted(self.attacks, 'attack')} at {self.threat}"

    def lack(self) -> str:
        """Return why there is no worst case, where there is none."""
        if self.attacks == 0:
            return "No attack was run"
        return "Robust accuracy was not measured: every attack was made on other networks"

    def sentence(self) -> str:
        """Return the verdict as one line of plain text."""
        if self.worst is None:
            clean = f"{with_interval(self.clean)} of {counted(self.images, 'image')}"
            return f"{self.lack()}. Clean accuracy: {clean}"
        was = "" if self.worst_before is None else f" (was {percent(self.worst_before.value)})"
        return f"{self.scope()}: {with_interval(self.worst)} of {counted(self.images, 'image')}{was}"


def verdict_of(report: Report) -> Verdict:
    """Work out the verdict on the subject of the report."""
    subject, baseline = report.subject, report.baseline
    worst = subject.worst_case() if subject.measured else None
    worst_before = baseline.worst_case() if baseline is not None and baseline.measured else None
    return Verdict(
        images=len(subject),
        attacks=len(subject.outcomes),
        threat=threat(subject.outcomes),
        worst=worst,
        worst_before=worst_before,
        clean=subject.clean_accuracy(),
        clean_before=baseline.clean_accuracy() if baseline is not None else None,
        gain=_gain(report) if worst is not None and worst_before is not None else None,
        strongest=subject.strongest(),
        tied=max(0, len(subject.all_strongest()) - 1),
    )


def cautions(report: Report) -> tuple[str, ...]:
    """Return what the checks say against the numbers, the caveats, and what follows from the results side by side."""
    found = [*doubts(report), *report.caveats]
    subject = report.subject
    if not subject.outcomes:
        found.append("No attack was run: clean accuracy says nothing about robustness.")
    elif not subject.measured:
        found.append("Examples from other networks alone do not measure robust accuracy: they leave too many standing.")
    found += [
        f"{result.model} is at chance on clean images ({chance_clause(result)}): what withstands attacks is then no "
        "sign of robustness."
        for result in report.results
        if at_chance(result)
    ]
    for result in report.results:
        if not result.differentiable and result.measured:
            found.append(
                f"{result.model} gives no gradients, so it was audited black-box only: by its scores and by examples "
                "crafted on other networks, if any. Whoever has its weights can attack it harder, so read its robust "
                "accuracy as an upper bound."
            )
    for other in report.results[:-1]:
        if attack_keys(other).keys() != attack_keys(subject).keys():
            found.append(
                f"{other.model} and {subject.model} did not meet the same attacks: "
                "their worst cases are not like for like."
            )
    if report.baseline is not None and not _same_images(report):
        found.append(
            f"{report.baseline.model} was audited on {count(len(report.baseline))} images and {subject.model} on "
            f"{count(len(subject))}, and they are not the same ones: no paired gain can be given."
        )
    return tuple(found)


def _gain(report: Report) -> Difference | None:
    if report.baseline is None or not _same_images(report):
        return None
    return report.subject.worst_case_gain(report.baseline)


def _same_images(report: Report) -> bool:
    if report.baseline is None:
        return False
    try:
        report.subject.worst_case_gain(report.baseline)
    except ValueError:
        return False
    return True
