"""From result objects to what people and programs read: terminal, JSON, Markdown, JUnit XML, one offline HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from harden.errors import UsageError
from harden.report import document, html, junit, markdown
from harden.report.report import Report

FORMATS: dict[str, Callable[[Report, Path], Path]] = {
    "json": document.write,
    "html": html.write,
    "md": markdown.write,
    "xml": junit.write,
}
"""Format (and file ending) -> what writes it to a path, whole or not at all."""


def write_report(report: Report, folder: Path, formats: Sequence[str] = tuple(FORMATS)) -> dict[str, Path]:
    """Write `report.<format>` into `folder` for each of the formats and return where they are.

    The JSON is written last: a run folder that has it is finished.

    Raises:
        UsageError: there is no such format.
        RunFolderError: a file cannot be written; those written before it stay.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise UsageError(f"no report format {', '.join(unknown)}", hint=f"choose from {', '.join(FORMATS)}")
    in_order = sorted(formats, key=lambda name: name == "json")
    return {name: FORMATS[name](report, folder / f"report.{name}") for name in in_order}
