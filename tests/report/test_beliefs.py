"""What speaks against a number stands beside it in every format: failures first, in words as well as in colour."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from harden.audit.believe import Check, Status
from harden.report import html, markdown, terminal
from harden.report.beliefs import MARKS, doubts, in_order, tally
from harden.report.report import Report
from harden.report.verdict import cautions

from .builders import build_result
from .test_html import Page

PASSED = Check("size of the input gradients", Status.PASS, "100 of 100 probed images have a gradient.")
WARNED = Check("number of images", Status.WARN, "200 images: known to within 5.9 points.", "Audit more (--samples).")
FAILED = Check("black-box against white-box", Status.FAIL, "57 images fell without gradients.", "Use <it> --now.")
SKIPPED = Check("audited images in training", Status.SKIP, "The training images are not known.", "Audit a run folder.")
CHECKS = (PASSED, WARNED, FAILED, SKIPPED)


def report(*, before: tuple[Check, ...] = (), after: tuple[Check, ...] = CHECKS) -> Report:
    results = (build_result("old net", images=60), build_result("new net", images=60))
    return Report("x", (replace(results[0], checks=before), replace(results[1], checks=after)))


def on_terminal(shown: Report, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(terminal.render(shown, width=width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


FORMATS = {"html": lambda r: Page(html.dumps(r)).text, "md": markdown.dumps, "terminal": on_terminal}


def test_failures_come_first_and_are_counted():
    assert in_order(CHECKS) == (FAILED, WARNED, PASSED, SKIPPED)
    assert tally(CHECKS) == "Of 4 checks 1 fails, 1 warns, 1 passes and 1 could not be made"
    assert tally((PASSED, PASSED)) == "Of 2 checks 2 pass"
    assert tally((WARNED,)) == "Of 1 check 1 warns"


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_tells_of_what_fails_and_warns_with_the_remedy(name):
    text = " ".join(FORMATS[name](report()).replace("&lt;", "<").replace("&gt;", ">").split())
    assert "Of 4 checks 1 fails" in text
    for check in (FAILED, WARNED):
        assert check.finding in text
        assert check.remedy in text
    assert text.index(FAILED.finding) < text.index(WARNED.finding)
    assert (PASSED.finding in text) == (name == "html")


@pytest.mark.parametrize("name", FORMATS)
def test_the_verdict_does_not_stand_alone_where_a_check_fails(name):
    text = " ".join(FORMATS[name](report()).split())
    doubt = "Do not believe the robust accuracy of new net yet: 1 of 4 checks fails (black-box against white-box)."
    assert doubt in text
    table = {"html": "Accuracy before and after", "md": "| clean |", "terminal": "clean "}[name]
    assert text.index("Worst case over") < text.index(doubt) < text.index(table)
    assert text.count(doubt) == 1
    assert "Do not believe" not in " ".join(FORMATS[name](report(after=(PASSED, WARNED))).split())


def test_a_check_of_an_earlier_version_concerns_no_figure():
    concerned = replace(FAILED, concerns_figure=True)
    written = concerned.to_json()
    assert Check.from_json(written) == concerned
    del written["concerns_figure"]
    assert Check.from_json(written) == FAILED


@pytest.mark.parametrize("name", FORMATS)
def test_of_the_others_only_failures_are_shown(name):
    text = " ".join(FORMATS[name](report(before=CHECKS, after=(PASSED,))).split())
    assert FAILED.finding in text
    assert "old net" in text[text.index("Of 1 check 1 passes") :]
    assert WARNED.finding not in text
    assert "Do not believe the robust accuracy of old net yet" in text


@pytest.mark.parametrize("name", FORMATS)
def test_an_audit_that_was_not_checked_has_no_panel(name):
    assert "Can I believe this?" not in FORMATS[name](report(after=()))


def test_the_subject_is_doubted_before_the_others_and_before_the_caveats():
    both = replace(report(before=CHECKS), caveats=("mind the gap",))
    found = cautions(both)
    assert found[:2] == doubts(both)
    assert "new net" in found[0]
    assert "old net" in found[1]
    assert found[2] == "mind the gap"


@pytest.mark.parametrize("width", [40, 60, 100])
def test_no_line_of_the_terminal_is_too_long(width):
    assert max(map(len, on_terminal(report(before=CHECKS), width).splitlines())) <= width


def test_a_remedy_that_two_checks_share_is_printed_once():
    twice = (FAILED, replace(FAILED, name="another", finding="Another finding."))
    assert on_terminal(report(after=twice)).count(FAILED.remedy) == 1


def test_the_panel_follows_the_accuracies_and_its_marks_are_words_too():
    page = Page(html.dumps(report()))
    assert page.ids.index("accuracy") + 2 == page.ids.index("believe")
    for status, mark in MARKS.items():
        assert f"{mark}{status.value}" in page.text
    assert page.tags.count("details") >= 2
