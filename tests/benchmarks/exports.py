"""Exported files of every precision beside the network in torch: accuracy, accuracy under attack, time and size.

python -m tests.benchmarks.exports RUN ... [timm:NAME ...] [--samples 1000] [--attacked 100] [--arch net.py:build ...]

A run is measured on its test images. A network of timm has random weights and random images, so only its agreement,
time and size mean anything. Everything of a row is measured in this process, one file after the other; times are the
best of five turns, with one thread. The networks' `--arch` are given in the order of the runs that need one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from harden.attacks import frozen
from harden.data import ImageSet
from harden.errors import UnsafeInputError
from harden.export import PRECISIONS
from harden.export.parity import compare_with
from harden.export.reduced import save_fp16, save_int8
from harden.export.runtime import OnnxScorer
from harden.export.to_onnx import save_onnx
from harden.models.classifier import Classifier, Normalisation
from harden.models.origin import Origin
from harden.randomness import stream
from harden.vision import import_timm
from harden.workflows.narrator import Silent
from harden.workflows.prove import SQUARE, Effort, gather, under_square
from harden.workflows.run_folder import RunFolder
from tests.benchmarks.opened import open_run

TURNS = 5
TIMED = 64


def from_run(folder: str, samples: int, archs: list[str]) -> tuple[Classifier, ImageSet, Tensor, float]:
    """The network, test images, calibration images, and eps."""
    path = Path(folder)
    try:
        opened = open_run(path, arch=None, samples=samples, initial=False)
    except UnsafeInputError:
        opened = open_run(path, arch=archs.pop(0), samples=samples, initial=False)
    from harden.data import open_data
    from harden.workflows.prepare import images_for

    run = RunFolder(path)
    images = images_for(opened.classifier, open_data(run.read_config()["training"]["data"]))
    entries = images.sample(run.read_splits().val, 128, 0, "calibration")
    calibration, _ = images.decode(entries, Silent(), "calibration").batch(slice(None))
    return opened.classifier, opened.images, calibration, opened.eps


def from_timm(name: str, samples: int) -> tuple[Classifier, ImageSet, Tensor, float]:
    """A network of random weights on random images, labelled with its own answers."""
    timm = import_timm()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = timm.create_model(name, num_classes=10)
    size = tuple(module.pretrained_cfg["input_size"])
    classifier = Classifier(
        module,
        normalisation=Normalisation("ImageNet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        classes=tuple("abcdefghij"),
        input_size=size,
        origin=Origin("timm", name),
    ).eval()
    coarse = torch.rand(samples, 3, 8, 8, generator=stream(0, "exports"))
    pictures = (torch.nn.functional.interpolate(coarse, size[1:], mode="bilinear") * 255).byte()
    with torch.no_grad():
        labels = torch.cat([classifier(part.float() / 255).argmax(dim=1) for part in pictures.split(32)])
    images = ImageSet(pictures, labels, tuple(map(str, range(samples))))
    return classifier, images, images.batch(slice(0, 32))[0], 4 / 255


def best(model: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """Seconds for an image, in a batch of all of them."""
    seconds = []
    with torch.no_grad():
        for _ in range(TURNS):
            began = time.perf_counter()
            model(images)
            seconds.append(time.perf_counter() - began)
    return min(seconds) / len(images)


def measure(name: str, options: argparse.Namespace, folder: Path) -> list[list[str]]:
    if name.startswith("timm:"):
        classifier, images, calibration, eps = from_timm(name.removeprefix("timm:"), options.samples)
    else:
        classifier, images, calibration, eps = from_run(name, options.samples, options.arch)
    effort = Effort(len(images), min(options.attacked, len(images)), options.queries)
    evidence = gather(classifier, images, eps, effort, Silent())
    began = time.perf_counter()
    save_onnx(classifier, folder / PRECISIONS["fp32"], {})
    wrote = time.perf_counter() - began
    save_fp16(folder / PRECISIONS["fp32"], folder / PRECISIONS["fp16"], {})
    save_int8(folder / PRECISIONS["fp32"], folder / PRECISIONS["int8"], {}, calibration)
    timed = evidence.clean[:TIMED]
    with frozen(classifier), torch.no_grad():
        reference = {kind: torch.cat([classifier(b) for b in x.split(64)]) for kind, x in evidence.sets()}
        eager = [best(classifier, part) for part in (timed[:1], timed)]
    right = [f"{float((scores.argmax(dim=1) == evidence.labels).float().mean()):.1%}" for scores in reference.values()]
    searched = f"{evidence.standing[SQUARE] / len(evidence.sample):.0%}"
    rows = [[name, "torch", *right, searched, "", "", "1.00", "1.00", "", f"{wrote:.1f} s"]]
    full = (folder / PRECISIONS["fp32"]).stat().st_size
    for precision, file in PRECISIONS.items():
        scorer = OnnxScorer(folder / file)
        cells, differences, agreements = [], [], []
        for kind, pictures in evidence.sets():
            tolerance = 1e-4 if precision == "fp32" else None
            found = compare_with(reference[kind], scorer, pictures, kind=kind, tolerance=tolerance)
            scores = torch.cat([scorer(part) for part in pictures.split(64)])
            cells.append(f"{float((scores.argmax(dim=1) == evidence.labels).float().mean()):.1%}")
            differences.append(found.largest_difference)
            agreements.append(f"{found.disagreements}")
        standing = under_square(scorer, evidence.sample, options.queries, Silent(), "")
        times = [f"{ours / best(scorer, part):.2f}" for ours, part in zip(eager, (timed[:1], timed), strict=True)]
        size = (folder / file).stat().st_size
        rows.append(
            ["", precision, *cells, f"{standing / len(evidence.sample):.0%}", f"{max(differences):.1g}",
             "+".join(agreements), *times, f"{size / full:.2f}", f"{size / 1e6:.2f} MB"]
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--attacked", type=int, default=100)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--arch", action="append", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    header = ["model", "file", "clean", "PGD-10", "Square", "largest difference", "other top-1"]
    header += ["times as fast, batch 1", "batch 64", "size", ""]
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header), flush=True)
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            for row in measure(name, options, Path(folder)):
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
