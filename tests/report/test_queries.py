"""The section on query budgets, and the caution about models without gradients."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from harden.audit.queries import query_curve
from harden.audit.result import AuditResult
from harden.report import html, markdown
from harden.report.report import Report
from harden.report.sections.queries import queries
from harden.report.steps import Steps, step_chart
from harden.report.verdict import cautions

from .builders import build_report, build_result


def with_queries(result: AuditResult, most: int = 1000) -> AuditResult:
    square = result.outcomes[-1]
    fooled = square.attacked & (square.predictions != result.labels)
    drawn = np.exp(np.random.default_rng(0).normal(4, 1.3, len(fooled))).clip(1, most).astype(int)
    changed = dataclasses.replace(square, queries=np.where(fooled, drawn, np.where(square.attacked, most, 0)))
    return dataclasses.replace(result, outcomes=(*result.outcomes[:-1], changed))


def report_of(**kwargs: int) -> Report:
    report = build_report(**kwargs)
    return dataclasses.replace(report, results=tuple(with_queries(result) for result in report.results))


def test_every_model_has_a_line_that_ends_at_its_robust_accuracy() -> None:
    report = report_of(images=400)
    section = queries(report)
    assert section is not None
    body = section.body
    assert re.findall(r'class="line ([\w-]+)"', body) == ["baseline-1", "subject"]
    for result in report.results:
        square = result.outcomes[-1]
        curve = query_curve(result, square)
        assert curve is not None
        end = f"{100 * result.robust_accuracy(square).value:.1f} %"
        assert re.search(rf'class="name [\w-]+"[^>]*>{end}<', body)
        assert f"half of those that fell had fallen after {curve.median():,}." in body
    assert body.count("<h3>Square-1000</h3>") == 1


def test_lines_fall_and_stay_inside_the_drawing() -> None:
    body = queries(report_of(images=400)).body  # type: ignore[union-attr]
    for points in re.findall(r'<polyline[^>]*points="([^"]+)"', body):
        spots = [tuple(map(float, spot.split(","))) for spot in points.split()]
        xs, ys = zip(*spots, strict=True)
        assert list(xs) == sorted(xs)
        assert list(ys) == sorted(ys)  # downward on the page
        assert min(xs) == 0
        assert max(xs) == 1000
        assert min(ys) >= 0
        assert max(ys) <= 220


def test_nothing_is_drawn_without_a_score_based_attack() -> None:
    assert queries(Report("few", (build_result(images=60, attacks=5),))) is None
    assert queries(Report("none", (build_result(images=60, attacks=0),))) is None
    only_baseline = Report("x", (build_result("a", images=60), build_result("b", images=60, attacks=3)))
    section = queries(only_baseline)
    assert section is not None
    assert "a: " in section.body
    assert "b: " not in section.body


def test_thousands_of_steps_stay_a_small_drawing() -> None:
    starts = tuple(range(5001))
    chart = step_chart(
        [Steps("m", "subject", starts, tuple(1 - s / 5001 for s in starts))],
        along="queries",
        title="t",
        description="d",
    )
    assert len(chart) < 30_000


def test_a_model_without_gradients_is_named_in_every_format() -> None:
    report = report_of(images=60)
    assert not any("black-box only" in note for note in cautions(report))
    blind = dataclasses.replace(report.subject, differentiable=False)
    report = dataclasses.replace(report, results=(report.results[0], blind))
    (note,) = [note for note in cautions(report) if "black-box only" in note]
    assert note.startswith(f"{blind.model} gives no gradients")
    assert "upper bound" in note
    assert "black-box only" in html.dumps(report)
    assert "black-box only" in markdown.dumps(report)
