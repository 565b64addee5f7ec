"""report.xml: well-formed whatever the texts hold, and failing just where the report fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harden.audit.believe import Check, Status
from harden.audit.gate import Gate, GateVerdict, judge_gates
from harden.audit.metrics import wilson
from harden.report import junit
from harden.report.report import Report

from .builders import CHECKS, build_incomplete, build_report, build_result


def parsed(report: Report) -> ET.Element:
    return ET.fromstring(junit.dumps(report))


def cases(suite: ET.Element, kind: str) -> list[ET.Element]:
    return [case for case in suite.iter("testcase") if case.get("classname", "").endswith(f".{kind}")]


def test_a_suite_for_each_model_and_a_case_for_each_attack_check_and_gate() -> None:
    report = build_report(images=100)
    before, after = parsed(report).findall("testsuite")
    assert [suite.get("name") for suite in (before, after)] == [result.model for result in report.results]
    for suite in (before, after):
        assert [case.get("name") for case in cases(suite, "attacks")] == [o.name for o in report.subject.outcomes]
        assert [case.get("name") for case in cases(suite, "checks")] == [check.name for check in CHECKS]
    assert [case.get("name") for case in cases(after, "gates")] == ["robust >= 0.99", "clean >= 0.5"]
    assert cases(before, "gates") == []


def test_the_totals_are_those_of_the_cases() -> None:
    root = parsed(build_report(images=100))
    for element in (root, *root.findall("testsuite")):
        found = list(element.iter("testcase"))
        assert element.get("tests") == str(len(found))
        assert element.get("failures") == str(sum(case.find("failure") is not None for case in found))
        assert element.get("skipped") == str(sum(case.find("skipped") is not None for case in found))
        assert element.get("errors") == "0"
    assert root.get("failures") == "3"  # one check on each model, one gate


def test_a_check_fails_warns_or_is_skipped_by_its_status() -> None:
    suite = parsed(Report("x", (replace(build_result(images=40), checks=CHECKS),))).findall("testsuite")[0]
    passed, warned, failed, skipped = cases(suite, "checks")
    assert [case[0].tag for case in (passed, warned, failed, skipped)] == [
        "system-out",
        "system-out",
        "failure",
        "skipped",
    ]
    assert (warned[0].text or "").startswith("warning: At eps 0.5 still 3.1 % are right.\nRun --attacks thorough.")
    assert failed[0].get("message") == "Two passes differ on 3 images."
    assert "Put the model into eval mode." in (failed[0].text or "")


def test_a_gate_fails_just_where_it_is_not_met() -> None:
    result = build_result(images=200)
    low = result.worst_case().low
    verdicts = judge_gates(result, (Gate("robust", low), Gate("clean", 1.0)))
    met, unmet = cases(parsed(Report("x", (result,), gates=verdicts)), "gates")
    assert met.find("failure") is None
    failure = unmet.find("failure")
    assert failure is not None
    assert failure.get("message") == verdicts[1].sentence()


def test_a_gate_that_ignores_the_checks_says_so() -> None:
    failed = Check("a look at it", Status.FAIL, "It is odd.", "Look again.", concerns_figure=True)
    result = replace(build_result(images=200), checks=(failed,))
    place = "testsuite/properties/property[@name='gate-ignores-checks']"
    for ignores in (False, True):
        verdicts = judge_gates(result, (Gate("robust", 0.0),), ignores_checks=ignores)
        root = parsed(Report("x", (result,), gates=verdicts))
        assert (root.find(place) is not None) is ignores
        (gate,) = cases(root, "gates")
        assert (gate.find("failure") is None) is ignores
        assert "a look at it" in "".join(gate.itertext())


def test_attacks_of_one_name_are_told_apart_and_members_say_so() -> None:
    result = build_incomplete(build_result(images=100))
    twins = replace(result, outcomes=(*result.outcomes, replace(result.outcomes[0], definition="another")))
    found = cases(parsed(Report("x", (twins,))), "attacks")
    names = [case.get("name") for case in found]
    assert len(set(names)) == len(names) == 8
    assert [("stand after this and all before" in (case.findtext("system-out") or "")) for case in found] == [
        n == 3 for n in range(8)
    ]
    assert float(found[1].get("time", "")) == pytest.approx(result.outcomes[1].seconds, abs=1e-3)


def test_no_attack_and_no_check_is_an_empty_suite() -> None:
    root = parsed(Report("x", (build_result(images=10, attacks=0),)))
    assert root.get("tests") == "0"
    assert root.find("testsuite/properties/property[@name='worst case']") is None


anything = st.text(st.characters(), max_size=12)


@settings(max_examples=60, deadline=None, database=None)
@given(anything, anything, anything, anything, st.sampled_from(Status))
def test_any_text_at_all_is_well_formed(title: str, model: str, name: str, words: str, status: Status) -> None:
    result = build_result(model, images=5, attacks=1)
    outcomes = (replace(result.outcomes[0], name=name, definition=words),)
    result = replace(
        result, dataset=words, machine=words, outcomes=outcomes, checks=(Check(name, status, words, words),)
    )
    gates = (GateVerdict(Gate(name, 1.0), wilson(1, 2)),)
    root = parsed(Report(title, (result,), gates=gates))
    assert root.get("tests") == "3"


@pytest.mark.parametrize("bad", ["\x00", "\x1b[31m", "\x0b", "\ud800", "\ufffe", "\uffff"])
def test_what_xml_cannot_hold_is_replaced_and_the_rest_stays(bad: str, tmp_path: Path) -> None:
    result = build_result(f"a{bad}<b>&\"c'", images=5, attacks=1)
    path = junit.write(Report(bad, (result,)), tmp_path / "report.xml")
    suite = ET.parse(path).getroot()[0]
    assert suite.get("name") == f"a\ufffd{bad[1:]}<b>&\"c'"
