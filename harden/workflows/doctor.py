"""`harden doctor`: what the program finds on this machine, and for each problem a sentence and its repair.

Nothing heavy is imported here, and nothing is changed. What cannot be examined is a finding of its own.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harden.folders import cache_root, state_root
from harden.resources import (
    Cores,
    Memory,
    Place,
    count_cores,
    look_at,
    measure_memory,
    nvidia_driver,
    size_of,
)
from harden.workflows.finding import Finding, Verdict
from harden.workflows.installed import judge_versions, pip, probe_all
from harden.workflows.narrator import Narrator

GIB = 1024**3
LEAST_MEMORY = GIB // 2
"""About what the libraries and a ResNet-18 in training take."""
AMPLE_MEMORY = 2 * GIB
LEAST_DISK = GIB // 4
"""About what the run folder of a ResNet-18 takes: weights before and after, and a checkpoint four times as large."""
AMPLE_DISK = 2 * GIB


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was looked at, in the order of the table."""

    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What is wrong, what would stop a run first."""
        wrong = [finding for finding in self.findings if finding.verdict is not Verdict.FINE]
        return tuple(sorted(wrong, key=lambda finding: finding.verdict is not Verdict.STOPS))

    @property
    def stops(self) -> bool:
        """Whether something would stop a run."""
        return any(finding.verdict is Verdict.STOPS for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary."""
        return {
            "schema": "harden-doctor/1",
            "stops": self.stops,
            "findings": [finding.to_json() for finding in self.findings],
        }


def examine(*, encoding: str, narrator: Narrator) -> Diagnosis:
    """Look at libraries, devices, threads, memory, folders and the terminal; raise nothing because of any of them.

    Args:
        encoding: of the terminal, as Python names it.
        narrator: hears how far the imports are, which take seconds.
    """
    narrator.note("importing torch, torchvision, timm, onnx and onnxruntime, to see whether they work")
    answers = probe_all(narrator)
    torch = answers["torch"]
    areas: dict[str, Callable[[], list[Finding]]] = {
        "versions": lambda: judge_versions(answers),
        "devices": lambda: judge_devices(torch, answers["onnxruntime"], nvidia_driver()),
        "threads": lambda: judge_threads(count_cores(), os.environ, torch.get("threads")),
        "memory": lambda: [judge_memory(measure_memory())],
        "folders": _judge_folders,
        "terminal": lambda: [judge_terminal(encoding)],
    }
    return Diagnosis(tuple(finding for area, look in areas.items() for finding in _guarded(area, look)))


def judge_devices(torch: Mapping[str, Any], onnxruntime: Mapping[str, Any], driver: str | None) -> list[Finding]:
    """Return a finding on CUDA and one on what onnxruntime runs on.

    Args:
        torch: what `probe` told of torch.
        onnxruntime: what `probe` told of onnxruntime.
        driver: the version of NVIDIA's driver, or None where there is none.
    """
    return [_judge_cuda(torch, driver), _judge_providers(torch, onnxruntime)]


def judge_threads(cores: Cores, environment: Mapping[str, str], threads: int | None) -> list[Finding]:
    """Return a finding on the threads that torch uses, and one on how they wait.

    Args:
        cores: what this process may use.
        environment: of this process.
        threads: that torch would use; None where torch cannot be imported.
    """
    return [_judge_count(cores, environment.get("OMP_NUM_THREADS"), threads), _judge_waiting(environment)]


def judge_memory(memory: Memory) -> Finding:
    """Return the finding on memory."""
    free = "unknown" if memory.free is None else _size(memory.free)
    limit = f", limited to {_size(memory.limit)}" if memory.limit is not None else ""
    total = "unknown" if memory.total is None else _size(memory.total)
    problem = repair = ""
    verdict = Verdict.FINE
    if memory.free is not None and memory.free < AMPLE_MEMORY:
        verdict = Verdict.STOPS if memory.free < LEAST_MEMORY else Verdict.WARNS
        few = "torch and a small network need more" if verdict is Verdict.STOPS else "only small batches fit"
        problem = f"{_size(memory.free)} of memory are free, and {few}."
        repair = "harden fit ... --batch-size 32  # and end what else holds memory"
        if memory.limit is not None:
            repair = "docker run --memory 8g ...  # or whatever sets the limit of this process"
    return Finding(
        area="memory",
        name="memory",
        found=f"{free} free of {total}{limit}",
        verdict=verdict,
        problem=problem,
        repair=repair,
        facts={"total_bytes": memory.total, "free_bytes": memory.free, "limit_bytes": memory.limit},
    )


