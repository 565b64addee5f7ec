"""What `fit` and `report` say of the data beside the images: passed over, changed since the run, of several sizes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from harden.errors import DataError, Interrupted, TrainingError
from harden.recipe import read_recipe, resolve
from harden.report import document
from harden.report.report import Report
from harden.workflows.fit import FitResult, fit, resume
from harden.workflows.prepare import ModelSpec
from harden.workflows.report import report
from harden.workflows.run_folder import RunFolder
from harden.workflows.settings import FitSettings
from harden.workflows.side_by_side import ReportSettings
from tests.conftest import MakeImages

from .builders import Notebook, Workshop


def fitted(
    shop: Workshop,
    data: Path,
    out: Path | None,
    narrator: Notebook,
    *,
    dry_run: bool = False,
    stop: Callable[[], bool] = lambda: False,
    epochs: int = 1,
) -> FitResult:
    wanted = FitSettings(
        model=str(shop.pickled), data=str(data), epochs=epochs, eps=0.03, attacks=("fgsm",), audit_samples=9
    )
    return fit(wanted, out=out, dry_run=dry_run, narrator=narrator, stop_requested=stop, command="harden fit")


def audited(model: Path, out: Path, narrator: Notebook, data: Path | None = None) -> Report:
    settings = ReportSettings(
        spec=ModelSpec(model=str(model)), data=str(data) if data else None, attacks=("fgsm",), samples=6, eps=0.03
    )
    return report(settings, out=out, narrator=narrator, command="")[0]


@pytest.fixture(scope="module")
def whole(workshop: Workshop, make_images: MakeImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a loose test image, a thumbnail, and a finished run on them."""
    root = tmp_path_factory.mktemp("whole")
    data = make_images(root / "imgs", train=30)
    (data / "test").mkdir()
    shutil.copy(data / "train/a/0.png", data / "test/0.png")
    (data / "train/a/@eaDir").mkdir()
    shutil.copy(data / "train/a/0.png", data / "train/a/@eaDir/thumb.jpg")
    fitted(workshop, data, root / "run", Notebook())
    return root


@pytest.fixture
def changed(whole: Path, tmp_path: Path) -> Path:
    """The same run after some of its images changed."""
    shutil.copytree(whole, tmp_path / "x")
    root = tmp_path / "x"
    config = json.loads((root / "run/config.json").read_text())
    config["training"]["data"] = str(root / "imgs")
    (root / "run/config.json").write_text(json.dumps(config))
    held_out = json.loads((root / "run/splits.json").read_text())["test"]["files"]
    (root / "imgs" / held_out[0]).unlink()
    (root / "imgs" / held_out[1]).write_bytes(b"")
    shutil.copy(root / "imgs/train/b/0.png", root / "imgs/train/b/new.png")
    shutil.move(root / "imgs/train/c/7.png", root / "imgs/train/a/7c.png")
    return root


def test_a_fit_says_what_it_passes_over_and_keeps_it_as_a_field(whole: Path, workshop: Workshop) -> None:
    kept = document.read(whole / "run/report.json")
    assert kept.data["passed_over"]["by_folder"] == {"train/a/@eaDir": 1, "test": 1}
    assert kept.data["images"] == {"train": 90}
    assert any("the 1 images in test lie in no class folder" in caveat for caveat in kept.caveats)
    narrator = Notebook()
    dry = fitted(workshop, whole / "imgs", None, narrator, dry_run=True)
    assert dry.data["passed_over"] == kept.data["passed_over"]
    assert [line for line in narrator.lines if "passed over" in line] == [
        "1 file is passed over (hidden files, or written by a system): 1 .jpg in train/a/@eaDir"
    ]
    assert any("lie in no class folder" in line for line in narrator.warnings)


def test_unchanged_data_are_not_said_to_have_changed(whole: Path, tmp_path: Path) -> None:
    narrator = Notebook()
    found = audited(whole / "run", tmp_path / "audit", narrator)
    assert found.data["changed"] == {}
    assert not [line for line in (*narrator.warnings, *found.caveats) if "changed" in line]


def test_a_report_says_how_the_data_changed_since_the_run(changed: Path, tmp_path: Path) -> None:
    narrator = Notebook()
    found = audited(changed / "run", tmp_path / "audit", narrator)
    kinds = {kind: told["count"] for kind, told in found.data["changed"]["run"].items() if told["count"]}
    assert {"gone", "emptied", "added"} <= set(kinds)
    assert (kinds["emptied"], kinds["gone"], kinds["added"]) == (1, 2, 2)
    (said,) = (line for line in narrator.warnings if "have changed since run was trained" in line)
    assert said in found.caveats
    assert document.read(tmp_path / "audit/report.json").data == found.data


def test_a_resumed_run_says_how_the_data_changed(workshop: Workshop, make_images: MakeImages, tmp_path: Path) -> None:
    data = make_images(tmp_path / "imgs", train=30, test=4)
    steps = iter(range(2))
    with pytest.raises(Interrupted):
        fitted(workshop, data, tmp_path / "run", Notebook(), stop=lambda: next(steps, None) is None, epochs=9)
    narrator = Notebook()
    run = RunFolder(tmp_path / "run")

    def go_on() -> None:
        wanted = resolve(read_recipe(run.recipe), {})
        resume(run, wanted, narrator=narrator, stop_requested=lambda: True, command="", audit=False)

    shutil.move(data / "test/a/0.png", data / "test/b/moved.png")
    with pytest.raises(Interrupted):
        go_on()
    (said,) = (line for line in narrator.warnings if "have changed since run was trained" in line)
    assert "1 gone (test/a/0.png); 1 added (test/b/moved.png)" in said
    (data / run.read_splits().train[0].file).unlink()
    with pytest.raises(TrainingError, match="each of 81 training images, and 80 can be read") as caught:
        go_on()
    assert caught.value.hint


@pytest.mark.parametrize("place", ["", "test"])
def test_test_images_alone_are_audited_as_such_and_not_trained_on(
    place: str, workshop: Workshop, make_images: MakeImages, tmp_path: Path
) -> None:
    data = make_images(tmp_path / "imgs", test=8)
    narrator = Notebook()
    found = audited(workshop.pickled, tmp_path / "audit", narrator, data / place)
    assert ("images", "test images") in found.facts
    assert "have been trained on" not in " ".join((*narrator.lines, *narrator.warnings, *found.caveats))
    with pytest.raises(DataError, match="has no train split"):
        fitted(workshop, data / place, None, narrator, dry_run=True)


def test_the_sizes_are_said_where_none_is_shared(workshop: Workshop, make_images: MakeImages, tmp_path: Path) -> None:
    data = make_images(tmp_path / "imgs", all=6)
    Image.open(data / "a/0.png").resize((20, 30)).save(data / "a/0.png")
    narrator = Notebook()
    weights = ReportSettings(spec=ModelSpec(model=str(workshop.pickled)), data=str(data), attacks=("fgsm",), samples=3)
    with pytest.raises(Exception, match="224"):  # the network takes images of 16 pixels only
        report(weights, out=tmp_path / "audit", narrator=narrator, command="")
    said = " ".join(narrator.lines)
    assert "18 images looked at have the sizes 16 x 16 (17), 30 x 20 (1); all are read as 224 x 224" in said
    assert "--image-size" in said
