"""Encoded pictures to uint8 arrays: what is opened, how it is turned, converted and resized, and why a file is refused.

The rules, the same for training, audit and export checks:

- The first frame counts. EXIF orientation is applied.
- Colours become gray by ITU-R 601 luma, gray becomes RGB by repetition, CMYK by Pillow's conversion.
- Transparency is dropped, not composited: this is what torchvision's and timm's loaders do (`convert("RGB")`), so a
  checkpoint trained with them sees the pixels that it was trained on.
- More than 8 bits of gray are refused unless it is told how many of them are used, and float always: there is no scale
  that is right for all of them. Told B bits, 0 to 2^B - 1 become 0 to 255, and an image with a larger value is refused.
  A file that says its own depth (PGM, TIFF of 12 bits) has that one. Colours of 16 bits keep their upper byte (Pillow).
- Another size than the one asked for: the short side is resized (bicubic, antialiased), the centre is cropped.
- Only the formats behind the usual suffixes are opened, whatever a file is called, so that no data set can reach
  Pillow's readers that start other programs (EPS).
"""

from __future__ import annotations

import io
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features
from PIL.TiffImagePlugin import TiffImageFile

from harden.data.dataset import Entry, Format, ImageSet, Progress, Unreadable
from harden.errors import DataError
from harden.stopping import ask

_SUFFIXES_OF: Mapping[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    **({"AVIF": (".avif", ".avifs")} if features.check("avif") else {}),  # Pillow may be built without it
}
"""Pillow's name of a format -> how files of it end."""

FORMATS = tuple(_SUFFIXES_OF)
SUFFIXES = frozenset(suffix for suffixes in _SUFFIXES_OF.values() for suffix in suffixes)

CHUNK = 64
THREADS = 8
LOOK_SECONDS = 0.2
"""How often it is asked whether to go on while threads decode."""
SLOW_FILE_SECONDS = 4e-4
"""Below this time per file the interpreter lock is the bottleneck and threads only get into each other's way."""

_SIDEWAYS = {5, 6, 7, 8}
"""EXIF orientations that swap height and width."""

_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
"""Tags of TIFF, and a value of the second."""

Stored = Path | bytes
"""An encoded picture: the file that it is in, or what such a file holds."""

Pixels = npt.NDArray[np.uint8]
_DecodeChunk = Callable[[int], list[tuple[int, str]]]


def look(stored: Callable[[Entry], Stored], entry: Entry) -> tuple[bool, tuple[int, int]]:
    """Return whether the picture is stored as gray and its upright (height, width), without decoding its pixels.

    RGB pixels that happen to be gray count as colour.

    Raises:
        DataError: not an image; the message is the reason alone.
    """
    with _pillow_warnings(), _reasons(), _open(stored(entry)) as image:
        width, height = image.size
        size = (width, height) if _orientation(image) in _SIDEWAYS else (height, width)
        return _is_gray(image), size


def is_picture(file: Path) -> bool:
    """Whether a file begins like a picture of `FORMATS`; its pixels are not decoded."""
    if not file.is_file():  # a pipe would be waited for
        return False
    try:
        with _pillow_warnings(), _reasons(), _open(file):
            return True
    except DataError:
        return False


def fit(image: Image.Image, image_format: Format) -> Pixels:
    """Return an upright 8-bit `image` in the format asked for: (C, H, W) uint8."""
    image = image.convert("L" if image_format.channels == 1 else "RGB")
    height, width = image_format.size
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.BICUBIC)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def decode_pictures(
    stored: Callable[[Entry], Stored],
    entries: Sequence[Entry],
    image_format: Format,
    progress: Progress | None = None,
    *,
    where: str,
    gray_bits: int | None = None,
) -> tuple[ImageSet, tuple[Unreadable, ...]]:
    """Decode the pictures of `entries`, in their order.

    Args:
        stored: from an entry to its picture; called from several threads.
        entries: what to decode.
        image_format: channels and size.
        progress: called after every chunk.
        where: the data set, for messages.
        gray_bits: how many the pictures with more than 8 bits of gray use; None: these are refused.

    Returns:
        The readable images, (N, C, H, W) uint8, and the unreadable files with a reason each, in order.

    Raises:
        DataError: every file is unreadable, or the decoded images do not fit into memory.
    """
    total = len(entries)
    pixels = _allocate(total, image_format)

    given_up = threading.Event()

    def decode_chunk(start: int) -> list[tuple[int, str]]:
        bad = []
        for index in range(start, min(start + CHUNK, total)):
            ask()  # which the threads cannot: they look at what became of the answer
            if given_up.is_set():
                break
            try:
                _decode_into(pixels[index], stored, entries[index], image_format, gray_bits)
            except DataError as error:
                bad.append((index, error.message))
        return bad

    bad: dict[int, str] = {}
    with _pillow_warnings():
        for start, failures in zip(range(0, total, CHUNK), _over_chunks(decode_chunk, total, given_up), strict=True):
            bad.update(failures)
            if progress is not None:
                progress(min(start + CHUNK, total), total)
    if total and len(bad) == total:
        raise DataError(
            f"none of the {total} image files in {where} can be decoded; {entries[0].file}: {bad[0]}",
            hint="open one of them with an image viewer; if they are fine there, save them as 8-bit PNG or JPEG",
        )
    good = [index for index in range(total) if index not in bad]
    if bad:
        _move_up(pixels, good)
    images = ImageSet(
        torch.from_numpy(pixels[: len(good)]),
        torch.tensor([entries[index].label for index in good], dtype=torch.int64),
        tuple(entries[index].file for index in good),
    )
    return images, tuple(Unreadable(entries[index].file, reason) for index, reason in bad.items())


