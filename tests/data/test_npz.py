"""Arrays in an .npz archive: every accepted shape and kind gives the same pixels, and the others are refused."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harden.data import DataSource, Format, Probe, open_data
from harden.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)
LABELS = np.array([1, 0, 1, 0, 1, 0])


def save(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "a.npz", **arrays)
    return str(folder / "a.npz")


def pixels(source: DataSource, split: str = "all", channels: int = 3) -> dict[str, torch.Tensor]:
    images, unreadable = source.decode(source.listings[split], Format(channels, (8, 10)))
    assert unreadable == ()
    assert images.labels.tolist() == [entry.label for entry in source.listings[split]]
    return dict(zip(images.files, images.images, strict=True))


@pytest.mark.parametrize(
    "stored",
    [
        IMAGES,
        IMAGES.transpose(0, 3, 1, 2),
        IMAGES / 255,
        (IMAGES / 255).astype(np.float32),
        (IMAGES / 255).astype(np.float16).transpose(0, 3, 1, 2),
    ],
    ids=["NHWC", "NCHW", "float64", "float32", "float16, NCHW"],
)
def test_colour(stored: np.ndarray, tmp_path: Path) -> None:
    source = open_data(save(tmp_path, images=stored, labels=LABELS))
    assert source.probe() == Probe(channels=3, size=(8, 10), uniform=True)
    found = pixels(source)
    for number, image in enumerate(IMAGES):
        assert torch.equal(found[f"all/{number:06d}"], torch.from_numpy(image).permute(2, 0, 1))
    assert [(e.file, e.label) for e in source.listings["all"]] == [
        *((f"all/{number:06d}", 0) for number in (1, 3, 5)),
        *((f"all/{number:06d}", 1) for number in (0, 2, 4)),
    ]


@pytest.mark.parametrize(
    "stored", [IMAGES[..., 0], IMAGES[..., :1], IMAGES[..., 0][:, None]], ids=["NHW", "NHW1", "N1HW"]
)
def test_gray(stored: np.ndarray, tmp_path: Path) -> None:
    source = open_data(save(tmp_path, x=stored, y=LABELS[:, None]))
    assert source.probe() == Probe(channels=1, size=(8, 10), uniform=True)
    found = pixels(source, channels=1)
    assert all(torch.equal(found[f"all/{n:06d}"][0], torch.from_numpy(IMAGES[n, ..., 0])) for n in range(6))


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"),
        ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
        ("X_train", "Y_train", "X_valid", "Y_valid", "X_test", "Y_test"),
    ],
)
def test_splits(keys: tuple[str, ...], tmp_path: Path) -> None:
    arrays = [part for rows in (slice(0, 4), slice(4, 5), slice(5, 6)) for part in (IMAGES[rows], LABELS[rows])]
    source = open_data(save(tmp_path, **dict(zip(keys, arrays, strict=True)), unused=np.arange(3)))
    assert {split: len(found) for split, found in source.listings.items()} == {"train": 4, "val": 1, "test": 1}
    assert source.listings["val"][0].label == 1
    assert torch.equal(pixels(source, "test")["test/000000"], torch.from_numpy(IMAGES[5]).permute(2, 0, 1))


@pytest.mark.parametrize("kind", [np.uint8, bool, float])
def test_one_hot_labels(kind: Any, tmp_path: Path) -> None:
    hot = np.eye(2, dtype=kind)[LABELS]
    assert open_data(save(tmp_path, images=IMAGES, labels=hot)).classes == ("0", "1")
    source = open_data(save(tmp_path, images=IMAGES, labels=hot, classes=np.array(["ant", "bee"])))
    assert source.classes == ("ant", "bee")
    expected = open_data(save(tmp_path, images=IMAGES, labels=LABELS))
    assert source.listings == expected.listings


def test_names_of_classes(tmp_path: Path) -> None:
    spec = save(tmp_path, images=IMAGES, labels=LABELS, classes=np.array(["zebra", "ape"]))
    assert open_data(spec).classes == ("zebra", "ape")
    spec = save(tmp_path, images=IMAGES, labels=np.array(["b", "a"] * 3))
    assert open_data(spec).classes == ("a", "b")
    with pytest.raises(DataError, match="labels from 0 to 1, but 1 classes"):
        open_data(save(tmp_path, images=IMAGES, labels=LABELS, classes=np.array(["zebra"])))
    with pytest.raises(DataError, match="class 'bee' has no images"):
        open_data(save(tmp_path, images=IMAGES, labels=LABELS, classes=np.array(["zebra", "ape", "bee"])))


def objects() -> np.ndarray:
    array = np.empty(6, dtype=object)
    array[:] = list(IMAGES)
    return array


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"images": IMAGES.astype(np.uint16), "labels": LABELS}, "is uint16; uint8, or float .* more than 8 bits"),
        ({"images": IMAGES.astype(np.int64), "labels": LABELS}, "is int64; uint8, or float"),
        ({"images": IMAGES > 9, "labels": LABELS}, "is bool; uint8, or float"),
        ({"images": objects(), "labels": LABELS}, "pickled objects, which are never loaded"),
        ({"images": IMAGES, "labels": LABELS.astype(object)}, "pickled objects, which are never loaded"),
        ({"images": np.zeros((6, 8, 8, 4), np.uint8), "labels": LABELS}, r"has the shape \(6, 8, 8, 4\)"),
        ({"images": np.zeros((6, 3, 8, 3), np.uint8), "labels": LABELS}, "not clear which axis"),
        ({"images": np.zeros((6, 64), np.uint8), "labels": LABELS}, r"has the shape \(6, 64\)"),
        ({"images": np.zeros((0, 8, 8), np.uint8), "labels": LABELS[:0]}, r"has the shape \(0, 8, 8\)"),
        ({"images": IMAGES, "labels": LABELS[:5]}, "6 integers or texts were expected"),
        ({"images": IMAGES, "labels": np.maximum(np.eye(2)[LABELS], [1, 0])}, "number . has 2: 0, 1; one label"),
        ({"images": IMAGES, "labels": np.eye(2)[LABELS] / 2 + 0.25}, "has soft labels .*; one label per image"),
        ({"images": IMAGES, "labels": np.eye(2)[LABELS] * 7}, "6 integers or texts were expected"),
        ({"images": IMAGES, "labels": LABELS / 2}, "6 integers or texts were expected"),
        ({"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES}, "only the one or the other; its keys are: x_train"),
        ({"arr_0": IMAGES, "arr_1": LABELS}, "no images and labels under the usual keys"),
        ({"x": IMAGES, "images": IMAGES, "y": LABELS}, "two arrays for the same images: 'x' and 'images'"),
    ],
)  # fmt: skip
def test_what_is_refused_at_once(arrays: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=expected) as caught:
        open_data(save(tmp_path, **arrays))
    assert caught.value.hint


@pytest.mark.parametrize(
    "stored", [IMAGES.astype(float), IMAGES / 255 - 0.1, np.where(IMAGES > 9, IMAGES / 255, np.nan)]
)
def test_floats_elsewhere_than_in_0_1(stored: np.ndarray, tmp_path: Path) -> None:
    source = open_data(save(tmp_path, images=stored, labels=LABELS))
    with pytest.raises(DataError, match=r"values from .*; floats lie in \[0, 1\]") as caught:
        source.decode(source.listings["all"], Format(3, (8, 10)))
    assert "normalisation" in str(caught.value.hint)


def test_opening_reads_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = save(tmp_path, x_train=IMAGES, y_train=LABELS, x_test=IMAGES, y_test=LABELS)
    real = np.lib.npyio.NpzFile.__getitem__
    read = []
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", lambda self, key: (read.append(key), real(self, key))[1])
    source = open_data(spec)
    source.probe()
    assert read == ["y_train", "y_test"]
    pixels(source, "train")
    assert "x_test" not in read


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("key", ["images", "labels", "classes"])
def test_no_pickle_is_opened(key: str, tmp_path: Path) -> None:
    trap = np.empty(6, dtype=object)
    trap[:] = [Evil(tmp_path / "ran")] * 6
    with pytest.raises(DataError, match="never loaded"):
        open_data(save(tmp_path, **{"images": IMAGES, "labels": LABELS, key: trap}))
    assert not (tmp_path / "ran").exists()


def test_damaged_archives(tmp_path: Path) -> None:
    path = Path(save(tmp_path, images=IMAGES, labels=LABELS))
    whole = path.read_bytes()
    for content in (b"", b"junk", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"is no \.npz archive"):
            open_data(str(path))
    path.write_bytes(whole.replace(b"NUMPY", b"NUMBY"))
    with pytest.raises(DataError, match=r"cannot be read as an \.npz archive"):
        open_data(str(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", b"")
        archive.writestr("labels.npy", b"")
    with pytest.raises(DataError, match=r"cannot be read as an \.npz archive"):
        open_data(str(path))
    np.save(tmp_path / "one.npy", IMAGES)
    with pytest.raises(DataError, match=r"is no \.npz archive"):
        open_data(f"npz:{tmp_path / 'one.npy'}")


def test_damaged_pixels_are_told_when_they_are_read(tmp_path: Path) -> None:
    path = Path(save(tmp_path, images=np.tile(IMAGES, (9, 1, 1, 1)), labels=np.tile(LABELS, 9)))
    whole = bytearray(path.read_bytes())
    whole[9000:9010] = bytes(10)
    path.write_bytes(whole)
    source = open_data(str(path))
    with pytest.raises(DataError, match=r"cannot be read as an \.npz archive: .*CRC"):
        source.decode(source.listings["all"], Format(3, (8, 10)))


@pytest.mark.parametrize(
    "header",
    [b"-" * 9000, b"{'descr': (", b"\xff" * 40, b"{'descr': '|u1', 'shape': (99999999999,)}"],
)
def test_a_header_that_numpy_cannot_read_is_refused(header: bytes, tmp_path: Path) -> None:
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(tmp_path / "images.npz", "w") as archive:
        archive.writestr("images.npy", content)
        archive.writestr("labels.npy", content)
    with pytest.raises(DataError):
        open_data(f"npz:{tmp_path / 'images.npz'}")
