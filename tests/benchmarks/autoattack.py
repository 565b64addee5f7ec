"""Score run folders with an independent AutoAttack (PyPI `pyautoattack`, published parameters), harden beside it.

python -m tests.benchmarks.autoattack RUN [RUN ...] [--samples 500] [--eps 0.1] [--split test | val] [--initial]
    [--attacks apgd-ce apgd-t] [--ours standard] [--arch net.py:build]

AutoAttack: APGD-CE (100 iterations, 1 restart), targeted APGD-DLR (100, 9 targets), targeted FAB (100, 9 targets),
Square (5,000 queries), on a stratified sample of a run's test images; nothing of harden's own attacks is used. With
`--ours` harden's preset attacks the same images in the same process, and the two are compared image by image, in time
and in passes through the model. For tuning, `--split val` takes held-out images that selection did not use.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from harden.attacks import ATTACKS, Planned, attack_names
from harden.audit.metrics import wilson
from harden.audit.runner import audit
from tests.benchmarks.opened import Opened, open_run


class Counted(nn.Module):
    """Counts the images that pass through a model."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.forwards = 0

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += len(images)
        return self.inner(images)


def autoattack(opened: Opened, eps: float, attacks: list[str] | None) -> tuple[np.ndarray, float, int]:
    """Return which images stand (N,), the seconds and the forward passes."""
    from pyautoattack import AutoAttack

    x, y = opened.images.batch(slice(None))
    counted = Counted(opened.classifier).eval()
    attack = AutoAttack(counted, norm="Linf", eps=eps, seed=0, version="standard", device="cpu")
    # "standard" sets the published parameters; fewer than ten classes have fewer targets.
    attack.attacks_to_run = attacks or attack.attacks_to_run
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, len(opened.classifier.classes) - 1)
    began = time.perf_counter()
    adversarial, _ = attack.run_standard_evaluation(x, y, batch_size=250)
    seconds = time.perf_counter() - began
    with torch.no_grad():
        right = opened.classifier(x).argmax(dim=1) == y
        stand = right & (opened.classifier(adversarial).argmax(dim=1) == y)
    print(f"  AutoAttack ({', '.join(attack.attacks_to_run)}): {_share(stand.numpy())} in {seconds:.0f} s, ", end="")
    print(f"{counted.forwards:,} forward passes, largest perturbation {float((adversarial - x).abs().max()):.6f}")
    return stand.numpy(), seconds, counted.forwards


def ours(opened: Opened, eps: float, preset: str) -> tuple[np.ndarray, float, int]:
    """Return which images stand (N,), the seconds and the forward passes."""
    planned = [Planned(ATTACKS[name](eps), member) for name, member in attack_names([preset])]
    result = audit(opened.classifier, opened.images, planned, model="", dataset="", exposures={})
    forwards = sum(outcome.forwards for outcome in result.outcomes)
    print(f"  harden {preset}: {_share(result.standing())} in {result.seconds:.0f} s, {forwards:,} forward passes")
    stand = result.clean_correct
    for outcome in result.outcomes:
        left = stand & result.survived(outcome)
        print(
            f"    {outcome.name:16} {outcome.seconds:6.1f} s  F {outcome.forwards:9,} B {outcome.backwards:9,}  "
            f"fooled {int((stand & ~left).sum())} more"
        )
        stand = left
    return result.standing(), result.seconds, forwards


def _share(flags: np.ndarray) -> str:
    share = wilson(int(flags.sum()), len(flags))
    return f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--eps", type=float)
    parser.add_argument("--arch")
    parser.add_argument("--initial", action="store_true")
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument("--attacks", nargs="+")
    parser.add_argument("--ours")
    parser.add_argument("--only-ours", action="store_true")
    arguments = parser.parse_args()
    for run in arguments.runs:
        opened = open_run(
            run, arch=arguments.arch, samples=arguments.samples, split=arguments.split, initial=arguments.initial
        )
        eps = arguments.eps if arguments.eps is not None else opened.eps
        print(f"{run}: {len(opened.images)} {arguments.split} images at l_inf eps {eps:.6g}", flush=True)
        if arguments.ours:
            mine, seconds, forwards = ours(opened, eps, arguments.ours)
        if arguments.only_ours:
            continue
        theirs, their_seconds, their_forwards = autoattack(opened, eps, arguments.attacks)
        if arguments.ours:
            print(f"  harden minus AutoAttack: {100 * (mine.mean() - theirs.mean()):+.2f} points; ", end="")
            print(
                f"only ours fooled {int((theirs & ~mine).sum())}, only AutoAttack {int((mine & ~theirs).sum())}; ",
                end="",
            )
            print(f"time {seconds / their_seconds:.2f}, forward passes {forwards / their_forwards:.2f} of theirs")


if __name__ == "__main__":
    main()
