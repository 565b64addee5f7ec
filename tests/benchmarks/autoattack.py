"""Score a run folder with an independent AutoAttack (PyPI `pyautoattack`, published parameters).

python -m tests.benchmarks.autoattack RUN [--samples 500] [--eps 0.1] [--split test | val] [--attacks apgd-ce apgd-t]

APGD-CE (100 iterations, 1 restart), targeted APGD-DLR (100, 9 targets), targeted FAB (100, 9 targets), Square (5,000
queries), on a stratified sample of the run's test images. Nothing of harden's own attacks is used. For tuning, `--split
val` takes held-out images that selection did not use, and fewer attacks are faster.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from harden.audit.metrics import wilson
from harden.data import Entry, SplitPlan, open_data
from harden.recipe import read_recipe, resolve
from harden.workflows.job import selection_entries
from harden.workflows.narrator import Silent
from harden.workflows.prepare import Images, images_for
from harden.workflows.run_folder import RunFolder


def unseen(images: Images, plan: SplitPlan, run: RunFolder) -> tuple[Entry, ...]:
    """Return the validation images of a run that its canary and selection did not use."""
    used = {entry.file for entry in selection_entries(images, plan, resolve(read_recipe(run.recipe), {}))}
    return tuple(entry for entry in plan.val if entry.file not in used)


def main() -> None:
    from pyautoattack import AutoAttack

    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--eps", type=float)
    parser.add_argument("--arch")
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument("--attacks", nargs="+")
    arguments = parser.parse_args()
    run = RunFolder(arguments.run)
    training = run.read_json(run.config)["training"]
    classifier = run.load_classifier(arch=arguments.arch).eval()
    images = images_for(classifier, open_data(training["data"]))
    plan = SplitPlan.from_json(run.read_json(run.splits))
    entries = plan.test if arguments.split == "test" else unseen(images, plan, run)
    chosen = images.sample(entries, arguments.samples, 0, "autoattack")
    x, y = images.decode(chosen, Silent(), "images").batch(slice(None))
    eps = arguments.eps if arguments.eps is not None else training["eps"]
    attack = AutoAttack(classifier, norm="Linf", eps=eps, seed=0, version="standard", device="cpu")
    # "standard" sets the published parameters; fewer than ten classes have fewer targets.
    attack.attacks_to_run = arguments.attacks or attack.attacks_to_run
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, len(classifier.classes) - 1)
    began = time.perf_counter()
    adversarial, _ = attack.run_standard_evaluation(x, y, batch_size=250)
    with torch.no_grad():
        clean = int((classifier(x).argmax(dim=1) == y).sum())
        standing = int((classifier(adversarial).argmax(dim=1) == y).sum())
    largest = float((adversarial - x).abs().max())
    robust = wilson(standing, len(y))
    seconds = time.perf_counter() - began
    print(f"{arguments.run}: AutoAttack at eps {eps:.6g} on {len(y)} {arguments.split} images in {seconds:.0f} s")
    print(f"robust {robust.value:.1%} [{robust.low:.1%}, {robust.high:.1%}], clean {clean / len(y):.1%}")
    print(f"largest perturbation {largest:.6f}; attacks {', '.join(attack.attacks_to_run)}")


if __name__ == "__main__":
    main()
