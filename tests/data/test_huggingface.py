"""`hf:` without the library: a stand-in with the few parts of it that are used, and what is said when it is not there.

The real one is met in `test_layouts.py`, where it is installed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harden.data import Format, open_data
from harden.errors import DataError, UsageError
from tests.data.layouts import png

RGB8 = Format(channels=3, size=(8, 8))


class Image:
    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


class ClassLabel:
    def __init__(self, names: list[str]) -> None:
        self.names = names


class Value:
    dtype = "float32"


class Table:
    """A stand-in for datasets.Dataset: rows, and what its columns hold."""

    def __init__(self, features: dict[str, Any], files: list[dict[str, str]] | None = None, **columns: Any) -> None:
        self.features, self.columns = features, columns
        self.cache_files = files or []

    def cast_column(self, name: str, feature: Any) -> Table:
        return Table({**self.features, name: feature}, **self.columns)

    def with_format(self, kind: None) -> Table:
        return Table(self.features, **self.columns, files=self.cache_files)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        assert not any(feature.decode for feature in self.features.values() if isinstance(feature, Image))
        return {name: column[key] for name, column in self.columns.items()}


def table(labels: list[Any], feature: Any = None, **features: Any) -> Table:
    cells = [{"bytes": png(number), "path": None} for number in range(len(labels))]
    return Table({"img": Image(), "label": feature, **features}, img=cells, label=labels)


def hot(cat: list[float], dog: list[float]) -> Table:
    cells = [{"bytes": png(number), "path": None} for number in range(len(cat))]
    return Table(
        {"img": Image(), "cat": Value(), "dog": Value(), "age": Value()},
        img=cells,
        cat=cat,
        dog=dog,
        age=[7] * len(cat),
    )


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The stand-in; `library.found` is what it loads, `library.asked` what it was asked for."""
    module: Any = ModuleType("datasets")
    module.__version__ = "4.1.0"
    module.Image, module.ClassLabel = Image, ClassLabel
    module.asked = []

    def load(kind: str) -> Any:
        def loaded(*arguments: object) -> Any:
            module.asked.append((kind, *arguments))
            if isinstance(module.found, Exception):
                raise module.found
            return module.found

        return loaded

    module.load_dataset, module.load_from_disk = load("name"), load("disk")
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_a_name(library: Any) -> None:
    names = ["zebra", "ape"]
    library.found = {
        "train": table([0, 1, 1], ClassLabel(names)),
        "validation": table([1], ClassLabel(names)),
        "unsupervised": table([-1], ClassLabel(names)),
    }
    source = open_data("hf:someone/animals?config=small")
    assert library.asked == [("name", "someone/animals", "small")]
    assert source.location == "hf:someone/animals?config=small"
    assert source.classes == ("zebra", "ape"), "the data set's own order"
    assert [(e.file, e.label) for e in source.listings["train"]] == [
        ("train/000000", 0), ("train/000001", 1), ("train/000002", 1),
    ]  # fmt: skip
    assert [entry.file for entry in source.listings["val"]] == ["validation/000000"]
    assert "test" not in source.listings
    assert source.passed_over.by(lambda group: group.folder) == {"unsupervised": 1}
    assert (source.probe().channels, source.probe().size) == (3, (8, 8))
    images, unreadable = source.decode(source.listings["train"], RGB8)
    assert images.labels.tolist() == [0, 1, 1]
    assert unreadable == ()


def test_columns_of_0_and_1_for_each_class(library: Any) -> None:
    library.found = hot([1, 0, 1], [0, 1, 0])
    source = open_data("hf:x")
    assert source.classes == ("cat", "dog")
    assert [entry.file for entry in source.listings["all"]] == ["all/000000", "all/000002", "all/000001"]


