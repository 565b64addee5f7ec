"""What the command line says and returns, in this process: every mistake has its exit code and its repair."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.main import get_command

from harden import __version__, errors
from harden.cli import overview
from harden.cli.app import program
from harden.cli.errors import exit_code
from tests.workflows.builders import Workshop

PROGRAM = get_command(program())
COMMANDS = PROGRAM.commands  # type: ignore[attr-defined]


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def harden(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    """Run the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments: object) -> Outcome:
        code = 0
        try:
            program()([str(argument) for argument in arguments])
        except SystemExit as error:
            code = int(error.code or 0)
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        assert "defect" not in err, err
        return Outcome(code, out, err)

    return run


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.HardenError, 1),
        (errors.DataError, 1),
        (errors.ModelError, 1),
        (errors.PreflightError, 1),
        (errors.NoGradientError, 1),
        (errors.UserCodeError, 1),
        (errors.RunFolderError, 1),
        (errors.WriteError, 1),
        (errors.TrainingError, 1),
        (errors.ProcessLostError, 1),
        (errors.UsageError, 2),
        (errors.BudgetError, 2),
        (errors.MissingModelError, 2),
        (errors.MissingDataError, 2),
        (errors.OccupiedError, 2),
        (errors.NoExportError, 2),
        (errors.GateError, 3),
        (errors.UnsafeInputError, 4),
        (errors.ExportError, 5),
        (errors.Interrupted, 130),
    ],
)
def test_exit_codes(kind: type[errors.HardenError], code: int) -> None:
    assert exit_code(kind("x")) == code


