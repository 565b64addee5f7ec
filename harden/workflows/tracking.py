"""Epochs told to an experiment tracker besides metrics.jsonl: `TRACKERS` is the table of those that are known.

A tracker is an optional package. One that is not installed is told before a run begins; one that fails later, or when a
run is resumed, is left alone: training is worth more than its diary.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from harden.errors import UsageError
from harden.workflows.narrator import Narrator

PACKAGES = {
    "tensorboard": ("torch.utils.tensorboard", "tensorboard"),
    "mlflow": ("mlflow", "mlflow"),
    "wandb": ("wandb", "wandb"),
}
"""By tracker: the module that is imported, and the package that brings it."""
PROJECT = "harden"
"""What runs are filed under, where a tracker has projects."""


class Tracker(Protocol):
    """Where the figures of a run go."""

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Tell the figures of epoch `number`, counted from 1."""

    def close(self) -> None:
        """The run is over, or stopped."""


class _TensorBoard:
    """Event files in the run folder: tensorboard --logdir RUN/tensorboard."""

    def __init__(self, folder: Path, settings: Mapping[str, str], *, begun: int) -> None:
        module = _import(*PACKAGES["tensorboard"])
        self._writer: Any = module.SummaryWriter(log_dir=str(folder / "tensorboard"), purge_step=begun + 1)
        self._writer.add_text("settings", "\n".join(f"    {key}: {value}" for key, value in settings.items()))

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, number)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _MLflow:
    """A run in MLflow's store, and another where it is resumed; MLflow's environment variables say where it is."""

    def __init__(self, folder: Path, settings: Mapping[str, str], *, begun: int) -> None:
        self._mlflow: Any = _import(*PACKAGES["mlflow"])
        self._mlflow.set_experiment(PROJECT)
        self._mlflow.start_run(run_name=folder.name)
        if not begun:
            self._mlflow.log_params(dict(settings))

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(figures), step=number)

    def close(self) -> None:
        self._mlflow.end_run()


class _WeightsAndBiases:
    """A run at Weights & Biases, and another where it is resumed; sent over the network unless WANDB_MODE says no."""

    def __init__(self, folder: Path, settings: Mapping[str, str], *, begun: int) -> None:
        wandb = _import(*PACKAGES["wandb"])
        self._run: Any = wandb.init(project=PROJECT, name=folder.name, dir=str(folder), config=dict(settings))

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=number)

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, Callable[..., Tracker]] = {
    "tensorboard": _TensorBoard,
    "mlflow": _MLflow,
    "wandb": _WeightsAndBiases,
}
"""By name: what opens a tracker for a run folder, its settings and the epochs that it has already."""


def require_packages(names: Sequence[str]) -> None:
    """Import what the trackers need, before anything is begun.

    Raises:
        UsageError: a package is not installed.
    """
    for name in names:
        _import(*PACKAGES[name])


class Tracking:
    """All trackers of a run; one that fails, to begin with or later, is told nothing more.

    Args:
        names: keys of `TRACKERS`.
        folder: of the run.
        settings: as text, by key.
        begun: epochs that were told already, by a run that is resumed.
        narrator: hears of a tracker that fails.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, settings: Mapping[str, str], *, begun: int, narrator: Narrator
    ) -> None:
        self._narrator = narrator
        self._open: dict[str, Tracker] = {}
        for name in names:
            with self._left_alone(name):
                self._open[name] = TRACKERS[name](folder, settings, begun=begun)

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Tell every tracker."""
        for name, tracker in list(self._open.items()):
            with self._left_alone(name):
                tracker.epoch(number, figures)

    def close(self) -> None:
        """The run is over, or stopped."""
        for name, tracker in list(self._open.items()):
            with self._left_alone(name):
                tracker.close()
        self._open = {}

    @contextmanager
    def _left_alone(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of any kind: these are other people's services
            self._open.pop(name, None)
            self._narrator.warn(f"{name} failed ({type(error).__name__}: {str(error)[:200]}) and is told nothing more")


def _import(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"--track needs the package {package}, which is not installed ({error})",
            hint=f"pip install '.[track]', or pip install {package}",
        ) from error