def judge_place(
    name: str,
    place: Place,
    *,
    variable: str | None,
    cached: tuple[int, int] | None = None,
    decoded: int = 0,
) -> Finding:
    """Return the finding on a folder.

    Args:
        name: what it is for.
        place: what was found of it.
        variable: what names another folder; None: the folder that the program is started in, where run folders are
            made, so that no run can do without it.
        cached: bytes and number of the files in it; None where that does not matter.
        decoded: bytes of the decoded images among them, which can be removed.
    """
    verdict, problem, repair = Verdict.FINE, "", ""
    elsewhere = f"export {variable}=/another/folder" if variable else "cd /another/folder  # or give --out"
    if place.refusal is not None:
        verdict = Verdict.WARNS if variable else Verdict.STOPS
        costs = {
            "HARDEN_CACHE": "images are decoded again by every command, and nothing can be downloaded",
            "HARDEN_STATE": "commands on run folders ask for --arch again",
            None: "run folders cannot be made",
        }[variable]
        problem, repair = f"nothing can be written in {place.path} ({place.refusal}): {costs}.", elsewhere
    elif place.free is not None and place.free < AMPLE_DISK and variable != "HARDEN_STATE":
        verdict = Verdict.STOPS if place.free < LEAST_DISK and not variable else Verdict.WARNS
        problem = f"the disk of {place.path} has {_size(place.free)} left, which a run can fill."
        repair = elsewhere
        if decoded > place.free // 4:
            repair = f"rm -r {shlex.quote(str(place.path / 'decoded'))}  # images are decoded again when needed"
    kept = f", holds {_size(cached[0])} in {cached[1]:,} files" if cached is not None and cached[1] else ""
    new = "" if place.exists or place.refusal is not None else ", not made yet"
    free = f"{'unknown' if place.free is None else _size(place.free)} free"
    facts = {
        "path": str(place.path),
        "exists": place.exists,
        "writable": place.refusal is None,
        "free_bytes": place.free,
        **({"holds_bytes": cached[0], "holds_files": cached[1]} if cached is not None else {}),
    }
    return Finding(
        area="folders",
        name=name,
        found=f"{place.path}{new}, {free if place.refusal is None else 'cannot be written'}{kept}",
        verdict=verdict,
        problem=problem,
        repair=repair,
        facts=facts,
    )


def judge_terminal(encoding: str) -> Finding:
    """Return the finding on how text is written, to the terminal and in names of files."""
    names = sys.getfilesystemencoding()
    wrong = [one for one in (encoding, names) if one.lower().replace("-", "").replace("_", "") != "utf8"]
    # PYTHONIOENCODING wins over UTF-8 mode.
    repair = "unset PYTHONIOENCODING" if os.environ.get("PYTHONIOENCODING") else "export PYTHONUTF8=1"
    return Finding(
        area="terminal",
        name="text",
        found=encoding if encoding == names else f"{encoding}, names of files {names}",
        verdict=Verdict.WARNS if wrong else Verdict.FINE,
        problem=f"text is in {wrong[0]}, which lacks letters that class names may have: escapes are shown instead."
        if wrong
        else "",
        repair=repair if wrong else "",
        facts={"encoding": encoding, "names_of_files": names},
    )


def _judge_cuda(torch: Mapping[str, Any], driver: str | None) -> Finding:
    name, build = "CUDA", torch.get("built_for_cuda")
    devices = list(torch.get("devices") or ())
    facts = {"driver": driver, "built_for_cuda": build, "devices": devices}

    def finding(found: str, problem: str = "", repair: str = "", verdict: Verdict = Verdict.WARNS) -> Finding:
        return Finding(
            area="devices",
            name=name,
            found=found,
            verdict=verdict if problem else Verdict.FINE,
            problem=problem,
            repair=repair,
            facts=facts,
        )

    told = f"NVIDIA driver {driver}" if driver else "no NVIDIA driver"
    if torch.get("error"):
        return finding(f"{told}, torch unknown")
    broken = next((device for device in devices if device["refusal"]), None)
    if broken is not None:
        return finding(
            f"{broken['name']}, cannot be used",
            f"torch {torch['version']} cannot compute on {broken['name']} ({broken['refusal']}).",
            "export CUDA_VISIBLE_DEVICES=  # or give --device cpu, or install a build of torch for this GPU",
            Verdict.STOPS,
        )
    if devices:
        shown = ", ".join(f"{d['name']} ({_size(d['free_bytes'])} free of {_size(d['total_bytes'])})" for d in devices)
        return finding(f"{shown}, driver {driver or 'unknown'}")
    if build is None and driver:
        release = str(torch["version"]).partition("+")[0]
        return finding(
            f"{told}, torch for the CPU only",
            f"there is a driver for an NVIDIA GPU, but torch {torch['version']} was built for the CPU only.",
            # On Linux the wheels of PyPI are those for CUDA.
            pip("install", "--force-reinstall", f"torch=={release}"),
        )
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if build is not None and driver and hidden is not None and hidden.strip() in ("", "-1"):
        return finding(f"{told}; CUDA_VISIBLE_DEVICES={hidden} hides the GPUs, and runs use the CPU")
    if build is not None and driver:
        return finding(
            f"{told}, not usable",
            f"torch was built for CUDA {build} but cannot use the GPU ({torch.get('cuda_refusal') or 'none found'}).",
            "nvidia-smi  # says which CUDA the driver can do: update it, or start the container with the GPUs",
        )
    return finding(f"{told}; runs use the CPU")