def test_a_saved_folder_and_one_that_is_loaded(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library.found = table(["b", "a"])
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/state.json").write_text("{}")
    (tmp_path / "plain").mkdir()
    monkeypatch.chdir(tmp_path)
    source = open_data("hf:saved")
    assert (source.classes, source.location) == (("a", "b"), f"hf:{tmp_path / 'saved'}")
    assert [entry.file for entry in source.listings["all"]] == ["all/000001", "all/000000"]
    open_data("hf:plain")
    assert library.asked == [("disk", str(tmp_path / "saved")), ("name", str(tmp_path / "plain"), None)]


def test_pictures_in_files_of_their_own(library: Any, tmp_path: Path) -> None:
    library.found = table([0, 1, 1])
    (tmp_path / "0.png").write_bytes(png(0))
    library.found.columns["img"] = [
        {"bytes": None, "path": str(tmp_path / "0.png")},
        {"bytes": None, "path": str(tmp_path / "gone.png")},
        None,
    ]
    source = open_data("hf:x")
    images, unreadable = source.decode(source.listings["all"], RGB8)
    assert images.files == ("all/000000",)
    assert [(item.file, item.reason) for item in unreadable] == [
        ("all/000001", "cannot be read: no such file or directory"), ("all/000002", "no image"),
    ]  # fmt: skip
    before = source.fingerprint(source.listings["all"])
    (tmp_path / "0.png").write_bytes(png(0) + b"\0")
    assert source.fingerprint(source.listings["all"]) != before


def test_the_files_that_hold_the_pictures_are_the_fingerprint(library: Any, tmp_path: Path) -> None:
    (tmp_path / "x.arrow").write_bytes(b"1")
    library.found = table([0, 1])
    library.found.cache_files = [{"filename": str(tmp_path / "x.arrow")}]
    source = open_data("hf:x")
    before = source.fingerprint(source.listings["all"])
    (tmp_path / "x.arrow").write_bytes(b"12")
    assert source.fingerprint(source.listings["all"]) != before


@pytest.mark.parametrize(
    ("found", "spec", "expected"),
    [
        (table([0, None]), "x", "row 1 of all of x has the label 'None'"),
        (table([0, -1], ClassLabel(["a", "b"])), "x", "row 1 of all of x has the label '-1'"),
        (table([0, 1], other=Image()), "x", "2 columns that could be the image; .*: 'img', 'label', 'other'"),
        (Table({"img": Image(), "fine": None}), "x", "0 columns that could be the label"),
        ({"new": table([0, 1]), "old": table([0, 1])}, "x", "splits 'new', 'old', and none of them is for training"),
        (table([[0], [0, 1], [1]]), "x", r"row 1 of all of x has 2 labels .*one label per image"),
        (table(["a", "b", "a|wet", "b|wet"]), "x", r"2 of 4 images of x have several labels"),
        (hot([1, 0, 1], [0, 1, 1]), "x", r"row 2 of all has 2: cat, dog; one label per image"),
        (hot([1, 0, 0.5], [0, 1, 0.5]), "x", r"soft labels"),
        (
            {"train": table([0, 1], ClassLabel(["a", "b"])), "test": table([0, 1], ClassLabel(["b", "a"]))},
            "x",
            "splits of x name different classes in 'label'",
        ),
        ({"train": table([0, 1]), "test": Table({"img": Image()}, img=[])}, "x", "name different classes in 'label'"),
        ({"train": table([0, 1]), "test": Table({"label": None}, label=[])}, "x", "'img' of test of x holds no images"),
        (ConnectionError("offline"), "x", "datasets cannot read 'x': ConnectionError: offline"),
    ],
)  # fmt: skip
def test_what_a_data_set_cannot_be(found: Any, spec: str, expected: str, library: Any) -> None:
    library.found = found
    with pytest.raises(DataError, match=expected) as caught:
        open_data(f"hf:{spec}")
    assert caught.value.hint


def test_columns_by_name(library: Any) -> None:
    library.found = table([0, 1], other=Image())
    assert len(open_data("hf:x?image=img").listings["all"]) == 2
    with pytest.raises(UsageError, match="no column 'imh'; did you mean 'img'"):
        open_data("hf:x?image=imh")


def test_a_version_that_runs_code_of_data_sets_is_refused(library: Any) -> None:
    library.__version__ = "3.6.0"
    with pytest.raises(UsageError, match=r"datasets 3\.6\.0 runs code") as caught:
        open_data("hf:x")
    assert "datasets>=4" in str(caught.value.hint)
    assert library.asked == []


def test_a_folder_that_is_called_datasets_is_not_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "datasets").mkdir()
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UsageError, match="a folder of that name"):
        open_data("hf:x")
    sys.modules.pop("datasets", None)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match="datasets, which is not installed") as caught:
        open_data("hf:x")
    assert "pip install 'datasets>=4'" in str(caught.value.hint)
    assert "'data'" in str(caught.value.hint)
