"""Arrays of pixels and labels in one NumPy archive: `npz:FILE`."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from harden.archives import ArchiveError, check_archive
from harden.data.dataset import Probe
from harden.data.encoded import stamp
from harden.data.indexed import IndexedSource
from harden.data.labels import hot_labels
from harden.data.names import SPLIT_NAMES, some
from harden.data.pictures import scaled
from harden.data.rows import Row, list_rows
from harden.data.spec import check_is_file, read_spec
from harden.errors import DataError, UnsafeInputError

IMAGES = ("x", "image", "images", "data")
LABELS = ("y", "label", "labels", "target", "targets")
CLASSES = ("classes", "class_names", "classnames")

_MOST_IMAGES = 10_000_000

_KEYS_HINT = (
    "np.savez(FILE, x_train=..., y_train=..., x_test=..., y_test=...) or np.savez(FILE, images=..., labels=...)"
)


@dataclass(frozen=True)
class Part:
    """The images of one split: where they lie and how.

    Attributes:
        images, labels: keys in the archive.
        shape: of the images as stored, (N, H, W), (N, H, W, C) or (N, C, H, W).
        channels_at: the axis of the channels; None: there is none.
    """

    images: str
    labels: str
    shape: tuple[int, ...]
    channels_at: int | None

    @property
    def channels(self) -> int:
        """1 or 3."""
        return 1 if self.channels_at is None else self.shape[self.channels_at]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        sides = [n for axis, n in enumerate(self.shape) if axis not in (0, self.channels_at)]
        return sides[0], sides[1]


def open_npz(text: str, gray_bits: int | None = None) -> IndexedSource:
    """List the images in the NumPy archive at `text`; only labels are read.

    The keys are x_train and y_train, train_images and train_labels or the like for every split, or images and labels
    for a set without splits. Images are uint8, or float in [0, 1] and then rounded to uint8, or other integers if
    `gray_bits` says how many bits of them are used; (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3. Labels are
    integers or texts, (N,) or (N, 1), or one-hot vectors, (N, K). A key `classes` may name the classes of either.

    Raises:
        DataError: no such file, no archive of numpy's, pickled objects, several labels for an image, or arrays of other
            kinds.
        UnsafeInputError: an archive that breaks a rule of `check_archive`.
    """
    file = read_spec(text, (), example="npz:images.npz").path
    check_is_file(file, "an .npz file")
    version = f"{np.__version__} {stamp([str(file)])}"
    if gray_bits is not None:
        version += f" gray {gray_bits}"
    parts, names = _look(file, gray_bits)
    rows: list[Row] = []
    for split, part in parts.items():
        labels = _labels(file, part, names)
        named = None if split == "all" else split
        rows.extend(
            Row(f"{split}/{number:06d}", label, named, f"number {number} of {part.labels!r}")
            for number, label in enumerate(labels)
        )
    classes, listings = list_rows(rows, str(file), names)
    pixels = lru_cache(maxsize=None)(lambda split: _pixels(file, parts[split], gray_bits))
    place = {entry.file: int(entry.file.rpartition("/")[2]) for listed in listings.values() for entry in listed}
    listed_as = {split: [place[entry.file] for entry in listed] for split, listed in listings.items()}
    return IndexedSource(
        location=f"npz:{file}",
        classes=classes,
        listings=listings,
        picture=lambda split, number: Image.fromarray(pixels(split)[listed_as[split][number]]),
        version=version,
        known=_probe(parts.values()),
        file=str(file),
    )


def _probe(parts: Iterable[Part]) -> Probe:
    first, *others = parts
    return Probe(
        channels=max(part.channels for part in (first, *others)),
        size=first.size,
        uniform=all(part.size == first.size for part in others),
    )


def _look(file: Path, gray_bits: int | None) -> tuple[dict[str, Part], tuple[str, ...] | None]:
    """Return where the images of every split are, and the names of the classes if the archive holds them."""
    if not zipfile.is_zipfile(file):
        raise DataError(f"{file} is no .npz archive", hint=_KEYS_HINT)
    try:
        check_archive(file)
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            keys = list(archive.files)
    except ArchiveError as error:
        raise UnsafeInputError(
            f"{file} is not opened: {error}", hint="save the arrays again with np.savez, or ask for another copy"
        ) from error
    except Exception as error:  # numpy and zipfile have no one type for damaged files
        raise _unreadable(file, error) from error
    images, labels = _by_split(keys, IMAGES, file), _by_split(keys, LABELS, file)
    if not images or images.keys() != labels.keys() or ("all" in images and len(images) > 1):
        raise DataError(
            f"{file} has no images and labels under the usual keys, or for one split only the one or the other; "
            f"its keys are: {some(keys)}",
            hint=_KEYS_HINT,
        )
    parts = {}
    for split, key in images.items():
        shape, kind = _header(file, key)
        parts[split] = Part(key, labels[split], shape, _check_images(file, key, shape, kind, gray_bits))
    named = [key for key in keys if key.lower() in CLASSES]
    return parts, tuple(map(str, _array(file, named[0]).ravel().tolist())) if named else None


def _header(file: Path, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of an array, without reading it."""
    try:
        with zipfile.ZipFile(file) as members, members.open(f"{key}.npy") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, kind = read(stream)
            declared, held = math.prod(shape) * kind.itemsize, members.getinfo(f"{key}.npy").file_size - stream.tell()
    except Exception as error:  # see above
        raise _unreadable(file, error) from error
    if shape and shape[0] > _MOST_IMAGES:
        raise DataError(
            f"{key!r} of {file} has {shape[0]:,} rows, more than {_MOST_IMAGES:,}", hint="give an array of fewer images"
        )
    if declared != held and not kind.hasobject:
        raise DataError(
            f"{key!r} of {file} declares {declared:,} bytes of values and holds {held:,} bytes",
            hint="save the array again with np.savez",
        )
    return shape, kind


def _by_split(keys: Sequence[str], roles: Sequence[str], file: Path) -> dict[str, str]:
    """Return the key per split, or under "all", of the keys that are one of `roles` and a split's name."""
    found: dict[str, str] = {}
    for key in keys:
        words = key.lower().split("_")
        splits = [SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES]
        rest = [word for word in words if word not in SPLIT_NAMES]
        if len(rest) != 1 or rest[0] not in roles or len(splits) > 1:
            continue
        split = splits[0] if splits else "all"
        if split in found:
            raise DataError(f"{file} has two arrays for the same images: {found[split]!r} and {key!r}", hint=_KEYS_HINT)
        found[split] = key
    return found


def _check_images(file: Path, key: str, shape: Sequence[int], kind: np.dtype[Any], gray_bits: int | None) -> int | None:
    """Return the axis of the channels, None for (N, H, W)."""
    where = f"{key!r} of {file}"
    if kind.hasobject:
        raise DataError(
            f"{where} holds pickled objects, which are never loaded", hint="stack images of one size into one array"
        )
    is_deep = kind.kind in "ui" and kind.itemsize > 1
    if kind != np.uint8 and kind.kind != "f" and not (is_deep and gray_bits is not None):
        deep = "; there is no scale of more than 8 bits that is right for all images" if is_deep else ""
        told = "say how many bits are used (--gray-bits 12 for values up to 4095), or " if deep else ""
        raise DataError(
            f"{where} is {kind}; uint8, or float in [0, 1], was expected{deep}",
            hint=f"{told}scale it and save it as uint8: (images / largest * 255).round().astype(np.uint8)",
        )
    if len(shape) == 3 and min(shape) > 0:
        return None
    axes = [axis for axis in (1, 3) if len(shape) == 4 and shape[axis] in (1, 3)]
    if len(axes) != 1 or min(shape) == 0:
        both = ", and it is not clear which axis holds the channels" if len(axes) == 2 else ""
        raise DataError(
            f"{where} has the shape {tuple(shape)}; (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3 was "
            f"expected{both}",
            hint="drop an alpha channel with images[..., :3]",
        )
    return axes[0]


def _labels(file: Path, part: Part, names: tuple[str, ...] | None) -> list[str]:
    """Return the class name of every image."""
    values = _array(file, part.labels)
    where = f"{part.labels!r} of {file}"
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    elif values.ndim == 2 and values.shape[0] == part.shape[0] > 0 and values.dtype.kind in "buif":
        classes = names if names is not None else tuple(map(str, range(values.shape[1])))
        hot = (
            hot_labels(values, classes, lambda row: f"number {row}", where) if len(classes) == values.shape[1] else None
        )
        if hot is not None:
            return hot
    if values.shape != (part.shape[0],) or values.dtype.kind not in "uiU":
        raise DataError(
            f"{where} is {values.dtype} of the shape {values.shape}; {part.shape[0]} integers or texts were expected, "
            f"one for each image of {part.images!r}",
            hint="give each image the number or the name of its class",
        )
    if names is None or values.dtype.kind == "U":
        return list(map(str, values.tolist()))
    if values.min() < 0 or values.max() >= len(names):
        raise DataError(
            f"{where} has labels from {values.min()} to {values.max()}, but {len(names)} classes are named",
            hint="label k is the k-th name, from 0 on",
        )
    return [names[label] for label in values.tolist()]


def _array(file: Path, key: str) -> npt.NDArray[Any]:
    _header(file, key)
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            array: npt.NDArray[Any] = archive[key]
            if array.dtype.kind == "U":
                array.tolist()  # fails where a character is none
    except MemoryError as error:
        raise DataError(f"{key!r} of {file} does not fit into memory", hint="give fewer images") from error
    except Exception as error:  # see above
        raise _unreadable(file, error) from error
    return array


def _pixels(file: Path, part: Part, gray_bits: int | None) -> npt.NDArray[np.uint8]:
    """Return the images of a split, (N, H, W) or (N, H, W, 3) uint8."""
    images = _array(file, part.images)
    if images.dtype.kind in "ui" and images.dtype.itemsize > 1 and gray_bits is not None:
        try:
            images = scaled(images, gray_bits)
        except DataError as error:
            raise DataError(f"{part.images!r} of {file} {error.message}", hint="give the bits that are used") from error
    elif images.dtype != np.uint8:
        low, high = images.min(), images.max()
        if not (low >= 0 and high <= 1):
            raise DataError(
                f"{part.images!r} of {file} has values from {low:.4g} to {high:.4g}; floats lie in [0, 1]",
                hint="undo the normalisation, which belongs to the model; 0 to 255 is to be saved as uint8",
            )
        images = np.rint(images * 255).astype(np.uint8)
    if part.channels_at == 1:
        images = images.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images[..., 0] if part.channels_at is not None and part.channels == 1 else images)


def _unreadable(file: Path, error: Exception) -> DataError:
    reason = "it holds pickled objects, which are never loaded" if "pickle" in str(error) else str(error)[:200]
    return DataError(f"{file} cannot be read as an .npz archive: {reason}", hint=_KEYS_HINT)