def _judge_providers(torch: Mapping[str, Any], onnxruntime: Mapping[str, Any]) -> Finding:
    used, offered = onnxruntime.get("used"), onnxruntime.get("available")
    missed = bool(torch.get("devices")) and used is not None and "CUDAExecutionProvider" not in used
    shown = "unknown" if used is None else ", ".join(str(one).removesuffix("ExecutionProvider") for one in used)
    built = offered is not None and "CUDAExecutionProvider" in offered
    why = "its CUDA libraries do not load" if built else "it was built without CUDA"
    return Finding(
        area="devices",
        name="onnxruntime runs on",
        found=shown,
        verdict=Verdict.WARNS if missed else Verdict.FINE,
        problem=f"onnxruntime does not use the GPU, since {why}; ONNX files are audited on the CPU." if missed else "",
        repair=pip("install", "--force-reinstall", "onnxruntime-gpu[cuda,cudnn]") if missed else "",
        facts={"used": used, "available": offered},
    )


def _judge_count(cores: Cores, stated: str | None, threads: int | None) -> Finding:
    usable = cores.usable
    quota = f", kept to {cores.quota:.3g} by a control group" if cores.quota else ""
    allowed = f" of {cores.machine}" if cores.machine != usable else ""
    shown = f"{'unknown' if threads is None else threads} for {usable}{allowed} cores{quota}"
    problem = ""
    first = (stated or "").partition(",")[0].strip()
    asked = int(first) if first.isdecimal() else 0
    most = max(asked, threads or 0)
    if stated is not None and not asked:
        problem = f"OMP_NUM_THREADS={stated} is no number of threads."
    elif most > usable:
        problem = f"{most} threads share {usable} core{'s' if usable > 1 else ''}, which slows every step."
    return Finding(
        area="threads",
        name="threads",
        found=f"{shown}, OMP_NUM_THREADS={stated}" if stated is not None else shown,
        verdict=Verdict.WARNS if problem else Verdict.FINE,
        problem=problem,
        repair=f"export OMP_NUM_THREADS={usable}" if problem else "",
        facts={
            "machine": cores.machine,
            "allowed": cores.allowed,
            "quota": cores.quota,
            "usable": usable,
            "OMP_NUM_THREADS": stated,
            "torch_threads": threads,
        },
    )


def _judge_waiting(environment: Mapping[str, str]) -> Finding:
    policy = environment.get("OMP_WAIT_POLICY")
    spins = (policy or "").upper() != "PASSIVE"
    return Finding(
        area="threads",
        name="waiting",
        found=f"OMP_WAIT_POLICY={policy}" if policy is not None else "OMP_WAIT_POLICY is not set",
        verdict=Verdict.WARNS if spins else Verdict.FINE,
        problem="threads wait by spinning, which slows runs several times over where anything else uses the processor."
        if spins
        else "",
        repair="export OMP_WAIT_POLICY=PASSIVE" if spins else "",
        facts={"OMP_WAIT_POLICY": policy},
    )


def _judge_folders() -> list[Finding]:
    cache = cache_root()
    decoded = size_of(cache / "decoded")[0]
    return [
        judge_place("cache", look_at(cache), variable="HARDEN_CACHE", cached=size_of(cache), decoded=decoded),
        judge_place("state", look_at(state_root()), variable="HARDEN_STATE"),
        judge_place("working folder", look_at(Path()), variable=None),
    ]


def _guarded(area: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """Return what `look` finds; where it fails itself, that is the finding."""
    try:
        return look()
    except Exception as error:  # a broken install fails in ways that nobody has listed
        missing = error.name if isinstance(error, ImportError) else None
        return [
            Finding(
                area=area,
                name=area,
                found="unknown",
                verdict=Verdict.WARNS,
                problem=f"the {area} cannot be examined ({type(error).__name__}: {error}).",
                repair=pip("install", "--force-reinstall", missing.partition(".")[0])
                if missing
                else "harden doctor --json  # and report what it says",
            )
        ]


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 1024**2:.1f} MiB"
