"""How the cost of training and of attacking grows: a table, and a picture of it.

python -m tests.benchmarks.growth [--repeats 3] [--only REGEX] [--picture tests/benchmarks/growth.svg]

Seconds of processor time for 1,000 images, on one thread: an epoch's step of Adv-4-Adv from FGSM, and attacks to their
last step. One thing grows at a time; everything that is compared takes turns in one process, medians count.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from harden.attacks import PGD, craft
from harden.models.layout import laid_out, lay_out
from harden.randomness import stream
from harden.report.markup import Html, element, joined
from harden.vision import import_timm
from tests.benchmarks.steps import EPS, Size, Step, build, classifier_of, images_of

IMAGES = 16
WIDTH, HEIGHT, GAP = 260, 200, 60


def network(name: str, classes: int) -> torch.nn.Module:
    """A network of timm with random weights."""
    made: torch.nn.Module = import_timm().create_model(name, num_classes=classes)
    return made


def size(name: str = "resnet18", side: int = 64, classes: int = 10) -> Size:
    """A network of timm at an image size, split at its last feature map."""
    return Size(name, partial(network, name), "layer4", classes, (3, side, side), IMAGES)


def pgd(of: Size, steps: int) -> Step:
    """An attack to its last step on the images of one training step."""
    classifier = classifier_of(of)
    lay_out(classifier)
    images, labels = images_of(of).batch(slice(of.batch))
    images = laid_out(images, classifier)

    def step() -> float:
        began = time.process_time()
        craft(PGD(eps=EPS, iterations=steps), classifier, images, labels, generator=stream(0, "growth"))
        return time.process_time() - began

    return step


@dataclass(frozen=True)
class Axis:
    """One thing that grows.

    Attributes:
        name: what it is.
        what: what is done.
        points: (value along the axis, label, what makes the step).
    """

    name: str
    what: str
    points: tuple[tuple[float, str, Callable[[], Step]], ...]


def millions(name: str) -> float:
    """Return the parameters of a network, in millions."""
    return sum(p.numel() for p in network(name, 10).parameters()) / 1e6


def axes() -> tuple[Axis, ...]:
    """Return everything that is measured."""
    nets = ("resnet10t", "resnet18", "resnet34", "resnet50")
    full = "Adv-4-Adv"
    return (
        Axis(
            "million parameters (64 pixels)",
            full,
            tuple((millions(n), f"{n}, {millions(n):.1f}", partial(build, size(n), full)) for n in nets),
        ),
        Axis(
            "pixels along a side (ResNet-18)",
            full,
            tuple((s, f"{s}", partial(build, size(side=s), full)) for s in (32, 64, 96, 128)),
        ),
        Axis(
            "classes (ResNet-18, 64 pixels)",
            full,
            tuple((k, f"{k:,}", partial(build, size(classes=k), full)) for k in (2, 10, 100, 1000)),
        ),
        Axis(
            "steps of PGD (ResNet-18, 64 pixels)",
            "attack",
            tuple((n, f"{n}", partial(pgd, size(), n)) for n in (1, 5, 10, 20, 40)),
        ),
    )


def measure(axis: Axis, repeats: int) -> list[float]:
    """Return seconds for 1,000 images at every point; the steps take turns."""
    steps = [make() for _, _, make in axis.points]
    times = [[step() for step in steps] for _ in range(repeats + 1)][1:]
    return [statistics.median(column) * 1000 / IMAGES for column in zip(*times, strict=True)]


def picture(found: Sequence[tuple[Axis, Sequence[float]]]) -> Html:
    """Return small charts side by side, both scales from zero."""
    charts = []
    for i, (axis, seconds) in enumerate(found):
        left, top = GAP + i * (WIDTH + GAP), GAP / 2
        most, highest = max(x for x, _, _ in axis.points), max(seconds)
        spots = [
            (left + WIDTH * x / most, top + HEIGHT * (1 - y / highest))
            for (x, _, _), y in zip(axis.points, seconds, strict=True)
        ]
        look = {"font-family": "sans-serif", "font-size": 12, "fill": "#777"}
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        charts += [
            element("path", {"d": f"M{left},{top}V{top + HEIGHT}H{left + WIDTH}", "fill": "none", "stroke": "#999"}),
            element("polyline", {"points": line, "fill": "none", "stroke": "#1f6feb", "stroke-width": 2}),
            *(element("circle", {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": 3.5, "fill": "#1f6feb"}) for x, y in spots),
            element("text", {**look, "x": left, "y": top - 8}, f"{highest:.0f} s, {axis.what}"),
            element("text", {**look, "x": left, "y": top + HEIGHT + 18}, f"0 to {most:,.0f} {axis.name}"),
        ]
    whole = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {GAP + len(found) * (WIDTH + GAP)} 270"}
    return element("svg", whole, joined(charts))


def main() -> int:
    parser = argparse.ArgumentParser(description="Show how the cost grows.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="regular expression on what grows")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    print("| what grows | what is done | value | seconds for 1,000 images | times the first |\n|---|---|---|---|---|")
    for axis in axes():
        if not re.search(options.only, axis.name):
            continue
        seconds = measure(axis, options.repeats)
        found.append((axis, seconds))
        for (_, label, _), value in zip(axis.points, seconds, strict=True):
            print(f"| {axis.name} | {axis.what} | {label} | {value:.1f} | {value / seconds[0]:.2f} |", flush=True)
    if options.picture:
        options.picture.write_text(str(picture(found)) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
