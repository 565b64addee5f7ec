"""The terminal: never wider than the terminal, never without the number to quote."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from harden.report.report import Report
from harden.report.terminal import render

from .builders import build_incomplete, build_report, build_result


def printed(report: Report, width: int, *, colour: bool = False) -> str:
    console = Console(
        width=width, file=io.StringIO(), force_terminal=colour, color_system="truecolor" if colour else None
    )
    console.print(render(report, width=width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


REPORTS = {
    "two": build_report(images=500),
    "one": Report("one", (build_result(images=500),)),
    "incomplete": Report("part", (build_incomplete(build_result(images=500)),)),
    "many": Report("many", tuple(build_result(f"a model with a long name, number {k}", images=500) for k in range(6))),
    "words": Report("words", (build_result("x" * 90, images=500), build_result("[red]y[/red] " * 8, images=500))),
}


@pytest.mark.parametrize("width", [60, 100, 160])
@pytest.mark.parametrize("name", REPORTS)
def test_no_line_is_longer_than_the_terminal_and_the_worst_case_is_there(name: str, width: int) -> None:
    report = REPORTS[name]
    lines = printed(report, width).splitlines()
    assert max(map(len, lines)) <= width
    worst = f"{100 * report.subject.worst_case().value:.1f} %"
    assert worst in lines[0]
    assert any(line.startswith("worst case") and worst in line for line in lines)


def test_the_verdict_says_over_what_and_what_it_was() -> None:
    report = REPORTS["two"]
    worst = report.subject.worst_case()
    first = printed(report, 160).splitlines()[0]
    assert first == (
        f"Worst case over 7 attacks at linf eps 0.1: {100 * worst.value:.1f} % "
        f"[{100 * worst.low:.1f}, {100 * worst.high:.1f}] of 500 images (was 0.0 %)"
    )


def test_figures_are_whole_at_sixty_columns() -> None:
    text = printed(REPORTS["two"], 60)
    for outcome in REPORTS["two"].subject.outcomes:
        line = next(line for line in text.splitlines() if line.startswith(outcome.name))
        assert f"{100 * REPORTS['two'].subject.robust_accuracy(outcome).value:.1f} %" in line


def test_the_paired_gain_is_there_for_two_models_only() -> None:
    assert "paired gain" in printed(REPORTS["two"], 100)
    assert "paired gain" not in printed(REPORTS["one"], 100)
    assert "paired gain" not in printed(REPORTS["many"], 100)


def test_a_member_of_an_ensemble_shows_what_it_and_all_before_left() -> None:
    text = printed(REPORTS["incomplete"], 100)
    result = REPORTS["incomplete"].subject
    left = result.accuracy_after(result.outcomes[3])
    lines = [line for line in text.splitlines() if line.startswith("PGD-40")]
    assert sum(f"left {100 * left.value:.1f} %" in line for line in lines) == 1
    assert left.value < min(result.robust_accuracy(outcome).value for outcome in result.outcomes[:3])
    assert "still stood" in text


def test_without_colour_there_are_no_escapes_and_with_colour_the_words_are_the_same() -> None:
    assert "\x1b" not in printed(REPORTS["two"], 80)
    assert "\x1b" in printed(REPORTS["two"], 80, colour=True)


def test_markup_in_a_name_is_text() -> None:
    assert "[red]" in printed(REPORTS["words"], 160)


def test_caveats_come_last_as_warnings() -> None:
    lines = printed(replace(REPORTS["one"], caveats=("mind the gap",)), 80).splitlines()
    assert lines[-1] == "warning: mind the gap"


def test_without_attacks_there_is_no_worst_case() -> None:
    text = printed(Report("none", (build_result(images=50, attacks=0),)), 80)
    assert text.startswith("No attack was run. Clean accuracy:")
    assert "worst case" not in text.lower()


def test_gates_stand_under_the_verdict_met_or_not() -> None:
    text = " ".join(printed(build_report(images=100), 60).split())
    assert text.index("gate robust >= 0.99 not met") < text.index("gate clean >= 0.5 met") < text.index("exposure")
