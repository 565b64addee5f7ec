"""What the operating system gives this process: cores, memory, places to write to."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")


@dataclass(frozen=True)
class Cores:
    """Processors.

    Attributes:
        machine: how many the machine has.
        allowed: how many of them this process may run on (its affinity).
        quota: how many of them it may keep busy on average, as its control group says; None: no limit.
    """

    machine: int
    allowed: int
    quota: float | None

    @property
    def usable(self) -> int:
        """How many threads can really run at once."""
        return max(1, self.allowed if self.quota is None else min(self.allowed, math.ceil(self.quota)))


@dataclass(frozen=True)
class Memory:
    """Bytes of memory; None where the system does not tell.

    Attributes:
        total: of the machine.
        free: that this process can still get, within the limit too.
        limit: of its control group; None: no limit.
    """

    total: int | None
    free: int | None
    limit: int | None


@dataclass(frozen=True)
class Place:
    """A folder, or where it would be made.

    Attributes:
        path: the folder.
        exists: whether it is there already.
        free: bytes on its disk; None where the system does not tell.
        refusal: why nothing can be written there; None where something can.
    """

    path: Path
    exists: bool
    free: int | None
    refusal: str | None


def count_cores(root: Path = ROOT) -> Cores:
    """Return the processors, with limits read from the /proc and /sys below `root`."""
    machine = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    quotas = [quota for group in _groups("cpu", root) if (quota := _quota(group)) is not None]
    return Cores(machine, allowed, min(quotas, default=None))


def measure_memory(root: Path = ROOT) -> Memory:
    """Return the memory, as the /proc and /sys below `root` say."""
    table = _table(root / "proc/meminfo")
    total, free = (table[key] * 1024 if key in table else None for key in ("MemTotal", "MemAvailable"))
    if total is None:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    smallest = None
    for group in _groups("memory", root):
        limit = _number(group / "memory.max") or _number(group / "memory.limit_in_bytes")
        if limit is None or (total is not None and limit >= total):  # version 1 writes a huge number for none
            continue
        smallest = limit if smallest is None else min(smallest, limit)
        used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
        stat = _table(group / "memory.stat")
        # Files that were read count as used, but are dropped when somebody needs the memory.
        droppable = stat.get("total_inactive_file", stat.get("inactive_file", 0))
        left = max(0, limit - max(0, used - droppable))
        free = left if free is None else min(free, left)
    return Memory(total, free, smallest)


def look_at(path: Path) -> Place:
    """Return whether a file can be written in `path`; a folder that is not there is not made."""
    try:
        near = path = Path(os.path.abspath(path))
    except OSError as error:  # the working folder is gone
        return Place(path, False, None, error.strerror)
    while not os.path.exists(near) and near != near.parent:
        near = near.parent
    exists = near == path
    free = None
    try:
        free = shutil.disk_usage(near).free
        with tempfile.TemporaryFile(dir=near) as file:
            file.write(b".")
            file.flush()
    except OSError as error:
        return Place(path, exists, free, error.strerror or type(error).__name__)
    return Place(path, exists, free, None)


def size_of(folder: Path) -> tuple[int, int]:
    """Return the bytes and the number of the files in `folder`; what cannot be read does not count."""
    size = count = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(parent, name)).st_size
                count += 1
    return size, count


def nvidia_driver(root: Path = ROOT) -> str | None:
    """Return the version of NVIDIA's driver, "unknown" where only its tool is there, or None."""
    told = _text(root / "proc/driver/nvidia/version")
    if told is not None:
        version = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", told)
        return version[0] if version else "unknown"
    return "unknown" if shutil.which("nvidia-smi") else None


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of the control groups that this process is in, of both versions, from its own to the root's."""
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        number, controllers, name = (*line.split(":", 2), "", "")[:3]
        if number == "0" and not controllers:
            tops = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif controller in controllers.split(","):
            tops = [root / "sys/fs/cgroup" / controller]
        else:
            continue
        parts = [part for part in name.split("/") if part]
        for top in tops:
            for depth in range(len(parts), -1, -1):
                group = top.joinpath(*parts[:depth])
                if group.is_dir():
                    yield group


def _quota(group: Path) -> float | None:
    """Return how many cores a group may keep busy, or None."""
    quota, period = (*(_text(group / "cpu.max") or "").split(), "", "")[:2]
    if not quota:
        quota = (_text(group / "cpu.cfs_quota_us") or "").strip()
        period = (_text(group / "cpu.cfs_period_us") or "").strip()
    if not (quota.isdecimal() and period.isdecimal() and int(period)):
        return None
    return int(quota) / int(period)


def _table(path: Path) -> dict[str, int]:
    """Return the numbers of a file of lines such as "MemTotal: 5 kB" or "inactive_file 5"."""
    return {key: int(value) for key, value in re.findall(r"^(\w+):?\s+(\d+)", _text(path) or "", re.MULTILINE)}


def _number(path: Path) -> int | None:
    text = (_text(path) or "").strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
