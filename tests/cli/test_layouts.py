"""Data that lie in no folder per class, through the real command."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.cli.terminal import FAST, decent, decent_fit, harden
from tests.workflows.builders import Workshop

QUERY = "?path=photo file&label=breed"


@pytest.fixture(scope="module")
def desk(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/table.csv, which names pictures below data/, one of them damaged and one a copy."""
    desk = tmp_path_factory.mktemp("desk")
    shutil.copytree(workshop.data, desk / "data" / "imgs")
    (desk / "data/imgs/train/a/0.png").write_bytes(b"")
    shutil.copy(desk / "data/imgs/train/b/1.png", desk / "data/imgs/test/b/copy.png")
    with (desk / "data/table.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["photo file", "breed", "split"])
        for file in sorted((desk / "data/imgs").rglob("*.png")):
            split, label = file.relative_to(desk / "data/imgs").parts[:2]
            table.writerow([file.relative_to(desk / "data").as_posix(), label, split])
    return desk


def test_fit_from_a_table_and_report_from_elsewhere(workshop: Workshop, desk: Path, tmp_path: Path) -> None:
    done = harden(
        "fit", workshop.pickled, "--data", f"data/table.csv{QUERY}", "--epochs", 1, *FAST, cwd=desk, COLUMNS="60",
    )  # fmt: skip
    run = desk / "runs" / "table.csv-adv4adv"
    decent_fit(done, run)
    assert all(len(line) <= 60 for line in done.stdout.splitlines()), done.stdout
    assert run.is_dir()
    told = " ".join(done.stderr.split())
    assert "3 classes in csv:" in told
    assert "test is the test split (37 images)" in told
    assert "imgs/train/a/0.png (empty file (0 bytes))" in told
    assert "imgs/train/a/0.png" in (run / "unreadable.txt").read_text()
    kept = json.loads((run / "config.json").read_text())["training"]["data"]
    assert kept == f"csv:{desk / 'data/table.csv'}{QUERY}"
    done = harden("report", run, "--attacks", "fgsm", "--json", "--out", "r", cwd=tmp_path)
    decent(done)
    assert json.loads(done.stdout)["models"][0]["clean"]["total"] == 37
    assert "imgs/test/b/copy.png" in (tmp_path / "r/report.json").read_text(), "the copy of a training image is named"


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        ("data/table.csv", 1, ("no column for the paths", "'photo file'", "the first line names the columns")),
        ("csv:data/table.csv?path=photo file&label=bred", 2, ("did you mean 'breed'",)),
    ],
)
def test_mistakes(data: str, code: int, words: tuple[str, ...], workshop: Workshop, desk: Path) -> None:
    done = harden("fit", workshop.pickled, "--data", data, "--epochs", 1, "--out", "no", cwd=desk, COLUMNS="60")
    decent(done, code=code)
    assert done.stdout == ""
    assert all(len(line) <= 60 or "/" in line for line in done.stderr.splitlines()), done.stderr
    told = " ".join(done.stderr.split())
    for word in words:
        assert word in told
    assert not (desk / "no").exists()
