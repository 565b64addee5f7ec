"""A model of three classes on data of two, through the real command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harden.recipe import read_recipe, resolve
from harden.vision import import_timm
from harden.workflows.fit import resume
from harden.workflows.run_folder import RunFolder
from tests.cli.terminal import FAST, decent, decent_fit, harden
from tests.workflows.builders import Notebook, Workshop


@pytest.fixture(scope="module")
def desk(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that commands are typed in; its images are of two of the workshop's classes."""
    root = tmp_path_factory.mktemp("desk")
    shutil.copytree(workshop.data, root / "two", ignore=shutil.ignore_patterns("c"))
    return root


@pytest.fixture(scope="module")
def run(workshop: Workshop, desk: Path) -> Path:
    """A finished run in desk/run."""
    done = harden(
        "fit", workshop.weights, "--arch", workshop.arch, "--data", "two", "--replace-head", "--pretrain", 6,
        "--epochs", 2, *FAST, "--out", "run", cwd=desk, COLUMNS="60",
    )  # fmt: skip
    decent_fit(done, desk / "run")
    flat = " ".join(done.stderr.split())
    assert "the last layer (7, 3 outputs) is replaced by a new one of 2" in flat
    assert "the new last layer alone is trained cleanly for 6 epochs before hardening" in flat
    assert "the nearest to what the first BatchNorm was trained on" in flat
    return desk / "run"


@pytest.mark.parametrize("form", ["pickled", "weights"])
def test_without_the_flag_the_error_names_it(form: str, workshop: Workshop, desk: Path) -> None:
    model = [workshop.pickled] if form == "pickled" else [workshop.weights, "--arch", workshop.arch]
    done = harden("fit", *model, "--data", "two", "--epochs", 1, *FAST, "--out", "refused", cwd=desk)
    decent(done, code=1)
    assert "--replace-head" in done.stderr
    assert "3" in done.stderr
    assert "2" in done.stderr
    assert not (desk / "refused").exists()


def test_only_the_new_layer_is_trained_first_and_then_everything(run: Path, workshop: Workshop) -> None:
    given = workshop.module.state_dict()
    initial, hardened = load_file(run / "initial.safetensors"), load_file(run / "model.safetensors")
    assert initial["7.weight"].shape == hardened["7.weight"].shape == (2, 16)
    same = {key for key, value in initial.items() if not key.startswith("7.")}
    assert all(torch.equal(initial[key], given[key]) for key in same)
    changed = {key for key in same if not torch.equal(hardened[key], given[key])}
    assert {"0.weight", "5.weight", "1.running_mean"} <= changed
    assert "replace_head = true" in (run / "recipe.toml").read_text()
    config = json.loads((run / "config.json").read_text())
    assert config["classes"] == ["a", "b"]
    assert config["origin"]["head"] == {"layers": ["7"], "classes": 2}


@pytest.mark.parametrize(
    "arguments",
    [("report", "run", "--attacks", "fgsm", "--samples", 9), ("export", "run", "--anyway"), ("inspect", "run")],
)
def test_the_run_folder_builds_the_network_again(arguments: tuple[str, ...], run: Path, desk: Path) -> None:
    decent(harden(*arguments, cwd=desk))
    if arguments[0] == "export":
        config = json.loads((run / "export" / "config.json").read_text())
        assert config["classes"] == ["a", "b"]


def test_hardening_further_needs_no_flag_and_takes_none(run: Path, desk: Path) -> None:
    decent_fit(
        harden("fit", "run", "--data", "two", "--epochs", 1, *FAST, "--out", "further", cwd=desk), desk / "further"
    )
    done = harden("fit", "run", "--data", "two", "--epochs", 1, *FAST, "--replace-head", cwd=desk)
    decent(done, code=2)
    assert "model.safetensors" in done.stderr


@pytest.mark.parametrize("stopped_after", [3, 40])
def test_a_stopped_run_ends_in_the_same_weights(stopped_after: int, run: Path, tmp_path: Path, desk: Path) -> None:
    """Stopped in the training of the new layer, and in the hardening after it."""
    from harden.errors import Interrupted
    from harden.workflows.fit import fit

    left = iter(range(stopped_after))
    settings = resolve(read_recipe(run / "recipe.toml"), {})
    settings = type(settings)(**{**vars(settings), "data": str(desk / "two")})
    with pytest.raises(Interrupted):
        fit(
            settings, out=tmp_path / "run", dry_run=False, narrator=Notebook(), command="harden fit",
            stop_requested=lambda: next(left, None) is None,
        )  # fmt: skip
    again = RunFolder(tmp_path / "run")
    resume(
        again, resolve(read_recipe(again.recipe), {}), narrator=Notebook(), stop_requested=lambda: False, command="x"
    )
    assert again.initial_weights.read_bytes() == (run / "initial.safetensors").read_bytes()
    assert again.weights.read_bytes() == (run / "model.safetensors").read_bytes()


def test_weights_that_are_recognised_get_a_new_head_too(desk: Path) -> None:
    torch.save(import_timm().create_model("test_resnet", num_classes=7).state_dict(), desk / "resnet.pth")
    done = harden(
        "fit", "resnet.pth", "--data", "two", "--image-size", 32, "--replace-head", "--pretrain", 1, "--epochs", 1,
        *FAST, "--batch-size", 40, "--out", "t", cwd=desk,
    )  # fmt: skip
    decent_fit(done, desk / "t")
    assert "recognised by names and shapes as the weights of timm:test_resnet" in " ".join(done.stderr.split())
    assert load_file(desk / "t" / "model.safetensors")["fc.weight"].shape[0] == 2
    network = RunFolder(desk / "t").load_classifier()
    assert network.origin.arguments["num_classes"] == 2


def test_a_network_without_weights_needs_none(workshop: Workshop, desk: Path) -> None:
    done = harden("fit", workshop.arch, "--data", "two", "--replace-head", "--epochs", 1, *FAST, cwd=desk)
    decent(done, code=1)
    assert "leave --replace-head out" in " ".join(done.stderr.split())


def test_compare_gives_every_method_a_new_layer_of_its_own(workshop: Workshop, desk: Path) -> None:
    arguments = (
        "compare", "--model", workshop.weights, "--arch", workshop.arch, "--data", "two", "--methods", "nt,sat@fgsm",
        "--epochs", 1, "--pretrain", 2, "--attacks", "fgsm", "--samples", 8, "--surrogate", "none", "--eps", "8/255",
        "--out", "compared",
    )  # fmt: skip
    done = harden(*arguments, cwd=desk, COLUMNS="60")
    decent(done, code=1)
    assert "--replace-head" in done.stderr
    shutil.rmtree(desk / "compared", ignore_errors=True)
    done = harden(*arguments, "--replace-head", "--json", cwd=desk)
    decent(done)
    assert [row["variant"] for row in json.loads(done.stdout)["table"]] == ["NT", "SAT from fgsm"]
    first, second = (load_file(desk / "compared" / m / "seed-0" / "initial.safetensors") for m in ("nt", "sat@fgsm"))
    assert first["7.weight"].shape == (2, 16)
    assert all(torch.equal(first[key], second[key]) for key in first), "all start from the same weights"


def test_compare_refuses_a_new_layer_on_a_run(run: Path, desk: Path) -> None:
    done = harden("compare", "--model", "run", "--data", "two", "--methods", "nt", "--replace-head", cwd=desk)
    decent(done, code=2)
    assert "model.safetensors" in done.stderr
