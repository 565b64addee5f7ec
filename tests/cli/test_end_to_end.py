"""The real `harden` command; fit, report, export and compare in a Python of their own too (`spawn`)."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harden.models import load_model
from harden.vision import import_timm
from harden.workflows.run_folder import RunFolder
from tests.cli.terminal import FAST, command, decent, decent_fit, environment, harden, spawn
from tests.workflows.builders import Workshop

EXAMPLES = Path(__file__).parents[2] / "examples"
RUN_SCRIPT = "import runpy, sys; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
"""Runs a script once timm is imported in spite of mismatched wheels (`harden.vision`), as a user's machine has it."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that commands are typed in."""
    return tmp_path_factory.mktemp("desk")


@pytest.fixture(scope="module")
def fitted(workshop: Workshop, desk: Path) -> subprocess.CompletedProcess[str]:
    """`harden fit model.pt --data ./imgs`, which leaves desk/run."""
    (desk / "imgs").symlink_to(workshop.data)
    return spawn(
        "fit", workshop.pickled, "--data", "./imgs", "--source-attack", "fgsm", "--epochs", 4, *FAST, "--attacks",
        "fast", "--out", "run", cwd=desk, COLUMNS="60",
    )  # fmt: skip


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def test_the_clients_own_line(fitted: subprocess.CompletedProcess[str], desk: Path, workshop: Workshop) -> None:
    decent_fit(fitted, desk / "run")
    assert load_file(desk / "run" / "model.safetensors").keys() == workshop.module.state_dict().keys()
    assert all(len(line) <= 60 for line in fitted.stdout.splitlines()), fitted.stdout
    for word in ("before", "adv4adv", "PGD-20"):
        assert word in fitted.stdout
    for word in ("normalisation: ", "split at", "eps 0.0313725 = 8/255", "epoch 1", "epoch 4"):
        assert word in fitted.stderr
        assert word not in fitted.stdout or word == "eps 0.0313725 = 8/255"
    html = (desk / "run" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["']?https?://""", html)
    config = json.loads((desk / "run" / "config.json").read_text())
    assert config["command"].startswith("harden fit ")


def test_an_existing_run_is_never_overwritten(
    fitted: subprocess.CompletedProcess[str], desk: Path, workshop: Workshop
) -> None:
    before = {path: path.read_bytes() for path in (desk / "run").rglob("*") if path.is_file()}
    done = harden("fit", workshop.pickled, "--data", "imgs", "--out", "run", "--epochs", 1, cwd=desk)
    decent(done, code=2)
    assert "--resume" in done.stderr
    assert {path: path.read_bytes() for path in (desk / "run").rglob("*") if path.is_file()} == before


def test_report_beside_the_initial_model(fitted: subprocess.CompletedProcess[str], desk: Path) -> None:
    done = spawn(
        "report", "run", "--against", "initial", "--attacks", "fgsm", "--samples", 15, "--json", "--out", "r", cwd=desk
    )
    decent(done)
    found = json.loads(done.stdout)
    assert [model["model"] for model in found["models"]] == ["run (initial)", "run"]
    assert found["models"][0]["clean"]["total"] == 15
    assert {entry.name for entry in (desk / "r").iterdir()} == {
        "report.html",
        "report.json",
        "report.md",
        "report.xml",
    }


def test_report_does_not_destroy_the_before_and_after_of_the_run(
    fitted: subprocess.CompletedProcess[str], desk: Path
) -> None:
    before = (desk / "run" / "report.json").read_bytes()
    done = harden("report", "run", "--attacks", "fgsm", "--samples", 15, cwd=desk, COLUMNS="60")
    decent(done)
    assert all(len(line) <= 60 for line in done.stdout.splitlines()), done.stdout
    assert (desk / "run" / "report.json").read_bytes() == before


def test_export_and_serve_without_us(fitted: subprocess.CompletedProcess[str], desk: Path, workshop: Workshop) -> None:
    done = spawn("export", "run", "--to", "safetensors", "--to", "onnx", "--json", cwd=desk)
    decent(done)
    assert done.stderr == ""
    rows = json.loads(done.stdout)
    assert [row["format"] for row in rows] == ["safetensors", "onnx"]
    assert all(p["holds"] and p["kind"] in ("clean", "adversarial") for row in rows for p in row["parity"])
    folder = desk / "run" / "export"
    assert {entry.name for entry in folder.iterdir()} == {
        "README.md",
        "config.json",
        "manifest.json",
        "model.onnx",
        "model.safetensors",
        "sample.safetensors",
        "architecture",
    }
    pictures = sorted((workshop.data / "test").rglob("*.png"))[:3]
    for script, arguments, lines in (
        ("serve_onnx.py", (folder / "model.onnx", *pictures), len(pictures)),
        ("load_safetensors.py", (folder, *workshop.arch.rsplit(":", 1)), 1),
    ):
        line = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
        shown = subprocess.run(line, capture_output=True, text=True, cwd=desk, env=environment(), timeout=120)
        assert shown.returncode == 0, shown.stderr
        assert len(shown.stdout.splitlines()) == lines
        assert any(name in shown.stdout for name in ("a", "b", "c"))
    done = harden("verify", "run/export", cwd=desk, COLUMNS="60")
    decent(done)
    assert "is what was exported" in " ".join(done.stdout.split())
    assert all(len(line) <= 60 for line in (done.stdout + done.stderr).splitlines())


HUGE = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0)
"""The header of a BMP file that promises more pixels than Pillow lets in."""
PPM = b"P6 1 1 255\n\0\0\0"
"""A whole image, in a format that no service needs."""


