"""Tables of paths and labels: which columns are taken, and what is said of a table that cannot be used."""

from __future__ import annotations

import builtins
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harden.data import Format, open_data
from harden.errors import DataError, UsageError
from tests.data.layouts import png

RGB8 = Format(channels=3, size=(8, 8))
WriteTable = Callable[..., Path]


@pytest.fixture
def table(tmp_path: Path) -> WriteTable:
    """Write a table beside eight pictures, p0.png to p7.png."""
    for number in range(8):
        (tmp_path / f"p{number}.png").write_bytes(png(number))

    def write(text: str, name: str = "t.csv", encoding: str = "utf-8") -> Path:
        (tmp_path / name).write_bytes(text.encode(encoding))
        return tmp_path / name

    return write


def two_classes(header: str = "path,label", separator: str = ",") -> str:
    rows = [f"p{number}.png{separator}{'ab'[number % 2]}" for number in range(8)]
    return "\n".join([header, *rows, ""])


def listed(spec: object, split: str = "all") -> list[tuple[str, str]]:
    source = open_data(str(spec))
    return [(entry.file, source.classes[entry.label]) for entry in source.listings[split]]


EXPECTED = [(f"p{number}.png", "ab"[number % 2]) for number in (0, 2, 4, 6, 1, 3, 5, 7)]


@pytest.mark.parametrize(
    "header",
    ["path,label", "Label_Ignored?,x", "File Path,Class", "image_path,target", "filename,category", "Image,class_name"],
)
def test_columns_by_their_usual_names(header: str, table: WriteTable) -> None:
    if header.startswith("Label"):
        with pytest.raises(DataError, match="no column for the paths of images; its columns are: 'Label_Ignored"):
            open_data(str(table(two_classes(header))))
        return
    assert listed(table(two_classes(header))) == EXPECTED


def test_columns_by_name(table: WriteTable) -> None:
    text = "where it is,label,breed & co,part\np0.png,1,a,x\np1.png,1,b,x\n"
    path = table(text)
    assert listed(f"csv:{path}?path=where it is&label=breed %26 co") == [("p0.png", "a"), ("p1.png", "b")]
    assert listed(f"{path}?path=where%20it%20is&label=breed%20%26%20co") == [("p0.png", "a"), ("p1.png", "b")]
    with pytest.raises(UsageError, match=r"no column 'bred.*'; did you mean 'breed & co'"):
        open_data(f"csv:{path}?path=where it is&label=bred %26 co")
    with pytest.raises(UsageError, match=r"unknown key 'lable' .*; did you mean 'label'"):
        open_data(f"csv:{path}?lable=x")
    with pytest.raises(UsageError, match="given twice"):
        open_data(f"csv:{path}?label=x&label=y")
    with pytest.raises(UsageError, match="no list of key=value"):
        open_data(f"csv:{path}?label")


def test_a_column_of_splits(table: WriteTable) -> None:
    parts = ["Train"] * 4 + ["valid"] * 2 + ["TEST"] * 2
    lines = [f"p{number}.png,{'ab'[number % 2]},{part}" for number, part in enumerate(parts)]
    path = table("\n".join(["path,label,Split", *lines]))
    source = open_data(str(path))
    assert {split: [e.file for e in found] for split, found in source.listings.items()} == {
        "train": ["p0.png", "p2.png", "p1.png", "p3.png"],
        "val": ["p4.png", "p5.png"],
        "test": ["p6.png", "p7.png"],
    }
    assert listed(f"csv:{path}?split=") == EXPECTED, "an empty name says that there is none"


def test_separators_quotes_and_encodings(table: WriteTable, tmp_path: Path) -> None:
    assert listed(table(two_classes("path;label", ";"))) == EXPECTED
    assert listed(table(two_classes("path\tlabel", "\t"), "t.tsv")) == EXPECTED
    assert listed(table(two_classes("path,label", ","), encoding="utf-8-sig")) == EXPECTED
    assert listed(table(two_classes().replace("\n", "\r\n\r\n"))) == EXPECTED
    (tmp_path / 'odd, "name".png').write_bytes(png(9))
    text = 'path, label\n"odd, ""name"".png", "a, b"\np1.png, c\n'
    assert listed(table(text)) == [('odd, "name".png', "a, b"), ("p1.png", "c")]


