"""SIGKILL at random points of a fit, in processes of their own: whatever is on the disk goes on or is told."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from harden.errors import HardenError, RunFolderError
from harden.workflows.run_folder import RunFolder

from .builders import Workshop
from .test_fit import go_on, run, same, settings

TOUCHED = {"open", "os.mkdir", "os.chmod", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
"""What the interpreter tells of files; a kill before, between and after these is where a file may be lost."""
MOST_KILLS = 12


def touching(out: Path, told: Callable[[int], None]) -> None:
    """Tell from now on, in this process, how often something in `out` was touched."""
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in TOUCHED and str(arguments[0]).startswith(str(out)):
            count += 1
            told(count)

    sys.addaudithook(hook)


def work(shop: Workshop, out: Path, told: Callable[[int], None]) -> None:
    """Begin the run, or go on with it."""
    touching(out, told)
    if out.exists():
        go_on(out)
    else:
        run(settings(shop, method="sat", epochs=2, attacks=("fgsm",)), out)


def die_at(moment: int) -> Callable[[int], None]:
    def told(count: int) -> None:
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    return told


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="a fork is what makes this fast")
def test_killed_at_random_points_it_ends_in_the_same_weights(workshop: Workshop, tmp_path: Path) -> None:
    fork, draw = multiprocessing.get_context("fork"), random.Random(0)
    touched = fork.Value("i", 0)

    def attempt(out: Path, told: Callable[[int], None]) -> int | None:
        process = fork.Process(target=work, args=(workshop, out, told))
        process.start()
        process.join(200)
        return process.exitcode

    assert attempt(tmp_path / "whole", lambda count: setattr(touched, "value", count)) == 0
    assert touched.value > 40, "there is something to interrupt"

    out, killed, begun_again = tmp_path / "run", 0, 0
    while killed < MOST_KILLS and not (out / "report.json").exists():
        ended = attempt(out, die_at(draw.randint(1, touched.value // 2)))
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        killed += 1
        if not out.exists():
            continue
        folder = RunFolder(out)
        for path in (folder.weights, folder.initial_weights):
            if path.exists():
                load_file(path)  # never half a file
        if not (folder.config.exists() and folder.recipe.exists() and folder.splits.exists()):
            with pytest.raises(HardenError):
                go_on(out)
            shutil.rmtree(out)  # killed while the folder was made: nothing was trained yet
            begun_again += 1
    assert killed > begun_again
    if not (out / "report.json").exists():
        go_on(out)
    assert same(out, tmp_path / "whole")
    with pytest.raises(RunFolderError, match="finished"):
        go_on(out)
    left = {path.relative_to(out) for path in out.rglob("*")}
    assert left == {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*")}
    print(f"killed {killed} times among {touched.value} moments, begun again {begun_again} times")
