"""Whoever mistypes a name is told the one that was meant, for every flag whose names stand in a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from typer.main import get_command

from harden.attacks import ATTACKS, CRAFTERS, PRESETS
from harden.cli.app import program
from harden.data import LAYOUTS
from harden.data.torchvision_sets import READERS
from harden.defences import DEFENCES
from harden.export import EXPORTERS
from harden.folders import recipe_folder
from harden.models import SOURCES
from harden.models.factory import LIBRARIES
from harden.registry import did_you_mean
from harden.training.augment import AUGMENTATIONS
from harden.workflows.devices import DEVICES
from harden.workflows.tracking import TRACKERS
from harden.workflows.variants import SETTINGS
from tests.workflows.builders import Workshop

HARDEN = get_command(program())
FIT = ("fit", "m.pt", "--data", "d")
FLAGS: dict[str, tuple[Sequence[str], Iterable[str]]] = {
    "--method": ((*FIT, "--method", "{}"), DEFENCES),
    "--methods": (("compare", "--methods", "{}"), DEFENCES),
    "--methods, sources": (("compare", "--methods", "sat@{}"), CRAFTERS),
    "--methods, settings": (("compare", "--methods", "sat:{}=1"), SETTINGS),
    "--source-attack": ((*FIT, "--source-attack", "{}"), CRAFTERS),
    "--attacks of fit": ((*FIT, "--attacks", "{}"), {**PRESETS, **ATTACKS}),
    "--attacks of report": (("report", "m.pt", "--attacks", "{}"), {**PRESETS, **ATTACKS}),
    "--attacks of compare": (
        ("compare", "--model", "m.pt", "--data", "d", "--attacks", "{}"),
        {**PRESETS, **ATTACKS},
    ),
    "--recipe": (("fit", "--recipe", "{}"), sorted(path.stem for path in recipe_folder().glob("*.toml"))),
    "--augment": ((*FIT, "--augment", "{}"), AUGMENTATIONS),
    "--track": ((*FIT, "--track", "{}"), TRACKERS),
    "--on-collapse": ((*FIT, "--on-collapse", "{}"), ("switch", "stop", "keep")),
    "--device": ((*FIT, "--device", "{}"), DEVICES),
    "--to": (("export", "m.pt", "--data", "d", "--to", "{}"), EXPORTERS),
    "--data": (("fit", "{pickled}", "--data", "{}:x"), LAYOUTS),
    "--data torchvision:": (("fit", "{pickled}", "--data", "torchvision:{}"), READERS),
    "MODEL": (("inspect", "{}:resnet18"), LIBRARIES),
    "--arch": (("inspect", "{weights}", "--arch", "{}:resnet18"), LIBRARIES),
    "--split": (("fit", "{pickled}", "--data", "{data}", "--split", "{}"), ("0", "6")),
}
"""By flag: a command that names something, and the names there are."""


def misspelt(name: str) -> str:
    """The first letter twice, in capitals."""
    return (name[0] + name).upper()


CASES = [(flag, name) for flag, (_, names) in FLAGS.items() for name in names]


@pytest.mark.parametrize(("flag", "name"), CASES, ids=[f"{flag} {name}" for flag, name in CASES])
def test_the_nearest_name_is_offered(
    flag: str,
    name: str,
    workshop: Workshop,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "500")
    paths = {"weights": workshop.weights, "pickled": workshop.pickled, "data": workshop.data}
    with pytest.raises(SystemExit) as caught:
        HARDEN([argument.format(misspelt(name), **paths) for argument in FLAGS[flag][0]])
    assert caught.value.code in (1, 2)
    assert f"did you mean {name!r}?" in capsys.readouterr().err


def test_every_source_of_models_has_a_name_in_the_test_above_or_none() -> None:
    """A factory and a pickled module are named by files."""
    assert set(SOURCES) == {*LIBRARIES, "factory", "pickled"}


def test_a_name_that_is_nothing_like_any_gets_no_offer() -> None:
    assert did_you_mean("zzz", ["sat", "pat"]) == ""
    assert did_you_mean("SAT", ["pat", "sat"]) == "; did you mean 'sat'?"
    assert did_you_mean("cat", ["Cat", "CAT"]) == "; did you mean 'Cat'?"
