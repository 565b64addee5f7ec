"""What a person and a program must know of a data set beside its images: what is passed over, and what changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harden.data import DataSource, Probe
from harden.data.changes import Changes, changes_since
from harden.workflows.narrator import Narrator
from harden.workflows.run_files import read_run_file, read_written
from harden.workflows.run_folder import RunFolder


@dataclass(frozen=True)
class DataFacts:
    """What is known of a data set.

    Attributes:
        source: the data.
        changes: by the name of a run that used them, what became of its images since.
    """

    source: DataSource
    changes: Mapping[str, Changes]

    @property
    def caveats(self) -> tuple[str, ...]:
        """Sentences that belong into a report."""
        changed = (found.sentence(name) for name, found in self.changes.items())
        return (*changed, *self.source.passed_over.warnings())

    def tell(self, narrator: Narrator) -> None:
        """Say it, a line for each kind."""
        for line in self.source.passed_over.sentences():
            narrator.note(line)
        for line in self.caveats:
            narrator.warn(line)

    def to_json(self, probe: Probe) -> dict[str, Any]:
        """Return it for programs.

        Args:
            probe: of the images.
        """
        return {
            "location": self.source.location,
            "images": {split: len(entries) for split, entries in self.source.listings.items()},
            "sizes": [{"height": size[0], "width": size[1], "count": count} for size, count in probe.sizes],
            "passed_over": self.source.passed_over.to_json(),
            "changed": {name: found.to_json() for name, found in self.changes.items()},
        }


def facts_of(source: DataSource, runs: Sequence[RunFolder] = (), *, data: str | None = None) -> DataFacts:
    """Return what is known of `source`.

    Args:
        source: the data.
        runs: that may have used them.
        data: where those of the runs lie; None: as their config.json says.

    Raises:
        RunFolderError: a run is damaged.
    """
    found = {run.path.name: _changes(run, source, data) for run in runs}
    return DataFacts(source, {name: changes for name, changes in found.items() if changes})


def _changes(run: RunFolder, source: DataSource, data: str | None) -> Changes:
    plan = run.splits_under(source.classes) if run.splits.exists() else None
    same_place = run.is_at(source, data)
    if plan is None or not (same_place or run.splits_of(source)):
        return Changes()  # other data
    return changes_since(plan, read_run_file(run.splits, read_written), source, same_place=same_place)
