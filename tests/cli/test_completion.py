"""What the shell offers: every name of every table, and nothing that has to be waited for."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from typer.main import get_command

from harden.attacks import ATTACKS, CRAFTERS, PRESETS
from harden.cli import layers
from harden.cli.app import program
from harden.cli.completion import table_names
from harden.defences import DEFENCES
from harden.export import EXPORTERS, PRECISIONS
from harden.export.to_safetensors import save_weights
from harden.folders import recipe_folder
from harden.training.augment import AUGMENTATIONS
from harden.workflows.devices import DEVICES
from harden.workflows.tracking import TRACKERS
from tests.workflows.builders import build

HARDEN = get_command(program())


def offered(*words: str, shell: str = "zsh") -> list[str]:
    """What `harden WORDS<TAB>` offers; bash is given words that end at colons, other shells are not."""
    if shell == "bash":
        typed = {"COMP_WORDS": "\n".join(["harden", *words]), "COMP_CWORD": str(len(words))}
    else:
        typed = {"_TYPER_COMPLETE_ARGS": " ".join(["harden", *words]), "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        shell = "fish"  # whose answers are the plain words
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in {"_HARDEN_COMPLETE": f"complete_{shell}", **typed}.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            HARDEN(prog_name="harden")
    assert ended.value.code == 0
    assert err.getvalue() == ""
    return [line.partition("\t")[0] for line in out.getvalue().splitlines() if line]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("fit", "m.pt", "--method"), DEFENCES),
        (("fit", "m.pt", "--source-attack"), CRAFTERS),
        (("fit", "m.pt", "--attacks"), {**PRESETS, **ATTACKS}),
        (("fit", "m.pt", "--augment"), AUGMENTATIONS),
        (("fit", "m.pt", "--track"), TRACKERS),
        (("fit", "m.pt", "--device"), dict.fromkeys(DEVICES)),
        (("fit", "--recipe"), dict.fromkeys(sorted(path.stem for path in recipe_folder().glob("*.toml")))),
        (("report", "m.pt", "--attacks"), {**PRESETS, **ATTACKS}),
        (("compare", "--attacks"), {**PRESETS, **ATTACKS}),
        (("compare", "--methods"), DEFENCES),
        (("compare", "--source-attack"), CRAFTERS),
        (("compare", "--recipe"), dict.fromkeys(sorted(path.stem for path in recipe_folder().glob("*.toml")))),
        (("export", "runs/a", "--to"), EXPORTERS),
        (("export", "runs/a", "--precision"), PRECISIONS),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_every_name_is_offered_in_its_order(words: tuple[str, ...], names: Mapping[str, object], shell: str) -> None:
    assert offered(*words, "", shell=shell) == list(names)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("fit", "m.pt", "--method", "adv4adv-"), ["adv4adv-star"]),
        (("fit", "m.pt", "--method", "x"), []),
        (("report", "m.pt", "--attacks", "fast,apgd-d"), ["fast,apgd-dlr", "fast,apgd-dlr-t"]),
        (("compare", "--methods", "nt,sa"), ["nt,sat"]),
        (("compare", "--methods", "nt,sat@nf"), ["nt,sat@nfgsm"]),
        (("compare", "--methods", "sat@fgsm-ep+p"), ["sat@fgsm-ep+pgd"]),
        (("fit", "--recipe", "./my"), []),
        (("do",), ["doctor"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_is_typed_goes_on(words: tuple[str, ...], names: list[str]) -> None:
    assert offered(*words) == names


def test_a_table_that_is_not_there_offers_nothing() -> None:
    assert table_names("harden.attacks", "NOTHING") == ()
    assert table_names("harden.nothing", "NOTHING") == ()


def test_names_come_without_heavy_imports() -> None:
    """In a process of its own, for this one has imported everything."""
    code = (
        "import sys\n"
        "from harden.cli.app import program\n"
        "try:\n    program()(prog_name='harden')\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'torchvision', 'timm', 'numpy', 'scipy', 'sklearn', 'onnx', 'onnxruntime', 'PIL'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    words = "harden\nfit\nm.pt\n--attacks\npgd-4"
    environment = {"_HARDEN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "4"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )
    assert done.stdout.split() == ["pgd-40", "HEAVY", "[]"], done.stdout + done.stderr


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """As much of a run folder as its layers take."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    weights = {f"body.{name}": value for name, value in build().state_dict().items()}
    save_weights(weights, folder / "model.safetensors", {})
    return folder


def test_the_layers_of_a_run_folder(run: Path) -> None:
    assert offered("fit", str(run), "--split", "") == ["body"]
    assert offered("fit", str(run), "--epochs", "3", "--split", "body.") == ["body.0", "body.1", "body.5", "body.7"]
    (run / "model.safetensors").rename(run / "initial.safetensors")
    assert offered("fit", str(run), "--split", "b") == ["body"]
    assert offered("fit", str(run), "--split", "x") == []


@pytest.mark.parametrize(
    "content", [b"", b"\x05", (2**40).to_bytes(8, "little"), b"\x02" + bytes(7) + b"[]", b"x" * 99], ids=len
)
def test_damaged_weights_offer_nothing(run: Path, content: bytes) -> None:
    (run / "model.safetensors").write_bytes(content)
    assert offered("fit", str(run), "--split", "") == []


def test_the_layers_of_a_library_are_looked_up_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HARDEN_CACHE", str(tmp_path / "cache"))
    built = []

    def build_it(kind: str, name: str) -> list[str]:
        built.append((kind, name))
        return ["conv1", "layer1", "layer1.0"]

    monkeypatch.setattr(layers, "_built", build_it)
    for shell in ("zsh", "bash"):
        name = ("timm", ":", "resnet18") if shell == "bash" else ("timm:resnet18",)
        assert offered("fit", *name, "--split", "", shell=shell) == ["conv1", "layer1"]
        assert offered("fit", *name, "--split", "layer1.", shell=shell) == ["layer1.0"]
        assert offered("fit", "w.pt", "--arch", *name, "--split", "c", shell=shell) == ["conv1"]
        assert offered("fit", "--arch", *name, "w.pt", "--split", "c", shell=shell) == ["conv1"]
    assert offered("fit", "timm:resnet18@a1_in1k", "--split", "c") == ["conv1"]
    assert built == [("timm", "resnet18")]
    next((tmp_path / "cache" / "layers").iterdir()).write_text("{damaged")
    assert offered("fit", "timm:resnet18", "--split", "c") == ["conv1"]
    assert len(built) == 2


def test_the_layers_of_a_library_without_a_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HARDEN_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(layers, "_built", lambda kind, name: ["conv1"])
    assert offered("fit", "torchvision:resnet18", "--split", "") == ["conv1"]


@pytest.mark.parametrize("model", ["timm:hf-hub:x/y", "timm:../x", "timm:", "net.py:build", "weights.pt", "."])
def test_other_models_are_not_looked_into(model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("raise SystemExit('ran')")
    (tmp_path / "weights.pt").write_bytes(b"x")
    monkeypatch.setattr(layers, "_built", lambda kind, name: ["conv1"])
    assert offered("fit", model, "--split", "") == []


def test_a_network_of_torchvision_is_built_without_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HARDEN_CACHE", str(tmp_path))
    assert offered("fit", "torchvision:resnet18", "--split", "layer4.1.c") == ["layer4.1.conv1", "layer4.1.conv2"]
    assert "layer1.0.bn1" in json.loads(next((tmp_path / "layers").iterdir()).read_text())
