from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from harden.errors import UsageError
from harden.workflows.narrator import Silent
from harden.workflows.tracking import PACKAGES, TRACKERS, Tracking, require_packages


class Service:
    """Stands in for the three packages and writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.fails_at: str | None = None

    def hear(self, name: str, *what: Any) -> Any:
        self.told.append((name, *what))
        if name == self.fails_at:
            raise ConnectionError("nobody answers")
        return self

    # TensorBoard's writer
    def SummaryWriter(self, log_dir: str, purge_step: int) -> Any:  # noqa: N802 - its name
        return self.hear("open", log_dir, purge_step)

    def add_text(self, tag: str, text: str) -> None:
        self.hear("settings", text)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.hear("figure", name, value, step)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.hear("close")

    # MLflow
    def set_experiment(self, name: str) -> None:
        assert name == "harden"

    def start_run(self, run_name: str) -> None:
        self.hear("open", run_name)

    def log_params(self, settings: dict[str, str]) -> None:
        self.hear("settings", settings)

    def log_metrics(self, figures: dict[str, float], step: int) -> None:
        for name, value in figures.items():
            self.hear("figure", name, value, step)

    def end_run(self) -> None:
        self.hear("close")

    # Weights & Biases
    def init(self, project: str, name: str, dir: str, config: dict[str, str]) -> Any:
        self.hear("settings", config)
        return self.hear("open", name)

    def log(self, figures: dict[str, float], step: int) -> None:
        self.log_metrics(figures, step)

    def finish(self) -> None:
        self.hear("close")


class Ears(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> dict[str, Service]:
    found = {}
    for name, (module, _) in PACKAGES.items():
        found[name] = Service()
        monkeypatch.setitem(sys.modules, module, found[name])
    return found


def figures_of(service: Service) -> list[tuple[Any, ...]]:
    return [told[1:] for told in service.told if told[0] == "figure"]


@pytest.mark.parametrize("name", TRACKERS)
def test_every_tracker_hears_the_settings_every_figure_of_every_epoch_and_the_end(
    name: str, services: dict[str, Service], tmp_path: Path
) -> None:
    require_packages([name])
    tracking = Tracking([name], tmp_path / "run", {"lr": "0.005"}, begun=0, narrator=Ears())
    tracking.epoch(1, {"loss": 1.5, "val_clean": 0.25})
    tracking.epoch(2, {"loss": 0.5})
    tracking.close()
    service = services[name]
    assert figures_of(service) == [("loss", 1.5, 1), ("val_clean", 0.25, 1), ("loss", 0.5, 2)]
    assert any(told[0] == "settings" and "lr" in str(told) and "0.005" in str(told) for told in service.told)
    assert service.told[-1] == ("close",)


def test_what_a_resumed_run_told_before_its_checkpoint_is_taken_back(
    services: dict[str, Service], tmp_path: Path
) -> None:
    Tracking(["tensorboard"], tmp_path, {}, begun=7, narrator=Ears())
    assert services["tensorboard"].told[0] == ("open", str(tmp_path / "tensorboard"), 8)


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_fails_on_the_way_is_told_nothing_more_and_the_others_are(
    name: str, services: dict[str, Service], tmp_path: Path
) -> None:
    ears = Ears()
    services[name].fails_at = "figure"
    tracking = Tracking(list(TRACKERS), tmp_path, {}, begun=0, narrator=ears)
    tracking.epoch(1, {"loss": 1.0})
    tracking.epoch(2, {"loss": 2.0})
    tracking.close()
    assert ears.warnings == [f"{name} failed (ConnectionError: nobody answers) and is told nothing more"]
    assert [len(figures_of(services[other])) for other in TRACKERS] == [1 if other == name else 2 for other in TRACKERS]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_cannot_begin_is_left_alone_and_the_others_are_told(
    name: str, services: dict[str, Service], tmp_path: Path
) -> None:
    ears = Ears()
    services[name].fails_at = "open"
    tracking = Tracking(list(TRACKERS), tmp_path, {}, begun=0, narrator=ears)
    tracking.epoch(1, {"loss": 1.0})
    tracking.close()
    assert ears.warnings == [f"{name} failed (ConnectionError: nobody answers) and is told nothing more"]
    assert [len(figures_of(services[other])) for other in TRACKERS] == [0 if other == name else 1 for other in TRACKERS]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_package_that_is_not_installed_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[name][0], None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=PACKAGES[name][1]) as caught:
        require_packages([name])
    assert "pip install" in str(caught.value.hint)
