"""What became of the images of an earlier run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harden.data import DataSource, open_data, plan_splits
from harden.data.changes import Changes, changes_since
from harden.data.dataset import Written
from tests.data.layouts import as_csv, as_folder, as_npz, as_webdataset, png, some_pictures


def states(source: DataSource) -> dict[str, Written]:
    found = {entry.file: source.written(entry) for entries in source.listings.values() for entry in entries}
    return {file: state for file, state in found.items() if state is not None}


def change(path: Path, content: bytes) -> None:
    """Write a file so that its time of writing differs, whatever the clock's resolution."""
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))


def move_over(root: Path) -> None:
    shutil.move(root / "cat/cat1.png", root / "dog/cat1.png")


DAMAGE: list[tuple[Callable[[Path], object], Changes]] = [
    (lambda root: None, Changes()),
    (lambda root: (root / "cat/cat1.png").unlink(), Changes(gone=("cat/cat1.png",))),
    (lambda root: change(root / "cat/cat1.png", b""), Changes(emptied=("cat/cat1.png",))),
    (move_over, Changes(relabelled=("cat/cat1.png",))),
    (lambda root: (root / "dog/new.png").write_bytes(png(9)), Changes(added=("dog/new.png",))),
    (lambda root: change(root / "cat/cat1.png", png(9) + b"longer"), Changes(rewritten=("cat/cat1.png",))),
    (lambda root: os.utime(root / "cat/cat1.png", ns=(1, 1)), Changes(rewritten=("cat/cat1.png",))),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGE)
def test_each_kind(damage: Callable[[Path], object], expected: Changes, tmp_path: Path) -> None:
    spec, _ = as_folder(tmp_path / "ours", some_pictures())
    before = open_data(spec)
    plan, written = plan_splits(before, seed=0), states(before)
    damage(tmp_path / "ours")
    found = changes_since(plan, written, open_data(spec), same_place=True)
    assert found == expected
    assert bool(found) == (expected != Changes())


def test_a_move_to_another_folder_of_the_class(tmp_path: Path) -> None:
    spec, _ = as_folder(tmp_path / "ours", some_pictures("train") + some_pictures("test", first=9))
    before = open_data(spec)
    plan, written = plan_splits(before, seed=0), states(before)
    shutil.move(tmp_path / "ours/train/cat/cat1.png", tmp_path / "ours/test/cat/cat1.png")
    assert changes_since(plan, written, open_data(spec), same_place=True) == Changes(moved=("train/cat/cat1.png",))


def test_a_copy_elsewhere_with_other_times_is_unchanged(tmp_path: Path) -> None:
    spec, _ = as_folder(tmp_path / "ours", some_pictures())
    before = open_data(spec)
    plan, written = plan_splits(before, seed=0), states(before)
    shutil.copytree(tmp_path / "ours", tmp_path / "copy", copy_function=shutil.copyfile)
    os.utime(tmp_path / "copy/cat/cat1.png", ns=(1, 1))
    assert not changes_since(plan, written, open_data(str(tmp_path / "copy")), same_place=False)


def test_another_label_in_a_table(tmp_path: Path) -> None:
    spec, _ = as_csv(tmp_path, some_pictures())
    before = open_data(spec)
    plan, written = plan_splits(before, seed=0), states(before)
    table = tmp_path / "table.csv"
    table.write_text(table.read_text().replace("cat1.png,cat", "cat1.png,dog"))
    assert changes_since(plan, written, open_data(spec), same_place=True) == Changes(relabelled=("pictures/cat1.png",))


@pytest.mark.parametrize("write", [as_npz, as_webdataset])
def test_images_that_share_a_file(write: Callable[..., tuple[str, object]], tmp_path: Path) -> None:
    spec, _ = write(tmp_path, some_pictures())
    before = open_data(spec)
    plan, written = plan_splits(before, seed=0), states(before)
    assert len(written) == 8
    (file,) = (path for path in tmp_path.iterdir() if path.is_file())
    os.utime(file, ns=(1, 1))
    assert len(changes_since(plan, written, open_data(spec), same_place=True).rewritten) == 8


def test_without_states_only_names_and_classes_are_compared(tmp_path: Path) -> None:
    spec, _ = as_folder(tmp_path / "ours", some_pictures())
    plan = plan_splits(open_data(spec), seed=0)
    (tmp_path / "ours/dog/dog1.png").write_bytes(b"")
    (tmp_path / "ours/cat/cat1.png").unlink()
    assert changes_since(plan, {}, open_data(spec), same_place=True) == Changes(gone=("cat/cat1.png",))


def test_a_sentence_and_a_document() -> None:
    found = Changes(gone=tuple(f"{n}.png" for n in range(5)), added=("x.png",))
    assert found.sentence("RUN") == (
        "the data have changed since RUN was trained on them: 5 gone (0.png, 1.png, 2.png, ...); 1 added (x.png)"
    )
    assert found.to_json()["gone"] == {"count": 5, "examples": ["0.png", "1.png", "2.png"]}
    assert found.to_json()["emptied"] == {"count": 0, "examples": []}
