"""report.html: well-formed, escaped, offline, verdict first, whatever the report lacks."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from harden.audit.believe import Check
from harden.audit.gate import Gate, GateVerdict
from harden.audit.metrics import wilson
from harden.audit.representation import Representation
from harden.report import html
from harden.report.report import Report
from harden.report.sections import SECTIONS
from harden.report.sections.confusions import confusions
from harden.training.history import EpochRecord, History

from .builders import (
    build_gallery,
    build_history,
    build_incomplete,
    build_report,
    build_representation,
    build_result,
    build_rich,
)

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "img"}


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
    assert page.tags.count("table") == page.tags.count("caption") >= 5


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
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page
    page, pictures = re.subn(r'<img src="data:image/png;base64,[A-Za-z0-9+/=]+"', "", page)
    assert pictures == 36
    assert not re.search(r"https?://|//[a-z]|url\(|@import|<script|<link|<img|src=|href=| on\w+=", page)


def test_markup_in_any_string_of_the_user_is_text() -> None:
    result = build_result(EVIL, images=100, classes=(EVIL, '"><svg onload=x>', "c&d"), attacks=2)
    outcomes = tuple(replace(o, name=f"{EVIL}{i}", definition=EVIL) for i, o in enumerate(result.outcomes))
    result = replace(build_rich(result), dataset=EVIL, machine=EVIL, outcomes=outcomes)
    assert result.curve is not None
    assert result.representation is not None
    seen = result.representation.domains
    result = replace(
        result,
        curve=replace(result.curve, definition=EVIL),
        gallery=tuple(replace(exhibit, file=EVIL, attack=EVIL) for exhibit in result.gallery),
        checks=tuple(Check(EVIL, check.status, EVIL, EVIL) for check in result.checks),
        representation=replace(result.representation, domains=tuple(replace(d, name=EVIL) for d in seen)),
    )
    epochs = tuple(replace(e, source_attacks=(EVIL,), event=EVIL) for e in build_history(3, undone=2).epochs)
    models = (replace(result, model=f"{EVIL}0"), result)
    gates = (GateVerdict(Gate(EVIL, 0.5), wilson(1, 2)),)
    report = Report(EVIL, models, History(epochs, 3), ((EVIL, EVIL),), (EVIL,), gates)
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
        pytest.param(Report("rich and not", (build_result(images=60), build_rich(build_result(images=60)))), id="rich"),
        pytest.param(Report("not and rich", (build_rich(build_result(images=60)), build_result(images=60))), id="poor"),
        pytest.param(replace(build_report(images=60), history=History()), id="empty history"),
        pytest.param(replace(build_report(images=60), history=build_history(1, undone=1)), id="one epoch, undone"),
        pytest.param(
            replace(build_report(images=60), history=History((EpochRecord(1, 1.0, (), {"val_clean": float("nan")}),))),
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
    for history in (None, History(), History((EpochRecord(1, 1.0, (), {"loss": 0.3}),))):
        assert not {"training", "domains"} & set(Page(html.dumps(replace(report, history=history))).ids)


def test_an_incomplete_outcome_is_a_bound_and_says_so() -> None:
    result = build_incomplete(build_result(images=300))
    text = Page(html.dumps(Report("part", (result,)))).text
    assert f"left {100 * result.accuracy_after(result.outcomes[3]).value:.1f} %" in text
    assert "left: by a member of an ensemble, which attacked only the images that still stood" in text


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


def with_gallery(**options) -> Report:
    return Report("gallery", (replace(build_result(images=60), gallery=build_gallery(**options)),))


def test_a_dozen_large_colour_images_stay_under_three_megabytes() -> None:
    classes = tuple(f"class {k}" for k in range(1000))
    result = build_rich(build_result(images=10_000, classes=classes))
    noise = np.random.default_rng(0)
    gallery = tuple(
        replace(
            exhibit,
            clean=noise.integers(0, 256, (96, 96, 3), dtype=np.uint8),
            adversarial=noise.integers(0, 256, (96, 96, 3), dtype=np.uint8),
            difference=noise.integers(0, 256, (96, 96, 3), dtype=np.uint8),
        )
        for exhibit in result.gallery
    )
    results = (replace(result, gallery=gallery),) * 2
    assert len(html.dumps(Report("large", results, build_history())).encode()) < 3_000_000


@pytest.mark.parametrize("shape", [(28, 28, 1), (96, 64, 3)])
def test_the_pictures_on_the_page_are_those_of_the_gallery(shape: tuple[int, int, int]) -> None:
    report = with_gallery(shape=shape, exhibits=2)
    found = re.findall(r'src="data:image/png;base64,([^"]+)" width="(\d+)" height="(\d+)"', html.dumps(report))
    shown = [
        pixels
        for exhibit in report.subject.gallery
        for pixels in (exhibit.clean, exhibit.difference, exhibit.adversarial)
    ]
    assert len(found) == len(shown) == 6
    for (encoded, width, height), pixels in zip(found, shown, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
            assert np.array_equal(np.asarray(picture).reshape(shape), pixels)
        assert (int(height), int(width)) == shape[:2]


def test_a_caption_names_file_classes_attack_and_norm() -> None:
    text = Page(html.dumps(with_gallery(exhibits=1))).text
    assert "zero → oneFGSM, linf 0.1; difference × 5test/00000.png" in text
    wrong = replace(build_gallery(exhibits=1)[0], true=3, file="")
    page = Page(html.dumps(Report("x", (replace(build_result(images=60), gallery=(wrong,)),))))
    assert "label: three" in page.text
    assert "test/00000.png" not in page.text


def test_the_curve_shows_its_accuracies_the_worst_case_and_the_radius() -> None:
    report = build_report(images=500)
    source = html.dumps(report)
    text = Page(source).text
    for result in report.results:
        assert result.curve is not None
        for found in result.curve.accuracies():
            assert f"{100 * found.value:.1f} % at" in text
    assert "audited: 0.1" in text
    section = source[source.index('id="reach"') :]
    assert section.index("band baseline-1") < section.index("band subject") < section.index("line subject")
    assert f">{100 * report.subject.worst_case().value:.1f} %</text>" in section


def test_a_curve_of_fewer_images_says_so() -> None:
    result = build_rich(build_result(images=100))
    assert result.curve is not None
    few = replace(result, curve=replace(result.curve, standing=(9,) * 11, total=10))
    assert "on 10 images of the audit" in Page(html.dumps(Report("x", (few,)))).text
    assert "of the audit" not in Page(html.dumps(Report("x", (result,)))).text


def test_a_curve_of_another_norm_is_not_drawn_with_the_subject() -> None:
    before, after = (build_rich(build_result(images=60)) for _ in range(2))
    assert before.curve is not None
    source = html.dumps(Report("x", (replace(before, curve=replace(before.curve, norm="l2")), after)))
    section = source[source.index('id="reach"') : source.index('id="distances"')]
    assert "line subject" in section
    assert "line baseline-1" not in section


def test_distances_are_the_share_fooled_and_an_upper_bound() -> None:
    report = Report("one", (build_result(images=400),))
    text = Page(html.dumps(report)).text
    found = report.subject.smallest_distances()
    for part in (0, 0.05, 0.1):
        assert f"{100 * (found <= part).mean():.1f} % at {part:g}" in text
    assert "An upper bound on the distance" in text


def test_distances_that_are_all_eps_are_not_drawn() -> None:
    result = build_result(images=100)
    flat = tuple(
        replace(o, closest=np.where(np.isfinite(o.closest) & (o.closest > 0), np.float32(0.1), o.closest))
        for o in result.outcomes
    )
    assert "distances" in Page(html.dumps(Report("x", (result,)))).ids
    assert "distances" not in Page(html.dumps(Report("x", (replace(result, outcomes=flat),)))).ids


def test_the_most_confused_pairs_are_at_most_ten_with_their_names() -> None:
    report = build_report(images=1000)
    outcome = report.subject.outcomes[0]
    scattered = replace(outcome, predictions=(report.subject.labels + 1 + np.arange(1000) % 3) % 10)
    report = replace(report, results=(replace(report.subject, outcomes=(scattered,)),))
    pairs = report.subject.confusions()
    assert len(pairs) == 30
    section = confusions(report)
    assert section is not None
    lines = re.findall(r'<tr><th scope="row">(.*?)</th><td>.*?</span>(.*?)</td><td class="number">(\d+)', section.body)
    names = report.subject.classes
    assert lines == [(names[true], names[guess], str(number)) for true, guess, number in pairs[:10]]


def test_the_logits_table_sets_each_domain_beside_that_of_the_model_before() -> None:
    report = build_report(images=60)
    text = Page(html.dumps(report)).text
    assert "PGD-200.10 was 0.1058.0 % was 58.0 %61.0 % was 61.0 %" in text
    alone = Page(html.dumps(Report("x", report.results[1:]))).text
    assert "PGD-200.1058.0 %61.0 %" in alone
    assert "clean0.40––" in alone


def test_what_is_not_defined_in_the_logits_is_a_dash_not_nan() -> None:
    result = build_result(images=60)
    none = build_representation(result, images=0)
    domains = tuple(replace(domain, silhouette=float("nan"), domain_accuracy=float("nan")) for domain in none.domains)
    found = Representation(0, none.labels, domains)
    text = Page(html.dumps(Report("x", (replace(result, representation=found),)))).text
    assert "PGD-20––" in text
    assert "nan" not in text.lower().split()


def test_gates_stand_in_the_verdict() -> None:
    report = build_report(images=200)
    text = Page(html.dumps(report)).text
    assert "Gate robust ≥ 0.99 not met" in text
    assert "Gate clean ≥ 0.5 met" in text
    assert text.index("not met") < text.index("Accuracy before and after")
