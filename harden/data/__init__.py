"""Images and labels: one file per layout, splits, and the decoded cache."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from harden.data.cache import decode_cached
from harden.data.dataset import DataSource, Entry, Format, ImageSet, Probe, Progress, Unreadable
from harden.data.digits import open_digits
from harden.data.folder import open_folder
from harden.data.splits import SplitPlan, continue_splits, duplicate_files, plan_splits, stratified_sample
from harden.registry import lookup

__all__ = [
    "LAYOUTS",
    "DataSource",
    "Entry",
    "Format",
    "ImageSet",
    "Probe",
    "Progress",
    "SplitPlan",
    "Unreadable",
    "continue_splits",
    "decode_cached",
    "duplicate_files",
    "open_data",
    "plan_splits",
    "stratified_sample",
]


def _open_torchvision(spec: str) -> DataSource:
    from harden.data.torchvision_sets import open_torchvision  # torchvision takes seconds to import

    return open_torchvision(spec)


LAYOUTS: dict[str, Callable[[str], DataSource]] = {
    "folder": open_folder,
    "sklearn": open_digits,
    "torchvision": _open_torchvision,
}
"""Scheme -> opener, which is given what follows the colon. A spec without a scheme is a folder."""


def open_data(spec: str) -> DataSource:
    """Open the data set that `spec` names: a path, "folder:PATH", "sklearn:digits" or "torchvision:NAME".

    No image of a folder is opened.

    Raises:
        UsageError: an unknown scheme before the colon.
        DataError: the path cannot be used as a data set.
    """
    # two letters at least: C:\images is a path
    scheme = re.match(r"([A-Za-z][A-Za-z0-9_+-]+):", spec)
    if scheme is None or Path(spec).exists():
        return open_folder(spec)
    return lookup(LAYOUTS, scheme[1], kind="data layout")(spec[scheme.end() :])
