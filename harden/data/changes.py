"""What became of the images of an earlier run: which are gone, emptied, moved, written again, and which are new."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harden.data.dataset import DataSource, Entry, Written
from harden.data.splits import SplitPlan

EXAMPLES = 3
"""Files of each kind that are named."""


@dataclass(frozen=True)
class Changes:
    """Files of a data set that are not as an earlier run found them; every file is of one kind.

    Attributes:
        gone: not listed any more.
        emptied: of 0 bytes now.
        relabelled: of another class now, at the same path or in the folder of that class.
        moved: in another folder now, with the same class.
        rewritten: of another size, or of another time of writing where the data lie where they lay.
        added: new.
    """

    gone: tuple[str, ...] = ()
    emptied: tuple[str, ...] = ()
    relabelled: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    rewritten: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def to_json(self) -> dict[str, Any]:
        """Return count and examples of each kind."""
        return {kind: {"count": len(files), "examples": list(files[:EXAMPLES])} for kind, files in asdict(self).items()}

    def sentence(self, run: str) -> str:
        """Return what changed since `run`, in a line."""
        kinds = (f"{len(files)} {_WORDS[kind]} ({_some(files)})" for kind, files in asdict(self).items() if files)
        return f"the data have changed since {run} was trained on them: {'; '.join(kinds)}"


_WORDS = {
    "gone": "gone",
    "emptied": "emptied",
    "relabelled": "moved to another class",
    "moved": "moved to another folder",
    "rewritten": "written again",
    "added": "added",
}


def changes_since(plan: SplitPlan, written: Mapping[str, Written], source: DataSource, *, same_place: bool) -> Changes:
    """Return how the images of `source` differ from those of an earlier run.

    Args:
        plan: which images the run had, with labels that count the classes of `source`.
        written: the state of their files then, as far as it is known.
        source: the images of today.
        same_place: whether they lie where they lay; a copy elsewhere has other times.
    """
    known = {entry.file: entry for _, entries in plan.parts() for entry in entries}
    listed = {entry.file: entry for entries in source.listings.values() for entry in entries}
    gone = [entry for file, entry in known.items() if file not in listed]
    added = [entry for file, entry in listed.items() if file not in known]
    moves = _moves(gone, added, written, source)
    relabelled = {file for file, entry in known.items() if file in listed and listed[file].label != entry.label}
    emptied, rewritten = [], []
    for file in (known.keys() & listed.keys()) - relabelled:
        then, now = written.get(file), source.written(listed[file])
        if now is None or then is None or now == then:
            continue
        if now.size == 0 and then.size > 0:
            emptied.append(file)
        elif now.size != then.size or same_place:
            rewritten.append(file)
    return Changes(
        gone=_sorted(entry.file for entry in gone if entry not in moves),
        emptied=_sorted(emptied),
        relabelled=_sorted((*relabelled, *(a.file for a, b in moves.items() if a.label != b.label))),
        moved=_sorted(a.file for a, b in moves.items() if a.label == b.label),
        rewritten=_sorted(rewritten),
        added=_sorted({entry.file for entry in added} - {entry.file for entry in moves.values()}),
    )


def _moves(
    gone: Sequence[Entry], added: Sequence[Entry], written: Mapping[str, Written], source: DataSource
) -> dict[Entry, Entry]:
    """Return those that are gone and came again elsewhere, under the same name and, where it is known, of one size."""
    by_name: dict[str, list[Entry]] = {}
    for entry in added:
        by_name.setdefault(posixpath.basename(entry.file), []).append(entry)
    moves: dict[Entry, Entry] = {}
    for entry in gone:
        then = written.get(entry.file)
        for other in by_name.get(posixpath.basename(entry.file), []):
            now = source.written(other)
            if then is None or now is None or now.size == then.size:
                moves[entry] = other
                by_name[posixpath.basename(entry.file)].remove(other)
                break
    return moves


def _sorted(files: Any) -> tuple[str, ...]:
    return tuple(sorted(files))


def _some(files: Sequence[str]) -> str:
    return ", ".join(files[:EXAMPLES]) + (", ..." if len(files) > EXAMPLES else "")
