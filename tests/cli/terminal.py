"""The `harden` command as tests type it: in a process of its own, its output seen as by a pipe.

`start` and `spawn` begin a Python of its own, as a user does, whose imports take several seconds of every command.
`harden` asks a server that has the imports done and forks; from `main` on everything is the same.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

SECONDS = 240
CLOSED, LEFT = "closed", "left"
FAST = ("--attacks", "fgsm", "--audit-samples", "30", "--batch-size", "20", "--eps", "8/255", "--ema", "0.9")
"""Settings of a `harden fit` that takes a second."""


def command(*arguments: object) -> list[str]:
    """Return the words of a command in a Python of its own."""
    return [sys.executable, "-m", "harden", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    """Return the variables that commands see."""
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR", "NO_COLOR")}
    return {**kept, "OMP_NUM_THREADS": "1", **changes}


def spawn(*arguments: object, cwd: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a Python of its own."""
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment(**changes), capture_output=True, text=True, timeout=SECONDS
    )


def harden(
    *arguments: object, cwd: Path, streams: Mapping[int, str] = MappingProxyType({}), **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that has the imports done.

    `streams` says what is wrong with a standard stream, by its number: CLOSED, LEFT (nobody reads the pipe), or a file.
    """
    words = ["harden", *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdout", "stderr")]
        process = _server().Process(
            target=_typed, args=(words, str(cwd), environment(**changes), *map(str, files), dict(streams))
        )
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, SECONDS)
        out, err = (file.read_text(encoding="utf-8") for file in files)
        return subprocess.CompletedProcess(words, process.exitcode, out, err)


def decent(done: subprocess.CompletedProcess[str], code: int = 0) -> None:
    """Require an exit code, and output without tracebacks and colours."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "defect" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def decent_fit(done: subprocess.CompletedProcess[str], run: Path) -> None:
    """Require of a `harden fit` what `decent` does, with the exit code that its run folder's ending calls for."""
    status = json.loads((run / "config.json").read_text())["ending"]["status"]
    decent(done, 0 if status in ("hardened", "not judged") else 1)


def _server() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.cli.preloaded"])
    return context


def _typed(
    words: list[str], folder: str, variables: Mapping[str, str], out: str, err: str, streams: Mapping[int, str]
) -> None:
    """Be the process of a command."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    for number, file in ((1, out), (2, err)):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    for number, what in streams.items():
        os.close(number)
        if what == LEFT:
            reader, writer = os.pipe()
            os.dup2(writer, number)
            os.close(reader)
        elif what != CLOSED:
            os.dup2(os.open(what, os.O_WRONLY), number)
    sys.argv = words
    sys.path.insert(0, folder)  # as `python -m` does
    from harden.cli.main import main

    main()
