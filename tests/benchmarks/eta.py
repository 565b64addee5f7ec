"""How right the live estimate of an audit is: what it said on the way against what it took.

python -m tests.benchmarks.eta RUN [--attacks thorough] [--samples 1000] [--arch net.py:build] [--initial]

The estimate is the one that `harden report` shows: the passes that are expected, at the pace of late. It is read off
whenever another tenth of the time is over. `--trace FILE` keeps what was heard, as lines of seconds, passes done and
passes expected.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from harden.attacks import ATTACKS, Planned, attack_names
from harden.audit.runner import audit
from harden.cli.pace import Pace
from tests.benchmarks.opened import open_run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--attacks", default="thorough")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--arch")
    parser.add_argument("--initial", action="store_true")
    parser.add_argument("--trace", type=Path)
    options = parser.parse_args()
    opened = open_run(options.run, arch=options.arch, samples=options.samples, initial=options.initial)
    planned = [Planned(ATTACKS[name](opened.eps), member) for name, member in attack_names(options.attacks.split(","))]
    began = time.perf_counter()
    pace = Pace(0.0, 0)
    heard: list[tuple[float, float, str]] = []
    trace: list[str] = []

    def progress(attack: str, done: int, total: int) -> None:
        elapsed = time.perf_counter() - began
        heard.append((elapsed, pace.left(elapsed, done, total) or 0.0, attack))
        trace.append(f"{elapsed:.2f} {done} {total} {attack}")

    result = audit(opened.classifier, opened.images, planned, model="", dataset="", exposures={}, progress=progress)
    took = time.perf_counter() - began
    print(f"{options.run}: {options.attacks} on {len(opened.images)} images took {took:.0f} s")
    if options.trace is not None:
        options.trace.write_text("\n".join(trace) + "\n", encoding="utf-8")
    print(f"worst case {result.worst_case().value:.1%}")
    for tenth in range(1, 10):
        elapsed, left, attack = next(entry for entry in heard if entry[0] >= took * tenth / 10)
        truly = took - elapsed
        print(
            f"  after {elapsed:6.1f} s ({attack}): said {left:.1f} s left, were {truly:.1f} s: {left / truly - 1:+.0%}"
        )


if __name__ == "__main__":
    main()
