"""What holds for every layout: the same pictures are the same data set, wherever they lie."""

from __future__ import annotations

import io
import json
import os
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harden.data import (
    LAYOUTS,
    DataSource,
    Format,
    decode_cached,
    duplicate_files,
    from_anywhere,
    name_of,
    open_data,
    plan_splits,
    to_look_at,
)
from harden.errors import DataError, UnsafeInputError
from tests.data.layouts import OURS, PICTURES, PUBLISHED, Names, Picture, Write, png, some_pictures

RGB8 = Format(channels=3, size=(8, 8))

every_layout = pytest.mark.parametrize("write", OURS.values(), ids=OURS)
every_layout_of_pictures = pytest.mark.parametrize("write", PICTURES.values(), ids=PICTURES)


def test_no_layout_is_forgotten_here() -> None:
    assert set(LAYOUTS) == set(OURS) | PUBLISHED


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def odd_pictures() -> dict[str, bytes]:
    """What comes in image folders besides plain RGB, by a name that says what it is."""
    ramp = Image.fromarray(np.linspace(0, 255, 12 * 8, dtype=np.uint8).reshape(8, 12))
    noise = Image.open(io.BytesIO(png(1, side=64)))
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "gray.png": encoded(ramp),
        "bilevel.png": encoded(ramp.convert("1")),
        "palette.png": encoded(ramp.convert("RGB").quantize(8)),
        "rgba.png": encoded(Image.new("RGBA", (8, 8), (10, 20, 30, 0))),
        "cmyk.jpg": encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"),
        "rotated.jpg": encoded(ramp, "JPEG", exif=turned),
        "large.jpg": encoded(noise, "JPEG"),
        "animated.gif": encoded(ramp, "GIF", save_all=True, append_images=[noise.convert("L")]),
        "deep.png": encoded(Image.new("I;16", (8, 8), 700)),
        "cut.jpg": encoded(noise, "JPEG")[:900],
        "cut_too.png": encoded(noise)[:900],
        "empty.png": b"",
        "page.jpg": b"<html>404</html>",
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n",
        "vector.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }


REFUSED = {
    "deep.png": "8 bits",
    "cut.jpg": "cut short",
    "cut_too.png": "cut short",
    "empty.png": "empty file (0 bytes)",
    "page.jpg": "not an image",
    "script.jpg": "not an image",
    "vector.png": "not an image",
}


def decoded(source: DataSource, names: Names, split: str = "all") -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return pixels and reasons by the names of the pictures."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, unreadable = source.decode(source.listings[split], RGB8)
    pixels = {names[file]: image for file, image in zip(images.files, images.images, strict=True)}
    return pixels, {names[item.file]: item.reason for item in unreadable}


@every_layout_of_pictures
def test_every_kind_of_picture_is_as_in_a_folder(write: Write, tmp_path: Path) -> None:
    pictures = [Picture(name, "odd", content) for name, content in odd_pictures().items()]
    pictures += [picture for picture in some_pictures() if picture.label == "cat"]
    folder, where = PICTURES["folder"](tmp_path / "folder", pictures)
    expected, expected_reasons = decoded(open_data(folder), where)
    spec, names = write(tmp_path / "ours", pictures)
    source = open_data(spec)
    assert source.classes == ("cat", "odd")
    assert source.probe() == open_data(folder).probe()
    pixels, reasons = decoded(source, names)
    assert pixels.keys() == expected.keys() == {picture.name for picture in pictures} - REFUSED.keys()
    assert all(torch.equal(pixels[name], expected[name]) for name in expected)
    assert reasons == expected_reasons
    assert reasons.keys() == REFUSED.keys()
    assert all(part in reasons[name] for name, part in REFUSED.items())
    assert pixels["rgba.png"][:, 0, 0].tolist() == [10, 20, 30]
    columns = pixels["rotated.jpg"][0].float().mean(0)
    assert (columns.diff() < 0).all(), "what was on top is on the right"


