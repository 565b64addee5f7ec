"""HTML pages: one file each, that needs no network, no script and no other file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from harden.files import write_whole
from harden.report.report import Report
from harden.report.section import Section
from harden.report.sections import SECTIONS

TEMPLATE = "template.html.j2"
"""Package data beside this module: the page around the sections, and its style sheet."""


def page(title: str, subtitle: str, sections: Sequence[tuple[str, Section]]) -> str:
    """Return a page of sections, each with its id."""
    import jinja2

    source = resources.files("harden.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source).render(title=title, subtitle=subtitle, sections=sections)


def dumps(report: Report) -> str:
    """Return the page of a report."""
    found = ((name, write_section(report)) for name, write_section in SECTIONS.items())
    shown = [(name, section) for name, section in found if section is not None]
    return page(report.title, report.subject.dataset, shown)


def write(report: Report, path: Path) -> Path:
    """Write the page to `path`, whole or not at all.

    Raises:
        RunFolderError: the file cannot be written.
    """
    return write_whole(path, dumps(report))
