"""A network whose forward pass takes as long as SLOW_PASS and SLOW_IMAGE say, and commands in slow phases."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.cli.terminal import environment

NETWORK = """
import os
import time
from torch import nn

class Slow(nn.Sequential):
    def forward(self, images):
        time.sleep(float(os.environ.get("SLOW_PASS", 0)) + float(os.environ.get("SLOW_IMAGE", 0)) * len(images))
        return super().forward(images)

def net(num_classes=3):
    return Slow(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Dropout(0.1), nn.Linear(512, 16), nn.ReLU(), nn.Linear(16, num_classes),
    )
"""
DRIVER = """
import os, sys, time

def slowly(function):
    def slow(*given, **named):
        time.sleep(float(os.environ["SLOW_FILE"]))
        return function(*given, **named)
    return slow

if "SLOW_LISTING" in os.environ:
    import harden.data.folder as folder
    folder._is_visible = slowly(folder._is_visible)
if "SLOW_DECODING" in os.environ:
    import harden.data.pictures as pictures
    pictures._decode_into = slowly(pictures._decode_into)
sys.argv[0] = "harden"
from harden.cli.main import main
main()
"""
"""Begins `harden` with functions that touch one file each made slow."""


class Running:
    """A command in a process of its own; `said` is what it has written to standard error."""

    def __init__(self, arguments: Sequence[object], cwd: Path, **changes: str) -> None:
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
        self._errors = cwd / "stderr.txt"
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", DRIVER, *map(str, arguments)],
                cwd=cwd,
                env=environment(PYTHONPATH=path, **changes),
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    @property
    def said(self) -> str:
        return self._errors.read_text()

    def wait_for(self, words: str, seconds: float = 60.0) -> None:
        """Return once it has said `words`."""
        until = time.monotonic() + seconds
        while words not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < until, self.said
            time.sleep(0.02)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def ended(self, seconds: float = 60.0) -> tuple[int, float]:
        """Return the exit code, and how many seconds it still took."""
        began = time.monotonic()
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"it did not end within {seconds} s:\n{self.said}") from None
        return code, time.monotonic() - began