@pytest.mark.parametrize("marks", [("1", "0"), ("1.0", "0.0"), ("True", "False"), ("1", ""), ("1", "-1")])
def test_a_column_for_each_class(marks: tuple[str, str], table: WriteTable) -> None:
    yes, no = marks
    rows = [f"p{n}.png,{n},{no if n % 2 else yes},{yes if n % 2 else no},x" for n in range(8)]
    assert listed(table("\n".join(["image,id,a,b,note", *rows, ""]))) == EXPECTED
    both = table("\n".join(["image,id,a,b,note", *rows[1:], f"p0.png,0,{yes},{yes},x"]), "both.csv")
    with pytest.raises(DataError, match=r"1 of 8 images of .*; line 9 has 2: a, b; one label per image"):
        open_data(str(both))


@pytest.mark.parametrize(
    "labels",
    [
        ["ice cream", "hot dog", "dog", "cream pie"],
        ["light rose", "dark rose", "light tulip", "dark tulip"],
        ["tench, Tinca tinca", "missile", "projectile, missile"],
        ["animal|dog", "animal|cat", "vehicle|car"],
        ["N/A", "black/white", "black"],
        ["1.5", "2.5"],
        ["[background]", "(unknown)", "{other}"],
        ["class 1", "class 2", "class 10"],
    ],
)
def test_names_with_separators_stay_names(labels: list[str], table: WriteTable) -> None:
    rows = "\n".join(f'p{number}.png,"{label}"' for number, label in enumerate(labels))
    assert set(open_data(str(table(f"path,label\n{rows}\n"))).classes) == set(labels)


@pytest.mark.parametrize(
    "labels",
    [
        ["0 2", "1", "2 1", "0"],
        ["clear water", "clear", "haze", "haze water", "clear water road", "road haze"],
        ["a|b", "b|a"],
        ["animal", "animal|dog", "vehicle|car"],
        ["[1 0 1]", "[0 1 0]", "[1 1 1]"],
        ["{a,b}", "{a}", "{b}"],
    ],
)
def test_lists_in_texts_are_several_labels(labels: list[str], table: WriteTable) -> None:
    rows = "\n".join(f'p{number}.png,"{label}"' for number, label in enumerate(labels))
    with pytest.raises(DataError, match="one label per image was expected") as caught:
        open_data(str(table(f"path,label\n{rows}\n")))
    assert "keep for each image" in str(caught.value.hint)