def test_the_example_answers_over_http(
    fitted: subprocess.CompletedProcess[str], desk: Path, workshop: Workshop, tmp_path: Path
) -> None:
    decent(harden("export", "run", "--to", "onnx", "--samples", 20, "--out", tmp_path, cwd=desk))
    line = [sys.executable, str(EXAMPLES / "serve_onnx.py"), str(tmp_path / "model.onnx"), "--port", "0"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment())
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        picture = next((workshop.data / "test" / "b").glob("*.png")).read_bytes()
        with urllib.request.urlopen(address, data=picture, timeout=30) as answer:
            assert json.load(answer) == {"class": "b"}
        for refused in (b"no picture", PPM, HUGE):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(address, data=refused, timeout=30)
            assert caught.value.code == 400
            caught.value.close()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("floors", "code"), [("clean=0.5", 0), ("robust=1.0", 3)])
def test_the_example_job_passes_and_fails(
    floors: str, code: int, fitted: subprocess.CompletedProcess[str], desk: Path, workshop: Workshop, tmp_path: Path
) -> None:
    """Its step is run as it stands, by the shell that would run it; only the model, the data and the floor are ours."""
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((EXAMPLES / "robustness-gate.yml").read_text())["jobs"]["gate"]
    assert set(job["env"]) == {"MODEL", "DATA", "EPS", "FLOORS"}
    (step,) = (step for step in job["steps"] if step.get("name") == "gate")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "harden"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m harden "$@"\n')
    program.chmod(0o755)
    ours = {"MODEL": str(desk / "run"), "DATA": str(workshop.data), "EPS": "1/255", "FLOORS": floors}
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-c", step["run"]], cwd=tmp_path, capture_output=True, text=True, timeout=240,
        env=environment(PATH=path, PYTHONPATH=str(EXAMPLES.parent), **ours),
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert (tmp_path / "audit" / "report.xml").is_file()


def test_inspect(workshop: Workshop, desk: Path) -> None:
    done = harden("inspect", workshop.weights, "--arch", workshop.arch, "--data", workshop.data, "--json", cwd=desk)
    decent(done)
    found = json.loads(done.stdout)
    assert found["classes"] == ["a", "b", "c"]
    assert found["input_size"] == [3, 16, 16]
    assert found["default_split"] in {layer["layer"] for layer in found["layers"]}
    assert found["parameters"] == sum(p.numel() for p in workshop.module.parameters())


def test_a_dry_run_says_what_would_happen_and_that_it_runs_code(workshop: Workshop, tmp_path: Path) -> None:
    done = harden(
        "fit", workshop.weights, "--arch", workshop.arch, "--data", workshop.data, "--dry-run", "--budget", "2m",
        cwd=tmp_path,
    )  # fmt: skip
    decent(done)
    assert "ran the code in" in done.stderr
    assert "estimated time" in done.stderr
    assert "eps" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_code_that_a_recipe_names_is_told_before_it_runs(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(f'model = "{workshop.weights}"\narch = "{workshop.arch}"\nepochs = 1\n')
    done = harden("fit", "--recipe", "r.toml", "--data", workshop.data, "--dry-run", cwd=tmp_path, COLUMNS="400")
    decent(done)
    told = f"the recipe r.toml names code that builds the network, and it runs: {workshop.arch}"
    assert done.stderr.index(told) < done.stderr.index("ran the code in")
    (tmp_path / "r.toml").write_text("trust_pickle = true\n")
    done = harden("fit", workshop.pickled, "--recipe", "r.toml", "--data", workshop.data, cwd=tmp_path)
    decent(done, code=2)
    assert "--trust-pickle" in done.stderr


def test_a_file_with_code_is_refused_and_not_run(workshop: Workshop, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.system, (f"touch {tmp_path / 'ran'}",))

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Payload()))
    done = harden("fit", "evil.pt", "--data", workshop.data, cwd=tmp_path)
    decent(done, code=4)
    assert not (tmp_path / "ran").exists()
    assert "system" in done.stderr


