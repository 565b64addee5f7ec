"""A comparison on a terminal and in Markdown: the verdict, the table of the paper's Table 1, what must be said."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harden.durations import duration
from harden.report.comparison import BLACK_BOX, WORST, Comparison, Figure
from harden.report.markdown import line, plain

_GAP = 2
"""Columns between two of the table's, the divider that the box has for each included."""
_LABEL = 30


@dataclass(frozen=True)
class Shown:
    """A column of the table as text.

    Attributes:
        head: what stands above it.
        cells: one for each variant.
        group: the columns that it belongs to, in print; empty for those that stand alone.
        strong: whether it is the one to look at.
        best: rows of the highest accuracy; none if all have the same, and in a column of costs.
    """

    head: str
    cells: tuple[str, ...]
    group: str = ""
    strong: bool = False
    best: frozenset[int] = frozenset()


def columns(comparison: Comparison) -> tuple[Shown, ...]:
    """Return the columns after the variants' names: accuracies in percent, then the cost of training."""
    variants = comparison.variants
    found = []
    for column in comparison.columns:
        figures = [comparison.figure(variant, column) for variant in variants]
        top, bottom = (choose(figure.mean for figure in figures) for choose in (max, min))
        best = frozenset(nth for nth, figure in enumerate(figures) if figure.mean == top > bottom)
        found.append(
            Shown(column.shown, tuple(map(cell, figures)), group=column.group, strong=column == WORST, best=best)
        )
    passes = [comparison.passes(variant) for variant in variants]
    least = min((p for p in passes if p), default=0.0)
    found.append(Shown("passes", tuple(f"{p / least:.1f}x" if p else "" for p in passes)))
    found.append(Shown("training", tuple(duration(comparison.seconds(variant)) for variant in variants)))
    return tuple(found)


def cell(figure: Figure) -> str:
    """Write an accuracy in percent, with its spread over seeds."""
    spread = "" if figure.spread is None else f" ±{100 * figure.spread:.1f}"
    return f"{100 * figure.mean:.1f}{spread}"


def notes(comparison: Comparison) -> tuple[str, ...]:
    """Return what the figures are."""
    first = comparison.trials[0].audit
    seeds = len(comparison.seeds)
    spread = f"; mean and ± sample standard deviation over {seeds} seeds" if seeds > 1 else "; one seed"
    return (
        f"Accuracy in percent on {first.dataset}{spread}; {comparison.basis}.",
        "± after a lead is its 95 % interval, all leads of the verdict together. The worst case is over all attacks, "
        "those of ensembles included. Passes are those of training, forward and backward through the network and those "
        "that examples are crafted on, against the cheapest.",
    )


def render(comparison: Comparison, *, width: int) -> Group:
    """Return the comparison for a terminal of `width` columns; a table too wide goes on below."""
    sentences = comparison.verdict()
    parts: list[RenderableType] = [Text("\n".join(_wrapped(sentences[0], width)), style="bold")]
    parts.extend(Text("\n".join(_wrapped(sentence, width, "  "))) for sentence in sentences[1:])
    names = [comparison.marked(variant) for variant in comparison.variants]
    label = min(_LABEL, max(cell_len(name) for name in names))
    block: list[Shown] = []
    for shown in columns(comparison):
        if block and label + sum(_GAP + _width(s) for s in (*block, shown)) > width:
            parts.extend((Text(""), _table(names, block, label)))
            block = []
        block.append(shown)
    parts.extend((Text(""), _table(names, block, label), Text("")))
    parts.extend(Text("\n".join(_wrapped(note, width)), style="dim") for note in notes(comparison))
    remarks = comparison.remarks()
    parts.extend((Text(""), *(Text("\n".join(_wrapped(r, width)), style="yellow") for r in remarks)) if remarks else ())
    return Group(*parts)


def dumps(comparison: Comparison) -> str:
    """Return the comparison as GitHub-flavoured Markdown."""
    verdict = comparison.verdict()
    shown = columns(comparison)
    lines = [line(["", *(plain(_headed(s)) for s in shown)]), line([":--", *["--:"] * len(shown)])]
    for nth, variant in enumerate(comparison.variants):
        cells = [f"**{plain(s.cells[nth])}**" if s.strong else plain(s.cells[nth]) for s in shown]
        lines.append(line([plain(comparison.marked(variant)), *cells]))
    blocks = [
        f"# {plain(comparison.title)}",
        f"**{plain(verdict[0])}**",
        *(["\n".join(f"- {plain(sentence)}" for sentence in verdict[1:])] if verdict[1:] else []),
        "\n".join(lines),
        *(plain(note) for note in notes(comparison)),
    ]
    remarks = comparison.remarks()
    if remarks:
        blocks.append("> [!WARNING]\n" + "\n>\n".join(f"> {plain(remark)}" for remark in remarks))
    silhouettes = silhouette_rows(comparison)
    if silhouettes:
        heads, rows = silhouettes
        blocks.append("## Silhouette scores of the logits")
        blocks.append("\n".join([line(["", *heads]), line([":--", *["--:"] * len(heads)]), *map(line, rows)]))
    definitions = dict.fromkeys((o.name, o.definition) for o in comparison.trials[0].audit.outcomes)
    if definitions:
        blocks.append("## Attacks")
        blocks.append("\n".join(f"- **{plain(name)}**: {plain(words)}" for name, words in definitions))
    blocks.append("## How these numbers came about")
    blocks.append("\n".join(f"- {plain(label)}: {plain(value)}" for label, value in comparison.facts))
    return "\n\n".join(blocks) + "\n"


def silhouette_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]] | None:
    """Return the heads and rows of the paper's Table 2, of each variant's first seed, or None without any."""
    found = [(variant, comparison.of(variant)[0].audit.representation) for variant in comparison.variants]
    first = found[0][1]
    if first is None:
        return None
    rows = [
        [variant, *(f"{domain.silhouette:.3f}" for domain in representation.domains)]
        for variant, representation in found
        if representation is not None
    ]
    return [domain.name for domain in first.domains], rows


def _table(names: Sequence[str], block: Sequence[Shown], label: int) -> Table:
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0), highlight=False)
    drawn.add_column("", width=label, overflow="fold")
    for shown in block:
        drawn.add_column(
            Text(_headed(shown)), justify="right", width=_width(shown), style="bold" if shown.strong else None
        )
    for nth, name in enumerate(names):
        drawn.add_row(Text(name), *(Text(shown.cells[nth]) for shown in block))
    return drawn


def _headed(shown: Shown) -> str:
    """Return what stands above a column where groups have no line of their own; white-box goes without saying."""
    return f"{shown.group} {shown.head}" if shown.group == BLACK_BOX else shown.head


def _width(shown: Shown) -> int:
    """Return the columns that it takes: a head may wrap between words."""
    words = max(cell_len(word) for word in _headed(shown).split())
    return max(words, *(cell_len(text) for text in shown.cells))


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False) or [""]
