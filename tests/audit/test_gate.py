from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harden.access import Access
from harden.audit.believe import Check, Status
from harden.audit.diagnostics import CHECKS
from harden.audit.gate import Gate, GateVerdict, judge_gates, parse_gates
from harden.audit.metrics import wilson
from harden.audit.result import AuditResult
from harden.errors import UsageError
from harden.report.report import summary_of
from tests.report.builders import build_incomplete, build_result

ATTACKS = {"fgsm": "FGSM", "pgd-20": "PGD-20", "pgd-50-margin": "PGD-50 margin x3"}
MEMBERS = {"apgd-t": "APGD margin-T"}


def parsed(text: str) -> tuple[Gate, ...]:
    return parse_gates(text, attacks=ATTACKS, members=MEMBERS)


@pytest.fixture(scope="module")
def result() -> AuditResult:
    return build_result(images=400)


@pytest.mark.parametrize(
    ("text", "gates"),
    [
        ("robust=0.40,clean=0.8", (Gate("robust", 0.4), Gate("clean", 0.8))),
        (" Robust = 40% , CLEAN=80.5 %", (Gate("robust", 0.4), Gate("clean", 0.805))),
        ("pgd-20=0", (Gate("PGD-20", 0.0),)),
        ("PGD-20=1", (Gate("PGD-20", 1.0),)),
        ("PGD-50  margin x3=100%", (Gate("PGD-50 margin x3", 1.0),)),
        ("pgd-50-margin=.5", (Gate("PGD-50 margin x3", 0.5),)),
    ],
)
def test_gates_are_read_as_they_are_typed(text: str, gates: tuple[Gate, ...]) -> None:
    assert parsed(text) == gates


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("robst=0.4", "did you mean 'robust'"),
        ("PGD-2=0.4", "did you mean 'pgd-20'"),
        ("robust", "is not a gate"),
        ("", "is not a gate"),
        ("=0.4", "is not a gate"),
        ("robust=0.4,", "is not a gate"),
        ("robust=", "is not a floor"),
        ("robust=high", "is not a floor"),
        ("robust=nan", "is not a floor"),
        ("robust=inf", "is not a floor"),
        ("robust=-0.1", "is not a floor"),
        ("robust=1e-1", "is not a floor"),
        ("robust=1_0", "is not a floor"),
        ("robust=40", "share in"),
        ("robust=101%", "share in"),
        ("robust=0.4,Robust=0.5", "two gates on robust"),
        ("pgd-20=0.4,PGD-20=0.5", "two gates on PGD-20"),
        ("apgd-t=0.4", "still stand"),
        ("APGD margin-T=0.4", "still stand"),
    ],
)
def test_what_is_no_gate_is_refused_with_the_repair(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parsed(text)
    assert caught.value.hint


def test_a_whole_number_is_taken_for_percent_in_the_hint_only() -> None:
    with pytest.raises(UsageError) as caught:
        parsed("robust=40")
    assert "did you mean 40%?" in (caught.value.hint or "")


@given(st.text(max_size=30))
def test_any_text_is_gates_or_a_usage_error(text: str) -> None:
    try:
        gates = parsed(text)
    except UsageError:
        return
    assert gates
    assert all(0 <= gate.floor <= 1 for gate in gates)


@given(
    st.lists(st.tuples(st.sampled_from(["robust", "clean", "fgsm"]), st.integers(0, 1000)), unique_by=lambda g: g[0])
)
def test_percent_and_share_are_the_same_floor(asked: list[tuple[str, int]]) -> None:
    if asked:
        shares = parsed(",".join(f"{key}={tenths / 1000}" for key, tenths in asked))
        percents = parsed(",".join(f"{key}={tenths / 10}%" for key, tenths in asked))
        assert [gate.floor for gate in shares] == pytest.approx([gate.floor for gate in percents], abs=1e-12)
        assert [gate.subject for gate in shares] == [gate.subject for gate in percents]


def test_the_lower_bound_is_judged_not_the_value(result: AuditResult) -> None:
    worst = result.worst_case()
    assert worst.low < worst.value
    between, below = (worst.low + worst.value) / 2, worst.low
    high, low = judge_gates(result, (Gate("robust", between), Gate("robust", below)))
    assert not high.met
    assert low.met
    assert "not met" in high.sentence()
    assert "not met" not in low.sentence()
    assert f"{100 * worst.low:.1f}" in high.sentence()


def test_each_gate_judges_its_own_accuracy(result: AuditResult) -> None:
    verdicts = judge_gates(result, (Gate("clean", 0.1), Gate("PGD-20", 0.1), Gate("robust", 0.1)))
    assert [verdict.accuracy for verdict in verdicts] == [
        result.clean_accuracy(),
        result.robust_accuracy(result.outcome("PGD-20")),
        result.worst_case(),
    ]


def check(status: Status, *, concerns_figure: bool) -> Check:
    return Check("a look at it", status, "It is odd.", "Look again.", concerns_figure)


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("concerns_figure", [True, False])
def test_a_failed_check_that_concerns_the_figure_fails_the_gates_on_it(
    result: AuditResult, status: Status, concerns_figure: bool
) -> None:
    doubted = replace(result, checks=(check(status, concerns_figure=concerns_figure),))
    gates = (Gate("robust", 0.0), Gate("PGD-20", 0.0), Gate("clean", 0.0))
    fails = status is Status.FAIL and concerns_figure
    *attacked, clean = judge_gates(doubted, gates)
    assert [verdict.met for verdict in attacked] == [not fails] * 2
    assert clean.met
    for verdict in attacked:
        assert ("failed checks: a look at it" in verdict.sentence()) is fails
    for verdict in judge_gates(doubted, gates, ignores_checks=True):
        assert verdict.met
        written = json.loads(json.dumps(verdict.to_json()))
        assert written["ignores_checks"] is True
        assert GateVerdict.from_json(written) == verdict


def test_a_gate_names_no_check(result: AuditResult) -> None:
    names = [replace(check(Status.FAIL, concerns_figure=declared.concerns_figure), name=name)
             for name, declared in CHECKS.items()]  # fmt: skip
    (verdict,) = judge_gates(replace(result, checks=tuple(names)), (Gate("robust", 0.0),))
    assert set(CHECKS) - set(verdict.failed_checks) == {"number of images"}


def test_transfer_alone_measures_no_robust_accuracy(result: AuditResult) -> None:
    transferred = tuple(replace(outcome, access=Access.TRANSFER) for outcome in result.outcomes)
    alone = replace(result, outcomes=transferred)
    robust, named = judge_gates(alone, (Gate("robust", 0.0), Gate("PGD-20", 0.0)))
    assert (robust.accuracy, robust.met) == (None, False)
    assert named.met
    assert summary_of(alone)["worst_case"] is None
    mixed = replace(result, outcomes=(*transferred[:-1], replace(transferred[-1], access=Access.SCORES)))
    assert judge_gates(mixed, (Gate("robust", 0.0),))[0].met


def test_gates_on_what_was_not_measured_are_refused(result: AuditResult) -> None:
    with pytest.raises(UsageError, match="did you mean 'PGD-20'"):
        judge_gates(result, (Gate("PGD-21", 0.1),))
    with pytest.raises(UsageError, match="still stood"):
        judge_gates(build_incomplete(result), (Gate("PGD-40", 0.1),))
    for subject in ("robust", "FGSM"):
        (unmeasured,) = judge_gates(replace(result, outcomes=()), (Gate(subject, 0.0),), ignores_checks=True)
        assert unmeasured.accuracy is None
        assert not unmeasured.met
        assert "not met: the accuracy was not measured" in unmeasured.sentence()
    assert judge_gates(replace(result, outcomes=()), (Gate("clean", 0.0),))[0].met


def test_all_images_standing_meets_a_floor_only_as_far_as_the_sample_goes() -> None:
    few = build_result(images=40, strength=0.0, clean=100.0)
    assert few.worst_case().value == 1.0
    assert not judge_gates(few, (Gate("robust", 0.95),))[0].met


@given(st.integers(1, 500), st.floats(0, 1), st.floats(0, 1))
def test_a_verdict_survives_json(total: int, share: float, floor: float) -> None:
    verdict = GateVerdict(Gate("robust", floor), wilson(round(share * total), total))
    written = json.loads(json.dumps(verdict.to_json()))
    assert GateVerdict.from_json(written) == verdict
    earlier = {key: written[key] for key in ("subject", "floor", "met", "found")}
    assert GateVerdict.from_json(earlier) == verdict
    assert written["met"] is verdict.met is bool(np.less_equal(floor, verdict.accuracy.low))
