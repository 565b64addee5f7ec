"""What is said of how the data are read goes with a run: its order of the classes, and its bits of gray."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from harden.data import Reading, open_data
from harden.errors import DataError, Interrupted, PreflightError, RunFolderError, UsageError
from harden.recipe import read_recipe, resolve
from harden.workflows.export import export
from harden.workflows.export_subject import ExportSettings
from harden.workflows.fit import resume
from harden.workflows.inspect import inspect
from harden.workflows.prepare import ModelSpec
from harden.workflows.report import report
from harden.workflows.run_folder import RunFolder
from harden.workflows.side_by_side import ReportSettings

from .builders import Notebook, Workshop, trained
from .test_fit import after, run, settings

TURNED = ("c", "a", "b")


@pytest.fixture(scope="module")
def turned(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pickled network whose outputs are c, a, b."""
    path = tmp_path_factory.mktemp("turned") / "turned.pt"
    torch.save(trained(workshop.data, order=(1, 2, 0)), path)
    return path


def asked(shop: Workshop, **changes: Any) -> Any:
    return settings(shop, epochs=2, attacks=("fgsm",), method="sat", **changes)


@pytest.fixture(scope="module")
def ordered(workshop: Workshop, turned: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of that network, with the order in a file that is gone afterwards."""
    root = tmp_path_factory.mktemp("ordered")
    (root / "classes.txt").write_text("c\na\nb\n")
    wanted = resolve(
        {"model": str(turned), "data": str(workshop.data), "method": "sat", "epochs": 2, "eps": 0.03, "batch_size": 20},
        {"class_order": str(root / "classes.txt"), "attacks": "fgsm", "audit_samples": 30},
    )
    (root / "classes.txt").unlink()
    run(wanted, root / "run")
    return RunFolder(root / "run")


def test_without_the_order_the_class_map_is_offered_and_with_it_nothing_is_wrong(
    workshop: Workshop, turned: Path, ordered: RunFolder, tmp_path: Path
) -> None:
    with pytest.raises(PreflightError) as caught:
        run(asked(workshop, model=str(turned)), tmp_path / "run")
    assert caught.value.hint == "--class-map 1,2,0"
    assert ordered.read_config()["classes"] == list(TURNED)


def test_the_recipe_holds_the_names_and_the_splits_say_what_their_labels_count(ordered: RunFolder) -> None:
    recipe = read_recipe(ordered.recipe)
    assert recipe["class_order"] == list(TURNED)
    assert "class_map" not in recipe
    splits = ordered.read_json(ordered.splits)
    assert splits["classes"] == list(TURNED)
    folder = {file.split("/")[1]: label for file, label in zip(*splits["train"].values(), strict=True)}
    assert folder == {"c": 0, "a": 1, "b": 2}


def test_a_stopped_run_goes_on_in_its_order_to_the_same_weights(
    workshop: Workshop, turned: Path, ordered: RunFolder, tmp_path: Path
) -> None:
    wanted = resolve(read_recipe(ordered.recipe), {})
    stopped = RunFolder(tmp_path / "run")
    with pytest.raises(Interrupted):
        run(wanted, stopped.path, stop=after(3))
    again = resolve(read_recipe(stopped.recipe), {})
    assert again.class_order == TURNED
    resume(stopped, again, narrator=Notebook(), stop_requested=lambda: False, command="harden fit")
    one, other = load_file(ordered.weights), load_file(stopped.weights)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_report_and_export_of_the_run_need_no_flag_and_take_none(ordered: RunFolder, tmp_path: Path) -> None:
    spec = ModelSpec(model=str(ordered.path))
    found, _ = report(
        ReportSettings(spec=spec, attacks=("fgsm",)), out=tmp_path / "r", narrator=Notebook(), command="harden report"
    )
    assert found.subject.classes == TURNED
    assert set(found.subject.files) == {entry.file for entry in ordered.read_splits().test}
    export(ExportSettings(spec=spec, formats=("safetensors",), anyway=True), out=tmp_path / "e", narrator=Notebook())
    assert json.loads((tmp_path / "e" / "config.json").read_text())["classes"] == list(TURNED)
    refused = Reading(class_order="natural")
    with pytest.raises(UsageError, match="settles what --class-order would say"):
        report(ReportSettings(spec=spec, reading=refused), out=None, narrator=Notebook(), command="")
    with pytest.raises(UsageError, match="--class-order"):
        export(ExportSettings(spec=spec, formats=("safetensors",), reading=refused), out=None, narrator=Notebook())
    with pytest.raises(UsageError, match="--class-order"):
        inspect(spec, data=None, reading=refused, narrator=Notebook())


def test_hardened_further_it_keeps_its_test_images_though_labels_count_otherwise(
    ordered: RunFolder, workshop: Workshop, tmp_path: Path
) -> None:
    run(asked(workshop, model=str(ordered.path)), tmp_path / "further")
    further = RunFolder(tmp_path / "further")
    assert further.read_config()["classes"] == list(TURNED), "the model's own"
    assert {entry.file for entry in further.read_splits().test} == {entry.file for entry in ordered.read_splits().test}
    assert {entry.file for entry in further.read_splits().val} == {entry.file for entry in ordered.read_splits().val}
    with pytest.raises(UsageError, match="--class-order"):
        run(asked(workshop, model=str(ordered.path), class_order="natural"), tmp_path / "refused")
    found, _ = report(
        ReportSettings(spec=ModelSpec(model=str(further.path)), against=(str(ordered.path),), attacks=("fgsm",)),
        out=tmp_path / "r",
        narrator=Notebook(),
        command="",
    )
    assert set(found.subject.files) == {entry.file for entry in ordered.read_splits().test}, "one set of test images"


def test_splits_are_read_under_any_order_and_as_earlier_versions_wrote_them(
    ordered: RunFolder, workshop: Workshop
) -> None:
    plain = ordered.splits_under("abc")
    assert plain is not None
    assert {(entry.file.split("/")[1], entry.label) for entry in plain.val} == {("a", 0), ("b", 1), ("c", 2)}
    assert ordered.splits_under("abd") is None
    source = open_data(str(workshop.data), Reading(class_order=TURNED))
    kept = ordered.read_json(ordered.splits)
    try:
        ordered.write_json(ordered.splits, {key: value for key, value in kept.items() if key != "classes"})
        assert ordered.splits_of(source) is not None
        for damaged in (5, [1, 2, 3], ["a", "b", "x"]):
            ordered.write_json(ordered.splits, {**kept, "classes": damaged})
            assert ordered.splits_of(source) is None
    finally:
        ordered.write_json(ordered.splits, kept)


# -- bits of gray ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def xrays(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workshop's images as 12 bits of gray in 16-bit PNG."""
    root = tmp_path_factory.mktemp("xrays") / "imgs"
    for path in workshop.data.rglob("*.png"):
        gray = np.asarray(Image.open(path).convert("L")).astype(np.uint16)
        target = root / path.relative_to(workshop.data)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(gray * 16 + 15).save(target)
    return root


@pytest.fixture(scope="module")
def deep(workshop: Workshop, xrays: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("deep") / "run"
    run(asked(workshop, data=str(xrays), gray_bits=12), out)
    return RunFolder(out)


def test_a_run_on_deep_images_remembers_how_they_were_read(deep: RunFolder, xrays: Path, tmp_path: Path) -> None:
    assert read_recipe(deep.recipe)["gray_bits"] == 12
    assert deep.gray_bits == 12
    spec = ModelSpec(model=str(deep.path))
    for data in (None, str(xrays)):
        settings = ReportSettings(spec=spec, data=data, attacks=("fgsm",), samples=12)
        found, _ = report(settings, out=tmp_path / f"{data is None}", narrator=Notebook(), command="harden report")
        assert len(found.subject.files) == 12
    inspect(spec, data=str(xrays), narrator=Notebook())
    export(ExportSettings(spec=spec, formats=("safetensors",), anyway=True), out=tmp_path / "e", narrator=Notebook())


def test_other_bits_are_for_other_images(deep: RunFolder, xrays: Path, tmp_path: Path) -> None:
    settings = ReportSettings(spec=ModelSpec(model=str(deep.path)), reading=Reading(gray_bits=16), attacks=("fgsm",))
    with pytest.raises(UsageError, match="with --gray-bits 12, not with 16"):
        report(settings, out=tmp_path / "r", narrator=Notebook(), command="")
    with pytest.raises(DataError, match=r"none of the .* can be decoded"):
        report(
            replace(settings, data=str(xrays), reading=Reading(gray_bits=9)),
            out=tmp_path / "r",
            narrator=Notebook(),
            command="",
        )


def test_hardened_further_it_reads_as_before(deep: RunFolder, workshop: Workshop, xrays: Path, tmp_path: Path) -> None:
    run(asked(workshop, model=str(deep.path), data=str(xrays)), tmp_path / "further")
    assert RunFolder(tmp_path / "further").gray_bits == 12
    assert read_recipe(tmp_path / "further" / "recipe.toml")["gray_bits"] == 12


def test_damaged_bits_are_told(deep: RunFolder, tmp_path: Path) -> None:
    other = RunFolder(tmp_path)
    for damaged in ("12", 99, [12]):
        other.write_json(other.config, {**deep.read_config(), "gray_bits": damaged})
        with pytest.raises(RunFolderError, match="gray_bits cannot be"):
            _ = other.gray_bits


def test_a_recipe_may_say_both_and_mistakes_are_listed_together(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("b\na\n")
    base = {"model": "m.pt", "data": "d"}
    found = resolve({**base, "class_order": str(tmp_path / "c.txt"), "gray_bits": 12}, {"gray_bits": 14})
    assert (found.class_order, found.gray_bits) == (("b", "a"), 14)
    assert resolve({**base, "class_order": ["b", "a"]}, {}).class_order == ("b", "a")
    with pytest.raises(UsageError) as caught:
        resolve({**base, "class_order": "naturl", "gray_bits": 8}, {})
    assert "did you mean 'natural'" in caught.value.message
    assert "gray_bits: 8 lies outside [9, 16]" in caught.value.message
