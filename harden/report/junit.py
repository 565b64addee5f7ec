"""report.xml: JUnit's format, which continuous integration shows test by test.

One suite per model; a case for each attack, each check and, on the model that the report is about, each gate and how
its run ended. A gate that is not met, a check that failed and a run that did not harden its model are failures; a check
that warns passes and says so in its output.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

from harden.audit.believe import Check, Status
from harden.audit.gate import GateVerdict
from harden.audit.result import AttackOutcome, AuditResult
from harden.files import write_whole
from harden.report.ending import Ending, EndStatus
from harden.report.figures import counted, with_interval
from harden.report.report import Report
from harden.report.side_by_side import labels_of

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped."""


def dumps(report: Report) -> str:
    """Return the document."""
    root = ET.Element("testsuites", {"name": _clean(report.title)})
    for result in report.results:
        gates = report.gates if result is report.subject else ()
        ending = report.ending if result is report.subject else None
        root.append(_suite(result, gates, ending))
    for total in ("tests", "failures", "skipped"):
        root.set(total, str(sum(int(suite.get(total, "0")) for suite in root)))
    root.set("errors", "0")
    root.set("time", f"{sum(result.seconds for result in report.results):.3f}")
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def write(report: Report, path: Path) -> Path:
    """Write the document to `path`, whole or not at all.

    Raises:
        RunFolderError: the file cannot be written.
    """
    return write_whole(path, dumps(report))


def _suite(result: AuditResult, gates: tuple[GateVerdict, ...], ending: Ending | None) -> ET.Element:
    suite = ET.Element("testsuite", {"name": _clean(result.model)})
    cases = [
        *((_ending(ending),) if ending is not None else ()),
        *(_gate(verdict) for verdict in gates),
        *(_attack(result, outcome, label) for label, outcome in labels_of(result).items()),
        *(_check(check) for check in result.checks),
    ]
    for case in cases:
        case.set("classname", _clean(f"{result.model}.{case.get('classname')}"))
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(sum(case.find("failure") is not None for case in cases)))
    suite.set("errors", "0")
    suite.set("skipped", str(sum(case.find("skipped") is not None for case in cases)))
    suite.set("time", f"{result.seconds:.3f}")
    properties = ET.SubElement(suite, "properties")
    facts = {
        "images": f"{result.dataset}: {counted(len(result), 'image')}",
        "clean": with_interval(result.clean_accuracy()),
        "seed": str(result.seed),
        "machine": result.machine,
    }
    if result.measured:
        facts["worst case"] = with_interval(result.worst_case())
    if any(verdict.ignores_checks for verdict in gates):
        facts["gate-ignores-checks"] = "yes"
    for name, value in facts.items():
        ET.SubElement(properties, "property", {"name": name, "value": _clean(value)})
    suite.extend(cases)
    return suite


def _ending(ending: Ending) -> ET.Element:
    case = _case("run", "ending")
    words = "\n".join(part for part in (ending.sentence(), ending.remedy) if part)
    if ending.status.is_failure:
        _fail(case, words, ending.status.value)
    elif ending.status is EndStatus.NOT_JUDGED:
        ET.SubElement(case, "skipped", {"message": _clean(words)})
    else:
        _say(case, words)
    return case


def _gate(verdict: GateVerdict) -> ET.Element:
    case = _case("gates", verdict.gate.name)
    if verdict.met:
        _say(case, verdict.sentence())
    else:
        _fail(case, verdict.sentence(), "gate")
    return case


def _attack(result: AuditResult, outcome: AttackOutcome, label: str) -> ET.Element:
    case = _case("attacks", label, outcome.seconds)
    if outcome.complete:
        found = f"accuracy {with_interval(result.robust_accuracy(outcome))} ({outcome.exposure})"
    else:
        found = f"{with_interval(result.accuracy_after(outcome))} stand after this and all before ({outcome.exposure})"
    _say(case, f"{found}\n{outcome.definition}")
    return case


def _check(check: Check) -> ET.Element:
    case = _case("checks", check.name)
    words = "\n".join(part for part in (check.finding, check.remedy) if part)
    if check.status is Status.FAIL:
        _fail(case, words, "check")
    elif check.status is Status.SKIP:
        ET.SubElement(case, "skipped", {"message": _clean(words)})
    else:
        _say(case, f"warning: {words}" if check.status is Status.WARN else words)
    return case


def _case(kind: str, name: str, seconds: float = 0.0) -> ET.Element:
    return ET.Element("testcase", {"classname": kind, "name": _clean(name), "time": f"{seconds:.3f}"})


def _fail(case: ET.Element, words: str, kind: str) -> None:
    message = words.splitlines()[0] if words else ""
    ET.SubElement(case, "failure", {"message": _clean(message), "type": kind}).text = _clean(words)


def _say(case: ET.Element, words: str) -> None:
    ET.SubElement(case, "system-out").text = _clean(words)


def _clean(text: str) -> str:
    """Return text that XML can hold: what it cannot becomes the replacement character."""
    return _FORBIDDEN.sub("\ufffd", text)
