from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from harden.data import DataSource, Entry, Format, ImageSet, Probe, Progress, Unreadable, decode_cached, open_data
from harden.data.folder import open_folder
from harden.errors import DataError, UsageError
from harden.folders import cache_root
from tests.data.layouts import OURS, some_pictures

RGB8 = Format(channels=3, size=(8, 8))


@dataclass
class Counting:
    """A source that counts how often it decodes."""

    inner: DataSource
    decoded: list[int] = field(default_factory=list)

    @property
    def location(self) -> str:
        return self.inner.location

    @property
    def classes(self) -> tuple[str, ...]:
        return self.inner.classes

    @property
    def listings(self) -> Mapping[str, tuple[Entry, ...]]:
        return self.inner.listings

    def probe(self) -> Probe:
        return self.inner.probe()

    def decode(
        self, entries: Sequence[Entry], image_format: Format, progress: Progress | None = None
    ) -> tuple[ImageSet, tuple[Unreadable, ...]]:
        self.decoded.append(len(entries))
        return self.inner.decode(entries, image_format, progress)

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        return self.inner.fingerprint(entries)


@pytest.fixture
def source(photos: Path) -> Counting:
    (photos / "train/dog/4.png").write_bytes(b"")
    return Counting(open_folder(str(photos)))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def load(source: Counting, cache: Path, image_format: Format = RGB8) -> tuple[ImageSet, tuple[Unreadable, ...]]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return decode_cached(source, source.listings["train"], image_format, cache_dir=cache)


def assert_right(result: tuple[ImageSet, tuple[Unreadable, ...]], source: Counting) -> None:
    images, unreadable = source.inner.decode(source.listings["train"], RGB8)
    assert torch.equal(result[0].images, images.images)
    assert result[0].images.dtype == torch.uint8
    assert torch.equal(result[0].labels, images.labels)
    assert result[0].files == images.files
    assert result[1] == unreadable
    assert len(unreadable) == 1


def test_the_second_time_comes_from_the_cache(source: Counting, cache: Path) -> None:
    assert_right(load(source, cache), source)
    calls: list[tuple[int, int]] = []
    again = decode_cached(
        source, source.listings["train"], RGB8, cache_dir=cache, progress=lambda *call: calls.append(call)
    )
    assert_right(again, source)
    assert source.decoded == [10]
    assert calls == [(10, 10)]
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".npy"], "and nothing temporary is left"


def test_writing_to_cached_images_leaves_the_cache_alone(source: Counting, cache: Path) -> None:
    load(source, cache)
    load(source, cache)[0].images.fill_(0)
    assert_right(load(source, cache), source)
    assert source.decoded == [10]


def change_content(root: Path) -> None:
    os.utime(root / "train/cat/0.png", ns=(1, 1))


def change_size(root: Path) -> None:
    file = root / "train/cat/0.png"
    before = file.stat()
    file.write_bytes(file.read_bytes() + b"\0")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_permissions(root: Path) -> None:
    (root / "train/cat/0.png").chmod(0o640)


def remove(root: Path) -> None:
    (root / "train/cat/0.png").unlink()


@pytest.mark.parametrize("change", [change_content, change_size, change_permissions, remove])
def test_a_changed_file_is_decoded_again(change: Callable[[Path], None], source: Counting, cache: Path) -> None:
    load(source, cache)
    change(Path(source.location))
    load(source, cache)
    assert source.decoded == [10, 10]


def test_format_labels_and_order_are_part_of_the_key(source: Counting, cache: Path) -> None:
    load(source, cache)
    assert load(source, cache, Format(1, (8, 8)))[0].images.shape[1] == 1
    assert load(source, cache, Format(3, (4, 8)))[0].images.shape[2:] == (4, 8)
    entries = source.listings["train"]
    swapped = [Entry(entry.file, 1 - entry.label) for entry in entries]
    images, _ = decode_cached(source, swapped, RGB8, cache_dir=cache)
    assert images.labels.tolist() == [1] * 5 + [0] * 4
    images, _ = decode_cached(source, entries[::-1], RGB8, cache_dir=cache)
    assert images.files[-1] == entries[0].file
    assert len(source.decoded) == 5
    load(source, cache)
    assert len(source.decoded) == 5


