"""Zip archives that two readers read differently, or that unpack to far more than they are."""

import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from harden.archives import ArchiveError, check_archive
from harden.data import open_data
from harden.errors import DataError, UnsafeInputError
from harden.models.formats import FileKind, kind_of
from harden.models.torchscript import open_torchscript


def zipped(entries: dict[str, bytes] | list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    pairs = entries.items() if isinstance(entries, dict) else entries
    with zipfile.ZipFile(stream, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it says that a name is there already
        for name, data in pairs:
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return stream.getvalue()


def patched(data: bytes, magic: bytes, offset: int, value: bytes) -> bytes:
    at = data.rindex(magic) + offset
    return data[:at] + value + data[at + len(value) :]


PLAIN = {"a/data.pkl": b"x" * 50, "a/version": b"3"}
END = b"PK\x05\x06"
ARCHIVES: dict[str, Callable[[], bytes]] = {
    "another archive behind it": lambda: zipped(PLAIN) + zipped(PLAIN),
    "another archive before its end": lambda: zipped(PLAIN)[:-22] + zipped(PLAIN),
    "bytes before it": lambda: b"PK\x03\x04" + zipped(PLAIN),
    "bytes behind it": lambda: zipped(PLAIN) + b"more",
    "a comment": lambda: patched(zipped(PLAIN), END, 20, struct.pack("<H", 4)) + b"more",
    "one name twice": lambda: zipped([*PLAIN.items(), ("a/data.pkl", b"y")]),
    "names that differ in case": lambda: zipped({**PLAIN, "A/Data.pkl": b"y"}),
    "names that look alike": lambda: zipped({**PLAIN, "a/ﬁ": b"y", "a/fi": b"z"}),
    "a path out of it": lambda: zipped({**PLAIN, "../x": b"y"}),
    "an absolute path": lambda: zipped({**PLAIN, "/x": b"y"}),
    "a path of Windows": lambda: zipped({**PLAIN, "a\\x": b"y"}),
    "a control character": lambda: zipped({**PLAIN, "a/x\n": b"y"}),
    "bytes between entries": lambda: _with_gap(zipped(PLAIN)),
    "a count too many": lambda: patched(zipped(PLAIN), END, 8, struct.pack("<HH", 1, 1)),
    "a local name of its own": lambda: zipped(PLAIN).replace(b"a/version", b"a/Version", 1),
    "an encrypted entry": lambda: patched(zipped(PLAIN), b"PK\x01\x02", 8, struct.pack("<H", 1)),
    "two sizes": lambda: patched(zipped(PLAIN), b"PK\x01\x02", 24, struct.pack("<I", 10**9)),
    "a bomb": lambda: zipped({"a/data.pkl": bytes(2**26 + 1)}, zipfile.ZIP_DEFLATED),
}


def _with_gap(data: bytes) -> bytes:
    """Put bytes that belong to no entry before the directory."""
    at = struct.unpack("<I", data[data.rindex(END) + 16 :][:4])[0]
    moved = data[:at] + b"hidden" + data[at:]
    return patched(moved, END, 16, struct.pack("<I", at + 6))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("archive", ARCHIVES)
def test_an_archive_that_readers_could_read_differently_is_refused(archive: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.zip"
    path.write_bytes(ARCHIVES[archive]())
    with pytest.raises(ArchiveError):
        check_archive(path)
    with pytest.raises(UnsafeInputError):
        kind_of(path)
    with pytest.raises(UnsafeInputError):
        open_torchscript(path, trust=True)
    named = path.rename(tmp_path / "evil.npz")
    with pytest.raises(UnsafeInputError):
        open_data(f"npz:{named}")


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_honest_archives_are_accepted(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "zip.pt")
    np.savez(tmp_path / "plain.npz", images=np.zeros((3, 4)), größe=np.ones(2))
    np.savez_compressed(tmp_path / "small.npz", images=np.zeros((300, 40)))
    torch.jit.save(torch.jit.script(nn.Linear(2, 3)), tmp_path / "script.ts")
    torch.export.save(torch.export.export(nn.Linear(2, 3), (torch.ones(1, 2),)), tmp_path / "program.pt2")
    for path in tmp_path.iterdir():
        if path.is_file():
            assert check_archive(path)
    assert kind_of(tmp_path / "program.pt2") is FileKind.EXPORTED_PROGRAM


def test_an_array_that_declares_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 40, 40)})
    labels = io.BytesIO()
    np.save(labels, np.zeros(10**6, dtype=np.uint8))
    path = tmp_path / "images.npz"
    path.write_bytes(zipped({"images.npy": header.getvalue() + b"x" * 100, "labels.npy": labels.getvalue()}))
    with pytest.raises(DataError, match="declares 1,600,000,000 bytes"):
        open_data(f"npz:{path}")
