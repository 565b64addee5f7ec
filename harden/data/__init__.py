"""Images and labels: one file per layout, splits, and the decoded cache."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from harden.data.cache import decode_cached
from harden.data.csv_table import open_csv
from harden.data.dataset import DataSource, Entry, Format, ImageSet, Probe, Progress, Unreadable, to_look_at
from harden.data.digits import open_digits
from harden.data.folder import open_folder
from harden.data.huggingface import open_hf
from harden.data.npz import open_npz
from harden.data.parquet_table import open_parquet
from harden.data.reading import AS_IT_IS, Reading, in_class_order
from harden.data.spec import user_paths
from harden.data.splits import SplitPlan, continue_splits, duplicate_files, plan_splits, stratified_sample
from harden.data.webdataset import open_webdataset
from harden.registry import lookup

__all__ = [
    "AS_IT_IS",
    "LAYOUTS",
    "DataSource",
    "Entry",
    "Format",
    "ImageSet",
    "Probe",
    "Progress",
    "Reading",
    "SplitPlan",
    "Unreadable",
    "continue_splits",
    "decode_cached",
    "duplicate_files",
    "from_anywhere",
    "name_of",
    "open_data",
    "plan_splits",
    "stratified_sample",
    "to_look_at",
]


def _open_torchvision(spec: str) -> DataSource:
    from harden.data.torchvision_sets import open_torchvision  # torchvision takes seconds to import

    return open_torchvision(spec)


LAYOUTS: dict[str, Callable[[str, int | None], DataSource]] = {
    "folder": open_folder,
    "csv": open_csv,
    "parquet": open_parquet,
    "npz": open_npz,
    "webdataset": open_webdataset,
    "hf": open_hf,
    "sklearn": lambda name, gray_bits: open_digits(name),
    "torchvision": lambda name, gray_bits: _open_torchvision(name),
}
"""Scheme -> opener, given what follows the colon and the bits of gray of deep images, which published data sets lack. A
spec without a scheme is a folder, or see `SUFFIXES`."""

SUFFIXES = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".npz": "npz"}
"""How the path of a file ends -> its scheme, which may then be left out."""


def open_data(spec: str, reading: Reading = AS_IT_IS) -> DataSource:
    """Open the data set that `spec` names: a folder, a file of a known suffix, or a scheme of `LAYOUTS` and a colon.

    No image is decoded.

    Args:
        spec: what the user typed.
        reading: what is said of how it is read.

    Raises:
        UsageError: `spec` is empty or holds a null byte, an unknown scheme stands before the colon, a package that a
            layout needs is not installed, or the classes are not those that an order names.
        DataError: the path cannot be read, or not be used as a data set.
    """
    with user_paths(spec):
        scheme, rest = _scheme(spec)
        source = lookup(LAYOUTS, scheme, kind="data layout")(rest, reading.gray_bits)
    return in_class_order(source, reading.class_order)


def name_of(spec: str) -> str:
    """Return a short name of the data set for titles and folders: that of its file, or what names it."""
    scheme, rest = _scheme(spec)
    if scheme in ("sklearn", "torchvision"):
        return Path(spec).name
    path, mark, _ = rest.rpartition("?")
    return Path(path if mark and not Path(rest).exists() else rest).name


def from_anywhere(spec: str, source: DataSource) -> str:
    """Return what names the data set that `spec` opened, whatever the current folder is."""
    if Path(spec).is_dir():
        return str(Path(spec).resolve())
    return source.location if _scheme(spec)[0] in (*SUFFIXES.values(), "folder", "webdataset", "hf") else spec


def _scheme(spec: str) -> tuple[str, str]:
    """Return the scheme, and what it is given."""
    typed = re.match(r"([A-Za-z][A-Za-z0-9_+-]+):", spec)  # two letters at least: C:\images is a path
    if typed is not None and not Path(spec).exists():
        return typed[1], spec[typed.end() :]
    ends = (Path(path).suffix.lower() for path in (spec, spec.rpartition("?")[0]))
    known = [] if Path(spec).is_dir() else [SUFFIXES[end] for end in ends if end in SUFFIXES]
    return (known[0] if known else "folder"), spec
