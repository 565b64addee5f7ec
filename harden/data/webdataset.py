"""Tar archives of pictures beside their labels, KEY.jpg and KEY.cls: `webdataset:FOLDER` or `webdataset:FILE`.

Nothing is unpacked: an archive is listed once, and a picture is read from where it lies in it.
"""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from harden.data.dataset import Entry
from harden.data.encoded import EncodedSource, stamp
from harden.data.labels import single_labels
from harden.data.names import SPLIT_NAMES
from harden.data.passed_over import PassedOver, Why, reason_for
from harden.data.pictures import SUFFIXES
from harden.data.rows import Row, list_rows
from harden.data.spec import check_is_there, read_spec
from harden.errors import DataError, HardenError
from harden.stopping import ask

LONGEST_LABEL = 1000
"""Bytes."""

_HINT = "expected KEY.jpg (or .png, .webp) and KEY.cls, a number or a name, for every image"


class Place(NamedTuple):
    """Where a picture lies: its archive, and the bytes in it."""

    archive: Path
    offset: int
    size: int


@dataclass
class Sample:
    """What an archive holds under one key."""

    key: str
    label: str | None = None
    pictures: list[tuple[str, Place]] = field(default_factory=list)


def open_webdataset(text: str, gray_bits: int | None = None) -> EncodedSource:
    """List the pictures in the tar archives at `text`, a folder of them or one; no picture is decoded.

    A key is a file's path up to the first dot of its name. Other files under the same key are passed over. Archives
    of a folder belong to a split where a word of their path names one (`train-000017.tar`, `test/000003.tar`).

    Raises:
        DataError: no archive there, a compressed or damaged one, a picture without a label or a label without one, or
            see `list_rows`.
    """
    root = read_spec(text, (), example="webdataset:shards").path
    archives = _archives(root)
    places: dict[str, Place] = {}
    passed: list[tuple[Why, str, str]] = []

    def rows() -> Iterator[Row]:
        for archive in archives:
            name = archive.relative_to(root).as_posix() if archive != root else archive.name
            split = _split(name, archive) if archive != root else None
            samples, others = _samples(archive)
            passed.extend((reason_for(suffix), name, suffix) for suffix in others)
            for sample in samples:
                file, place, label = _complete(sample, archive)
                row = Row(f"{name}/{file}", label, split, f"{sample.key!r} in {name}")
                places[row.file] = place
                yield row

    classes, listings = list_rows(_singly(list(rows()), root), str(root))

    def stored(entry: Entry) -> bytes:
        place = places[entry.file]
        with place.archive.open("rb") as stream:
            stream.seek(place.offset)
            return stream.read(place.size)

    def version(entries: Sequence[Entry]) -> str:
        return stamp(sorted({str(places[entry.file].archive) for entry in entries if entry.file in places}))

    return EncodedSource(
        f"webdataset:{root}",
        classes,
        listings,
        stored,
        version,
        gray_bits,
        passed_over=PassedOver.of(passed),
        file_of=lambda entry: str(places[entry.file].archive) if entry.file in places else None,
    )


def _singly(rows: Sequence[Row], root: Path) -> list[Row]:
    labels = single_labels([row.name for row in rows], lambda number: rows[number].where, str(root))
    return [replace(row, name=str(label)) for row, label in zip(rows, labels, strict=True)]


def _archives(root: Path) -> list[Path]:
    check_is_there(root, "folder or tar archive", "give a tar archive or a folder of them")
    if root.is_file():
        return [root]
    found = sorted(path for path in root.rglob("*.tar") if not path.name.startswith(".") and path.is_file())
    if not found:
        raise DataError(
            f"{root} holds no tar archive (*.tar)",
            hint="compressed ones have to be unpacked to .tar first; for a folder of images leave webdataset: out",
        )
    return found


def _split(name: str, archive: Path) -> str | None:
    named = {SPLIT_NAMES[word]: word for word in re.split("[^a-z0-9]+", name.lower()) if word in SPLIT_NAMES}
    if len(named) > 1:
        raise DataError(
            f"the path of {archive} names several splits: {', '.join(named.values())}",
            hint="rename it so that it names one, or none",
        )
    return next(iter(named.values()), None)


def _samples(archive: Path) -> tuple[list[Sample], list[str]]:
    """Return what an archive holds, by key, in its order; and the suffixes of the files that are not read."""
    samples: dict[str, Sample] = {}
    others: list[str] = []
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in _members(tar):
                path = posixpath.normpath(member.name)
                folder, name = posixpath.split(path)
                stem, _, extension = name.partition(".")
                suffix = f".{extension.lower()}"
                if not stem or (suffix != ".cls" and suffix not in SUFFIXES):
                    others.append(suffix if extension else "")
                    continue
                key = posixpath.join(folder, stem)
                sample = samples.setdefault(key, Sample(key))
                if suffix == ".cls":
                    sample.label = _label(tar, member, sample, archive)
                else:
                    sample.pictures.append((path, Place(archive, member.offset_data, member.size)))
    except HardenError:
        raise
    except Exception as error:  # a damaged archive leads tarfile into errors of any class
        raise DataError(
            f"{archive} is no tar archive, or is compressed, damaged or cut short ({str(error)[:100]})",
            hint="copy it again; a compressed one has to be unpacked to .tar first, for instance with gunzip",
        ) from error
    return list(samples.values()), others


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the plain files."""
    begins = -1
    while (member := tar.next()) is not None:
        ask()
        if member.offset <= begins:
            raise tarfile.ReadError("a member begins before the one before it")  # or it would never end
        begins = member.offset
        if member.isreg() and not member.issparse():
            yield member
    # tarfile takes a damaged header for the end, and would lose what follows without a word
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no end where one was expected")


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, sample: Sample, archive: Path) -> str:
    stream = tar.extractfile(member)
    content = stream.read(LONGEST_LABEL + 1) if stream is not None else b""
    try:
        label = content.decode().strip()
    except UnicodeDecodeError:
        label = ""
    if sample.label is not None or not label or len(content) > LONGEST_LABEL:
        raise DataError(f"the label of {sample.key!r} in {archive} is there twice, empty, or no short text", hint=_HINT)
    return label


def _complete(sample: Sample, archive: Path) -> tuple[str, Place, str]:
    """Return path, place and label of the one picture under a key."""
    if sample.label is None or len(sample.pictures) != 1:
        has = f"{len(sample.pictures)} pictures and {'no label' if sample.label is None else 'a label'}"
        raise DataError(f"{sample.key!r} in {archive} has {has}; one of each was expected", hint=_HINT)
    (file, place), label = sample.pictures[0], sample.label
    return file, place, label
