"""Sentences that state a verdict, in their zero, tie, loss and one-image case."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from harden.audit.queries import QueryCurve
from harden.audit.result import AuditResult
from harden.audit.spread import spread
from harden.report import comparison_text
from harden.report.comparison import Comparison, Trial
from harden.report.report import Report
from harden.report.sections.confusions import confusions
from harden.report.sections.queries import _spoken
from harden.report.sections.verdict import verdict
from harden.report.unseen import spread_sentence
from harden.report.verdict import cautions, verdict_of
from harden.training.history import EpochRecord, History

from .builders import build_plain, build_right


def words(markup: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", markup).split())


def two(before: AuditResult, after: AuditResult) -> Report:
    return Report("run", (replace(before, model="before"), replace(after, model="sat")))


# -- the report on one run ------------------------------------------------------------------------------------


def test_the_page_says_what_the_baseline_was_and_not_what_the_subject_is() -> None:
    shown = words(verdict(two(build_right(54, 12), build_right(48, 30))).body)
    assert "before: 20.0 % → now: 50.0 %" in shown
    assert "Clean accuracy 80.0 %" in shown
    assert "was 90.0 %" in shown
    assert "Gain in worst case +30.0 points" in shown


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (build_right(54, 0), build_right(48, 0), ("before: 0.0 % → now: 0.0 %", "0 of 60 images", "0.0 points")),
        (build_right(54, 30), build_right(48, 12), ("before: 50.0 % → now: 20.0 %", "-30.0 points")),
        (build_right(1, 0, images=1), build_right(1, 1, images=1), ("still right on 1 of 1 image when", "[-")),
    ],
)
def test_zero_loss_and_one_image_on_the_page(
    before: AuditResult, after: AuditResult, expected: tuple[str, ...]
) -> None:
    shown = words(verdict(two(before, after)).body)
    for part in expected:
        assert part in shown


def test_a_model_that_met_no_attack_is_not_put_beside_a_worst_case() -> None:
    report = two(build_right(54, 12), replace(build_right(48, 30), outcomes=()))
    shown = words(verdict(report).body)
    assert "no attack was run" in shown
    assert "before:" not in shown
    assert verdict_of(report).sentence() == "No attack was run. Clean accuracy: 80.0 % [68.2, 88.2] of 60 images"


def test_the_strongest_attack_may_be_tied_and_there_is_none_where_nothing_was_attacked() -> None:
    tied = Report("r", (build_right(54, 12, attacks=("FGSM", "PGD-20", "MIM")),))
    assert "Strongest single attack FGSM leaves 20.0 %, as 2 others do" in words(verdict(tied).body)
    alone = Report("r", (build_right(54, 12),))
    assert "Strongest single attack PGD-20 leaves 20.0 %" in words(verdict(alone).body)
    assert "others do" not in words(verdict(alone).body)
    wrong = Report("r", (build_right(0, 0),))
    assert "Strongest" not in words(verdict(wrong).body)


def test_every_audit_of_a_constant_answer_is_cautioned() -> None:
    constant = build_plain([0, 1] * 30, [0] * 60, [0] * 60)
    (caution,) = [note for note in cautions(Report("audit", (constant,))) if "chance" in note]
    assert "'circle' to all of 60 images" in caution
    assert not any("chance" in note for note in cautions(Report("audit", (build_right(54, 12),))))


def test_one_image_that_fell_is_one_image() -> None:
    section = confusions(Report("r", (build_right(54, 53),)))
    assert section is not None
    assert "Of 1 image that fell" in words(section.body)
    assert "100.0 % are in this table" in words(section.body)
    assert confusions(Report("r", (build_right(54, 54),))) is None


def test_equal_accuracies_have_no_range() -> None:
    told = spread_sentence(spread(build_right(54, 0, attacks=("FGSM", "PGD-20"))))
    assert told == "spread over attacks: 0.0 points, 0.0 % under each"


def test_queries_on_no_image_say_so() -> None:
    assert _spoken("m", QueryCurve((0, 10), (0, 0), 60)) == "m: no image was left for it to attack."
    assert "none of the 50.0 %" in _spoken("m", QueryCurve((0, 10), (30, 30), 60))


# -- a comparison ---------------------------------------------------------------------------------------------


def trial(name: str, audit: AuditResult, *, method: str = "sat", seed: int = 0) -> Trial:
    history = History((EpochRecord(1, 1.0, ("fgsm",), {}, passes=100),), chosen_epoch=1)
    return Trial(name, method, ("fgsm",), seed, audit, history)


def compared(*trials: Trial) -> Comparison:
    return Comparison("methods", "2 epochs each", trials)


def told(*audits: AuditResult) -> tuple[str, ...]:
    return compared(*(trial(name, audit) for name, audit in zip("ABC", audits, strict=False))).verdict()


def test_where_nothing_withstands_nobody_withstands_most() -> None:
    assert told(build_right(54, 0), build_right(50, 0)) == (
        "No image withstands the attacks on any method, at 2 epochs each.",
    )
    assert told(build_right(54, 0)) == ("No image withstands the attacks on A, at 2 epochs each.",)


def test_a_tie_has_no_leader() -> None:
    first, second = told(build_right(54, 30), build_right(54, 30))
    assert first == "A and B withstand the same: 50.0 % in the worst case, at 2 epochs each."
    assert re.fullmatch(r"A and B differ by 0\.0 ± \d+\.\d points.*, from 1 seed and 60 images\.", second)
    three = told(build_right(54, 30), build_right(54, 30), build_right(54, 30))
    assert three[0].startswith("A, B and C withstand the same")


def test_a_lead_within_noise_is_said_to_be_one() -> None:
    first, second = told(build_right(54, 30), build_right(54, 31))
    assert first.startswith("B withstands most: 51.7 %")
    assert first.endswith("but not every lead is beyond chance.")
    assert "too little to tell" in second
    one = told(build_right(1, 0, images=1), build_right(1, 1, images=1))
    assert "1 image" in " ".join(one)


def test_a_clear_lead_needs_no_hedge() -> None:
    first, second = told(build_right(54, 50), build_right(54, 5))
    assert first == "A withstands most: 83.3 % in the worst case, at 2 epochs each."
    assert second.startswith("A beats B by 75.0")


def test_one_method_alone_is_compared_with_nothing() -> None:
    assert told(build_right(54, 30)) == ("A withstands 50.0 % in the worst case, at 2 epochs each.",)


def test_a_constant_answer_cannot_win() -> None:
    constant = build_plain([0, 1] * 30, [0] * 60, [0] * 60)
    first, second = told(constant, build_right(54, 20))
    assert first == "B withstands 33.3 % in the worst case, at 2 epochs each."
    assert second == "A is at chance on clean images, so its 50.0 % in the worst case means nothing."
    everyone = told(constant, constant)
    assert everyone[0].startswith("No method left a model above chance on clean images")
    assert not any("withstand" in sentence for sentence in everyone)


def test_a_lead_on_the_seeds_in_common_goes_to_whoever_has_it() -> None:
    found = compared(
        trial("A", build_right(54, 20), seed=0),
        trial("A", build_right(54, 54), seed=1),
        trial("B", build_right(54, 22), seed=0),
    )
    assert found.ranked() == ("A", "B")
    assert "B is ahead of A by 3.3" in found.verdict()[1]


def test_bold_is_for_the_best_and_not_for_all() -> None:
    tie = compared(trial("A", build_right(54, 0)), trial("B", build_right(54, 0)))
    assert not any(shown.best for shown in comparison_text.columns(tie))
    lead = compared(trial("A", build_right(54, 9)), trial("B", build_right(54, 0)))
    assert {shown.head: shown.best for shown in comparison_text.columns(lead)}["worst case"] == {0}
