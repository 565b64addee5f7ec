"""report.json: what is read back gives the same figures, and what is not a report is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harden.access import Access
from harden.audit.result import AttackOutcome, AuditResult, Exposure
from harden.errors import DataError
from harden.report import document
from harden.report.report import Report
from harden.report.side_by_side import rows
from harden.report.verdict import verdict_of
from harden.training.history import EpochRecord, History

from .builders import build_report, build_result


@st.composite
def outcomes(draw: st.DrawFn, images: int, classes: int) -> AttackOutcome:
    values = hnp.arrays(np.float32, images, elements=st.floats(-50, 50, width=32))
    return AttackOutcome(
        name=draw(st.sampled_from(["FGSM", "PGD-20", "a|b<c>"])),
        definition=draw(st.text(max_size=6)),
        norm="linf",
        eps=draw(st.sampled_from([0.1, 8 / 255])),
        exposure=draw(st.sampled_from(Exposure)),
        predictions=draw(hnp.arrays(np.int64, images, elements=st.integers(0, classes - 1))),
        margins=draw(values),
        distances=draw(values),
        attacked=draw(hnp.arrays(np.bool_, images)),
        seconds=draw(st.floats(0, 1e4)),
        forwards=draw(st.integers(0, 10**9)),
        backwards=draw(st.integers(0, 10**9)),
        access=draw(st.sampled_from(Access)),
        queries=draw(hnp.arrays(np.int64, images, elements=st.integers(0, 5000))),
        closest=draw(hnp.arrays(np.float32, images, elements=st.floats(0, 50, width=32) | st.just(np.inf))),
    )


@st.composite
def results(draw: st.DrawFn) -> AuditResult:
    images, classes = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    picks = hnp.arrays(np.int64, images, elements=st.integers(0, classes - 1))
    return AuditResult(
        model=draw(st.text(max_size=6)),
        dataset=draw(st.text(max_size=6)),
        classes=tuple(draw(st.lists(st.text(max_size=4), min_size=classes, max_size=classes))),
        labels=draw(picks),
        files=tuple(draw(st.lists(st.text(max_size=4), min_size=images, max_size=images))),
        clean_predictions=draw(picks),
        clean_margins=draw(hnp.arrays(np.float32, images, elements=st.floats(-50, 50, width=32))),
        outcomes=tuple(draw(st.lists(outcomes(images, classes), max_size=3))),
        seed=draw(st.integers(0, 2**31)),
        machine="cpu",
        seconds=1.5,
    )


@settings(max_examples=40, deadline=None, database=None)
@given(st.lists(results(), min_size=1, max_size=3))
def test_every_derived_figure_survives_the_round_trip(found: list[AuditResult]) -> None:
    report = Report("any", tuple(found), facts=(("a", "b"),), caveats=("c",))
    again = document.loads(document.dumps(report))
    assert rows(again) == rows(report)
    before, after = verdict_of(report), verdict_of(again)
    assert after.sentence() == before.sentence()
    assert after.gain == before.gain
    assert [r.per_class_worst_case() for r in again.results] == [r.per_class_worst_case() for r in report.results]
    assert (again.facts, again.caveats) == (report.facts, report.caveats)


def test_a_whole_report_round_trips_through_a_file(tmp_path: Path) -> None:
    report = build_report(images=50)
    path = document.write(report, tmp_path / "report.json")
    again = document.read(path)
    assert again.to_json() == report.to_json()


def test_a_diverged_scalar_is_null_in_the_file_and_nan_again_afterwards() -> None:
    history = History((EpochRecord(1, 2.0, ("FGSM",), {"loss": math.nan, "val_clean": 0.5}),))
    report = Report("nan", build_report(images=20).results, history=history)
    text = document.dumps(report)
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = document.loads(text).history
    assert again is not None
    assert math.isnan(again.epochs[0].scalars["loss"])
    assert again.epochs[0].scalars["val_clean"] == 0.5


def test_a_file_name_that_is_not_utf8_does_not_lose_the_report(tmp_path: Path) -> None:
    report = Report("bytes \udcff", build_report(images=20).results)
    assert document.read(document.write(report, tmp_path / "report.json")).title == report.title


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": "harden-report/1"}', '{"schema": "harden-report/1", "history": {"epochs": [3]}}'],
)
def test_what_is_not_a_report_is_a_data_error(text: str) -> None:
    with pytest.raises(DataError) as caught:
        document.loads(text)
    assert caught.value.hint


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"report\.json"):
        document.read(tmp_path / "report.json")


def test_gates_survive_the_round_trip_and_are_judged_by_readers_alike() -> None:
    report = build_report(images=50)
    again = document.loads(document.dumps(report))
    assert again.gates == report.gates
    assert [gate["met"] for gate in json.loads(document.dumps(report))["gates"]] == [g.met for g in report.gates]


def test_the_summary_counts_checks_and_lists_the_curve() -> None:
    report = build_report(images=200)
    summary = json.loads(document.dumps(report))["summary"][-1]
    assert summary["checks"] == {"pass": 1, "warn": 1, "fail": 1, "skip": 1}
    curve = report.subject.curve
    assert curve is not None
    assert [(point["norm"], point["eps"], point["count"]) for point in summary["curve"]] == [
        ("linf", eps, standing) for eps, standing in zip(curve.eps, curve.standing, strict=True)
    ]
    bare = json.loads(document.dumps(Report("bare", (build_result(images=20),))))
    assert bare["summary"][0]["curve"] == bare["gates"] == []
    assert sum(bare["summary"][0]["checks"].values()) == 0


def test_pictures_and_embeddings_survive_a_file(tmp_path: Path) -> None:
    report = build_report(images=30)
    again = document.read(document.write(report, tmp_path / "report.json")).subject
    for before, after in zip(report.subject.gallery, again.gallery, strict=True):
        assert np.array_equal(before.adversarial, after.adversarial)
    assert report.subject.representation is not None
    assert again.representation is not None
    for before, after in zip(report.subject.representation.domains, again.representation.domains, strict=True):
        np.testing.assert_allclose(before.points, after.points, rtol=1e-5)
        assert before.silhouette == pytest.approx(after.silhouette)
        assert math.isnan(before.domain_accuracy) == math.isnan(after.domain_accuracy)
