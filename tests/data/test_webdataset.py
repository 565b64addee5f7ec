"""Tar archives of pictures and labels: what is taken for what, and that nothing in them is trusted."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from harden.data import Format, open_data
from harden.errors import DataError
from tests.data.layouts import add, png

RGB8 = Format(channels=3, size=(8, 8))


def write(path: Path, *members: tuple[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members:
            add(tar, name, content)
    return path


def pair(key: str, label: str, seed: int = 0) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    return (f"{key}.png", png(seed)), (f"{key}.cls", label.encode())


def listed(spec: object, split: str = "all") -> list[tuple[str, str]]:
    source = open_data(f"webdataset:{spec}")
    return [(entry.file, source.classes[entry.label]) for entry in source.listings[split]]


def test_one_archive(tmp_path: Path) -> None:
    archive = write(
        tmp_path / "train-0.tar", *pair("0", "10\n"), *pair("./sub/1", "9"), ("2.JPG", png(1)), ("2.cls", b"9")
    )
    assert listed(archive) == [("train-0.tar/2.JPG", "9"), ("train-0.tar/sub/1.png", "9"), ("train-0.tar/0.png", "10")]


def test_the_same_key_in_several_archives(tmp_path: Path) -> None:
    write(tmp_path / "d/0.tar", *pair("0", "a"), *pair("1", "b"))
    write(tmp_path / "d/1.tar", *pair("0", "b"), *pair("1", "a"))
    assert listed(tmp_path / "d") == [
        ("0.tar/0.png", "a"), ("1.tar/1.png", "a"), ("0.tar/1.png", "b"), ("1.tar/0.png", "b"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["{}-000000.tar", "imagenet1k-{}-0003.tar", "{}/000000.tar", "some_{}.tar"])
def test_archives_of_splits(name: str, tmp_path: Path) -> None:
    for split in ("train", "validation", "TEST"):
        write(tmp_path / name.format(split), *pair("0", "a"), *pair("1", "b"))
    source = open_data(f"webdataset:{tmp_path}")
    assert {split: len(entries) for split, entries in source.listings.items()} == {"train": 2, "val": 2, "test": 2}


def test_what_is_beside_the_pictures_is_ignored(tmp_path: Path) -> None:
    archive = tmp_path / "s.tar"
    with tarfile.open(archive, "w") as tar:
        add(tar, "__key__", b"x")
        for name, content in (
            *pair("0", "a"),
            *pair("1", "b"),
            ("0.json", b"{}"),
            ("._0.png", b"junk"),
            ("1.txt", b"t"),
        ):
            add(tar, name, content)
        for kind, name in ((tarfile.SYMTYPE, "2.png"), (tarfile.LNKTYPE, "3.png"), (tarfile.FIFOTYPE, "4.png")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
        folder = tarfile.TarInfo("5.png")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    assert listed(archive) == [("s.tar/0.png", "a"), ("s.tar/1.png", "b")]


def test_nothing_is_written_outside_or_inside(tmp_path: Path) -> None:
    archive = write(tmp_path / "d/s.tar", *pair("../../evil", "a"), *pair("/abs/evil", "b"), *pair("../evil", "b"))
    source = open_data(f"webdataset:{archive}")
    images, unreadable = source.decode(source.listings["all"], RGB8)
    assert (len(images), unreadable) == (3, ())
    assert [path.name for path in tmp_path.rglob("*")] == ["d", "s.tar"]


def test_large_pictures_are_read_from_where_they_lie(tmp_path: Path) -> None:
    members = [member for n in range(130) for member in pair(f"{n:03}", "ab"[n % 2], n)]
    source = open_data(f"webdataset:{write(tmp_path / 's.tar', *members)}")
    images, _ = source.decode(source.listings["all"][::-1], RGB8)
    assert images.files[0] == "s.tar/129.png"
    for file, image in zip(images.files, images.images, strict=True):
        expected = Image.open(io.BytesIO(png(int(file[6:9])))).tobytes()
        assert image.permute(1, 2, 0).numpy().tobytes() == expected


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("0.png", png(0))], "'0' in .* has 1 pictures and no label"),
        ([("0.cls", b"1")], "'0' in .* has 0 pictures and a label"),
        ([*pair("0", "a"), ("0.jpg", png(1))], "'0' in .* has 2 pictures and a label"),
        ([*pair("0", "a"), ("0.png", png(1))], "'0' in .* has 2 pictures"),
        ([*pair("0", "a"), ("0.cls", b"b")], "label of '0' .* twice"),
        ([*pair("0", " ")], "label of '0' .* empty"),
        ([("0.png", png(0)), ("0.cls", b"\xff\xfe")], "label of '0' .* no short text"),
        ([("0.png", png(0)), ("0.cls", b"x" * 2000)], "label of '0' .* no short text"),
        ([*pair("0", "a")], "has 1 class"),
        ([], "names no image"),
    ],
)
def test_what_an_archive_cannot_be(members: list[tuple[str, bytes]], expected: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=expected) as caught:
        open_data(f"webdataset:{write(tmp_path / 's.tar', *members)}")
    assert caught.value.hint


def test_archives_that_cannot_be_read(tmp_path: Path) -> None:
    whole = write(tmp_path / "s.tar", *pair("0", "a"), *pair("1", "b")).read_bytes()
    gzipped = write(tmp_path / "s.tgz", *pair("0", "a"), mode="w:gz").read_bytes()
    flipped = bytearray(whole)
    flipped[124:136] = b"777777777777"  # the size of the first member
    for content in (b"", b"junk" * 300, gzipped, whole[:1100], whole[:1024], whole[:700], bytes(flipped)):
        (tmp_path / "x.tar").write_bytes(content)
        with pytest.raises(DataError, match="is no tar archive, or is compressed, damaged or cut short"):
            open_data(f"webdataset:{tmp_path / 'x.tar'}")
    with pytest.raises(DataError, match="holds no tar archive"):
        open_data(f"webdataset:{(tmp_path / 'none').mkdir() or tmp_path / 'none'}")
    with pytest.raises(DataError, match=r"no folder or tar archive at .*; did you mean 's.tar'"):
        open_data(f"webdataset:{tmp_path / 's.ta'}")
    (tmp_path / "both").mkdir()
    (tmp_path / "both/train-test.tar").write_bytes(whole)
    with pytest.raises(DataError, match="names several splits: train, test"):
        open_data(f"webdataset:{tmp_path / 'both'}")


def test_some_archives_with_and_some_without_a_split(tmp_path: Path) -> None:
    write(tmp_path / "train-0.tar", *pair("0", "a"), *pair("1", "b"))
    write(tmp_path / "more-0.tar", *pair("0", "a"))
    with pytest.raises(DataError, match=r"'0' in more-0.tar of .* has the split ''"):
        open_data(f"webdataset:{tmp_path}")


def test_a_plain_archive_is_told_of_this_layout(tmp_path: Path) -> None:
    archive = write(tmp_path / "s.tar", *pair("0", "a"), *pair("1", "b"))
    with pytest.raises(DataError, match="is an archive") as caught:
        open_data(str(archive))
    assert f"webdataset:{archive}" in str(caught.value.hint)
    with pytest.raises(DataError, match="0 class folders") as caught:
        open_data(str(tmp_path))
    assert str(caught.value.hint).endswith(f"--data webdataset:{tmp_path}")


def test_an_archive_that_vanishes_makes_its_pictures_unreadable(tmp_path: Path) -> None:
    write(tmp_path / "d/0.tar", *pair("0", "a"), *pair("1", "b"))
    gone = write(tmp_path / "d/1.tar", *pair("0", "b"))
    source = open_data(f"webdataset:{tmp_path / 'd'}")
    before = source.fingerprint(source.listings["all"])
    gone.unlink()
    images, unreadable = source.decode(source.listings["all"], RGB8)
    assert len(images) == 2
    assert [(item.file, item.reason) for item in unreadable] == [
        ("1.tar/0.png", "cannot be read: no such file or directory")
    ]
    assert source.fingerprint(source.listings["all"]) != before