def test_paths_that_another_system_wrote(table: WriteTable, tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Größe") for form in ("NFC", "NFD"))
    (tmp_path / decomposed).mkdir()
    for name in (composed, decomposed):
        (tmp_path / decomposed / f"{name}{len(name)}.png").write_bytes(png(1))
    (tmp_path / "with\\backslash.png").write_bytes(png(1))
    text = (
        f"path,label\n{composed}\\{decomposed}{len(composed)}.png,a\n.\\{decomposed}\\{composed}{len(decomposed)}.png,a\n"
        "with\\backslash.png,b\ngone\\x.png,b\n"
    )
    source = open_data(str(table(text)))
    images, unreadable = source.decode(source.listings["all"], RGB8)
    assert len(images) == 3
    assert [item.file for item in unreadable] == ["gone/x.png"]


def test_integers_are_in_numeric_order(table: WriteTable) -> None:
    long = "9" * 5000  # more than Python makes a number of
    assert open_data(str(table(f"path,label\np0.png,{long}\np1.png,1\n"))).classes == ("1", long)
    assert open_data(str(table("path,label\np0.png,10\np1.png,9\np2.png,2\n"))).classes == ("2", "9", "10")


def test_one_spelling_for_every_path(table: WriteTable, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    text = f"path,label\n./p0.png,a\n{tmp_path}/p1.png,b\nsub/../p2.png,b\n"
    assert listed(table(text)) == [("p0.png", "a"), ("p1.png", "b"), ("p2.png", "b")]
    outside = tmp_path / "sub/t.csv"
    outside.write_text("path,label\n../p0.png,a\n../p1.png,b\n")
    source = open_data(str(outside))
    images, unreadable = source.decode(source.listings["all"], RGB8)
    assert (len(images), unreadable) == (2, ())


def test_files_that_are_not_there_are_listed_and_no_file_at_all_is_an_error(table: WriteTable) -> None:
    source = open_data(str(table(two_classes().replace("p3.png", "gone.png"))))
    images, unreadable = source.decode(source.listings["all"], RGB8)
    assert len(images) == 7
    assert [(item.file, item.reason) for item in unreadable] == [
        ("gone.png", "cannot be read: no such file or directory")
    ]
    with pytest.raises(DataError, match=r"none of 8 images .* is there; 'x/p0.png' was looked for in") as caught:
        open_data(str(table(two_classes().replace("\np", "\nx/p"))))
    assert "relative to the folder of the table" in str(caught.value.hint)


def test_a_null_byte_is_no_path(table: WriteTable) -> None:
    source = open_data(str(table(two_classes().replace("p3.png", "p\0.png"))))
    assert source.fingerprint(source.listings["all"])
    assert [item.file for item in source.decode(source.listings["all"], RGB8)[1]] == ["p\0.png"]


def test_listing_opens_no_picture(table: WriteTable, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = table(two_classes()), builtins.open

    def only_the_table(file: Any, *arguments: Any, **options: Any) -> Any:
        assert not str(file).endswith(".png")
        return real(file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", only_the_table)
    assert open_data(str(path)).listings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no column for the paths of images; its columns are: none"),
        ("p0.png,a\np1.png,b\n", "no column for the paths of images; its columns are: 'p0.png', 'a'"),
        ("path,label\n", "names no image"),
        ("path,label,class\np0.png,1,a\n", "2 columns that could be the label: 'label', 'class'"),
        ("path,label,label\np0.png,1,a\n", "2 columns that could be the label: 'label', 'label'"),
        ("path,label\np0.png\n", "line 2 of .* has 1 fields; the first line names 2"),
        ("path,label\np0.png,a,b\n", "line 2 of .* has 3 fields; the first line names 2"),
        ("path,label\np0.png,\n", "line 2 of .* has no label"),
        ("path,label\n ,a\n", "line 2 of .* has no path"),
        ("path,label\np0.png,a\np1.png,a\n", "has 1 class \\('a'\\); at least 2"),
        ("path,label\np0.png,a\np1.png,b\n./p0.png,a\n", r"names 'p0.png' twice \(line 2 and line 4\)$"),
        ("path,label\np0.png,a\np0.png,b\n", r"names 'p0.png' twice .*, as 'a' and as 'b'"),
        ("path,label,split\np0.png,a,train\np1.png,b,tset\n", "the split 'tset'; .* did you mean 'test'"),
        ("path,label,split\np0.png,a,train\np1.png,b,\n", "line 3 of .* has the split ''"),
        ("path,label,split\np0.png,a,train\np1.png,b,dev\np2.png,b,val\n", "two names for the val split: 'dev' and"),
        ('path,label\n"p0.png"x,a\n', "is no CSV file: line 2"),
        ('path,label\n"p0.png,a\n', "is no CSV file: line 2"),
    ],
)
def test_what_a_table_cannot_be(text: str, expected: str, table: WriteTable) -> None:
    with pytest.raises(DataError, match=expected) as caught:
        open_data(str(table(text)))
    assert caught.value.hint


def test_other_files_are_no_tables(table: WriteTable, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not text in UTF-8") as caught:
        open_data(str(table("path,label\ncaf\xe9.png,a\n", encoding="latin-1")))
    assert "UTF-8" in str(caught.value.hint)
    (tmp_path / "book.csv").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(DataError, match="not text in UTF-8"):
        open_data(str(tmp_path / "book.csv"))
    with pytest.raises(DataError, match=r"no file at .*book2.csv; did you mean 'book.csv'"):
        open_data(str(tmp_path / "book2.csv"))
    with pytest.raises(DataError, match="is a folder; a CSV file"):
        open_data(f"csv:{tmp_path}")


def parquet(path: Path, /, **columns: Any) -> Path:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed; it comes with the extra 'data'")
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


PATHS = ["p0.png", "p1.png", "p2.png"]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [([10, 9, 10], ("9", "10")), ([1.0, 0.0, 1.0], ("0", "1")), (["b", "a", "b"], ("a", "b"))],
)
def test_parquet(labels: list[object], classes: tuple[str, ...], table: WriteTable, tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", file=PATHS, label=labels, unused=[[1], [2], [3]])
    source = open_data(str(path))
    assert source.classes == classes
    assert [entry.file for entry in source.listings["all"]] == ["p1.png", "p0.png", "p2.png"]
    assert listed(f"parquet:{path}?path=file")


@pytest.mark.parametrize("kind", [int, bool, float])
def test_parquet_with_a_column_for_each_class(kind: type, table: WriteTable, tmp_path: Path) -> None:
    hot = {"a": [kind(1), kind(0), kind(0)], "b": [kind(0), kind(1), kind(1)]}
    path = parquet(tmp_path / "t.parquet", file=PATHS, age=[40, 50, 60], note=["x"] * 3, **hot)
    assert listed(path) == [("p0.png", "a"), ("p1.png", "b"), ("p2.png", "b")]


def test_parquet_columns_with_dots(table: WriteTable, tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", **{"photo.file": PATHS, "a.label": ["a", "b", "a"], "photo": [1, 2, 3]})
    assert listed(f"{path}?path=photo.file&label=a.label") == [("p0.png", "a"), ("p2.png", "a"), ("p1.png", "b")]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"path": PATHS, "label": [1, None, 2]}, "row 2 of .* has no label"),
        ({"path": PATHS, "label": [0.5, 1.0, 2.0]}, r"row 1 of .* has the label '0.5' \(float\)"),
        ({"path": PATHS, "label": [[1], [2, 3], [3]]}, r"row 2 of .* has 2 labels \(\[2, 3\]\); one label per image"),
        ({"path": PATHS, "label": [[1, 0], [1, 1], [0, 1]]}, "row 2 has 2: 0, 1; one label per image"),
        ({"path": PATHS, "a": [True, False, True], "b": [False, True, True]}, "row 3 has 2: a, b; one label per image"),
        ({"path": PATHS, "a": [0.2, 0.5, 1.0], "b": [0.8, 0.5, 0.0]}, "soft labels"),
        ({"path": PATHS, "a": [1, 0, 0], "b": [0, 1, 0]}, "1 of 3 images of .* have no label; row 3 is one"),
        ({"path": PATHS, "a": [1, 2, 3], "b": [b"x"] * 3}, "no column for the labels, nor two of 0 and 1"),
        ({"path": [None, *PATHS[1:]], "label": [1, 2, 3]}, "row 1 of .* has no path"),
        ({"path": PATHS, "label": [1, 2, 3], "split": ["train", None, "test"]}, "row 2 of .* has the split ''"),
        ({"image": [{"bytes": b"x", "path": "p"}] * 3, "label": [1, 2, 3]}, "'image' of .* holds struct<"),
        ({"image": [b"x"] * 3, "label": [1, 2, 3]}, "'image' of .* holds binary; paths as text"),
        ({"a": PATHS, "b": PATHS}, "no column for the paths of images; its columns are: 'a', 'b'"),
    ],
)
def test_what_a_parquet_file_cannot_be(columns: dict[str, Any], expected: str, tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", **columns)
    with pytest.raises(DataError, match=expected) as caught:
        open_data(str(path))
    assert caught.value.hint


def test_junk_is_no_parquet_file(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", path=PATHS, label=[1, 2, 3])
    whole = path.read_bytes()
    for content in (b"", b"junk", whole[: len(whole) // 2], whole[:40] + b"\xff" * (len(whole) - 48) + whole[-8:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read as Parquet"):
            open_data(str(path))


def test_parquet_without_its_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.parquet").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match="pyarrow, which is not installed") as caught:
        open_data(str(tmp_path / "t.parquet"))
    assert "pip install 'pyarrow" in str(caught.value.hint)
    assert "'data'" in str(caught.value.hint)
