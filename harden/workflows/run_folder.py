"""A run folder: what is in it, writing it without ever losing one, and reading a hardened model back from it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harden.data import DataSource, Entry, Reading, SplitPlan
from harden.data.names import composed
from harden.data.reading import FEWEST_BITS, MOST_BITS
from harden.errors import ExportError, HardenError, RunFolderError, UsageError
from harden.export.to_safetensors import load_weights, save_weights
from harden.files import write_whole
from harden.models import rebuild
from harden.models.classifier import Classifier, Normalisation
from harden.models.origin import Origin
from harden.models.output_subset import OutputSubset
from harden.models.state_dict import load_into
from harden.models.trial import initialise
from harden.training.history import History
from harden.workflows.run_files import check_config, read_epochs, read_json, read_run_file

if TYPE_CHECKING:
    from harden.workflows.prepare import ModelSpec

CONFIG_VERSION = 1


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """Enough to rebuild and to serve the model."""
        return self.path / "config.json"

    @property
    def recipe(self) -> Path:
        """Every setting, resolved."""
        return self.path / "recipe.toml"

    @property
    def splits(self) -> Path:
        """Which files were trained on, selected on and tested on."""
        return self.path / "splits.json"

    @property
    def metrics(self) -> Path:
        """One JSON object per epoch."""
        return self.path / "metrics.jsonl"

    @property
    def weights(self) -> Path:
        """The hardened weights, under the user's own keys."""
        return self.path / "model.safetensors"

    @property
    def initial_weights(self) -> Path:
        """The weights before hardening."""
        return self.path / "initial.safetensors"

    @property
    def starting_weights(self) -> Path:
        """The weights before clean pre-training, until that is done."""
        return self.path / "starting.safetensors"

    @property
    def checkpoint(self) -> Path:
        """The state of training, for `--resume`."""
        return self.path / "checkpoint.pt"

    @property
    def budget(self) -> Path:
        """The time budget, where the run was given one, and what of it is spent."""
        return self.path / "budget.json"

    @property
    def audit_progress(self) -> Path:
        """Folder of the attacks that an unfinished final audit has finished."""
        return self.path / "progress"

    @property
    def pretraining(self) -> Path:
        """The state of clean pre-training."""
        return self.path / "pretraining.pt"

    @property
    def skeleton(self) -> Path:
        """Folder of what is needed to build the architecture again."""
        return self.path / "architecture"

    def can_go_on(self, pretrain: int | None) -> bool:
        """Whether something in the folder of a run that did not end is worth going on from.

        Args:
            pretrain: epochs of clean training first, which leave the initial weights.
        """
        pretrained = bool(pretrain) and self.initial_weights.exists()
        return self.checkpoint.exists() or self.pretraining.exists() or pretrained

    def write_json(self, path: Path, value: Any) -> None:
        """Write `value` as JSON to `path` whole or not at all."""
        write_whole(path, json.dumps(value, indent=1) + "\n")

    def read_json(self, path: Path) -> Any:
        """Return the JSON value in `path`.

        Raises:
            RunFolderError: missing or damaged.
        """
        return read_run_file(path, read_json)

    def read_config(self) -> dict[str, Any]:
        """Return what config.json says.

        Raises:
            RunFolderError: missing or damaged.
        """
        return read_run_file(self.config, lambda path: check_config(read_json(path)))

    def read_training(self) -> dict[str, Any]:
        """Return what config.json says of the training.

        Raises:
            RunFolderError: config.json is missing or damaged, or the run is not trained yet.
        """
        training: dict[str, Any] | None = self.read_config().get("training")
        if training is None:
            raise RunFolderError(
                f"{self.config} says nothing of a training: the run has not finished",
                hint=f"finish it with: harden fit --resume {self.path}",
            )
        return training

    @property
    def gray_bits(self) -> int | None:
        """How many bits of gray the run took the images with more than 8 to use.

        Raises:
            RunFolderError: config.json is missing or damaged.
        """
        bits = self.read_config().get("gray_bits")
        if bits is not None and (not isinstance(bits, int) or not FEWEST_BITS <= bits <= MOST_BITS):
            raise RunFolderError(
                f"{self.config} is damaged: gray_bits cannot be {str(bits)[:40]!r}", hint="start the run again"
            )
        return bits

    def write_splits(self, plan: SplitPlan, source: DataSource) -> None:
        """Keep which files are trained on, selected on and tested on, their states, and the classes of their labels."""
        states = {name: list(map(source.written, entries)) for name, entries in plan.parts()}
        written = {
            name: {"sizes": [one and one.size for one in found], "modified": [one and one.modified for one in found]}
            for name, found in states.items()
        }
        self.write_json(self.splits, {**plan.to_json(), "classes": list(source.classes), "written": written})

    def read_splits(self) -> SplitPlan:
        """Return which files the run trained on, selected on and tested on.

        Raises:
            RunFolderError: the list is missing or damaged.
        """
        return read_run_file(self.splits, lambda path: SplitPlan.from_json(read_json(path)))

    def read_history(self) -> History | None:
        """Return what happened in training, epoch by epoch; None before the first one.

        Raises:
            RunFolderError: config.json is missing, or it or metrics.jsonl is damaged.
        """
        if not self.metrics.exists():
            return None
        chosen = self.read_config().get("training", {}).get("chosen_epoch")
        epochs = read_run_file(self.metrics, read_epochs)
        return History(epochs, chosen) if epochs else None

    def is_at(self, source: DataSource, data: str | None = None) -> bool:
        """Whether `source` lies where the data of the run lay: at `data`, or where config.json says."""
        data = data or self.read_config().get("training", {}).get("data")
        return data is not None and os.path.realpath(data) == os.path.realpath(source.location)

    def splits_of(self, source: DataSource) -> SplitPlan | None:
        """Return the run's splits of `source`, without files that are gone; None if the run used other data.

        The data are the run's where they lie at the same place, or hold every file that it used (they were moved).
        """
        if not self.splits.exists():
            return None
        plan = self.splits_under(source.classes)
        if plan is None:
            return None
        listed = {entry for entries in source.listings.values() for entry in entries}
        train, val, test = (
            tuple(entry for entry in entries if entry in listed) for entries in (plan.train, plan.val, plan.test)
        )
        kept = replace(plan, train=train, val=val, test=test)
        if (not self.is_at(source) and kept != plan) or not (train and val and test):
            return None
        return kept

    def splits_under(self, classes: Sequence[str]) -> SplitPlan | None:
        """Return the run's splits with labels that count `classes`, whose order may be another; None for other classes.

        Raises:
            RunFolderError: as `read_splits`.
        """
        plan = self.read_splits()
        own = self.read_json(self.splits).get("classes")
        if own is None:  # runs of earlier versions had the data's own order, and did not say so
            return plan
        if not isinstance(own, list) or not all(isinstance(name, str) for name in own):
            return None
        own = list(map(composed, own))
        if own == list(classes):
            return plan
        if sorted(own) != sorted(classes):
            return None
        labels = {label: classes.index(name) for label, name in enumerate(own)}

        def renumbered(entries: Sequence[Entry]) -> tuple[Entry, ...]:
            return tuple(replace(entry, label=labels.get(entry.label, -1)) for entry in entries)

        return replace(plan, train=renumbered(plan.train), val=renumbered(plan.val), test=renumbered(plan.test))

    def save_classifier(self, classifier: Classifier, path: Path) -> None:
        """Write the user's module's weights to `path`."""
        save_weights(classifier.module.state_dict(), path, {"classes": list(classifier.classes)})

    def load_classifier(self, *, initial: bool = False, arch: str | None = None) -> Classifier:
        """Return the hardened model, or with `initial` the one from before hardening.

        Args:
            initial: which weights.
            arch: code that builds the network, where the run's own may not be run (see `harden.models.trust`).

        Raises:
            RunFolderError: the run has not got that far, or is damaged.
        """
        weights = self.initial_weights if initial else self.weights
        if not weights.exists():
            raise RunFolderError(
                f"{self.path} has no {weights.name}: the run has not finished",
                hint=f"finish it with: harden fit --resume {self.path}",
            )
        return self.build_classifier(weights, arch=arch)

    def build_classifier(self, weights: Path | None, *, arch: str | None = None) -> Classifier:
        """Return the model that config.json describes, in eval mode.

        Args:
            weights: the file to load; None leaves the network as it is built.
            arch: as for `load_classifier`.

        Raises:
            RunFolderError: the run is damaged.
        """
        config = self.read_config()
        try:
            classifier = classifier_from(config, self.skeleton, arch=arch)
            if weights is not None:
                load_into(classifier.module, load_weights(weights))
        except ExportError as error:  # whose exit code is for exports
            raise RunFolderError(
                error.message, hint=f"copy {self.path} again from where it came from, or run `harden fit` again"
            ) from error
        except HardenError:
            raise
        except Exception as error:
            raise RunFolderError(
                f"the run {self.path} cannot be read: {type(error).__name__}: {str(error)[:200]}",
                hint="config.json and the weights do not fit each other; run `harden fit` again",
            ) from error
        return classifier.eval()


