"""report.html: well-formed, escaped, offline, verdict first, whatever the report lacks."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from harden.report import html
from harden.report.report import Report
from harden.report.sections import SECTIONS
from harden.training.history import EpochRecord, History

from .builders import build_history, build_incomplete, build_report, build_result

EVIL = "<script>alert(1)</script>"
VOID = {"meta"}


class Page(HTMLParser):
    """Collects what is on the page and fails on an element that closes wrongly."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.described: list[bool] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.tags and self.tags[-1] == "svg":
            self.described.append(tag == "title")
        self.tags.append(tag)
        self.ids.extend(value or "" for key, value in attrs if key == "id")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def test_the_page_is_well_formed_and_has_every_section() -> None:
    page = Page(html.dumps(build_report(images=200)))
    assert set(SECTIONS) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("h1") == 1
    assert page.tags.count("table") == page.tags.count("caption") == 3


def test_every_drawing_has_a_title() -> None:
    page = Page(html.dumps(build_report(images=200)))
    assert len(page.described) == page.tags.count("svg") > 10
    assert all(page.described)


def test_the_worst_case_stands_before_the_clean_accuracy() -> None:
    report = build_report(images=1000)
    text = Page(html.dumps(report)).text
    worst, clean = report.subject.worst_case(), report.subject.clean_accuracy()
    first = text.index(f"{100 * worst.value:.1f} %")
    assert first < text.index(f"{100 * clean.value:.1f} %")
    assert f"[{100 * worst.low:.1f}, {100 * worst.high:.1f}]" in text


def test_the_caveats_stand_right_under_the_verdict() -> None:
    report = build_report(images=100)
    text = Page(html.dumps(report)).text
    assert text.index(report.caveats[0]) < text.index("Accuracy before and after")


def test_nothing_is_loaded_and_nothing_runs() -> None:
    page = html.dumps(build_report(images=100))
    assert not re.search(r"https?://|//[a-z]|url\(|@import|<script|<link|<img|src=|href=| on\w+=", page)


def test_markup_in_any_string_of_the_user_is_text() -> None:
    result = build_result(EVIL, images=100, classes=(EVIL, '"><svg onload=x>', "c&d"), attacks=2)
    outcomes = tuple(replace(o, name=f"{EVIL}{i}", definition=EVIL) for i, o in enumerate(result.outcomes))
    result = replace(result, dataset=EVIL, machine=EVIL, outcomes=outcomes)
    epochs = tuple(replace(e, source_attack=EVIL, event=EVIL) for e in build_history(3, undone=2).epochs)
    report = Report(EVIL, (replace(result, model=f"{EVIL}0"), result), History(epochs, 3), ((EVIL, EVIL),), (EVIL,))
    source = html.dumps(report)
    page = Page(source)
    assert "script" not in page.tags
    assert "onload=" not in re.sub(r"&lt;.*?&gt;", "", source)
    assert page.text.count(EVIL) > 20


@pytest.mark.parametrize(
    "report",
    [
        pytest.param(Report("one", (build_result(images=60),)), id="one model, no history"),
        pytest.param(Report("none", (build_result(images=60, attacks=0),)), id="no attacks"),
        pytest.param(Report("none", (build_result("a", images=60, attacks=0),) * 2), id="two models, no attacks"),
        pytest.param(
            Report("bare", (build_result("a", images=60, attacks=0), build_result(images=60))),
            id="baseline not attacked",
        ),
        pytest.param(Report("part", (build_incomplete(build_result(images=60)),)), id="incomplete outcome"),
        pytest.param(Report("gap", (build_result(images=60, sampled_classes=8),)), id="classes without samples"),
        pytest.param(Report("other", (build_result(images=50), build_result(images=60))), id="other images"),
        pytest.param(Report("four", (build_result(images=60),) * 4), id="four models"),
        pytest.param(replace(build_report(images=60), history=History()), id="empty history"),
        pytest.param(replace(build_report(images=60), history=build_history(1, undone=1)), id="one epoch, undone"),
        pytest.param(
            replace(build_report(images=60), history=History((EpochRecord(1, 1.0, "", {"val_clean": float("nan")}),))),
            id="nothing finite",
        ),
        pytest.param(replace(build_report(images=60), history=build_history(400)), id="many epochs"),
    ],
)
def test_a_report_that_lacks_something_is_still_a_page(report: Report) -> None:
    page = Page(html.dumps(report))
    assert "NaN" not in page.text
    assert "nan" not in re.findall(r"\w+", page.text)
    assert {"verdict", "accuracy", "facts"} <= set(page.ids)


def test_curves_are_shown_where_there_is_something_to_draw() -> None:
    report = build_report(images=60)
    assert {"training", "domains"} <= set(Page(html.dumps(report)).ids)
    for history in (None, History(), History((EpochRecord(1, 1.0, "", {"loss": 0.3}),))):
        assert not {"training", "domains"} & set(Page(html.dumps(replace(report, history=history))).ids)


def test_an_incomplete_outcome_is_a_bound_and_says_so() -> None:
    result = build_incomplete(build_result(images=300))
    text = Page(html.dumps(Report("part", (result,)))).text
    assert f"≤ {100 * result.robust_accuracy(result.outcomes[3]).value:.1f} %" in text
    assert "≤: attacked only the images that were still standing" in text


def test_classes_without_samples_are_named() -> None:
    text = Page(html.dumps(Report("gap", (build_result(images=60, sampled_classes=8),)))).text
    assert "no image of them: eight, nine." in text


def test_the_domain_accuracy_is_explained_against_chance() -> None:
    text = Page(html.dumps(build_report(images=60))).text
    assert "At 50 % it does no better than a coin" in text
    assert "In the last 5 epochs it was 53.2 % (feature) and 51.7 % (logit)." in text


def test_different_attacks_or_images_are_a_caution() -> None:
    text = Page(html.dumps(Report("x", (build_result("a", images=50, attacks=3), build_result("b", images=60))))).text
    assert "a and b did not meet the same attacks" in text
    assert "no paired gain" in text


def test_ten_thousand_images_and_a_thousand_classes_stay_under_three_megabytes() -> None:
    classes = tuple(f"class {k}" for k in range(1000))
    results = tuple(build_result(name, images=10_000, classes=classes) for name in ("before", "after"))
    assert np.unique(results[0].labels).size == 1000
    page = html.dumps(Report("large", results, build_history()))
    assert len(page.encode()) < 3_000_000