@every_layout
def test_without_splits_everything_is_under_all(write: Write, tmp_path: Path) -> None:
    pictures = some_pictures(count=5)
    spec, names = write(tmp_path / "ours", pictures)
    source = open_data(spec)
    assert source.classes == ("cat", "dog")
    assert list(source.listings) == ["all"]
    labels = {names[entry.file]: source.classes[entry.label] for entry in source.listings["all"]}
    assert labels == {picture.name: picture.label for picture in pictures}
    assert [entry.label for entry in source.listings["all"]] == [0] * 5 + [1] * 5
    probe = source.probe()
    assert (probe.channels, probe.size, probe.uniform) == (3, (8, 8), True)
    plan = plan_splits(source, seed=0)
    assert {entry.label for entry in plan.test} == {0, 1}


@every_layout
def test_splits_share_one_class_list_and_copies_across_them_are_found(write: Write, tmp_path: Path) -> None:
    train, held_out = some_pictures("train"), some_pictures("validation", 2, first=50)
    copy = Picture("copy.png", "dog", train[5].content, "test")
    lacks_cats = [Picture("new.png", "dog", png(7), "test"), copy]
    spec, names = write(tmp_path / "ours", [*train, *held_out, *lacks_cats])
    source = open_data(spec)
    assert {split: len(entries) for split, entries in source.listings.items()} == {"train": 8, "val": 4, "test": 2}
    assert source.classes == ("cat", "dog")
    assert {entry.label for entry in source.listings["test"]} == {1}
    sets = {split: source.decode(entries, RGB8)[0] for split, entries in source.listings.items()}
    pairs = duplicate_files(sets["train"], sets["test"])
    assert [(names[a], names[b]) for a, b in pairs] == [(train[5].name, "copy.png")]
    assert duplicate_files(sets["train"], sets["val"]) == []


@every_layout
def test_a_class_that_train_does_not_know_is_refused(write: Write, tmp_path: Path) -> None:
    strange = Picture("eel.png", "eel", png(9), "test")
    with pytest.raises(DataError, match=r"class 'eel' .*train"):
        open_data(write(tmp_path / "ours", [*some_pictures("train"), strange])[0])


