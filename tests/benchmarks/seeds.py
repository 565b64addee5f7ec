"""Mean and spread over seeds of finished runs, from their report.json.

python -m tests.benchmarks.seeds RUN RUN [RUN ...]

One line per attack, strongest claim first: mean over the runs, their standard deviation (n - 1), and every run's value.
The runs must differ in nothing but their seed; their recipes are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tomllib
from collections.abc import Sequence
from pathlib import Path

MAY_DIFFER = {"seed", "epochs", "selection_samples", "audit_samples"}
"""What a time budget decides may differ, as the seed does."""


def figures(run: Path) -> dict[str, float]:
    """Return the hardened model's accuracies in percent: worst case, every attack, clean."""
    summary = json.loads((run / "report.json").read_text(encoding="utf-8"))["summary"][-1]
    values = {"worst case": summary["worst_case"], **summary["attacks"], "clean": summary["clean"]}
    return {name: 100 * value["value"] for name, value in values.items()}


def spread(runs: Sequence[Path]) -> list[tuple[str, float, float, list[float]]]:
    """Return (name, mean, standard deviation, values) per row.

    Raises:
        SystemExit: the runs differ in more than their seeds.
    """
    recipes = [tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8")) for run in runs]
    for recipe in recipes[1:]:
        names = {k for k in {*recipe, *recipes[0]} - MAY_DIFFER if recipe.get(k) != recipes[0].get(k)}
        if names:
            raise SystemExit(f"the runs differ in {', '.join(sorted(names))}: no spread over seeds can be given")
    columns = [figures(run) for run in runs]
    rows = []
    for name in columns[0]:
        values = [column[name] for column in columns]
        rows.append((name, statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0, values))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=Path, nargs="+")
    for name, mean, deviation, values in spread(parser.parse_args().runs):
        print(f"{name:18} {mean:5.1f} +- {deviation:3.1f}   {' '.join(f'{value:.1f}' for value in values)}")


if __name__ == "__main__":
    main()
