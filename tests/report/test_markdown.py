"""report.md: the table has the numbers, and no name breaks it."""

from __future__ import annotations

from dataclasses import replace

from harden.report import markdown
from harden.report.report import Report

from .builders import build_report, build_result


def test_the_table_has_every_number() -> None:
    report = build_report(images=300)
    text = markdown.dumps(report)
    table = [line for line in text.split("## ")[0].splitlines() if line.startswith("|")]
    assert len(table) == 2 + 1 + 7 + 1
    for result in report.results:
        figures = [result.clean_accuracy(), result.worst_case(), *map(result.robust_accuracy, result.outcomes)]
        for figure in figures:
            assert f"{100 * figure.value:.1f} % [{100 * figure.low:.1f}, {100 * figure.high:.1f}]" in "\n".join(table)


def test_verdict_definitions_facts_and_caveats_are_there() -> None:
    report = build_report(images=100)
    text = markdown.dumps(report)
    assert text.index("Worst case over 7 attacks") < text.index(report.caveats[0]) < text.index("| clean |")
    assert all(outcome.definition in text for outcome in report.subject.outcomes)
    assert all(label in text for label, _ in report.facts)
    assert "points** [" in text


def test_a_name_cannot_break_the_table_or_become_markup() -> None:
    result = replace(build_result("a|b\n| c | <img>", images=20, attacks=1))
    text = markdown.dumps(Report("# *t*", (result,)))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {4}
    assert "<img>" not in text
    assert text.startswith("# # \\*t\\*\n")


def test_gates_stand_under_the_verdict() -> None:
    text = markdown.dumps(build_report(images=100))
    assert text.index("Worst case over 7") < text.index("- ❌ gate robust ≥ 0.99 not met") < text.index("| clean |")
    assert "- ✅ gate clean ≥ 0.5 met" in text


def test_the_curve_is_a_table_with_the_models_side_by_side() -> None:
    report = build_report(images=100)
    lines = markdown.dumps(report).split("## Accuracy against eps")[1].splitlines()
    rows = [line for line in lines if line.startswith("|")][2:]
    curves = [result.curve.accuracies() for result in report.results if result.curve is not None]
    assert len(rows) == 11
    for row, found in zip(rows, zip(*curves, strict=True), strict=True):
        assert all(f"{100 * accuracy.value:.1f} %" in row for accuracy in found)
    assert rows[4].startswith("| 0.1 |")
    assert "eps (linf)" not in markdown.dumps(Report("x", (build_result(images=20),)))
