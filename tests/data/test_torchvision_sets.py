"""torchvision's readers on small files in their formats; sums of the real files are patched away where they matter."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from harden.data import Entry, Format, open_data, plan_splits
from harden.data.cache import decode_cached
from harden.data.indexed import IndexedSource
from harden.data.torchvision_sets import READERS
from harden.errors import DataError, UsageError
from harden.vision import import_torchvision


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every download fails at once, as without a network."""
    import_torchvision()
    from torchvision.datasets import utils

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(utils, "_urlretrieve", refuse)


def pixels(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.fixture
def svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, np.ndarray, list[int]]:
    """SVHN in its .mat format: pixels before images, and 10 for the digit 0."""
    torchvision = import_torchvision()
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda self: True)
    images, labels = pixels(50, 32, 32, 3), [n % 10 for n in range(50)]
    for split, rows in (("train", slice(0, 40)), ("test", slice(40, 50))):
        stored = np.array([label or 10 for label in labels[rows]])[:, None]
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", {"X": images[rows].transpose(1, 2, 3, 0), "y": stored})
    return tmp_path, images, labels


def test_svhn(svhn: tuple[Path, np.ndarray, list[int]]) -> None:
    folder, images, labels = svhn
    source = open_data(f"torchvision:svhn@{folder}")
    assert source.classes == tuple("0123456789")
    assert {split: len(entries) for split, entries in source.listings.items()} == {"train": 40, "test": 10}
    assert [entry.label for entry in source.listings["train"]] == labels[:40]
    assert (source.probe().channels, source.probe().size, source.probe().uniform) == (3, (32, 32), True)
    found, unreadable = source.decode(source.listings["test"], Format(3, (32, 32)))
    assert unreadable == ()
    assert torch.equal(found.images, torch.from_numpy(images[40:]).permute(0, 3, 1, 2))
    assert found.labels.tolist() == labels[40:]
    assert found.files[0] == "test/000000"


def test_svhn_is_cached_and_split_like_any_other(svhn: tuple[Path, np.ndarray, list[int]]) -> None:
    source = open_data(f"torchvision:svhn@{svhn[0]}")
    first, _ = decode_cached(source, source.listings["train"], Format(1, (28, 28)))
    again, _ = decode_cached(open_data(f"torchvision:svhn@{svhn[0]}"), source.listings["train"], Format(1, (28, 28)))
    assert first.images.shape == (40, 1, 28, 28)
    assert torch.equal(first.images, again.images)
    plan = plan_splits(source, seed=0)
    assert {entry.file for entry in plan.test} == {entry.file for entry in source.listings["test"]}
    assert not {entry.file for entry in plan.val} & {entry.file for entry in plan.train}


def test_cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision = import_torchvision()
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).exists())
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "_check_integrity", lambda self: True)
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    images = pixels(120, 3072)
    for split, rows in (("train", slice(0, 100)), ("test", slice(100, 120))):
        fine = [n % 100 for n in range(rows.start, rows.stop)]
        (folder / split).write_bytes(pickle.dumps({"data": images[rows], "fine_labels": fine}))
    names = [f"thing {n}" for n in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    source = open_data(f"torchvision:cifar100@{tmp_path}")
    assert source.classes == tuple(names)
    found, _ = source.decode(source.listings["train"][:3], Format(3, (32, 32)))
    assert torch.equal(found.images, torch.from_numpy(images[:3]).view(3, 3, 32, 32))
    assert [entry.label for entry in source.listings["test"]] == list(range(20))


def test_mnist_is_gray(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    images = pixels(12, 28, 28)
    for split, rows in (("train", slice(0, 10)), ("t10k", slice(10, 12))):
        count = rows.stop - rows.start
        head = np.array([2051, count, 28, 28], dtype=">i4").tobytes()
        (folder / f"{split}-images-idx3-ubyte").write_bytes(head + images[rows].tobytes())
        labels = np.arange(count, dtype=np.uint8) % 10
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(
            np.array([2049, count], dtype=">i4").tobytes() + labels.tobytes()
        )
        gzip.open(folder / "unused.gz", "wb").close()
    source = open_data(f"torchvision:mnist@{tmp_path}")
    assert source.probe().channels == 1
    found, _ = source.decode(source.listings["train"], Format(1, (28, 28)))
    assert torch.equal(found.images[:, 0], torch.from_numpy(images[:10]))
    assert source.classes[0].startswith("0")


@pytest.mark.usefixtures("offline")
def test_what_is_not_there_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="svhn is not in") as caught:
        open_data(f"torchvision:svhn@{tmp_path / 'none'}")
    assert "@FOLDER" in str(caught.value.hint)
    monkeypatch.setenv("HARDEN_DATASETS", str(tmp_path / "mine"))
    with pytest.raises(DataError, match="mine"):
        open_data("torchvision:cifar10")
    with pytest.raises(DataError, match="fashion-mnist is not in"):
        open_data("torchvision:FashionMNIST")
    with pytest.raises(UsageError, match="did you mean 'svhn'"):
        open_data("torchvision:svnh")


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.usefixtures("offline")
def test_a_pickle_that_is_not_the_published_one_is_never_opened(tmp_path: Path) -> None:
    folder, mark = tmp_path / "cifar-100-python", tmp_path / "ran"
    folder.mkdir()
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(DataError):
        open_data(f"torchvision:cifar100@{tmp_path}")
    assert not mark.exists()


@pytest.mark.parametrize("name", sorted(READERS))
def test_every_reader_is_one_of_torchvision(name: str) -> None:
    kind = getattr(import_torchvision().datasets, READERS[name].kind)
    assert "train" in READERS[name].splits
    assert "test" in READERS[name].splits
    assert all(set(arguments) <= set(kind.__init__.__code__.co_varnames) for arguments in READERS[name].splits.values())


def test_an_image_that_cannot_be_read_is_listed() -> None:
    def picture(split: str, number: int) -> Image.Image:
        if number == 1:
            raise OSError("image file is truncated")
        return Image.new("L", (4, 4), 10 * number)

    entries = tuple(Entry(f"{number}", 0) for number in range(3))
    source = IndexedSource("x", ("a",), {"train": entries}, picture, "1")
    found, unreadable = source.decode(entries, Format(1, (4, 4)))
    assert found.files == ("0", "2")
    assert found.images.shape == (2, 1, 4, 4)
    assert [(item.file, "truncated" in item.reason) for item in unreadable] == [("1", True)]
    with pytest.raises(DataError, match="none of the 1 images"):
        source.decode(entries[1:2], Format(1, (4, 4)))
