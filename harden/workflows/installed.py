"""Which libraries are installed, whether they fit each other and the program, and whether they can be imported."""

from __future__ import annotations

import importlib.util
import json
import platform
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harden import __version__
from harden.durations import duration
from harden.workflows.finding import Finding, Verdict
from harden.workflows.narrator import Narrator
from harden.workflows.probe import PROBES

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "harden-classifier"
AREA = "versions"
RUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-migraphx",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
)
"""Distributions that all hold the module onnxruntime, and overwrite each other's files."""
STAKES = {
    "torch": "every other command needs it",
    "torchvision": "timm:NAME, torchvision:NAME, trained surrogates and corruptions need it",
    "timm": "timm:NAME and trained surrogates need it",
    "onnx": "ONNX files can be neither written nor audited without it",
    "onnxruntime": "ONNX files can be neither proven nor audited without it",
}
"""What fails without each of `PROBES`."""
PATIENCE = 300.0
"""Seconds after which an import is taken to hang."""

_CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from harden.workflows.probe import main; main({!r})"


def probe_all(narrator: Narrator) -> dict[str, dict[str, Any]]:
    """Return what importing each of `PROBES` told, as `probe.main` says it; "error" is None where it worked."""
    answers: dict[str, dict[str, Any]] = {}
    while len(answers) < len(PROBES):
        left = [name for name in PROBES if name not in answers]
        ended = _ask(left, answers, narrator)
        silent = [name for name in left if name not in answers]
        if silent:
            answers[silent[0]] = {"name": silent[0], "error": ended}
    return answers


def _ask(names: Sequence[str], answers: dict[str, dict[str, Any]], narrator: Narrator) -> str:
    """Add the answers for `names` to `answers`, up to an import that ends the process; return how it ended."""
    # -P and our own sys.path: the current folder must not be searched where it is not searched now.
    command = [sys.executable, "-P", "-c", _CHILD.format(list(names)), json.dumps([str(entry) for entry in sys.path])]
    hung = threading.Event()

    def give_up() -> None:
        hung.set()
        child.kill()

    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=_folder(),
        )
    except OSError as error:
        return f"Python cannot be started to try: {error.strerror}"
    patience = threading.Timer(PATIENCE, give_up)
    patience.start()
    with child:
        try:
            for line in child.stdout or ():
                answer = json.loads(line)
                answers[answer["name"]] = answer
                narrator.progress("importing libraries", len(answers), len(PROBES))
        except BaseException:  # Ctrl-C, too: nobody waits for it any more
            child.kill()
            raise
        finally:
            patience.cancel()
    if hung.is_set():
        return f"the import does not end within {duration(PATIENCE)}"
    how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
    return f"the import ends Python with {how}"


def _folder() -> Path | None:
    """Return where to import: here (None), or elsewhere if this folder is gone, where torch ends Python by itself."""
    try:
        Path.cwd()
    except OSError:
        return Path(sys.executable).parent
    return None


