"""Which files of a data set are read, and how those that are not are counted and said."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, features

from harden.data import Format, open_data
from harden.data.passed_over import NOTHING, Group, PassedOver, Why, reason_for
from tests.data.layouts import add, as_folder, png, some_pictures

RGB8 = Format(channels=3, size=(8, 8))


def saved(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.open(io.BytesIO(png(3))).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four pictures of cats and four of dogs."""
    as_folder(tmp_path / "ours", some_pictures())
    return tmp_path / "ours"


def write(path: Path, content: bytes = b"x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def counts(found: PassedOver) -> dict[tuple[Why, str, str], int]:
    return {(group.why, group.folder, group.suffix): group.count for group in found.groups}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.jfif", "JPEG"),
        ("x.JPE", "JPEG"),
        ("x.pbm", "PPM"),
        ("x.dib", "BMP"),
        ("hash0001", "PNG"),
        ("hash0002", "JPEG"),
        ("hash0003", "WEBP"),
        ("deep/er/hash0004", "GIF"),
        pytest.param("x.avif", "AVIF", marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow lacks it")),
    ],
)
def test_images_under_other_names_are_read(name: str, kind: str, root: Path) -> None:
    write(root / "cat" / name, saved(kind))
    source = open_data(str(root))
    assert len(source.listings["all"]) == 9
    assert len(source.decode(source.listings["all"], RGB8)[0]) == 9
    assert source.passed_over == NOTHING


@pytest.mark.parametrize(
    "name",
    [
        "@eaDir/cat0.png/SYNOPHOTO_THUMB_S.jpg", ".@__thumb/cat0.png", ".thumbnails/cat0.png", "Thumbs.db",
        ".DS_Store", "._cat0.png", "__MACOSX/._cat0.jpg", ".ipynb_checkpoints/cat0-checkpoint.png", "desktop.ini",
        "#recycle/cat0.png", "$RECYCLE.BIN/cat0.png", ".hidden.jpg", "LOST+FOUND/1.png",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["", "cat/", "cat/deep/"])
def test_what_systems_write_is_passed_over_and_counted(place: str, name: str, root: Path) -> None:
    content = saved("PNG")
    write(root / place / name, content)
    source = open_data(str(root))
    assert len(source.listings["all"]) == 8
    assert source.passed_over.count == 1
    assert source.passed_over.because(Why.HIDDEN) == source.passed_over
    (line,) = source.passed_over.sentences()
    assert line.startswith("1 file is passed over (hidden files, or written by a system)")
    assert source.passed_over.warnings() == ()


def test_files_are_counted_by_reason_folder_and_suffix(root: Path) -> None:
    for name in ("cat/notes.TXT", "dog/a.txt", "dog/b.txt", "dog/LICENSE", "cat/new.heic", "loose.png", "readme.md"):
        write(root / name, png(1) if name.endswith("png") else b"x")
    source = open_data(str(root))
    assert counts(source.passed_over) == {
        (Why.NO_IMAGE, "cat", ".txt"): 1,
        (Why.NO_IMAGE, "dog", ".txt"): 2,
        (Why.NO_IMAGE, "dog", ""): 1,
        (Why.NO_IMAGE, ".", ".md"): 1,
        (Why.OTHER_FORMAT, "cat", ".heic"): 1,
        (Why.OUTSIDE, ".", ".png"): 1,
    }
    assert source.passed_over.to_json() == {
        "files": 7,
        "by_reason": {"no_image": 5, "other_format": 1, "outside": 1},
        "by_suffix": {".txt": 3, ".md": 1, "": 1, ".heic": 1, ".png": 1},
        "by_folder": {"dog": 3, ".": 2, "cat": 2},
    }
    assert len(source.passed_over.sentences()) == 1
    told = [line.partition(": ")[2].partition(";")[0] for line in source.passed_over.warnings()]
    assert told == ["1 .heic in cat", "1 .png in ."]


def test_every_file_is_read_or_counted(root: Path) -> None:
    for name in (
        "train/a/1.png",
        "train/b/2.png",
        "train/3.png",
        "test/a/4.png",
        "test/5.txt",
        "other/c/6.png",
        "7.csv",
    ):
        write(root.parent / "all" / name, png(1))
    source = open_data(str(root.parent / "all"))
    listed = sum(map(len, source.listings.values()))
    assert (listed, source.passed_over.count) == (3, 4)
    assert source.passed_over.by(lambda group: group.folder) == {".": 1, "test": 1, "other/c": 1, "train": 1}


@pytest.mark.parametrize(("name", "split"), [("test", "test"), ("Testing", "test"), ("valid", "val")])
def test_a_split_of_loose_images_is_said_with_the_repair(name: str, split: str, root: Path) -> None:
    root.rename(root.parent / "train")
    for number in range(3):
        write(root / name / f"{number}.png", png(number))
    (root.parent / "train").rename(root / "train")
    source = open_data(str(root))
    assert [*source.listings] == ["train"]
    (line,) = source.passed_over.warnings()
    assert f"the 3 images in {name} lie in no class folder" in line
    assert f"{split} images are taken from the others" in line
    assert f"{name}/<class>/" in line


def test_a_loop_of_links_is_passed_over(root: Path) -> None:
    (root / "cat" / "loop").symlink_to("loop")
    (root / "cat" / "loop.png").symlink_to("loop.png")
    source = open_data(str(root))
    assert counts(source.passed_over) == {(Why.NO_IMAGE, "cat", ""): 1}
    assert [item.file for item in source.decode(source.listings["all"], RGB8)[1]] == ["cat/loop.png"]


def test_members_of_an_archive_that_are_not_read_are_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for number in range(4):
            add(tar, f"{number}.png", png(number))
            add(tar, f"{number}.cls", b"ab"[number % 2 : number % 2 + 1])
            add(tar, f"{number}.json", b"{}")
        add(tar, "README", b"x")
    found: Any = open_data(f"webdataset:{tmp_path}").passed_over
    assert counts(found) == {(Why.NO_IMAGE, "s.tar", ".json"): 4, (Why.NO_IMAGE, "s.tar", ""): 1}


def test_many_folders_and_suffixes_make_one_short_line() -> None:
    found = PassedOver(tuple(Group(Why.NO_IMAGE, f"class{n}", f".s{n}", 2) for n in range(5)))
    (line,) = found.sentences()
    assert line == (
        "10 files are passed over (no images): 2 .s0, 2 .s1, 2 .s2 and 2 more kinds in class0, class1, class2 and 2 "
        "more folders"
    )


@pytest.mark.parametrize(
    ("suffix", "why"),
    [(".heic", Why.OTHER_FORMAT), (".dng", Why.OTHER_FORMAT), (".ico", Why.OTHER_FORMAT), (".txt", Why.NO_IMAGE),
     ("", Why.NO_IMAGE), (".mp4", Why.NO_IMAGE)],
)  # fmt: skip
def test_what_a_suffix_says(suffix: str, why: Why) -> None:
    assert reason_for(suffix) is why
