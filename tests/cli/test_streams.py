"""Standard streams that are closed or full: the work goes on, and its exit code says what was lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.terminal import CLOSED, FAST, LEFT, environment, harden
from tests.workflows.builders import Workshop

FULL = "/dev/full"
BROKEN = [{1: CLOSED}, {2: CLOSED}, {1: FULL}, {2: FULL}, {1: LEFT}, {2: LEFT}, {1: CLOSED, 2: CLOSED}]


def decent(done: subprocess.CompletedProcess[str], code: int) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "defect" not in done.stderr


@pytest.mark.parametrize("streams", [{1: LEFT}, {2: FULL}, {1: CLOSED, 2: CLOSED}], ids=str)
def test_a_fit_writes_its_files_all_the_same(streams: dict[int, str], workshop: Workshop, tmp_path: Path) -> None:
    command = ("fit", workshop.pickled, "--data", workshop.data, "--epochs", 1, "--out", "run", *FAST)
    done = harden(*command, cwd=tmp_path, streams=streams)
    decent(done, 0)
    assert (tmp_path / "run" / "report.html").stat().st_size > 0
    assert json.loads((tmp_path / "run" / "report.json").read_text())


@pytest.mark.parametrize("streams", BROKEN, ids=str)
def test_json_that_is_lost_is_told_by_the_exit_code(
    streams: dict[int, str], workshop: Workshop, tmp_path: Path
) -> None:
    done = harden("inspect", workshop.pickled, "--image-size", 16, "--json", cwd=tmp_path, streams=streams)
    decent(done, 1 if 1 in streams else 0)
    if 1 not in streams:
        assert json.loads(done.stdout)["parameters"] > 0
    elif 2 not in streams:
        assert "the JSON cannot be written to standard output" in done.stderr


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("fit", "--help"), ("nonsense",)], ids=" ".join)
@pytest.mark.parametrize("streams", BROKEN, ids=str)
def test_help_and_mistakes_end_as_they_do_otherwise(
    streams: dict[int, str], words: tuple[str, ...], tmp_path: Path
) -> None:
    decent(harden(*words, cwd=tmp_path, streams=streams), 2 if words == ("nonsense",) else 0)


def test_nothing_that_is_printed_ends_in_a_file_that_took_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    code = """
import os, sys
for number in (0, 1, 2):
    os.close(number)
from harden.cli.streams import guard_streams
guard_streams()
with open("file", "w") as file:
    print("printed")
    print("printed", file=sys.stderr)
    sys.stdout.flush()
    file.write("written")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), timeout=60)
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == "written"