def test_a_fresh_timm_network_which_timm_loads_by_its_own_means_afterwards(workshop: Workshop, desk: Path) -> None:
    done = harden(
        "fit", "timm:test_resnet", "--data", workshop.data, "--pretrain", 1, "--epochs", 1, "--image-size", 32,
        "--beta", 0.5, *FAST, "--batch-size", 60, "--out", "timm", "--json", cwd=desk,
    )  # fmt: skip
    decent_fit(done, desk / "timm")
    assert len(json.loads(done.stdout)["models"]) == 2
    told = done.stderr.startswith("error: the run did not harden the model")
    assert "no trained weights" in done.stderr or told == bool(done.stderr)
    assert json.loads((desk / "timm" / "config.json").read_text())["input_size"] == [3, 32, 32]
    decent(harden("export", "timm", "--to", "safetensors", "--samples", 20, "--anyway", cwd=desk))
    files = desk / "timm" / "export"
    timm = import_timm()
    network = timm.create_model(f"local-dir:{files}", pretrained=True).eval()
    ours = RunFolder(desk / "timm").load_classifier()
    state = load_file(files / "model.safetensors")
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    config = network.pretrained_cfg
    assert list(config["label_names"]) == ["a", "b", "c"]
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(config[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        assert torch.allclose(network((images - mean) / std), ours(images), atol=1e-6)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    assert "CenterCrop" in repr(transform)
    line = [sys.executable, "-c", f"from harden.vision import import_timm; import_timm(); {RUN_SCRIPT}"]
    shown = subprocess.run(
        [*line, str(EXAMPLES / "load_timm.py"), str(files)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("{'a': ")
    opened = load_model(f"local-dir:{files}", classes=3, in_channels=3, image_size=(32, 32))
    assert opened.stated.labels == ("a", "b", "c")
    assert (opened.stated.mean, opened.stated.std) == (ours.normalisation.mean, ours.normalisation.std)
    assert all(torch.equal(state[key], value) for key, value in opened.module.state_dict().items())


# -- stopping ----------------------------------------------------------------------------------------------------


def start_and_wait_for(text: str, arguments: list[object], cwd: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(command(*arguments), cwd=cwd, env=environment(), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return process
    raise AssertionError(f"the process ended without saying {text!r}")


@pytest.mark.parametrize(("kill", "moment"), [(signal.SIGINT, "epoch 2"), (signal.SIGKILL, "Hardening")])
def test_stopped_and_resumed_ends_in_the_same_weights(
    kill: signal.Signals,
    moment: str,
    fitted: subprocess.CompletedProcess[str],
    workshop: Workshop,
    desk: Path,
    tmp_path: Path,
) -> None:
    arguments = [
        "fit",
        workshop.pickled,
        "--data",
        workshop.data,
        "--source-attack",
        "fgsm",
        "--epochs",
        4,
        *FAST,
        "--out",
        tmp_path / "run",
    ]
    process = start_and_wait_for(moment, arguments, tmp_path)
    if kill is signal.SIGKILL:
        time.sleep(0.2)
    process.send_signal(kill)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == (130 if kill is signal.SIGINT else -9), rest
    if kill is signal.SIGINT:
        assert "Traceback" not in rest
        assert "--resume" in rest
    assert not (tmp_path / "run" / "model.safetensors").exists()
    decent_fit(harden("fit", "--resume", tmp_path / "run", "--quiet", cwd=desk), tmp_path / "run")
    assert weights(tmp_path / "run") == weights(desk / "run")


def test_compare_trains_audits_and_goes_on(workshop: Workshop, desk: Path) -> None:
    arguments = (
        "compare", "--data", workshop.data, "--model", workshop.pickled, "--methods", "nt,sat@fgsm", "--epochs", 1,
        "--attacks", "fgsm", "--samples", 9, "--surrogate", "none", "--eps", "8/255", "--out", "cmp",
    )  # fmt: skip
    done = spawn(*arguments, cwd=desk, COLUMNS="60")
    decent(done)
    assert max(map(len, done.stdout.splitlines())) <= 60
    assert "withstands most" in done.stdout
    assert "SAT from fgsm" in done.stdout
    assert (desk / "cmp" / "comparison.html").is_file()
    again = harden(*arguments, "--json", cwd=desk)
    decent(again)
    found = json.loads(again.stdout)
    assert [row["variant"] for row in found["table"]] == ["NT", "SAT from fgsm"]
    assert found["basis"] == "1 epoch each"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--methods", "satt"), "did you mean 'sat'"),
        (("--epochs", "2", "--passes", "9"), "exclude each other"),
        (("--static", "x.pt", "--methods", "sat"), "--static is for eat"),
    ],
)
def test_what_compare_cannot_do_is_said_at_once(flags: tuple[str, ...], words: str, desk: Path) -> None:
    done = harden("compare", "--data", ".", *flags, cwd=desk)
    decent(done, 2)
    assert words in done.stderr
