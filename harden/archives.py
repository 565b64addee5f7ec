"""The one rule for every file that is a zip archive: files of torch.save, TorchScript, `.pt2` and `.npz`.

Readers of zip archives disagree: one looks for the archive from the end of the file, another from the front; one takes
the first entry of a name, another the last, a third ignores case. A file that is read as two different archives passes
a check and then loads something else. `check_archive` accepts only files that every reader reads in the same way, and
every function that opens such a file calls it first.
"""

from __future__ import annotations

import struct
import unicodedata
import zipfile
from pathlib import Path
from typing import IO

from harden.resources import measure_memory

_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_LOCAL = struct.Struct("<4s5H3I2H")
_END_MAGIC, _END_64_MAGIC, _LOCATOR_MAGIC = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_LOCAL_MAGIC, _DESCRIPTOR_MAGIC = b"PK\x03\x04", b"PK\x07\x08"
_ENCRYPTED, _HAS_DESCRIPTOR, _IN_UTF_8 = 0x1, 0x8, 0x800
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LARGEST_RATIO = 200
"""Unpacked bytes for each byte of the file. Images and weights shrink to a tenth at best, zeros to a thousandth."""
_HARMLESS = 64 * 2**20
"""Unpacked bytes of a file that may have any ratio."""
_MOST_ENTRIES = 100_000


class ArchiveError(ValueError):
    """An archive that two readers could read differently, or that unpacks to far more than it is."""