def judge_versions(answers: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Return a finding for Python, for the program, for each of `PROBES` and for what else the program requires."""
    declared = _declared()
    where = Path(__file__).parents[2]
    known = _version_of(DISTRIBUTION)
    installed = "" if known else f", not installed, but run from {where}"
    found = [
        Finding(
            area=AREA,
            name="Python",
            found=f"{platform.python_version()}, {sys.executable}",
            facts={"version": platform.python_version(), "executable": sys.executable},
        ),
        Finding(
            area=AREA,
            name="harden",
            found=__version__ + installed,
            facts={"version": __version__, "folder": str(where), "distribution": known},
        ),
    ]
    torch = answers["torch"]
    for name, answer in answers.items():
        if name in ("torchvision", "timm") and torch["error"] and answer["error"]:
            found.append(_untried(name))
        elif name == "onnxruntime":
            found.append(_judge_onnxruntime(answer, declared))
        else:
            special = _judge_torchvision(answer, torch) if name == "torchvision" else None
            found.append(special or _judge_library(name, name, answer, declared))
    return [*found, *_judge_others(declared)]


def pip(*arguments: str) -> str:
    """Return the command that runs pip, or uv where pip is not installed, on the environment of this program."""
    if importlib.util.find_spec("pip") is None and shutil.which("uv"):
        return shlex.join(["uv", "pip", arguments[0], "--python", sys.executable, *arguments[1:]])
    return shlex.join([sys.executable, "-m", "pip", *arguments])


def _judge_library(
    name: str, distribution: str, answer: Mapping[str, Any], declared: Mapping[str, Requirement]
) -> Finding:
    """Return the finding on a library: missing, failing, older or newer than what was tested, or fine."""
    version = _version_of(distribution)
    wanted = _wanted(distribution, declared)
    facts = {**answer, "distribution": distribution, "installed": version}
    shown = str(answer.get("version") or version or "missing")
    if answer["error"] is not None:
        missing = version is None
        what = "is not installed" if missing else f"cannot be imported ({answer['error']})"
        problem = f"{name} {what}: {STAKES[name]}."
        repair = pip("install", wanted) if missing else pip("install", "--force-reinstall", wanted)
        return Finding(
            area=AREA, name=name, found=shown, verdict=Verdict.STOPS, problem=problem, repair=repair, facts=facts
        )
    return _bounded(name, shown, version, declared.get(distribution), facts)


def _judge_onnxruntime(answer: Mapping[str, Any], declared: Mapping[str, Requirement]) -> Finding:
    builds = {name: version for name in RUNTIMES if (version := _version_of(name)) is not None}
    keep = next((name for name in RUNTIMES if name in declared), "onnxruntime-gpu")
    if len(builds) <= 1:
        return _judge_library("onnxruntime", next(iter(builds), keep), answer, declared)
    remedy = (pip("uninstall", "-y", *builds), pip("install", _wanted(keep, declared)))
    return Finding(
        area=AREA,
        name="onnxruntime",
        found=", ".join(f"{name} {version}" for name, version in builds.items()),
        verdict=Verdict.STOPS if answer["error"] else Verdict.WARNS,
        problem=f"{' and '.join(builds)} overwrite each other's files, so that GPUs vanish or the import fails.",
        repair=" && ".join(remedy),
        facts={**answer, "builds": builds},
    )


def _judge_torchvision(answer: Mapping[str, Any], torch: Mapping[str, Any]) -> Finding | None:
    """Return what is wrong between torchvision and torch, or None."""
    version, has = _version_of("torchvision"), _version_of("torch")
    needs = next((r for r in _requirements("torchvision") if r.name == "torch"), None)
    verdict = Verdict.STOPS if answer["error"] else Verdict.WARNS
    if version and has and needs is not None and not needs.specifier.contains(has, prereleases=True):
        release = re.match(r"2\.(\d+)", has)
        # Since torch 2.0, which torchvision 0.15 was made for, both count together.
        fitting = f"torchvision==0.{int(release[1]) + 15}.*" if release else "torchvision"
        problem = f"torchvision {version} was built for torch{needs.specifier}, and torch {has} is installed."
        repair = pip("install", fitting)
    elif answer.get("repaired"):
        cuda = torch.get("built_for_cuda")
        kind = f"cu{str(cuda).replace('.', '')}" if cuda else "cpu"
        problem = (
            "the C++ library of torchvision does not load beside this build of torch; harden does without, other "
            "programs fail at the import."
        )
        public = (version or str(answer["version"])).partition("+")[0]
        build = f"torchvision=={public}"
        repair = f"{pip('install', '--force-reinstall', '--no-deps', build)}  # from PyTorch's index of {kind} builds"
    else:
        return None
    return Finding(
        area=AREA,
        name="torchvision",
        found=str(answer.get("version") or version),
        verdict=verdict,
        problem=problem,
        repair=repair,
        facts={**answer, "distribution": "torchvision", "installed": version},
    )


def _judge_others(declared: Mapping[str, Requirement]) -> list[Finding]:
    """Return a finding for each other requirement that is not met, or one that says that all are."""
    if importlib.util.find_spec("packaging") is None:
        return [
            Finding(
                area=AREA,
                name="packaging",
                found="missing",
                verdict=Verdict.STOPS,
                problem="packaging is not installed, and without it no versions are compared here.",
                repair=pip("install", "packaging"),
            )
        ]
    others = [name for name in declared if name not in PROBES and name not in RUNTIMES]
    found = []
    for name in others:
        version = _version_of(name)
        if version is None:
            found.append(
                Finding(
                    area=AREA,
                    name=name,
                    found="missing",
                    verdict=Verdict.STOPS,
                    problem=f"{name} is not installed, and harden needs it.",
                    repair=pip("install", _wanted(name, declared)),
                )
            )
        else:
            found.append(_bounded(name, version, version, declared[name], {"installed": version}))
    if any(finding.problem for finding in found):
        return [finding for finding in found if finding.problem]
    versions = {finding.name: finding.facts["installed"] for finding in found}
    shown = f"{len(versions)}, all there" if versions else "unknown, since harden is not installed"
    return [Finding(area=AREA, name="other libraries", found=shown, facts=versions)]


def _bounded(
    name: str, shown: str, version: str | None, requirement: Requirement | None, facts: Mapping[str, Any]
) -> Finding:
    if version is None or requirement is None or requirement.specifier.contains(version, prereleases=True):
        return Finding(area=AREA, name=name, found=shown, facts=facts)
    return Finding(
        area=AREA,
        name=name,
        found=shown,
        verdict=Verdict.WARNS,
        problem=f"harden was made for {requirement.name}{requirement.specifier}, and {version} is installed.",
        repair=pip("install", f"{requirement.name}{requirement.specifier}"),
        facts=facts,
    )


def _untried(name: str) -> Finding:
    return Finding(
        area=AREA,
        name=name,
        found=_version_of(name) or "missing",
        verdict=Verdict.WARNS,
        problem=f"{name} cannot be tried while torch cannot be imported.",
        repair="harden doctor  # again, with torch repaired",
    )


def _version_of(distribution: str) -> str | None:
    try:
        return metadata.version(distribution) or None
    except (metadata.PackageNotFoundError, KeyError):  # a damaged one has no version
        return None


def _wanted(distribution: str, declared: Mapping[str, Requirement]) -> str:
    requirement = declared.get(distribution)
    return f"{requirement.name}{requirement.specifier}" if requirement is not None else distribution


def _declared() -> dict[str, Requirement]:
    """Return what the program requires here, by name; nothing where it runs without being installed."""
    return {requirement.name.lower(): requirement for requirement in _requirements(DISTRIBUTION)}


def _requirements(distribution: str) -> list[Requirement]:
    if importlib.util.find_spec("packaging") is None:
        return []
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        lines = metadata.requires(distribution) or []
        found = [Requirement(line) for line in lines]
    except (metadata.PackageNotFoundError, InvalidRequirement):
        return []
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]