def cut_images(images: Path, index: Path) -> None:
    images.write_bytes(images.read_bytes()[:-100])


def empty_images(images: Path, index: Path) -> None:
    images.write_bytes(b"")


def pickled_images(images: Path, index: Path) -> None:
    np.save(images, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def other_shape(images: Path, index: Path) -> None:
    np.save(images, np.zeros((9, 3, 4, 4), np.uint8))


def no_images(images: Path, index: Path) -> None:
    images.unlink()


def cut_index(images: Path, index: Path) -> None:
    index.write_bytes(index.read_bytes()[:20])


def other_json(images: Path, index: Path) -> None:
    index.write_text("[1, 2]")


def binary_index(images: Path, index: Path) -> None:
    index.write_bytes(b"\xff\xfe\x00\x80")


def other_labels(images: Path, index: Path) -> None:
    content = json.loads(index.read_text())
    content["labels"][0] = 1
    index.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "damage",
    [
        *(cut_images, empty_images, pickled_images, other_shape, no_images),
        *(cut_index, other_json, binary_index, other_labels),
    ],
)
def test_a_damaged_entry_is_rebuilt(damage: Callable[[Path, Path], None], source: Counting, cache: Path) -> None:
    load(source, cache)
    (images,) = cache.glob("*.npy")
    damage(images, images.with_suffix(".json"))
    assert_right(load(source, cache), source)
    assert source.decoded == [10, 10]
    assert_right(load(source, cache), source)
    assert source.decoded == [10, 10], "what was rebuilt is whole"


def test_a_cache_that_cannot_be_written_costs_speed_only(source: Counting, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for _ in range(2):
        assert_right(load(source, tmp_path / "file" / "cache"), source)
    assert source.decoded == [10, 10]


def test_a_full_disk_leaves_nothing_behind(source: Counting, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert_right(load(source, cache), source)
    assert list(cache.iterdir()) == []


def test_concurrent_writers_agree(source: Counting, cache: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(4) as pool:
            results = list(
                pool.map(lambda _: decode_cached(source, source.listings["train"], RGB8, cache_dir=cache), range(12))
            )
    for result in results:
        assert_right(result, source)
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".npy"]


def test_errors_of_the_source_pass_and_are_not_cached(source: Counting, cache: Path) -> None:
    empty = [entry for entry in source.listings["train"] if entry.file == "train/dog/4.png"]
    for _ in range(2):
        with pytest.raises(DataError, match="none of the 1 image files"):
            decode_cached(source, empty, RGB8, cache_dir=cache)
    assert source.decoded == [1, 1]


def test_no_entries_give_an_empty_set(source: Counting, cache: Path) -> None:
    images, unreadable = decode_cached(source, [], RGB8, cache_dir=cache)
    assert images.images.shape == (0, 3, 8, 8)
    assert (len(images), unreadable) == (0, ())


def test_the_data_folder_is_never_written_to(source: Counting) -> None:
    with pytest.raises(UsageError, match="inside the data folder"):
        load(source, Path(source.location) / "train" / "cache")


def test_a_folder_of_tar_archives_is_never_written_to_either(tmp_path: Path) -> None:
    spec, _ = OURS["webdataset"](tmp_path / "shards", some_pictures())
    there = {path.name for path in (tmp_path / "shards").iterdir()}
    archives = open_data(spec)
    entries = archives.listings["all"]
    with pytest.raises(UsageError, match=r"inside the data folder .*shards, which"):
        decode_cached(archives, entries, RGB8, cache_dir=tmp_path / "shards" / "cache")
    assert {path.name for path in (tmp_path / "shards").iterdir()} == there
    one = open_data(f"webdataset:{tmp_path / 'shards' / 'shard-000000.tar'}")
    assert len(decode_cached(one, one.listings["all"], RGB8, cache_dir=tmp_path / "shards" / "cache")[0]) == 8


def test_where_the_cache_is(source: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARDEN_CACHE", raising=False)
    assert cache_root().name == "harden"
    monkeypatch.setenv("HARDEN_CACHE", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"
    decode_cached(source, source.listings["train"], RGB8)
    assert len(list((tmp_path / "mine" / "decoded").glob("*.npy"))) == 1
