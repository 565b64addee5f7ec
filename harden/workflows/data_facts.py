"""What a person and a program must know of a data set beside its images: what is passed over, and what changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harden.data import DataSource, Probe
from harden.data.changes import Changes
from harden.workflows.narrator import Narrator
from harden.workflows.run_folder import RunFolder


def tell_passed_over(source: DataSource, narrator: Narrator) -> None:
    """Say which files are not read, a line for each reason; what may be a mistake is a warning."""
    for line in source.passed_over.sentences():
        narrator.note(line)
    for line in source.passed_over.warnings():
        narrator.warn(line)


def changes_of(runs: Sequence[RunFolder], source: DataSource, *, data: str | None = None) -> dict[str, Changes]:
    """Return what became of the images of each run, by its name; those where nothing did are left out.

    Raises:
        RunFolderError: a run is damaged.
    """
    found = {run.path.name: run.changes_of(source, data=data) for run in runs}
    return {name: changes for name, changes in found.items() if changes}


def facts_of(source: DataSource, probe: Probe, changes: Mapping[str, Changes]) -> dict[str, Any]:
    """Return the same for programs, as JSON.

    Args:
        source: the data.
        probe: of its images.
        changes: by name of the run.
    """
    return {
        "location": source.location,
        "images": {split: len(entries) for split, entries in source.listings.items()},
        "sizes": [{"height": size[0], "width": size[1], "count": count} for size, count in probe.sizes],
        "passed_over": source.passed_over.to_json(),
        "changed": {name: found.to_json() for name, found in changes.items()},
    }