def _over_chunks(decode_chunk: _DecodeChunk, total: int, given_up: threading.Event) -> Iterator[list[tuple[int, str]]]:
    """Yield the result of every chunk in order: the first one timed here, the others in threads if that will help.

    Args:
        decode_chunk: decodes the chunk that starts at an index.
        total: images in all chunks.
        given_up: set for the threads when nobody wants their chunks any more.
    """
    starts = range(0, total, CHUNK)
    if not starts:
        return
    Image.preinit()  # or the time of the first file would include importing Pillow's plugins
    began = time.perf_counter()
    yield decode_chunk(0)
    if (time.perf_counter() - began) / min(CHUNK, total) < SLOW_FILE_SECONDS:
        yield from map(decode_chunk, starts[1:])
        return
    pool = ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1))
    try:
        for chunk in [pool.submit(decode_chunk, start) for start in starts[1:]]:
            while not chunk.done():
                ask()
                wait([chunk], timeout=LOOK_SECONDS)
            yield chunk.result()
    finally:
        given_up.set()
        pool.shutdown(cancel_futures=True)


def _decode_into(
    target: Pixels, stored: Callable[[Entry], Stored], entry: Entry, image_format: Format, gray_bits: int | None
) -> None:
    with _reasons(), _open(stored(entry)) as image:
        deep = image.mode.startswith("I")
        if image.mode == "F" or (deep and gray_bits is None):
            repair = "convert it to 8 bits" + (", or say how many are used: --gray-bits 12 or 16" if deep else "")
            raise DataError(f"more than 8 bits of gray per pixel (mode {image.mode}); {repair}")
        orientation = _orientation(image)
        _draft(image, image_format, sideways=orientation in _SIDEWAYS)
        image.load()
        if orientation != 1:
            ImageOps.exif_transpose(image, in_place=True)
        target[:] = fit(_shallow(image, gray_bits) if deep and gray_bits is not None else image, image_format)


def _shallow(image: Image.Image, gray_bits: int) -> Image.Image:
    """Return a loaded picture of integer grays as one of 8 bits.

    Raises:
        DataError: values outside the bits.
    """
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    if image.format == "PPM":
        gray_bits = 16  # Pillow has scaled the file's own largest value to that
    elif tags.get(_BITS_PER_SAMPLE) == (12,):
        gray_bits = 12
    values = scaled(np.asarray(image), gray_bits)
    # Pillow turns TIFFs that count from white to black round, but not those of 16 bits.
    return Image.fromarray(255 - values if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else values)


def scaled(values: npt.NDArray[np.integer[Any]], gray_bits: int) -> Pixels:
    """Return integer grays of `gray_bits` bits as uint8: 0 to 2^gray_bits - 1 become 0 to 255, rounded.

    Raises:
        DataError: values outside the bits; the message is the reason alone.
    """
    white = 2**gray_bits - 1
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > white:
        wrong = low if low < 0 else high
        raise DataError(f"has the value {wrong}; with --gray-bits {gray_bits}, 0 to {white} was expected")
    pixels: Pixels = ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    return pixels


def _open(stored: Stored) -> Image.Image:
    try:
        return Image.open(io.BytesIO(stored) if isinstance(stored, bytes) else stored, formats=FORMATS)
    except UnidentifiedImageError as error:
        if not (len(stored) if isinstance(stored, bytes) else stored.stat().st_size):
            raise DataError("empty file (0 bytes)") from error
        raise DataError(f"not an image, or none of {', '.join(FORMATS)}") from error


def _draft(image: Image.Image, image_format: Format, *, sideways: bool) -> None:
    """Let the JPEG decoder skip detail: it may halve the image while twice the final resolution is left."""
    height, width = image_format.size
    if sideways:
        height, width = width, height
    scale = max(width / image.width, height / image.height)
    if image.format in {"JPEG", "MPO"} and scale <= 0.25:
        image.draft(None, (int(2 * scale * image.width), int(2 * scale * image.height)))


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata do not make the pixels unreadable, and Pillow raises anything over them
        return 1
    return orientation if orientation in range(1, 9) else 1


def _is_gray(image: Image.Image) -> bool:
    if image.mode == "P":
        palette = image.getpalette("RGB") or []
        return palette[0::3] == palette[1::3] == palette[2::3]
    return image.mode in {"1", "L", "LA", "La", "F"} or image.mode.startswith("I")


def _allocate(count: int, image_format: Format) -> Pixels:
    shape = (count, image_format.channels, *image_format.size)
    try:
        return np.empty(shape, dtype=np.uint8)
    except MemoryError:
        raise DataError(
            f"{count} images of {image_format.size[0]}x{image_format.size[1]} pixels do not fit into memory",
            hint="ask for a smaller image size, or give fewer images",
        ) from None


def _move_up(pixels: Pixels, good: Sequence[int]) -> None:
    """Close the gaps in place: a second copy of a large data set may not fit into memory."""
    for new, old in enumerate(good):
        if new != old:
            pixels[new] = pixels[old]


@contextmanager
def _pillow_warnings() -> Iterator[None]:
    """Make the warning about decompression bombs an error and silence the others (metadata, mostly).

    Entered once around a whole pool of threads, because the warning filters are the process's, not the thread's.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn whatever Pillow raises into a DataError whose message is the reason in plain words."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a damaged file leads Pillow's decoders into errors of any class
        raise DataError(_reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, (Image.DecompressionBombWarning, Image.DecompressionBombError)):
        return f"more than {(Image.MAX_IMAGE_PIXELS or 0) // 1_000_000} million pixels"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror.lower()}"
    return f"damaged or cut short ({error})"
