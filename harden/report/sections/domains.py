"""How well the discriminators tell clean from adversarial, against chance."""

from __future__ import annotations

import math

from harden.report.curves import Curve, Scale, line_chart
from harden.report.figures import counted, percent
from harden.report.markup import Html, element, joined
from harden.report.report import Report
from harden.report.section import Section
from harden.report.sections.training import axis_of, values_of

_LAST = 5
_CURVES = {"domain_accuracy_feature": "feature", "domain_accuracy_logit": "logit"}


def domains(report: Report) -> Section | None:
    """Return the curves and what they mean, or None where no discriminator was trained."""
    history = report.history
    if history is None:
        return None
    curves = [Curve(name, name, values_of(history, scalar)) for scalar, name in _CURVES.items()]
    shown = [curve for curve in curves if any(map(math.isfinite, curve.values))]
    if not shown:
        return None
    lowest = min(value for curve in shown for value in curve.values if math.isfinite(value))
    domains = 1 + max(len(epoch.source_attacks) for epoch in history.epochs)
    chance = 1 / domains
    scale = Scale(0.4, 1.0, 0.1, (chance, "chance")) if lowest >= 0.4 <= chance else Scale(reference=(chance, "chance"))
    last = min(_LAST, len(history.epochs))
    averages = [(curve.name, _late(curve)) for curve in shown]
    guess = "a coin" if domains == 2 else "a guess"
    kinds = "clean or adversarial" if domains == 2 else f"clean or made by which of {domains - 1} source attacks"
    meaning = (
        f"A discriminator guesses from the model's features or logits whether an image is {kinds}. At "
        f"{percent(chance)} it does no better than {guess}: to the layers that decide, they look alike, which is what "
        "this training aims at (a discriminator too weak to learn looks the same). Well above, the attack still leaves "
        "a trace. "
    )
    ends = [f"{percent(value)} ({name})" for name, value in averages]
    chart = line_chart(
        shown,
        axis_of(history),
        scale,
        title="Accuracy of the domain discriminators by epoch",
        description=f"Chance is {percent(chance)}. Mean of the last {counted(last, 'epoch')}: {' and '.join(ends)}.",
    )
    figures = [element("span", {"class": "figures"}, end) for end in ends]
    end = element("strong", None, f"In the last {counted(last, 'epoch')} it was ", Html(" and ".join(figures)), ".")
    return Section("Can clean and adversarial still be told apart?", joined((element("p", None, meaning, end), chart)))


def _late(curve: Curve) -> float:
    """Return the mean of the last `_LAST` epochs: one epoch alone is noisy."""
    late = [value for value in curve.values if math.isfinite(value)][-_LAST:]
    return sum(late) / len(late)
