"""What attacks do to the logits: clusters by class, and whether attacked images can be told from clean ones."""

from __future__ import annotations

import math

import numpy as np

from harden.audit.representation import Domain, Representation
from harden.report.figures import MISSING, count, percent
from harden.report.markup import Html, element, joined
from harden.report.report import Report
from harden.report.scatter import COLOURS, extent_of, scatter
from harden.report.section import Section

SHOWN = 4
"""Pictures side by side: clean and the first attacks."""

_MEANING = (
    (
        "Silhouette",
        "1: the logits of each class are a cluster of their own; 0: the classes touch; below 0: images lie nearer to "
        "another class than to their own. What falls from clean to attacked is what the attack mixes up.",
    ),
    (
        "Told apart",
        "how often a linear classifier tells attacked logits from clean ones, on images that it was not fitted on. At "
        "50 % it does no better than a coin: the attack leaves no trace, which domain-adversarial training aims at; at "
        "100 % the two are different worlds (4 times this share, minus 2, is the proxy A-distance). With the class "
        "known, it also knows which logit is the true one, as a discriminator for each class does.",
    ),
)


def representation(report: Report) -> Section | None:
    """Return pictures and table, or None where the subject's logits were not looked at."""
    found = report.subject.representation
    if found is None:
        return None
    parts: list[Html] = []
    several = sum(result.representation is not None for result in report.results) > 1
    for result in reversed(report.results):
        if result.representation is not None and len(result.representation.labels):
            name = [element("h3", None, result.model)] if several else []
            parts.extend((*name, pictures(result.representation)))
    if parts:
        parts.append(class_legend(report.subject.classes))
    before = report.baseline.representation if report.baseline is not None else None
    parts.append(_table(found, before))
    wrong = "those that are wrong when clean included"
    parts.append(
        element(
            "p",
            {"class": "footnote"},
            f"Over {count(found.images)} images, {wrong}; each attack ran to its end. In the pictures a dot is an "
            "image and its colour the true class. t-SNE placed clean and attacked logits of a model together; it bends "
            "distances, so the pictures illustrate and the table measures.",
        )
    )
    parts.extend(
        element("p", {"class": "footnote"}, element("strong", None, word), f": {meaning}") for word, meaning in _MEANING
    )
    return Section("What attacks do to the logits", joined(parts))


def pictures(found: Representation, shown: int = SHOWN) -> Html:
    """Return the first pictures side by side, on one scale."""
    domains = found.domains[:shown]
    extent = extent_of(np.concatenate([domain.points for domain in domains]))
    figures = (
        element(
            "figure",
            None,
            scatter(domain.points, found.labels, extent, title=f"t-SNE of the logits, {domain.name}"),
            element("figcaption", None, domain.name),
        )
        for domain in domains
    )
    return element("div", {"class": "scatters"}, *figures)


def class_legend(classes: tuple[str, ...]) -> Html:
    """Return which colour is which class."""
    if len(classes) > COLOURS:
        words = f"{count(len(classes))} classes share {COLOURS} colours."
        return element("p", {"class": "footnote"}, words)
    items = (
        element("li", None, element("span", {"class": f"class-dot k{index}"}), name)
        for index, name in enumerate(classes)
    )
    return element("ul", {"class": "legend"}, *items)


def _table(found: Representation, before: Representation | None) -> Html:
    earlier = {domain.name: domain for domain in before.domains} if before is not None else {}
    heads = (
        element("th", {"scope": "col"}, "Images"),
        *(
            element("th", {"scope": "col", "class": "number"}, name)
            for name in ("Silhouette", "Told apart", "Class known")
        ),
    )
    lines = (_line(domain, earlier.get(domain.name)) for domain in found.domains)
    caption = element("caption", {"class": "spoken"}, "Silhouette of the logits and domain accuracy, attack by attack")
    table = element(
        "table",
        {"class": "representation"},
        caption,
        element("thead", None, element("tr", None, *heads)),
        element("tbody", None, *lines),
    )
    return element("div", {"class": "wide"}, table)


def _line(domain: Domain, before: Domain | None) -> Html:
    was = _figures(before) if before is not None else (MISSING,) * 3
    cells = (_cell(value, earlier) for value, earlier in zip(_figures(domain), was, strict=True))
    return element("tr", None, element("th", {"scope": "row"}, domain.name), *cells)


def _figures(domain: Domain) -> tuple[str, str, str]:
    silhouette = f"{domain.silhouette:.2f}".replace("-", "−") if math.isfinite(domain.silhouette) else MISSING
    return silhouette, _accuracy(domain.domain_accuracy), _accuracy(domain.class_domain_accuracy)


def _cell(value: str, before: str) -> Html:
    parts = [element("span", {"class": "value"}, value)]
    if before != MISSING:
        parts.extend((Html(" "), element("span", {"class": "interval"}, f"was {before}")))
    return element("td", {"class": "number"}, *parts)


def _accuracy(value: float) -> str:
    return percent(value) if math.isfinite(value) else MISSING
