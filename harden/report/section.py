"""One section of the HTML page: what every file in `sections/` returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harden.report.markup import Html
from harden.report.report import Report


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    body: Html


SectionWriter = Callable[[Report], Section | None]
"""Returns None where the report has nothing to show under this heading."""