def check_archive(path: Path) -> list[zipfile.ZipInfo]:
    """Return the entries of the zip archive `path` if every reader finds these and no others.

    The file is one archive from its first byte to its last: entries that follow one another without gaps, one central
    directory, one end record without a comment. No two entries have names that differ only in case, and the entries
    together declare no more bytes than fit into memory.

    Raises:
        ArchiveError: the file breaks one of these rules.
        zipfile.BadZipFile, OSError, struct.error, NotImplementedError: it is truncated, damaged or cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        directory, count = _end_of(file, size)
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
        if len(entries) != count:
            raise ArchiveError(f"its end record counts {count} entries and its directory lists {len(entries)}")
        if count > _MOST_ENTRIES:
            raise ArchiveError(f"it has {count:,} entries, more than {_MOST_ENTRIES:,}")
        _check_names(entries)
        _check_sizes(entries, size)
        at = 0
        for entry in sorted(entries, key=lambda entry: entry.header_offset):
            at = _end_of_entry(file, entry, at)
    if at != directory:
        raise ArchiveError("it has bytes between its last entry and its directory")
    return entries


def _end_of(file: IO[bytes], size: int) -> tuple[int, int]:
    """Return where the central directory begins, and how many entries the end record counts."""
    at = size - _END.size
    if at < 0:
        raise zipfile.BadZipFile("shorter than an end record")
    file.seek(at)
    magic, disk, first, here, count, length, start, comment = _END.unpack(file.read(_END.size))
    if magic != _END_MAGIC or comment:
        file.seek(max(0, size - 2**16 - _END.size))
        if _END_MAGIC not in file.read()[: len(_END_MAGIC) - _END.size]:
            raise zipfile.BadZipFile("no end record")
        raise ArchiveError("it has bytes behind the archive, or a comment in it")
    given = (disk, first, here, count, length, start)
    at, wide = _wide_end(file, at)
    if wide is not None:
        for narrow, value, most in zip(given, wide, (*[0xFFFF] * 4, *[0xFFFFFFFF] * 2), strict=True):
            if narrow not in (value, most):
                raise ArchiveError("its two end records contradict each other")
        disk, first, here, count, length, start = wide
    if (disk, first) != (0, 0) or here != count:
        raise ArchiveError("it is one part of several")
    if start + length != at:
        raise ArchiveError("its directory does not end where its end record begins: it has another archive before it")
    return start, count


def _wide_end(file: IO[bytes], at: int) -> tuple[int, tuple[int, ...] | None]:
    """Return where the end records begin, and the fields of the 64-bit one if the 32-bit one at `at` follows one."""
    if at < _LOCATOR.size:
        return at, None
    file.seek(at - _LOCATOR.size)
    magic, disk, where, disks = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if magic != _LOCATOR_MAGIC:
        return at, None
    expected = at - _LOCATOR.size - _END_64.size
    if disk != 0 or disks != 1 or where != expected:
        raise ArchiveError("its 64-bit end record is not in its place")
    file.seek(expected)
    magic, length, _, _, *fields = _END_64.unpack(file.read(_END_64.size))
    if magic != _END_64_MAGIC or length != _END_64.size - 12:
        raise ArchiveError("its 64-bit end record is not in its place")
    return expected, tuple(fields)


def _check_names(entries: list[zipfile.ZipInfo]) -> None:
    seen: dict[str, str] = {}
    for entry in entries:
        name = entry.orig_filename
        parts = name.removesuffix("/").split("/")
        if (
            name != entry.filename
            or "\\" in name
            or not all(part.strip(". ") for part in parts)
            or parts[0][1:2] == ":"
        ):
            raise ArchiveError(f"the name {name[:80]!r} of an entry is not a plain relative path")
        if not name.isprintable() or (not name.isascii() and not entry.flag_bits & _IN_UTF_8):
            raise ArchiveError(f"the name {name[:80]!r} of an entry has characters that readers decode differently")
        folded = unicodedata.normalize("NFKC", name).casefold()
        if folded in seen:
            raise ArchiveError(f"it has two entries of one name: {seen[folded][:80]!r} and {name[:80]!r}")
        seen[folded] = name


def _check_sizes(entries: list[zipfile.ZipInfo], size: int) -> None:
    for entry in entries:
        if entry.flag_bits & _ENCRYPTED or entry.compress_type not in _METHODS:
            raise ArchiveError(f"the entry {entry.filename[:80]!r} is encrypted or compressed in an unusual way")
        if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
            raise ArchiveError(f"the entry {entry.filename[:80]!r} declares two sizes")
    declared = sum(entry.file_size for entry in entries)
    if declared > max(_HARMLESS, _LARGEST_RATIO * size):
        raise ArchiveError(f"its {size:,} bytes unpack to {declared:,} bytes")
    free = measure_memory().free
    if free is not None and declared > free:
        raise ArchiveError(f"it unpacks to {declared:,} bytes, and {free:,} bytes of memory are available")


def _end_of_entry(file: IO[bytes], entry: zipfile.ZipInfo, begin: int) -> int:
    """Return where the local record of `entry` ends.

    Raises:
        ArchiveError: it does not begin at `begin`, or says something else than the central directory.
    """
    if entry.header_offset != begin:
        raise ArchiveError(f"it has bytes before the entry {entry.filename[:80]!r} that belong to no entry")
    file.seek(begin)
    magic, _, flags, method, _, _, crc, packed, whole, named, extra = _LOCAL.unpack(file.read(_LOCAL.size))
    name = file.read(named).decode("utf-8" if entry.flag_bits & _IN_UTF_8 else "cp437", errors="replace")
    if (magic, flags, method, name) != (_LOCAL_MAGIC, entry.flag_bits, entry.compress_type, entry.orig_filename):
        raise ArchiveError(f"the entry {entry.filename[:80]!r} and the directory contradict each other")
    told = (entry.CRC, entry.compress_size, entry.file_size)
    deferred = bool(flags & _HAS_DESCRIPTOR)
    for local, central, marks in zip((crc, packed, whole), told, ((0,), (0, 0xFFFFFFFF), (0, 0xFFFFFFFF)), strict=True):
        wide = central > 0xFFFFFFFE or local == 0xFFFFFFFF
        if local != central and not (deferred and local in marks) and not (wide and local == 0xFFFFFFFF):
            raise ArchiveError(f"the entry {entry.filename[:80]!r} and the directory contradict each other")
    end: int = begin + _LOCAL.size + named + extra + entry.compress_size
    return end + (_descriptor(file, end, told) if deferred else 0)


def _descriptor(file: IO[bytes], at: int, told: tuple[int, int, int]) -> int:
    """Return the length of the record behind an entry's data that repeats its checksum and sizes."""
    file.seek(at)
    found = file.read(24)
    for kind in ("<4s3I", "<4sI2Q"):
        record = struct.Struct(kind)
        if found[: record.size] == record.pack(
            _DESCRIPTOR_MAGIC, *(n & 0xFFFFFFFF if kind[-1] == "I" else n for n in told)
        ):
            return record.size
    raise ArchiveError("the sizes behind an entry's data and in the directory contradict each other")