def test_every_error_has_a_code_in_the_test_above() -> None:
    kinds = {v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, errors.HardenError)}
    assert len(kinds) == 20


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("fit",), 2, ("which model", "--data ./imgs")),
        (("fit", "m.pt"), 2, ("which images",)),
        (("fit", "m.pt", "--data", "d", "--method", "adv4adb"), 2, ("did you mean 'adv4adv'",)),
        (("fit", "m.pt", "--data", "d", "--source-attack", "fgms", "--eps", "8"), 2, ("'fgsm'", "did you mean 8/255")),
        (("fit", "m.pt", "--data", "d", "--epochs", "3", "--budget", "5m"), 2, ("exclude",)),
        (("fit", "m.pt", "--data", "d", "--mean", "a,b"), 2, ("--mean",)),
        (("fit", "m.pt", "--data", "d", "--class-map", "0,x"), 2, ("--class-map",)),
        (("fit", "m.pt", "--data", "d", "--recipe", "nothing"), 2, ("no recipe",)),
        (("fit", "{pickled}", "--data", "nowhere"), 2, ("nowhere",)),
        (("fit", "nothing.pt", "--data", "{data}"), 2, ("nothing.pt",)),
        (("fit", "--resume", "nowhere"), 2, ("no run folder",)),
        (("fit", "--resume", "nowhere", "--epochs", "9"), 2, ("--resume",)),
        (("fit", "{pickled}", "--data", "{data}", "--split", "layer9"), 2, ("no layer",)),
        (("fit", "{pickled}", "--data", "{data}", "--class-map", "0,1"), 2, ("--class-map",)),
        (("fit", "{weights}", "--data", "{data}"), 1, ("--arch",)),
        (("fit", "{pickled}", "--data", "{data}", "--device", "tpu"), 2, ("device",)),
        (("fit", "{pickled}", "--data", "{data}", "--freeze", "layer9", "--epochs", "1"), 2, ("--freeze",)),
        (("report", "{pickled}"), 2, ("which images",)),
        (("report", "{pickled}", "--data", "{data}", "--against", "initial"), 2, ("initial",)),
        (("report", "{pickled}", "--data", "{data}", "--attacks", "pgd-21"), 2, ("did you mean 'pgd-20'",)),
        (("report", "{pickled}", "--data", "{data}", "--device", "tpu"), 2, ("device",)),
        (("export", "{pickled}"), 2, ("which images",)),
        (("export", "{pickled}", "--data", "{data}", "--to", "onxx"), 2, ("did you mean 'onnx'",)),
        (("export", "{pickled}", "--data", "{data}", "--precision", "int4"), 2, ("did you mean 'int8'",)),
        (("export", "{pickled}", "--data", "{data}", "--max-drop", "2"), 2, ("--max-drop",)),
        (("export", "{pickled}", "--to", "safetensors", "--precision", "fp16"), 2, ("--to onnx",)),
        (("verify", "{data}"), 2, ("no export",)),
        (("push", "{data}", "name"), 2, ("ORG/NAME",)),
        (("report", "{pickled}", "--data", "{data}", "--samples", "0"), 2, ("--samples 0 lies outside",)),
        (("report", "{pickled}", "--data", "{data}", "--samples", "-3"), 2, ("--samples -3 lies outside",)),
        (("report", "{pickled}", "--data", "{data}", "--seed", "-1"), 2, ("--seed -1 lies outside",)),
        (("report", "{pickled}", "--data", "{data}", "--image-size", "-4"), 2, ("--image-size -4 lies outside",)),
        (("inspect", "{pickled}", "--data", "{data}", "--image-size", "0"), 2, ("--image-size 0 lies outside",)),
        (("fit", "{pickled}", "--data", "{data}", "--image-size", "-4"), 2, ("image_size: -4 lies outside",)),
        (("fit", "{pickled}", "--data", "{data}", "--class-order", "naturl"), 2, ("did you mean 'natural'",)),
        (("report", "{pickled}", "--data", "{data}", "--class-order", "{weights}"), 2, ("no text in UTF-8",)),
        (("compare", "--model", "{pickled}", "--data", "{data}", "--class-order", "x"), 2, ("class order 'x'",)),
        (("inspect", "{pickled}", "--data", "{data}", "--class-order", "{data}/../net.py"), 2, ("'a' is missing",)),
        (("export", "{pickled}", "--data", "{data}", "--gray-bits", "8"), 2, ("--gray-bits 8 lies outside [9, 16]",)),
        (("fit", "{pickled}", "--data", "{data}", "--gray-bits", "17"), 2, ("gray_bits: 17 lies outside [9, 16]",)),
        (("demo", "--seed", "-1"), 2, ("--seed -1 lies outside",)),
        (("inspect", "nothing.pt"), 2, ("nothing.pt",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_mistakes(
    arguments: tuple[str, ...], code: int, words: tuple[str, ...], harden: object, workshop: Workshop
) -> None:
    filled = [
        a.format(data=workshop.data, pickled=workshop.pickled, weights=workshop.weights) if "{" in a else a
        for a in arguments
    ]
    outcome = harden(*filled)  # type: ignore[operator]
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert outcome.err.rstrip().splitlines()[-1].startswith("  ") or "try:" in outcome.err
    assert "error:" in outcome.err
    flat = " ".join(outcome.err.split())
    for word in words:
        assert word in flat


def test_a_failed_fit_leaves_no_run_folder(harden: object, workshop: Workshop, tmp_path: Path) -> None:
    outcome = harden("fit", workshop.pickled, "--data", workshop.data, "--freeze", "layer9", "--epochs", 1)  # type: ignore[operator]
    assert outcome.code == 2
    assert list(tmp_path.rglob("*")) == []


def test_the_version(harden: object) -> None:
    assert harden("--version").out == f"harden {__version__}\n"  # type: ignore[operator]


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_has_every_command_and_an_example(name: str, harden: object) -> None:
    outcome = harden(*filter(None, [name]), "--help")  # type: ignore[operator]
    assert outcome.code == 0
    if name:
        assert "Examples" in outcome.out
        assert f"harden {name}" in outcome.out
    else:
        assert all(command in outcome.out for command in COMMANDS)
        assert "130 stopped" in " ".join(outcome.out.split())


def test_the_overview_says_what_the_commands_say_of_themselves() -> None:
    """It is written down apart, so that `harden --help` need not import them."""
    assert list(overview.COMMANDS) == list(COMMANDS)
    for name, summary in overview.COMMANDS.items():
        assert summary == COMMANDS[name].help.split("\n\n")[0].replace("\n", " ")
    options = {option.opts[0]: option.help for option in PROGRAM.params}
    assert {**options, "--help": "Show this message and exit."} == overview.OPTIONS


def test_the_overview_imports_no_command_and_a_command_no_other() -> None:
    code = (
        "import sys\nfrom harden.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "looked_for = {'typer', 'harden.cli.fit', 'harden.cli.verify', 'harden.cli.report'}\n"
        "print('SEEN', *sorted(looked_for & set(sys.modules)))\n"
    )

    def seen(*words: str) -> list[str]:
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)
        assert done.stderr == ""
        return done.stdout.splitlines()[-1].split()[1:]

    assert seen("--help") == []
    assert seen("--debug", "verify", "--help") == ["harden.cli.verify", "typer"]
    assert seen("--debug", "--help") == ["harden.cli.fit", "harden.cli.report", "harden.cli.verify", "typer"]


def test_a_command_that_is_mistyped_is_told_the_nearest() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harden", "docter"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "Did you mean 'doctor'?" in done.stderr


def test_help_imports_nothing_heavy() -> None:
    """Newer versions of typer import pydantic themselves; everything else is ours."""
    code = (
        "import sys\n"
        "from harden.cli.app import program\n"
        "try:\n    program()(['fit', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'torchvision', 'timm', 'numpy', 'scipy', 'sklearn', 'onnx', 'onnxruntime', 'PIL'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "60"}
    )
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr


def test_a_folder_name_is_printed_as_it_is(harden: object, workshop: Workshop, tmp_path: Path) -> None:
    """Square brackets are rich's markup."""
    outcome = harden(  # type: ignore[operator]
        "fit", workshop.pickled, "--data", workshop.data, "--epochs", 1, "--attacks", "fgsm", "--audit-samples", 12,
        "--out", "a[/b]", "--batch-size", 40, "--method", "nt",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "Everything is in a[/b]" in outcome.out
    outcome = harden("fit", "--recipe", "a[/b]/recipe.toml", "--dry-run")  # type: ignore[operator]
    assert outcome.code == 0, outcome.err
    outcome = harden("fit", "--resume", "a[/b]")  # type: ignore[operator]
    assert outcome.code == 1
    assert "is finished" in outcome.err


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_shows_every_word_of_every_flag(name: str, harden: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A default in brackets that begins with a letter is markup to rich, and vanishes unless it is escaped."""
    monkeypatch.setenv("COLUMNS", "400")
    shown = " ".join(harden(name, "--help").out.split())  # type: ignore[operator]
    for parameter in COMMANDS[name].params:
        text = getattr(parameter, "help", None) or ""
        assert " ".join(text.replace("\\[", "[").split()) in shown, parameter.name


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"fit", "report"}))
def test_torchrun_starts_no_copies_of_a_command_that_shares_nothing(
    name: str, harden: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = ["." for parameter in COMMANDS[name].params if parameter.required]
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    refused = harden(name, *needed)
    assert refused.code == 2
    assert "3 processes were started with this command" in refused.err
    assert "without torchrun" in refused.err
    assert list(Path.cwd().iterdir()) == []
