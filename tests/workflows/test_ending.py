"""How a run ends: kept in its folder, shown on the screen with an exit code, and held against an export."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path

import pytest

import harden.workflows.ending as ending_module
from harden.cli.app import program
from harden.errors import RunFolderError, TrainingError
from harden.report import document
from harden.report.ending import EndCause, Ending, EndStatus
from harden.workflows.ending import NOT_AUDITED, ending_of, require_hardened
from harden.workflows.export import export
from harden.workflows.export_subject import ExportSettings
from harden.workflows.prepare import ModelSpec
from harden.workflows.run_folder import RunFolder

from .builders import Notebook, Workshop
from .test_afterwards import quick

HARDENED = Ending(EndStatus.HARDENED, EndCause.GAIN, "the worst case gained much")
NO_GAIN = Ending(EndStatus.NO_GAIN, EndCause.TIE, "nothing came of it", "Train with more --epochs.")
WORSE = Ending(EndStatus.WORSE, EndCause.LESS_ROBUST, "it fell", "Choose a smaller --eps.")
FAILED = Ending(EndStatus.FAILED, EndCause.AT_CHANCE, "it answers 'a' to all of 12 images", "Lower --lr.")
BASELINE = Ending(EndStatus.NOT_JUDGED, EndCause.BASELINE, "natural training is a baseline")


@pytest.fixture(scope="module")
def finished(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quick(workshop, tmp_path_factory.mktemp("ending") / "run")


def ended(run: Path, target: Path, ending: Ending | None) -> Path:
    """Return a copy of a run whose config.json says that it ended so; None is a folder of an earlier version."""
    shutil.copytree(run, target)
    for name in ("config.json", "report.json"):
        content = json.loads((target / name).read_text())
        content["ending"] = ending.to_json() if ending is not None else None
        if ending is None:
            del content["ending"]
        (target / name).write_text(json.dumps(content))
    return target


def exported(run: Path, *, anyway: bool = False) -> tuple[str, Notebook]:
    narrator = Notebook()
    settings = ExportSettings(spec=ModelSpec(model=str(run)), formats=("safetensors",), samples=6, anyway=anyway)
    export(settings, out=None, narrator=narrator)
    return (run / "export" / "README.md").read_text(), narrator


def test_a_run_keeps_how_it_ended_in_its_config_and_in_its_report(finished: Path) -> None:
    kept = Ending.from_json(json.loads((finished / "config.json").read_text())["ending"])
    assert document.read(finished / "report.json").ending == kept == ending_of(RunFolder(finished))
    assert kept.status in EndStatus


def test_folders_of_earlier_versions_are_judged_by_their_report(finished: Path, tmp_path: Path) -> None:
    old = ended(finished, tmp_path / "old", None)
    found, kept = ending_of(RunFolder(old)), ending_of(RunFolder(finished))
    assert (found.status, found.cause == kept.cause or kept.cause is EndCause.TOO_FEW_STEPS) == (kept.status, True)
    (old / "report.json").unlink()
    assert ending_of(RunFolder(old)) == NOT_AUDITED


def test_an_ending_that_cannot_be_read_is_a_damaged_folder(finished: Path, tmp_path: Path) -> None:
    run = ended(finished, tmp_path / "run", NO_GAIN)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "ending": {"status": "splendid"}}))
    with pytest.raises(RunFolderError, match="damaged"):
        ending_of(RunFolder(run))


@pytest.mark.parametrize("ending", [NO_GAIN, WORSE, FAILED])
def test_a_run_that_did_not_harden_is_exported_only_anyway_and_its_card_says_so(
    finished: Path, tmp_path: Path, ending: Ending
) -> None:
    run = ended(finished, tmp_path / "run", ending)
    with pytest.raises(RunFolderError) as caught:
        exported(run)
    assert ending.sentence() in caught.value.message
    assert "--anyway" in (caught.value.hint or "")
    assert not (run / "export").exists()
    card, narrator = exported(run, anyway=True)
    assert "**This model was not hardened.**" in card
    assert ending.sentence() in card
    assert "hardened against" not in card
    assert any(ending.sentence() in warning for warning in narrator.warnings)


@pytest.mark.parametrize("ending", [HARDENED, BASELINE, NOT_AUDITED])
def test_other_runs_are_exported_and_only_a_hardened_one_is_called_so(
    finished: Path, tmp_path: Path, ending: Ending
) -> None:
    card, narrator = exported(ended(finished, tmp_path / "run", ending))
    assert ("hardened against adversarial" in card) == (ending is HARDENED)
    assert ("trained on clean images" in card) == (ending is BASELINE)
    assert ("It is not known what the training gained" in card) == (ending is NOT_AUDITED)
    assert not narrator.warnings


@pytest.mark.parametrize(("ending", "code"), [(HARDENED, 0), (BASELINE, 0), (NO_GAIN, 1), (WORSE, 1), (FAILED, 1)])
def test_the_exit_code_and_the_screen_tell_how_a_run_ended(
    workshop: Workshop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    ending: Ending,
    code: int,
) -> None:
    monkeypatch.setattr(ending_module, "judge", lambda after, before, **known: ending)
    out, quickly = tmp_path / "run", ("--epochs", "1", "--attacks", "fgsm", "--audit-samples", "12")
    with pytest.raises(SystemExit) as caught:
        program()(["fit", str(workshop.pickled), "--data", str(workshop.data), *quickly, "--out", str(out), "--json"])
    shown, told = capfd.readouterr()
    assert caught.value.code == code
    assert json.loads(shown)["ending"] == ending.to_json()
    assert (f"the run did not harden the model ({ending.status})" in " ".join(told.split())) == (code == 1)
    for name in ("model.safetensors", "report.html", "report.md", "report.xml"):
        assert (out / name).stat().st_size > 0
    assert html.escape(ending.reason) in (out / "report.html").read_text()


def test_nothing_is_required_of_a_run_that_was_not_judged() -> None:
    run = RunFolder(Path("run"))
    for ending in (None, HARDENED, BASELINE, NOT_AUDITED):
        require_hardened(ending, run)
    with pytest.raises(TrainingError) as caught:
        require_hardened(WORSE, run)
    assert caught.value.hint == WORSE.remedy
