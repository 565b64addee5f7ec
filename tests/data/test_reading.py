"""The order of the classes, and images with more than 8 bits of gray."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harden.data import AS_IT_IS, Format, Reading, continue_splits, decode_cached, open_data, plan_splits
from harden.data.reading import natural, read_class_order
from harden.errors import DataError, UsageError
from tests.data.layouts import OURS, PICTURES, Picture, Write, png

RGB8, GRAY8 = Format(channels=3, size=(8, 8)), Format(channels=1, size=(8, 8))


def pictures(*labels: str, split: str | None = None, first: int = 0) -> list[Picture]:
    return [
        Picture(f"{label}_{first + n}.png", label, png(100 * k + first + n), split)
        for k, label in enumerate(labels)
        for n in range(4)
    ]


# -- order of the classes ----------------------------------------------------------------------------------------------


def test_natural_order_counts() -> None:
    names = ["class1", "class2", "class10", "class10a", "class10b", "dog", "9", "10", "a1b2", "a1b10", "é"]
    expected = ["9", "10", "a1b2", "a1b10", "class1", "class2", "class10", "class10a", "class10b", "dog", "é"]
    for seed in range(5):
        random.Random(seed).shuffle(names)
        assert sorted(names, key=natural) == expected
    assert natural("x" + "9" * 5000) > natural("x1"), "more digits than an int may be read from"
    assert natural("x01") != natural("x1")


@pytest.mark.parametrize("write", OURS.values(), ids=OURS)
def test_every_layout_and_every_split_has_the_order_that_is_asked_for(write: Write, tmp_path: Path) -> None:
    labels = ("class10", "class2", "class1")
    held_out = [p for p in pictures(*labels, split="test", first=50) if p.label != "class1"]
    spec, names = write(tmp_path / "ours", [*pictures(*labels, split="train"), *held_out])
    orders: dict[str | tuple[str, ...], tuple[str, ...]] = {
        "natural": ("class1", "class2", "class10"),
        "lexicographic": ("class1", "class10", "class2"),
        labels: labels,
    }
    plain = open_data(spec)
    where = {entry.file: plain.classes[entry.label] for entries in plain.listings.values() for entry in entries}
    pixels = {}
    for order, classes in orders.items():
        source = open_data(spec, Reading(class_order=order))
        assert source.classes == classes
        assert source.location == plain.location
        assert {split: len(entries) for split, entries in source.listings.items()} == {"train": 12, "test": 8}
        for entries in source.listings.values():
            assert {entry.file: classes[entry.label] for entry in entries} == {
                entry.file: where[entry.file] for entry in entries
            }
            images, _ = source.decode(entries, RGB8)
            assert images.labels.tolist() == [entry.label for entry in entries]
            for file, image in zip(images.files, images.images, strict=True):
                assert torch.equal(pixels.setdefault(names[file], image), image), "another order, other pixels"
        assert all(entry.file in where for entry in plan_splits(source, seed=0).train)


def test_numbers_are_in_their_order_unless_told_otherwise(tmp_path: Path) -> None:
    spec, _ = OURS["folder"](tmp_path / "ours", pictures("2", "9", "10"))
    assert open_data(spec).classes == ("2", "9", "10")
    assert open_data(spec, Reading(class_order="lexicographic")).classes == ("10", "2", "9")
    assert open_data("sklearn:digits", Reading(class_order=tuple("9876543210"))).classes == tuple("9876543210")


def test_the_same_order_is_the_same_source_and_splits_can_be_gone_on_with(tmp_path: Path) -> None:
    spec, _ = OURS["folder"](tmp_path / "ours", pictures("b", "a"))
    source = open_data(spec)
    assert type(open_data(spec, Reading(class_order=("a", "b")))) is type(source)
    turned = open_data(spec, Reading(class_order=("b", "a")))
    plan = plan_splits(turned, seed=3)
    assert continue_splits(plan, turned).test == plan.test
    assert {entry.label for entry in plan.test if "/a_" in f"/{entry.file}"} == {1}


def test_the_cache_never_mixes_orders(tmp_path: Path) -> None:
    spec, _ = OURS["folder"](tmp_path / "ours", pictures("b", "a"))
    for _ in range(2):
        for order, first in ((("a", "b"), "a"), (("b", "a"), "b")):
            source = open_data(spec, Reading(class_order=order))
            entries = source.listings["all"]
            images, _ = decode_cached(source, entries, RGB8, cache_dir=tmp_path / "cache")
            assert {file[0] for file, label in zip(images.files, images.labels, strict=True) if label == 0} == {first}


def test_a_file_of_names(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_bytes("\ufeffkatze\r\n\r\nhund und wolf \nélan\n".encode())
    assert read_class_order(str(file)) == ("katze", "hund und wolf ", "élan")
    assert read_class_order("natural") == "natural"


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "did you mean 'natural'"), (b"\n \n", "names no classes"), (b"\xff\xfe", "no text in UTF-8")],
)
def test_a_file_that_is_none(
    content: bytes | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("naturel").write_bytes(content)
    with pytest.raises(UsageError, match=words) as caught:
        read_class_order("naturel")
    assert "one class name per line" in str(caught.value.hint)
    with pytest.raises(UsageError, match="cannot be read"):
        read_class_order(str(tmp_path))


def test_names_that_are_no_permutation_are_told_one_by_one(tmp_path: Path) -> None:
    spec, _ = OURS["folder"](tmp_path / "ours", pictures("cat", "dog", "emu"))
    with pytest.raises(UsageError) as caught:
        open_data(spec, Reading(class_order=("dog", "dog", "cats", "eel")))
    told = caught.value.message.splitlines()[1:]
    assert [line.strip(" -") for line in told] == [
        "'dog' stands there twice",
        "'cats' is no class of the data; did you mean 'cat'?",
        "'eel' is no class of the data",
        "'cat' is missing",
        "'emu' is missing",
    ]
    assert caught.value.hint == "the classes are: cat, dog, emu"


# -- more than 8 bits of gray ------------------------------------------------------------------------------------------

RAMP = np.arange(64, dtype=np.uint16).reshape(8, 8)


def deep(kind: str, values: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def white_is_zero(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "TIFF", tiffinfo={262: 0})
    return stream.getvalue()


def pgm(values: np.ndarray, white: int) -> bytes:
    return f"P5 8 8 {white}\n".encode() + values.astype(">u2").tobytes()


def turned(values: np.ndarray) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return deep("PNG", values, exif=exif)


def folder_of(root: Path, **files: bytes) -> str:
    for name, content in files.items():
        for label in ("a", "b"):
            (root / label).mkdir(parents=True, exist_ok=True)
            (root / label / name.replace("_", ".")).write_bytes(content)
    return str(root)


TWELVE, SIXTEEN = RAMP * 65, RAMP * 1040
EXPECTED_12, EXPECTED_16 = np.rint(TWELVE * (255 / 4095)), np.rint(SIXTEEN * (255 / 65535))


@pytest.mark.parametrize(
    ("file", "content", "bits", "expected"),
    [
        ("x_png", deep("PNG", TWELVE), 12, EXPECTED_12),
        ("x_png", deep("PNG", SIXTEEN), 16, EXPECTED_16),
        ("x_png", turned(TWELVE), 12, np.rot90(EXPECTED_12, -1)),
        ("x_tif", deep("TIFF", TWELVE), 12, EXPECTED_12),
        ("x_tif", deep("TIFF", SIXTEEN), 16, EXPECTED_16),
        ("x_tif", deep("TIFF", TWELVE.astype(np.int32)), 12, EXPECTED_12),
        ("x_tif", white_is_zero(TWELVE), 12, 255 - EXPECTED_12),
        ("x_pgm", pgm(TWELVE, 4095), 12, EXPECTED_12),
        ("x_pgm", pgm(TWELVE, 4095), 16, EXPECTED_12),
        ("x_pgm", pgm(SIXTEEN, 65535), 12, EXPECTED_16),
    ],
)
def test_deep_grays_are_scaled_by_the_bits_that_they_use(
    file: str, content: bytes, bits: int, expected: np.ndarray, tmp_path: Path
) -> None:
    source = open_data(folder_of(tmp_path / "d", **{file: content}), Reading(gray_bits=bits))
    probe = source.probe()
    assert (probe.channels, probe.size) == (1, (8, 8))
    images, unreadable = source.decode(source.listings["all"], GRAY8)
    assert unreadable == ()
    assert np.abs(images.images[0, 0].numpy().astype(int) - expected).max() <= (1 if file == "x_pgm" else 0)
    assert images.images.max() > 250, "white is white"


def test_without_the_bits_deep_grays_are_refused_and_the_flag_is_named(tmp_path: Path) -> None:
    source = open_data(folder_of(tmp_path / "d", x_png=deep("PNG", TWELVE)))
    with pytest.raises(DataError, match=r"more than 8 bits of gray .* --gray-bits 12 or 16"):
        source.decode(source.listings["all"], GRAY8)


def test_values_beyond_the_bits_are_refused_and_the_others_kept(tmp_path: Path) -> None:
    negative = deep("TIFF", TWELVE.astype(np.int32) - 5)
    spec = folder_of(tmp_path / "d", x_png=deep("PNG", SIXTEEN), y_png=deep("PNG", TWELVE), z_tif=negative)
    source = open_data(spec, Reading(gray_bits=12))
    images, unreadable = source.decode(source.listings["all"], GRAY8)
    assert images.files == ("a/y.png", "b/y.png")
    assert {item.file: item.reason for item in unreadable if item.file[0] == "a"} == {
        "a/x.png": "has the value 65520; with --gray-bits 12, 0 to 4095 was expected",
        "a/z.tif": "has the value -5; with --gray-bits 12, 0 to 4095 was expected",
    }


def test_floats_are_refused_all_the_same(tmp_path: Path) -> None:
    spec = folder_of(tmp_path / "d", x_tif=deep("TIFF", RAMP.astype(np.float32)))
    source = open_data(spec, Reading(gray_bits=16))
    with pytest.raises(DataError, match=r"mode F\); convert it to 8 bits$|mode F"):
        source.decode(source.listings["all"], GRAY8)


@pytest.mark.parametrize("write", PICTURES.values(), ids=PICTURES)
def test_every_layout_of_pictures_takes_the_bits(write: Write, tmp_path: Path) -> None:
    content = deep("PNG", TWELVE)
    spec, _ = write(tmp_path / "ours", [Picture(f"{label}{n}.png", label, content) for label in "ab" for n in range(2)])
    source = open_data(spec, Reading(gray_bits=12))
    images, unreadable = source.decode(source.listings["all"], GRAY8)
    assert unreadable == ()
    assert np.array_equal(images.images[3, 0].numpy(), EXPECTED_12)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.int64, np.uint64])
def test_arrays_of_integers(kind: type, tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez(file, images=np.stack([TWELVE.astype(kind)] * 4), labels=np.array([0, 1, 0, 1]))
    source = open_data(str(file), Reading(gray_bits=12))
    images, _ = source.decode(source.listings["all"], GRAY8)
    assert np.array_equal(images.images[0, 0].numpy(), EXPECTED_12)
    small = open_data(str(file), Reading(gray_bits=11))
    with pytest.raises(DataError, match=r"'images' of .* has the value 4095; with --gray-bits 11, 0 to 2047"):
        small.decode(small.listings["all"], GRAY8)
    np.savez(tmp_path / "signed.npz", images=np.zeros((4, 8, 8), np.int8), labels=np.array([0, 1, 0, 1]))
    with pytest.raises(DataError, match="is int8; uint8, or float"):
        open_data(str(tmp_path / "signed.npz"), Reading(gray_bits=12))
    with pytest.raises(DataError) as caught:
        open_data(str(file))
    assert "--gray-bits 12" in str(caught.value.hint)


def test_the_cache_never_mixes_bits(tmp_path: Path) -> None:
    spec, seen = folder_of(tmp_path / "d", x_png=deep("PNG", TWELVE)), []
    for bits in (12, 16, 12, 16):
        source = open_data(spec, Reading(gray_bits=bits))
        images, _ = decode_cached(source, source.listings["all"], GRAY8, cache_dir=tmp_path / "cache")
        seen.append(int(images.images.max()))
    assert seen == [255, 16, 255, 16]
    shallow = open_data(folder_of(tmp_path / "e", x_png=png(1)), AS_IT_IS)
    told = open_data(str(tmp_path / "e"), Reading(gray_bits=12))
    (one, _), (other, _) = (s.decode(s.listings["all"], RGB8) for s in (shallow, told))
    assert torch.equal(one.images, other.images), "8 bits are 8 bits"
