"""The decoded cache: what a source decoded once, kept as uint8 outside the data folder and mapped back into memory.

An entry is two files named by a key over everything that decides the pixels. The JSON is written last and so commits
the images; both arrive under their names by an atomic rename, so that readers and concurrent writers (which write the
same bytes) never see half a file. Whatever is wrong with an entry, it is thrown away and decoded again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from harden.data.dataset import DataSource, Entry, Format, ImageSet, Progress, Unreadable
from harden.errors import UsageError
from harden.folders import cache_root

_SCHEME = re.compile(r"[a-z]{2,}:")  # of the layouts that may be given a folder: webdataset:, hf:

VERSION = 1
"""Raised whenever decoding or the files' layout changes; entries of other versions are never looked at."""


def decode_cached(
    source: DataSource,
    entries: Sequence[Entry],
    image_format: Format,
    *,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> tuple[ImageSet, tuple[Unreadable, ...]]:
    """Return what `source.decode(entries, image_format, progress)` returns, from the cache where it is there.

    Images from the cache are mapped copy-on-write: the tensor may be written to, the file never changes. A cache
    folder that cannot be written costs speed only.

    Args:
        source: where the entries come from; its `fingerprint` decides whether a cached copy still holds.
        entries: what to decode.
        image_format: channels and size.
        cache_dir: the cache's folder; `cache_root() / "decoded"` unless given.
        progress: called while decoding, or once if the cache has everything.

    Raises:
        UsageError: the cache folder lies inside the data folder.
        DataError: as `source.decode`.
    """
    folder = cache_root() / "decoded" if cache_dir is None else cache_dir
    _refuse_data_folder(folder, source.location)
    if not entries:
        return source.decode(entries, image_format, progress)
    key = _key(source, entries, image_format)
    images_path, index_path = folder / f"{key}.npy", folder / f"{key}.json"
    cached = _load(images_path, index_path, entries, image_format)
    if cached is not None:
        if progress is not None:
            progress(len(entries), len(entries))
        return cached
    images, unreadable = source.decode(entries, image_format, progress)
    with contextlib.suppress(OSError):
        _store(images_path, index_path, images, unreadable)
    return images, unreadable


def _refuse_data_folder(folder: Path, location: str) -> None:
    data = Path(_SCHEME.sub("", location))
    if data.is_absolute() and data.is_dir() and folder.resolve().is_relative_to(data.resolve()):
        raise UsageError(
            f"the cache folder {folder} lies inside the data folder {data}, which harden never writes to",
            hint="set HARDEN_CACHE to a folder elsewhere",
        )


def _key(source: DataSource, entries: Sequence[Entry], image_format: Format) -> str:
    head = [VERSION, source.location, image_format.channels, *image_format.size, source.fingerprint(entries)]
    digest = hashlib.blake2b(json.dumps(head).encode(), digest_size=20)
    digest.update(json.dumps([[entry.file, entry.label] for entry in entries]).encode())
    return digest.hexdigest()


def _load(
    images_path: Path, index_path: Path, entries: Sequence[Entry], image_format: Format
) -> tuple[ImageSet, tuple[Unreadable, ...]] | None:
    """Return the cached result, or None if there is none or it does not hold what it must."""
    try:
        index = json.loads(index_path.read_bytes())
        result = _checked(np.load(images_path, mmap_mode="c", allow_pickle=False), index, entries, image_format)
    except FileNotFoundError:
        return None
    # np.load and json raise these over files that are cut short, overwritten or of another kind
    except (OSError, ValueError, TypeError, KeyError, EOFError, SyntaxError):
        result = None
    if result is None:
        for path in (index_path, images_path):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    return result


def _checked(
    images: Any, index: Any, entries: Sequence[Entry], image_format: Format
) -> tuple[ImageSet, tuple[Unreadable, ...]] | None:
    if index["version"] != VERSION:
        return None
    unreadable = tuple(Unreadable(str(file), str(reason)) for file, reason in index["unreadable"])
    refused = {item.file for item in unreadable}
    expected = [entry for entry in entries if entry.file not in refused]
    files, labels = [entry.file for entry in expected], [entry.label for entry in expected]
    shape = (len(expected), image_format.channels, *image_format.size)
    if index["files"] != files or index["labels"] != labels or images.shape != shape or images.dtype != np.uint8:
        return None
    tensor = torch.from_numpy(np.asarray(images))
    return ImageSet(tensor, torch.tensor(labels, dtype=torch.int64), tuple(files)), unreadable


def _store(images_path: Path, index_path: Path, images: ImageSet, unreadable: Sequence[Unreadable]) -> None:
    images_path.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(images_path) as file:
        np.save(file, images.images.numpy(), allow_pickle=False)
    index = {
        "version": VERSION,
        "files": list(images.files),
        "labels": images.labels.tolist(),
        "unreadable": [[item.file, item.reason] for item in unreadable],
    }
    with _replacing(index_path) as file:
        file.write(json.dumps(index).encode())


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` that takes its place at the end, or vanishes if anything fails."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".tmp")
    try:
        with open(handle, "wb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