@every_layout
def test_one_class_is_too_few(write: Write, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 class.* at least 2"):
        open_data(write(tmp_path / "ours", [p for p in some_pictures() if p.label == "cat"])[0])


@every_layout
def test_test_and_val_without_train_are_read_and_nothing_is_cut_from_them(write: Write, tmp_path: Path) -> None:
    source = open_data(write(tmp_path / "ours", some_pictures("test") + some_pictures("val", first=9))[0])
    assert {split: len(entries) for split, entries in source.listings.items()} == {"val": 8, "test": 8}
    assert source.classes == ("cat", "dog")
    assert source.probe().size == (8, 8)
    assert {entry.file for entry in to_look_at(source)} == {entry.file for entry in source.listings["val"]}
    with pytest.raises(DataError, match="has no train split") as caught:
        plan_splits(source, seed=0)
    assert "harden report" in str(caught.value.hint)


LABELS_BESIDE = {name: write for name, write in PICTURES.items() if name in ("csv", "parquet", "webdataset")}


@pytest.mark.parametrize("separator", ["|", ";", ",", " ", ", "])
@pytest.mark.parametrize("write", LABELS_BESIDE.values(), ids=LABELS_BESIDE)
def test_several_labels_for_an_image_are_no_classes(write: Write, separator: str, tmp_path: Path) -> None:
    both = [replace(p, label=f"{p.label}{separator}wet") for p in some_pictures(count=2, first=20)]
    with pytest.raises(
        DataError, match=r"4 of 12 images of .* have several labels; .* 'cat.+wet'; one label per image"
    ):
        open_data(write(tmp_path / "ours", some_pictures() + both)[0])


@pytest.mark.parametrize("form", [str, json.dumps])
@pytest.mark.parametrize("write", LABELS_BESIDE.values(), ids=LABELS_BESIDE)
def test_lists_of_labels_are_no_classes_and_lists_of_one_are_read(
    write: Write, form: Callable[[list[str]], str], tmp_path: Path
) -> None:
    single = [replace(p, label=form([p.label])) for p in some_pictures()]
    assert open_data(write(tmp_path / "ours", single)[0]).classes == ("cat", "dog")
    several = [*single, Picture("both.png", form(["cat", "dog"]), png(5))]
    with pytest.raises(DataError, match=r"has 2 labels .*one label per image") as caught:
        open_data(write(tmp_path / "theirs", several)[0])
    assert caught.value.hint


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@every_layout
def test_names_of_classes_are_one_name_in_every_unicode_form(write: Write, form: Any, tmp_path: Path) -> None:
    train = [replace(p, label=unicodedata.normalize("NFD", p.label + "é")) for p in some_pictures("train")]
    test = [replace(p, label=unicodedata.normalize(form, p.label + "é")) for p in some_pictures("test", first=9)]
    source = open_data(write(tmp_path / "ours", train + test)[0])
    assert source.classes == tuple(unicodedata.normalize("NFC", name) for name in ("caté", "dogé"))
    assert len(source.decode(source.listings["test"], RGB8)[0]) == len(test)


@every_layout
def test_decoded_once_and_again_after_a_change(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = some_pictures()
    spec, names = write(tmp_path / "ours", pictures)
    cache = tmp_path / "cache"
    source = open_data(spec)
    entries = source.listings["all"]
    first, _ = decode_cached(source, entries, RGB8, cache_dir=cache)
    again = open_data(spec)
    monkeypatch.setattr(type(again), "decode", None)
    cached, _ = decode_cached(again, entries, RGB8, cache_dir=cache)
    monkeypatch.undo()
    assert torch.equal(cached.images, first.images)
    other = [Picture(p.name, p.label, png(77) if p.name == "cat0.png" else p.content) for p in pictures]
    write(tmp_path / "ours", other)
    for path in (tmp_path / "ours").rglob("*"):
        os.utime(path, ns=(7, 7))
    changed, _ = decode_cached(open_data(spec), entries, RGB8, cache_dir=cache)
    different = [names[f] for f, a, b in zip(first.files, first.images, changed.images, strict=True) if (a != b).any()]
    assert different == ["cat0.png"]


@every_layout
def test_the_location_opens_it_again_from_anywhere(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, _ = write(tmp_path / "ours", some_pictures())
    monkeypatch.chdir(tmp_path)
    relative = spec.replace(f"{tmp_path}/", "")
    source = open_data(relative)
    kept = from_anywhere(relative, source)
    monkeypatch.chdir("/")
    again = open_data(kept)
    assert (again.location, again.classes, again.listings) == (source.location, source.classes, source.listings)
    assert kept == source.location
    assert from_anywhere(kept, again) == kept


def mutated(whole: bytes, random: np.random.Generator) -> bytes:
    """Overwrite some bytes, cut the end off, cut a piece out, or insert noise."""
    low, high = sorted(random.integers(0, len(whole), 2).tolist())
    noise = random.bytes(int(random.integers(1, 30)))
    return (
        whole[:low] + noise + whole[low + len(noise) :],
        whole[:high],
        whole[:low] + whole[high:],
        whole[:low] + noise + whole[low:],
    )[int(random.integers(4))]


@pytest.mark.parametrize("layout", ["csv", "parquet", "npz", "webdataset"])
def test_a_mutated_file_is_read_or_refused_and_nothing_else(layout: str, tmp_path: Path) -> None:
    spec, _ = OURS[layout](tmp_path / "ours", some_pictures(count=3))
    (path,) = (path for path in (tmp_path / "ours").iterdir() if path.is_file())
    whole, random, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(80):
        path.write_bytes(mutated(whole, random))
        try:
            source = open_data(spec)
            source.probe()
            source.fingerprint(source.listings["all"])
            source.decode(source.listings["all"], RGB8)
        except (DataError, UnsafeInputError):
            refused += 1
    assert refused > 20


def test_names_for_titles_and_folders(tmp_path: Path) -> None:
    table = tmp_path / "flowers.csv"
    table.write_text("")
    assert name_of(f"csv:{table}?path=a/b&label=c") == "flowers.csv"
    assert name_of(f"{table}?label=c") == "flowers.csv"
    assert name_of(str(table)) == "flowers.csv"
    assert name_of(str(tmp_path / "imgs")) == "imgs"
    assert name_of("sklearn:digits") == "sklearn:digits"
    assert name_of("csv:~/flowers.csv?label=b") == "flowers.csv"
    assert name_of("hf:someone/animals?config=x") == "animals"
