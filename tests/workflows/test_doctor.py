"""What `harden doctor` finds: installs that are broken in every way one can make up, and figures of machines."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harden import resources
from harden.export.to_onnx import OPSET
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
from harden.workflows import installed
from harden.workflows.doctor import (
    GIB,
    examine,
    judge_devices,
    judge_memory,
    judge_place,
    judge_terminal,
    judge_threads,
)
from harden.workflows.finding import Finding, Verdict
from harden.workflows.installed import judge_versions, probe_all
from harden.workflows.narrator import Silent
from harden.workflows.probe import IDENTITY

TORCH = """
__version__ = "2.13.0+cpu"
class version: cuda = None
class cuda:
    is_available = staticmethod(lambda: False)
def get_num_threads(): return 3
"""
PLAIN = "__version__ = '1.2.3'\n"
RUNTIME = """
__version__ = "1.2.3"
def get_available_providers(): return ["CUDAExecutionProvider", "CPUExecutionProvider"]
class SessionOptions: pass
class InferenceSession:
    def __init__(self, model, options, providers): self.providers = providers
    def get_providers(self): return self.providers
    def run(self, wanted, values): return list(values.values())
"""
SOUND = {"torch": TORCH, "torchvision": PLAIN, "timm": PLAIN, "onnx": PLAIN, "onnxruntime": RUNTIME}
"""Libraries that can be imported."""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put modules before the real ones: `install(torch="raise ImportError('x')")`."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def put(**modules: str) -> None:
        for name, code in {**SOUND, **modules}.items():
            (tmp_path / "site").mkdir(exist_ok=True)
            (tmp_path / "site" / f"{name}.py").write_text(code)

    return put


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a distribution's metadata before the real one's."""
    monkeypatch.syspath_prepend(str(tmp_path / "meta"))

    def put(name: str, version: str, *requires: str) -> None:
        folder = tmp_path / "meta" / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir(parents=True)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        (folder / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {one}" for one in requires)]) + "\n")

    return put


def answers(**told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    plain = {"error": None, "version": "1.0"}
    return {name: {"name": name, **plain, **told.get(name, {})} for name in SOUND}


def named(findings: list[Finding] | tuple[Finding, ...], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def test_a_library_that_cannot_be_imported_is_named_and_the_others_are_tried(install: Install) -> None:
    install(timm="raise OSError('libcudart.so.12: cannot open shared object file\\nsecond line')", onnx="exit(3)")
    told = probe_all(Silent())
    assert told["timm"]["error"] == "OSError: libcudart.so.12: cannot open shared object file"
    assert told["onnx"]["error"].startswith("SystemExit")
    assert told["torch"]["version"] == "2.13.0+cpu"
    assert told["torch"]["threads"] == 3
    assert told["onnxruntime"]["error"] is None
    assert told["onnxruntime"]["used"] == ["CPUExecutionProvider"]
    findings = judge_versions(told)
    assert named(findings, "timm").verdict is Verdict.STOPS
    assert "libcudart.so.12" in named(findings, "timm").problem
    assert "--force-reinstall" in named(findings, "timm").repair
    assert named(findings, "onnx").verdict is Verdict.STOPS


def test_the_model_that_onnxruntime_has_to_run() -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model = onnx.load_from_string(IDENTITY)
    onnx.checker.check_model(model)
    assert (model.ir_version, model.opset_import[0].version) == (10, OPSET)
    session = onnxruntime.InferenceSession(IDENTITY, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.array([3], dtype=np.float32)})[0] == 3


def test_a_library_that_ends_python_takes_only_itself_along(install: Install) -> None:
    install(onnx="import os, signal; os.kill(os.getpid(), signal.SIGILL)", torchvision="print('chatter')\n" + PLAIN)
    told = probe_all(Silent())
    assert told["onnx"]["error"] == "the import ends Python with signal 4"
    assert {name for name, answer in told.items() if answer["error"]} == {"onnx"}


def test_a_library_that_never_returns_is_given_up(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "PATIENCE", 2.0)
    install(onnxruntime="import time; time.sleep(60)")
    told = probe_all(Silent())
    assert told["onnxruntime"]["error"] == "the import does not end within 2.0 s"
    assert told["onnx"]["error"] is None


def test_the_current_folder_is_not_searched(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "json.py").write_text("raise SystemExit('ran what lies here')")
    (trap / "torch.py").write_text("raise SystemExit('ran what lies here')")
    monkeypatch.chdir(trap)
    assert not any(answer["error"] for answer in probe_all(Silent()).values())


def test_without_torch_there_is_one_cause(install: Install) -> None:
    broken = "raise ImportError('no torch')"
    install(torch=broken, torchvision=broken, timm=broken)
    findings = judge_versions(probe_all(Silent()))
    assert [f.name for f in findings if f.verdict is Verdict.STOPS] == ["torch"]
    assert "every other command needs it" in named(findings, "torch").problem
    assert "while torch cannot be imported" in named(findings, "timm").problem


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = installed._version_of
    monkeypatch.setattr(installed, "_version_of", lambda name: None if name in ("timm", "tomli-w") else found(name))
    findings = judge_versions(answers(timm={"error": "ModuleNotFoundError: No module named 'timm'", "version": None}))
    for name, wanted in (("timm", "timm"), ("tomli-w", "tomli-w")):
        finding = named(findings, name)
        assert (finding.found, finding.verdict) == ("missing", Verdict.STOPS)
        assert "is not installed" in finding.problem
        assert "-m pip install" in finding.repair or "uv pip install" in finding.repair
        assert wanted in finding.repair


def test_without_packaging_what_is_broken_is_still_told(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None if name == "packaging" else find(name))
    findings = judge_versions(answers(torch={"error": "ImportError: x"}))
    assert {f.name for f in findings if f.verdict is Verdict.STOPS} == {"torch", "packaging"}


def test_both_builds_of_onnxruntime(distribution: Callable[..., None]) -> None:
    distribution("onnxruntime", "1.20.0")
    distribution("onnxruntime-gpu", "1.21.0")
    finding = named(judge_versions(answers()), "onnxruntime")
    assert finding.verdict is Verdict.WARNS
    assert finding.found == "onnxruntime 1.20.0, onnxruntime-gpu 1.21.0"
    assert "uninstall -y onnxruntime onnxruntime-gpu && " in finding.repair
    broken = named(judge_versions(answers(onnxruntime={"error": "ImportError: x"})), "onnxruntime")
    assert broken.verdict is Verdict.STOPS


def test_torchvision_of_another_torch(distribution: Callable[..., None]) -> None:
    distribution("torch", "2.13.0+cpu")
    distribution("torchvision", "0.27.0", "torch (==2.12.0)")
    finding = named(judge_versions(answers()), "torchvision")
    assert finding.verdict is Verdict.WARNS
    assert "was built for torch==2.12.0, and torch 2.13.0+cpu is installed" in finding.problem
    assert "torchvision==0.28.*" in finding.repair


def test_torchvision_that_fits_but_for_cuda(distribution: Callable[..., None]) -> None:
    distribution("torch", "2.13.0+cpu")
    distribution("torchvision", "0.28.0", "torch (==2.13.0)")
    assert named(judge_versions(answers()), "torchvision").verdict is Verdict.FINE
    told = answers(torchvision={"repaired": True}, torch={"built_for_cuda": None})
    finding = named(judge_versions(told), "torchvision")
    assert finding.verdict is Verdict.WARNS
    assert finding.repair.endswith("torchvision==0.28.0  # from PyTorch's index of cpu builds")
    told["torch"]["built_for_cuda"] = "12.8"
    assert named(judge_versions(told), "torchvision").repair.endswith("of cu128 builds")


def test_a_version_that_was_not_tested(distribution: Callable[..., None]) -> None:
    distribution("harden-classifier", "0.1.0", "torch<2.14,>=2.9", "onnx>=1.18; sys_platform == 'nowhere'", "typer>=99")
    distribution("torch", "2.15.0")
    findings = judge_versions(answers())
    assert named(findings, "torch").verdict is Verdict.WARNS
    assert "harden was made for torch<2.14,>=2.9, and 2.15.0 is installed" in named(findings, "torch").problem
    assert named(findings, "onnx").verdict is Verdict.FINE
    assert "typer>=99" in named(findings, "typer").problem


GPU = {"name": "A100", "refusal": None, "free_bytes": 30 * GIB, "total_bytes": 40 * GIB}


@pytest.mark.parametrize(
    ("torch", "driver", "found", "verdict", "words"),
    [
        ({}, None, "no NVIDIA driver; runs use the CPU", Verdict.FINE, ()),
        ({}, "550.54", "torch for the CPU only", Verdict.WARNS, ("built for the CPU only", "torch==2.13.0 ")),
        ({"built_for_cuda": "12.8"}, None, "no NVIDIA driver", Verdict.FINE, ()),
        (
            {"built_for_cuda": "12.8", "cuda_refusal": "driver too old"},
            "450.1",
            "not usable",
            Verdict.WARNS,
            ("driver too old", "nvidia-smi"),
        ),
        ({"built_for_cuda": "12.8", "devices": [GPU]}, "550.54", "A100 (30.0 GiB free", Verdict.FINE, ()),
        (
            {"built_for_cuda": "12.8", "devices": [GPU, {**GPU, "refusal": "no kernel image"}]},
            "550.54",
            "cannot be used",
            Verdict.STOPS,
            ("no kernel image", "--device cpu"),
        ),
        ({"error": "ImportError: x"}, "550.54", "torch unknown", Verdict.FINE, ()),
    ],
)
def test_cuda(
    torch: dict[str, Any],
    driver: str | None,
    found: str,
    verdict: Verdict,
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    finding = judge_devices({"version": "2.13.0+cpu", **torch}, {}, driver)[0]
    assert found in finding.found
    assert finding.verdict is verdict
    assert all(word in finding.problem + finding.repair + " " for word in words)


def test_gpus_that_the_user_hides_are_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    finding = judge_devices({"version": "2.13.0", "built_for_cuda": "12.8"}, {}, "550.54")[0]
    assert finding.verdict is Verdict.FINE
    assert "CUDA_VISIBLE_DEVICES=-1 hides" in finding.found


def test_an_onnxruntime_that_leaves_the_gpu_alone() -> None:
    with_gpu = {"version": "2.13.0", "built_for_cuda": "12.8", "devices": [GPU]}
    runtime = {"used": ["CPUExecutionProvider"], "available": ["CPUExecutionProvider"]}
    assert judge_devices(with_gpu, runtime, "1")[1].verdict is Verdict.WARNS
    assert "built without CUDA" in judge_devices(with_gpu, runtime, "1")[1].problem
    assert judge_devices({"version": "2.13.0"}, runtime, None)[1].verdict is Verdict.FINE


@pytest.mark.parametrize(
    ("cores", "stated", "threads", "words"),
    [
        (Cores(8, 8, None), None, 8, None),
        (Cores(8, 8, None), "2", 2, None),
        (Cores(8, 8, 2.0), None, 8, "8 threads share 2 cores"),
        (Cores(8, 2, None), "4", 4, "4 threads share 2 cores"),
        (Cores(8, 2, None), "9", 2, "9 threads share 2 cores"),
        (Cores(8, 8, 0.5), None, 2, "2 threads share 1 core,"),
        (Cores(8, 8, None), "many", 8, "OMP_NUM_THREADS=many is no number"),
        (Cores(8, 8, None), "0", 8, "OMP_NUM_THREADS=0 is no number"),
        (Cores(8, 8, None), "4,2", 4, None),
        (Cores(8, 8, None), None, None, None),
    ],
)
def test_threads(cores: Cores, stated: str | None, threads: int | None, words: str | None) -> None:
    environment = {"OMP_WAIT_POLICY": "passive", **({"OMP_NUM_THREADS": stated} if stated else {})}
    count, waiting = judge_threads(cores, environment, threads)
    assert (count.verdict is Verdict.WARNS) == (words is not None)
    assert (words or "") in count.problem
    assert not words or count.repair == f"export OMP_NUM_THREADS={cores.usable}"
    assert waiting.verdict is Verdict.FINE


def test_threads_that_spin() -> None:
    waiting = judge_threads(Cores(2, 2, None), {"OMP_WAIT_POLICY": "ACTIVE"}, 2)[1]
    assert waiting.repair == "export OMP_WAIT_POLICY=PASSIVE"


@pytest.mark.parametrize(
    ("memory", "verdict", "repair"),
    [
        (Memory(16 * GIB, 8 * GIB, None), Verdict.FINE, ""),
        (Memory(None, None, None), Verdict.FINE, ""),
        (Memory(16 * GIB, GIB, None), Verdict.WARNS, "--batch-size"),
        (Memory(16 * GIB, GIB // 4, None), Verdict.STOPS, "--batch-size"),
        (Memory(16 * GIB, GIB, GIB), Verdict.WARNS, "docker run --memory"),
    ],
)
def test_memory(memory: Memory, verdict: Verdict, repair: str) -> None:
    finding = judge_memory(memory)
    assert finding.verdict is verdict
    assert repair in finding.repair


@pytest.mark.parametrize(
    ("place", "variable", "cached", "verdict", "words"),
    [
        (Place(Path("/a"), True, 9 * GIB, None), "HARDEN_CACHE", (0, 0), Verdict.FINE, ""),
        (Place(Path("/a"), True, 9 * GIB, "Permission denied"), "HARDEN_CACHE", (0, 0), Verdict.WARNS, "decoded again"),
        (Place(Path("/a"), True, 9 * GIB, "Permission denied"), "HARDEN_STATE", None, Verdict.WARNS, "--arch again"),
        (Place(Path("/a"), True, 9 * GIB, "Read-only file system"), None, None, Verdict.STOPS, "Read-only file system"),
        (Place(Path("/a"), True, GIB, None), None, None, Verdict.WARNS, "1.0 GiB left"),
        (Place(Path("/a"), True, GIB // 8, None), None, None, Verdict.STOPS, "cd /another/folder"),
        (Place(Path("/a"), True, GIB, None), "HARDEN_CACHE", (GIB, 5), Verdict.WARNS, "rm -r /a/decoded"),
        (Place(Path("/a"), True, GIB, None), "HARDEN_CACHE", (1, 5), Verdict.WARNS, "export HARDEN_CACHE"),
        (Place(Path("/a"), True, GIB, None), "HARDEN_STATE", None, Verdict.FINE, ""),
    ],
)
def test_places(
    place: Place, variable: str | None, cached: tuple[int, int] | None, verdict: Verdict, words: str
) -> None:
    finding = judge_place("x", place, variable=variable, cached=cached, decoded=cached[0] if cached else 0)
    assert finding.verdict is verdict
    assert words in f"{finding.problem} {finding.repair}"
    json.dumps(finding.to_json())


def test_looking_at_a_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    place = look_at(tmp_path / "not" / "there")
    assert (place.exists, place.refusal) == (False, None)
    assert place.free is not None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    assert look_at(tmp_path / "file" / "below").refusal is not None
    assert size_of(tmp_path) == (1, 1)
    assert size_of(tmp_path / "not" / "there") == (0, 0)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert look_at(tmp_path / "x").refusal == "Permission denied"


def test_a_working_folder_that_is_gone(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There torch itself ends Python, which is no fault of the install."""
    install(torch="import os; os.getcwd()\n" + TORCH)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert not any(answer["error"] for answer in probe_all(Silent()).values())
    finding = judge_place("working folder", look_at(Path()), variable=None)
    assert finding.verdict is Verdict.STOPS
    assert finding.found == "., cannot be written"
    assert finding.repair.startswith("cd ")


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_limits_of_control_groups_of_version_2(tmp_path: Path) -> None:
    """The parent's limit holds too, and files that were read are no used memory."""
    root = write(
        tmp_path,
        proc__self__cgroup="0::/outer/inner\n",
        proc__meminfo="MemTotal: 8388608 kB\nMemAvailable: 7000000 kB\n",
    )
    group = root / "sys/fs/cgroup/outer"
    (group / "inner").mkdir(parents=True)
    (group / "cpu.max").write_text("150000 100000\n")
    (group / "inner/cpu.max").write_text("max 100000\n")
    (group / "memory.max").write_text(f"{GIB}\n")
    (group / "memory.current").write_text(f"{GIB // 2}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {GIB // 4}\n")
    (group / "inner/memory.max").write_text("max\n")
    assert count_cores(root).quota == 1.5
    assert Cores(8, 8, 1.5).usable == 2
    assert measure_memory(root) == Memory(8 * GIB, GIB - GIB // 4, GIB)


def test_limits_of_control_groups_of_version_1(tmp_path: Path) -> None:
    """In a container the file may name a path of the host, and the limits lie at the top."""
    root = write(tmp_path, proc__self__cgroup="4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n")
    for controller, files in {
        "cpu": {"cpu.cfs_quota_us": "400000", "cpu.cfs_period_us": "100000"},
        "memory": {"memory.limit_in_bytes": str(2 * GIB), "memory.usage_in_bytes": "0", "memory.stat": ""},
    }.items():
        for name, text in files.items():
            write(root / "sys/fs/cgroup" / controller, **{name: text})
    assert count_cores(root).quota == 4.0
    assert measure_memory(root).limit == 2 * GIB
    (root / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text("9223372036854771712")
    (root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").write_text("-1")
    assert measure_memory(root).limit is None
    assert count_cores(root).quota is None


def test_a_machine_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources.shutil, "which", lambda name: None)
    assert count_cores(tmp_path).quota is None
    assert measure_memory(tmp_path).limit is None
    assert nvidia_driver(tmp_path) is None


def test_the_driver_of_nvidia(tmp_path: Path) -> None:
    text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\n"
    assert nvidia_driver(write(tmp_path, proc__driver__nvidia__version=text)) == "550.54.14"


def test_a_terminal_that_is_not_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    assert judge_terminal("utf-8").verdict is Verdict.FINE
    assert judge_terminal("UTF8").verdict is Verdict.FINE
    assert judge_terminal("iso8859-1").repair == "export PYTHONUTF8=1"
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert judge_terminal("ascii").repair == "unset PYTHONIOENCODING"


def test_everything_at_once(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every area has its rows, every problem a sentence and a repair, and an area that fails is a finding itself."""
    install(onnx="raise ImportError('x')")
    monkeypatch.setattr("harden.workflows.doctor.measure_memory", lambda: 1 / 0)
    diagnosis = examine(encoding="utf-8", narrator=Silent())
    areas = [finding.area for finding in diagnosis.findings]
    assert list(dict.fromkeys(areas)) == ["versions", "devices", "threads", "memory", "folders", "terminal"]
    assert diagnosis.stops
    assert diagnosis.problems[0].name == "onnx"
    assert "cannot be examined (ZeroDivisionError" in named(diagnosis.findings, "memory").problem
    for finding in diagnosis.findings:
        assert (finding.verdict is Verdict.FINE) == (finding.problem == "") == (finding.repair == "")
        assert finding.problem == "" or finding.problem.endswith(".")
    document = json.loads(json.dumps(diagnosis.to_json()))
    assert document["stops"] is True
    assert len(document["findings"]) == len(diagnosis.findings)
