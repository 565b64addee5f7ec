"""How a run ended: one of five statuses, each with its cause, in every format."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from harden.audit.believe import Check, Status
from harden.audit.result import AuditResult
from harden.report import document, html, junit, markdown, terminal
from harden.report.ending import EndCause, Ending, EndStatus
from harden.report.judging import judge
from harden.report.report import Report

from .builders import build_plain, build_right

LABELS = [k % 2 for k in range(60)]
CONSTANT = build_plain(LABELS, [0] * 60, [0] * 60)
ONE_WAY = build_plain(LABELS, [0] * 58 + [1] * 2, [0] * 58 + [1] * 2)
"""All but two answers are the same."""


@pytest.mark.parametrize(
    ("before", "after", "status", "cause"),
    [
        (build_right(55, 0), build_right(50, 40), "hardened", "gain"),
        (build_right(55, 15), CONSTANT, "failed", "clean at chance"),
        (build_right(55, 15), ONE_WAY, "failed", "clean at chance"),
        (build_right(8, 0, images=8), build_plain(LABELS[:8], [1] * 8, [1] * 8), "failed", "clean at chance"),
        (
            build_right(4, 0, images=4),
            build_plain(LABELS[:4], [1] * 4, [1] * 4),
            "no measurable gain",
            "too few images",
        ),
        (CONSTANT, CONSTANT, "failed", "clean at chance"),
        (build_right(55, 0), build_right(55, 0), "no measurable gain", "eps too large"),
        (build_right(55, 2), build_right(55, 2), "no measurable gain", "tie"),
        (build_right(55, 50), build_right(55, 51), "no measurable gain", "already robust"),
        (build_right(55, 0), build_right(55, 1), "no measurable gain", "too few images"),
        (build_right(55, 20), build_right(55, 5), "worse", "less robust"),
        (build_right(60, 0), build_right(45, 0), "worse", "clean accuracy lost"),
        (build_right(1, 0, images=1), build_right(1, 1, images=1), "no measurable gain", "too few images"),
        (build_right(2, 0, images=2), build_right(2, 2, images=2), "no measurable gain", "too few images"),
        (None, build_right(50, 40), "not judged", "not comparable"),
        (build_right(30, 0, images=40), build_right(50, 40), "not judged", "not comparable"),
        (build_right(55, 0, attacks=("FGSM",)), build_right(50, 40), "not judged", "not comparable"),  # type: ignore[arg-type]
        (build_right(55, 0), replace(build_right(50, 40), outcomes=()), "not judged", "not comparable"),
    ],
)
def test_endings(before: AuditResult | None, after: AuditResult, status: str, cause: str) -> None:
    found = judge(after, before)
    assert (found.status, found.cause) == (status, cause), found.sentence()
    assert bool(found.remedy) == found.status.is_failure or found.status is EndStatus.NOT_JUDGED
    assert Ending.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_constant_answer_is_named_and_no_gain_is_claimed() -> None:
    found = judge(CONSTANT, build_right(55, 15))
    assert found.reason == "it answers 'circle' to all of 60 images, so 50.0 % of them are right by chance"
    assert "gain" not in found.sentence()
    assert "--lr" in found.remedy
    assert "--pretrain" in judge(CONSTANT, CONSTANT).remedy


def test_few_images_of_one_class_prove_nothing() -> None:
    """A constant answer would withstand on all of them."""
    before = build_plain([0] * 30, [0] * 30, [1] * 30)
    after = build_plain([0] * 30, [0] * 30, [0] * 30)
    assert judge(after, before).cause is EndCause.TOO_FEW_IMAGES


def test_too_few_steps_are_the_cause_where_they_are_known() -> None:
    nothing = build_right(55, 0)
    found = judge(nothing, nothing, steps=120)
    assert (found.status, found.cause) == (EndStatus.NO_GAIN, EndCause.TOO_FEW_STEPS)
    assert "120 training steps" in found.reason
    assert "--epochs" in found.remedy
    assert judge(nothing, nothing, steps=5000).cause is EndCause.EPS_TOO_LARGE


def test_natural_training_claims_nothing_and_can_only_fail() -> None:
    assert judge(build_right(55, 0), build_right(50, 0), claims=False).cause is EndCause.BASELINE
    assert judge(build_right(50, 40), build_right(55, 0), claims=False).status is EndStatus.NOT_JUDGED
    assert judge(CONSTANT, build_right(55, 0), claims=False).status is EndStatus.FAILED


def test_failed_belief_checks_are_named_beside_a_gain() -> None:
    check = Check("masking", Status.FAIL, "Square beats PGD.")
    found = judge(replace(build_right(50, 40), checks=(check,)), build_right(55, 0))
    assert found.status is EndStatus.HARDENED
    assert "1 belief check failed" in found.reason


def texts(report: Report) -> dict[str, str]:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(terminal.render(report, width=80))
    written = {
        "terminal": console.file.getvalue(),  # type: ignore[attr-defined]
        "html": html.dumps(report),
        "md": markdown.dumps(report),
        "xml": junit.dumps(report),
    }
    return {name: " ".join(text.split()) for name, text in written.items()}


@pytest.mark.parametrize("status", EndStatus)
def test_every_format_states_the_ending(status: EndStatus) -> None:
    ending = Ending(status, EndCause.TIE, "the reason is stated here", "Do what is stated there.")
    report = Report("run", (build_right(55, 0, model="before"), build_right(55, 0, model="sat")), ending=ending)
    for name, text in texts(report).items():
        assert status.value.capitalize() in text, name
        assert "the reason is stated here" in text, name
        assert "Do what is stated there." in text, name
    read = document.loads(document.dumps(report))
    assert read.ending == ending
    suites = ET.fromstring(junit.dumps(report)).findall("testsuite")
    cases = [case for suite in suites for case in suite if case.get("name") == "ending"]
    assert [case.get("classname") for case in cases] == ["sat.run"]
    assert (cases[0].find("failure") is not None) == status.is_failure
    assert (cases[0].find("skipped") is not None) == (status is EndStatus.NOT_JUDGED)


def test_reports_without_an_ending_show_none_and_old_ones_are_read() -> None:
    report = Report("audit", (build_right(55, 0),))
    data = json.loads(document.dumps(report))
    del data["ending"]
    assert document.loads(json.dumps(data)).ending is None
    assert "ending" not in junit.dumps(report)
    assert 'class="ending' not in html.dumps(report)
