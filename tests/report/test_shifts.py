"""Other norms, corruptions and the spread: one figure and a table on the page, short lines elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from rich.console import Console

from harden.audit.metrics import share_of
from harden.audit.spread import Family, spread
from harden.report import html, markdown, terminal
from harden.report.figures import percent
from harden.report.report import Report
from harden.report.sections.shifts import shifts
from harden.report.unseen import shift_lines

from .builders import build_corruptions, build_report, build_result, build_shifts
from .test_html import EVIL, Page


def with_shifts(model: str = "net", images: int = 200, *, defended: bool = True):
    result = build_result(model, images=images, defended=defended)
    return replace(result, shifts=build_shifts(result), corruptions=build_corruptions(result))


def page_of(*results) -> str:
    section = shifts(Report("title", results))
    assert section is not None
    return str(section.body)


def test_every_shift_has_a_line_with_its_figure() -> None:
    result = with_shifts()
    words = Page(page_of(result)).text
    found = spread(result)
    assert len(found.shifts) > 10
    for shift in found.shifts:
        assert f"{shift.name}" in words
        assert percent(shift.accuracy.value) in words
    for family in Family:
        assert family[1:] in words
    assert f"spread over attacks: {100 * found.range():.1f} points" in words


def test_the_band_reaches_from_the_lowest_to_the_highest_attack() -> None:
    result = with_shifts()
    values = [s.accuracy.value for s in spread(result).shifts if s.family.adversarial]
    shaded = re.search(r'class="shaded" x="([\d.]+)%" width="([\d.]+)%"', page_of(result))
    assert shaded is not None
    assert float(shaded[1]) == pytest.approx(100 * min(values), abs=0.01)
    assert float(shaded[1]) + float(shaded[2]) == pytest.approx(100 * max(values), abs=0.02)


def test_the_table_has_every_corruption_and_severity_and_what_it_was_before() -> None:
    before, after = with_shifts("before", defended=False), with_shifts("after")
    words = Page(page_of(before, after)).text
    for result, form in ((before, "was {}"), (after, "{}")):
        for outcome in result.corruptions:
            assert form.format(percent(share_of(outcome.predictions == result.labels).value)) in words
    assert page_of(before, after).count("<tr>") == 1 + 4 + 1
    assert "was" not in Page(page_of(after)).text.split()


def test_models_stand_on_the_same_line_where_both_have_the_shift() -> None:
    both = page_of(with_shifts("a"), with_shifts("b"))
    alone = page_of(build_result("a", images=200), with_shifts("b"))
    lines = len(spread(with_shifts()).shifts)
    assert both.count("<circle") == 2 * lines
    assert alone.count("<circle") == lines + len(spread(build_result(images=200)).shifts)


@pytest.mark.parametrize("part", ["shifts", "corruptions"])
def test_one_without_the_other_is_shown(part: str) -> None:
    result = replace(with_shifts(), **{part: ()})
    page = page_of(result)
    assert ("<table" in page) == (part == "shifts")
    assert ("Unseen norms" in page) == (part == "corruptions")
    assert len(shift_lines(result)) == (2 if part == "shifts" else 3)


def test_nothing_is_said_where_nothing_was_tried() -> None:
    report = Report("title", (build_result(images=60),))
    assert shifts(report) is None
    assert shift_lines(report.subject) == ()
    assert "Beyond the threat model" not in markdown.dumps(report)


def test_a_report_of_a_black_box_without_any_attack_has_no_spread() -> None:
    result = build_result(images=60, attacks=0)
    result = replace(result, corruptions=build_corruptions(result))
    assert "shaded" not in page_of(result)
    assert len(shift_lines(result)) == 1


def test_names_are_escaped_and_long_ones_cut() -> None:
    result = with_shifts()
    evil = replace(result.outcomes[0], name=EVIL + "a very long name of an attack")
    page = page_of(replace(result, outcomes=(evil, *result.outcomes[1:])))
    assert EVIL not in page
    assert "…" in page


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_terminal_has_a_line_each_and_none_too_wide(width: int) -> None:
    report = build_report(images=200)
    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(terminal.render(report, width=width))
    text = captured.get()
    assert "Beyond the threat model" in text
    assert all(len(line) <= width for line in text.splitlines())
    flat = " ".join(text.split())
    assert all(line in flat for line in shift_lines(report.subject))


def test_markdown_has_the_same_lines_and_the_page_the_section() -> None:
    report = build_report(images=200)
    document = markdown.dumps(report)
    assert all(f"- {line}" in document for line in shift_lines(report.subject))
    assert 'id="shifts"' in html.dumps(report)