def is_run(path: Path) -> bool:
    """Whether a path is a run folder of ours."""
    return (path / "config.json").is_file() and (path / "recipe.toml").is_file()


def refuse_stated(run: RunFolder, spec: ModelSpec, reading: Reading) -> None:
    """Refuse what would be ignored: a run's model keeps its classes, its normalisation and the size of its images.

    Raises:
        UsageError: naming every flag that was given.
    """
    given = [
        f"--{name.replace('_', '-')}"
        for name in ("class_map", "mean", "std", "image_size")
        if getattr(spec, name) is not None
    ]
    if spec.ignore_other_classes:
        given.append("--ignore-other-classes")
    if reading.class_order is not None:
        given.append("--class-order")
    if given:
        raise UsageError(
            f"{run.path} is a run folder, whose config.json settles what {', '.join(given)} would say",
            hint=f"leave {', '.join(given)} out, or name the weights file that the run started from",
        )


def reading_for(run: RunFolder | None, given: Reading, *, other_data: bool) -> Reading:
    """Return how data are read for a run's model: its classes go by name, and its bits of gray hold unless told else.

    Args:
        run: the run folder; None for any other model, of which everything is as given.
        given: what the user said.
        other_data: whether the user named data.

    Raises:
        UsageError: other bits of gray for the run's own data.
    """
    if run is None:
        return given
    kept = run.gray_bits
    if given.gray_bits is not None and not other_data and given.gray_bits != kept:
        raise UsageError(
            f"{run.path} read its images with {f'--gray-bits {kept}' if kept else 'no --gray-bits'}, not with "
            f"{given.gray_bits}",
            hint="leave --gray-bits out, or name other images with --data",
        )
    return replace(given, gray_bits=given.gray_bits if given.gray_bits is not None else kept)


def classifier_from(config: Mapping[str, Any], skeleton: Path, *, arch: str | None = None) -> Classifier:
    """Build the classifier that a config.json describes, without its weights."""
    origin = Origin.from_json(config["origin"])
    module = rebuild(origin, skeleton_dir=skeleton, arch=arch)
    channels, *size = config["input_size"]
    initialise(module, channels, (size[0], size[1]))
    return Classifier(
        module,
        normalisation=Normalisation.from_json(config["normalisation"]),
        classes=tuple(config["classes"]),
        input_size=tuple(config["input_size"]),
        origin=origin,
        subset=OutputSubset.from_json(config.get("subset")),
    )


def describe(classifier: Classifier) -> dict[str, Any]:
    """Return what config.json says of a classifier; `classifier_from` reads it."""
    return {
        "version": CONFIG_VERSION,
        "origin": classifier.origin.to_json(),
        "normalisation": classifier.normalisation.to_json(),
        "classes": list(classifier.classes),
        "input_size": list(classifier.input_size),
        **({"subset": classifier.subset.to_json()} if classifier.subset is not None else {}),
    }
