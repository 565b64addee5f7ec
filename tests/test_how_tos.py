"""The commands that the READMEs show: the program understands each, and the tutorial runs from end to end."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from harden.cli.app import program
from harden.distributed import ALONE
from harden.errors import HardenError
from harden.workflows import compare, doctor, export, fit, inspect, push, report, verify
from tests.conftest import REPOSITORY

PAGES = ("README.md", "examples/README.md", "examples/table-1a/README.md", "recipes/README.md")
TUTORIAL = "Five minutes"
"""How the heading of the tutorial begins."""


def blocks(page: str) -> Iterator[tuple[str, int, str]]:
    """Yield the lines of code of a page with heading and number; what a backslash goes on with is one line."""
    heading, held, begun = "", "", 0
    for number, line in enumerate((REPOSITORY / page).read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if not line.startswith("    "):
            held = ""
            continue
        begun = begun if held else number
        held += line.strip()
        if held.endswith("\\"):
            held = held[:-1]
            continue
        yield heading, begun, held
        held = ""


def commands(line: str) -> list[list[str]]:
    """Return the words of every `harden` command of a line, without comments, settings before it, and dots after it."""
    found: list[list[str]] = [[]]
    for word in shlex.split(line, comments=True):
        if word == "&&":
            found.append([])
        elif word != "...":
            found[-1].append(word)
    bare = [words[next((k for k, word in enumerate(words) if "=" not in word), 0) :] for words in found if words]
    return [words[1:] for words in bare if words[0] == "harden"]


SHOWN = [
    pytest.param(words, id=f"{page}:{number} {' '.join(words)[:60]}")
    for page in PAGES
    for _, number, line in blocks(page)
    for words in commands(line)
]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the files that flags of the READMEs read at once."""
    monkeypatch.chdir(tmp_path)
    for run in ("imgs-adv4adv", "ours"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / "recipe.toml").write_text('model = "m.pt"\ndata = "imgs"\n')
    (tmp_path / "classes.txt").write_text("b\na\n")
    return tmp_path


def test_there_are_commands_of_every_kind() -> None:
    named = {words[0] for parameter in SHOWN for words in parameter.values}
    assert named >= {"fit", "report", "compare", "export", "inspect", "demo", "doctor", "verify", "push"} | {
        "--install-completion"
    }
    assert len(SHOWN) > 40


@pytest.mark.parametrize("words", SHOWN)
def test_every_command_is_understood(words: list[str], desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to its settings: the names of methods, attacks, recipes and layouts, and what excludes what."""
    if words[0].startswith("--"):
        assert words == ["--install-completion"], "typer's own"
        return
    begun = []

    def begin(*_: object, **__: object) -> None:
        """Note that the command has understood everything."""
        begun.append(words)
        raise HardenError("reached")

    for module, name in (
        (fit, "fit"), (fit, "resume"), (report, "report"), (compare, "compare"), (export, "export"),
        (inspect, "inspect"), (doctor, "examine"), (verify, "verify"), (push, "push"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, begin)
    monkeypatch.setattr("harden.workflows.demo.demo", begin)
    for command in ("fit", "report"):  # starts no other processes
        monkeypatch.setattr(f"harden.cli.{command}.together", lambda count: nullcontext(ALONE))
    given = list(words)
    if words[0] == "compare" and "--data" not in words:  # the dots stood for these
        given += ["--data", "imgs", "--model", "m.pt"]
    if words[0] == "fit" and "--data" not in words and not {"--resume", "--recipe"} & set(words):
        given += ["m.pt", "--data", "imgs"]
    with suppress(SystemExit):
        program()(given)
    assert begun == [words]


# -- the tutorial ------------------------------------------------------------------------------------------------------

SMALLER = {"--epochs": "1", "--samples": "20", "--pretrain": "1"}
MAY_FAIL = {"--fail-under": 3}
"""Flags with the exit code that so little training may end in."""


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Every line of it, with fewer epochs and images, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    lines = [line for heading, _, line in blocks("examples/README.md") if heading.startswith(TUTORIAL)]
    assert lines[0] == "mkdir tutorial && cd tutorial"
    shown = [words for line in lines[1:] for words in commands(line)]
    assert len(shown) == len(lines) - 1 >= 7
    for words in shown:
        given = [SMALLER.get(before, word) for before, word in zip(["", *words], words, strict=False)]
        if given[0] == "fit":
            given += ["--attacks", "fgsm", "--audit-samples", "20"]
        if given[0] == "report":
            given += ["--attacks", "fgsm"]
        with pytest.raises(SystemExit) as ended:
            program()(given)
        _, err = capfd.readouterr()
        allowed = {0} | {code for flag, code in MAY_FAIL.items() if flag in given}
        assert ended.value.code in allowed, f"{' '.join(given)}\n{err}"
        assert "Traceback" not in err
    for file in ("runs/hard/report.html", "runs/hard/audit/report.html", "runs/hard/export/model.onnx"):
        assert (tmp_path / file).is_file(), file


def test_links_lead_somewhere() -> None:
    """Between the pages, and to their headings."""
    for page in PAGES:
        text = (REPOSITORY / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in target:
                continue
            file, _, anchor = target.partition("#")
            there = (REPOSITORY / page).parent / file if file else REPOSITORY / page
            assert there.exists(), f"{page}: {target}"
            if anchor:
                headings = re.findall(r"(?m)^#+ (.*)$", there.read_text(encoding="utf-8"))
                known = {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
                assert anchor in known, f"{page}: {target}"
