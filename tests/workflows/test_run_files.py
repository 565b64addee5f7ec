"""Damaged files of a run folder: each is named, with the repair, and none of them is a defect of the program."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harden.data import Entry, SplitPlan
from harden.errors import RunFolderError
from harden.recipe import read_recipe, resolve
from harden.report import document
from harden.training.history import EpochRecord
from harden.workflows.budget import Budget
from harden.workflows.run_files import read_run_file
from harden.workflows.run_folder import RunFolder

CONFIG: dict[str, Any] = {
    "version": 1,
    "classes": ["a", "b"],
    "input_size": [3, 8, 8],
    "training": {"data": "imgs", "eps": 0.1, "method": "nt", "source_attacks": ["fgsm"], "chosen_epoch": 1},
}
EPOCH = EpochRecord(1, 2.0, "FGSM", {"loss": 0.5, "val_clean": float("nan")}).to_json()
SPLITS = SplitPlan((Entry("a", 0),), (Entry("b", 1),), (Entry("c", 0),), 0, "as told").to_json()

READERS: dict[str, Callable[[RunFolder], object]] = {
    "config.json": lambda run: run.read_config(),
    "splits.json": lambda run: run.read_splits(),
    "metrics.jsonl": lambda run: run.read_history(),
    "budget.json": lambda run: Budget.read(run.budget, began=0.0),
    "recipe.toml": lambda run: read_run_file(run.recipe, lambda path: resolve(read_recipe(path), {})),
    "report.json": lambda run: read_run_file(run.path / "report.json", document.read),
}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path)
    run.write_json(run.config, CONFIG)
    run.write_json(run.splits, SPLITS)
    run.metrics.write_text(json.dumps(EPOCH) + "\n")
    return run


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\0", b'"a text"', b"[" * 100_000, b"5", b"x = [\n", b"[1]"])
@pytest.mark.parametrize("name", READERS)
def test_junk(name: str, content: bytes, run: RunFolder) -> None:
    (run.path / name).write_bytes(content)
    if (name, content) == ("metrics.jsonl", b""):
        assert READERS[name](run) is None, "as before the first epoch"
        return
    with pytest.raises(RunFolderError, match=r"is damaged") as caught:
        READERS[name](run)
    assert str(run.path / name) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", READERS)
def test_a_folder_in_the_place_of_a_file(name: str, run: RunFolder) -> None:
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).mkdir()
    with pytest.raises(RunFolderError, match=name) as caught:
        READERS[name](run)
    assert caught.value.hint


def test_whole_files_are_read(run: RunFolder) -> None:
    history = run.read_history()
    assert history is not None
    assert (len(history.epochs), history.chosen_epoch) == (1, 1)
    assert run.read_training() == CONFIG["training"]
    assert run.read_splits().train == (Entry("a", 0),)


@pytest.mark.parametrize(
    "field",
    [
        *({"classes": value} for value in (3, ["a"], ["a", 5])),
        *({"input_size": value} for value in ([3, 8], [3, 8, "8"], [3, 0, 8], "3 8 8")),
        *({"training": value} for value in (None, "done", [])),
        *({"training": {**CONFIG["training"], key: value}} for key, value in (("data", 5), ("eps", "x"), ("eps", 9))),
        *({"training": {**CONFIG["training"], "source_attacks": value}} for value in (["no-such"], "fgsm", [[]])),
        {"training": {"eps": 0.1, "method": "nt"}},
        {"earlier": {"selection_attacks": [None]}},
        {"statics": [1]},
    ],
)
def test_a_field_of_another_kind_in_the_config(field: dict[str, Any], run: RunFolder) -> None:
    run.write_json(run.config, {**CONFIG, **field})
    with pytest.raises(RunFolderError, match=r"config\.json is damaged"):
        run.read_config()


def test_a_run_without_training(run: RunFolder) -> None:
    run.write_json(run.config, {key: value for key, value in CONFIG.items() if key != "training"})
    with pytest.raises(RunFolderError, match="not finished") as caught:
        run.read_training()
    assert "--resume" in str(caught.value.hint)


@pytest.mark.parametrize(
    "field",
    [{"epoch": "1"}, {"seconds": None}, {"scalars": [1]}, {"scalars": {"loss": "x"}}, {"event": 5}, {"rolled_back": 0}],
)
def test_a_field_of_another_kind_in_the_metrics(field: dict[str, Any], run: RunFolder) -> None:
    run.metrics.write_text(f"{json.dumps(EPOCH)}\n{json.dumps({**EPOCH, **field})}\n")
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl is damaged.*line 2") as caught:
        run.read_history()
    assert "remove it" in str(caught.value.hint)


def test_a_cut_line_of_the_metrics_is_named(run: RunFolder) -> None:
    run.metrics.write_text(f"{json.dumps(EPOCH)}\n{json.dumps(EPOCH)[:30]}")
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl is damaged .*line 2 is no record of an epoch"):
        run.read_history()
