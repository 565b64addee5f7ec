"""Single attacks beside torchattacks, ART and foolbox on one model: verdicts, images per second, and peak memory.

python -m tests.benchmarks.peers MODEL [--data FOLDER --eps 4/255] [--arch net.py:build] [--image-size N] [--initial]
    [--samples 500] [--repeats 3] [--only REGEX] [--steps 40] [--memory]

MODEL is a run folder, or with --data any model of `harden report`. Every library gets the same images in one batch and
the same parameters; they take turns in one process, and times are the best of the repeats, of processor time, which
other work on the machine moves less than the clock. harden attacks as the others do, to the last step on every image,
with BatchNorm folded and without, and as its audit does, where an image leaves once it is fooled. "agree" is the share
of images on which both say the same of the last step. Where the arithmetic of a peer differs, its line says so.

With --memory every attack runs in a process of its own. Told is by how much its resident memory rose at most (Linux
only): what counts is what the process takes, the copies of every library and the scratch space of kernels included,
and not what autograd alone keeps. An attack on two images comes first, so that what is loaded once is not counted.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from harden.attacks import APGD, FGSM, MIM, PGD, GradientAttack, Objective, craft, run_attack
from harden.attacks.protocol import Attack
from harden.audit.runner import FEW
from harden.models.classifier import Classifier
from harden.models.folding import find_folding
from harden.models.layout import laid_out, lay_out
from harden.recipe import parse_eps
from harden.workflows.prepare import ModelSpec
from tests.benchmarks.opened import open_other, open_run

Peer = Callable[[nn.Module, Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Duel:
    """An attack of ours and the same of others, by library."""

    name: str
    ours: Callable[[float], Attack]
    peers: dict[str, Peer]


def art_model(model: nn.Module, images: Tensor) -> object:
    from art.estimators.classification import PyTorchClassifier

    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    return PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


def by_art(make: Callable[[object, float], object]) -> Peer:
    def attack(model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        attacking = make(art_model(model, images), eps)
        adversarial = attacking.generate(x=images.numpy(), y=labels.numpy())  # type: ignore[attr-defined]
        return torch.from_numpy(adversarial)

    return attack


def by_foolbox(make: Callable[[], object]) -> Peer:
    def attack(model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        _, clipped, _ = make()(wrapped, images, labels, epsilons=eps)  # type: ignore[operator]
        return clipped

    return attack


def by_torchattacks(make: Callable[[nn.Module, float], Callable[[Tensor, Tensor], Tensor]]) -> Peer:
    return lambda model, images, labels, eps: make(model, eps)(images, labels)


def duels(steps: int) -> list[Duel]:
    import art.attacks.evasion as art
    import foolbox.attacks as fb
    import torchattacks as ta

    return [
        Duel(
            "FGSM",
            lambda eps: FGSM(eps=eps),
            {
                "torchattacks": by_torchattacks(lambda m, eps: ta.FGSM(m, eps=eps)),
                "ART": by_art(lambda m, eps: art.FastGradientMethod(m, eps=eps, batch_size=1000)),
                "foolbox": by_foolbox(lambda: fb.LinfFastGradientAttack(random_start=False)),
            },
        ),
        Duel(
            f"PGD-{steps}",
            lambda eps: PGD(eps=eps, iterations=steps),
            {
                "torchattacks": by_torchattacks(
                    lambda m, eps: ta.PGD(m, eps=eps, alpha=eps / 10, steps=steps, random_start=False)
                ),
                "ART": by_art(
                    lambda m, eps: art.ProjectedGradientDescent(
                        m, eps=eps, eps_step=eps / 10, max_iter=steps, batch_size=1000, verbose=False
                    )
                ),
                "foolbox": by_foolbox(lambda: fb.LinfPGD(rel_stepsize=0.1, steps=steps, random_start=False)),
            },
        ),
        Duel(
            "MIM",
            lambda eps: MIM(eps=eps),
            {
                "torchattacks": by_torchattacks(
                    lambda m, eps: ta.MIFGSM(m, eps=eps, alpha=eps / 5, steps=10, decay=1.0)
                ),
                "ART": by_art(
                    lambda m, eps: art.MomentumIterativeMethod(
                        m, eps=eps, eps_step=eps / 5, max_iter=10, decay=1.0, batch_size=1000, verbose=False
                    )
                ),
                "foolbox (accumulates signs)": by_foolbox(
                    lambda: fb.LinfMomentumIterativeFastGradientMethod(
                        momentum=1.0, rel_stepsize=0.2, steps=10, random_start=False
                    )
                ),
            },
        ),
        Duel(
            "APGD-CE, 50 steps",
            lambda eps: APGD(eps=eps, iterations=50, raises=Objective.CROSS_ENTROPY),
            {
                "torchattacks": by_torchattacks(
                    lambda m, eps: ta.APGD(m, norm="Linf", eps=eps, steps=50, n_restarts=1, seed=0, loss="ce")
                ),
                "ART": by_art(
                    lambda m, eps: art.AutoProjectedGradientDescent(
                        m,
                        eps=eps,
                        eps_step=2 * eps,
                        max_iter=50,
                        nb_random_init=1,
                        batch_size=1000,
                        loss_type="cross_entropy",
                        verbose=False,
                    )
                ),
            },
        ),
    ]


def to_the_end(attack: Attack, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the examples after the last step, of every image."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(attack, GradientAttack):
        return craft(attack, model, images, labels, generator=generator)
    return run_attack(attack, model, images, labels, generator=generator, drop_fooled=False).images


def as_audited(attack: Attack, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the examples that an audit keeps."""
    return run_attack(attack, model, images, labels, generator=torch.Generator().manual_seed(0)).images


@dataclass
class Contestant:
    """One who attacks, its examples, and the least seconds that it took."""

    run: Callable[[Tensor, Tensor], Tensor]
    examples: Tensor = field(default_factory=lambda: torch.empty(0))
    seconds: float = float("inf")


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with the images that it gets right."""

    model: Classifier
    images: Tensor
    labels: Tensor
    eps: float

    def stands(self, adversarial: Tensor) -> Tensor:
        """Return which images the model still gets right."""
        with torch.no_grad():
            return self.model(adversarial).argmax(dim=1) == self.labels


def open_subject(options: argparse.Namespace) -> Subject:
    """Open the model; where it has no weights, it is right about whatever it says."""
    if options.data is None:
        opened = open_run(Path(options.model), arch=options.arch, samples=options.samples, initial=options.initial)
    else:
        spec = ModelSpec(model=options.model, arch=options.arch, image_size=options.image_size)
        opened = open_other(spec, data=options.data, samples=options.samples, eps=parse_eps(options.eps))
    model = opened.classifier.eval().requires_grad_(False)
    images, labels = opened.images.batch(slice(None))
    with torch.no_grad():
        found = model(images).argmax(dim=1)
    if options.model.startswith("timm:"):
        labels = found
    right = found == labels
    return Subject(model, images[right], labels[right], opened.eps)


def contestants_of(duel: Duel, subject: Subject) -> dict[str, Contestant]:
    """Return who attacks, by name."""
    model, eps = subject.model, subject.eps
    ours = copy.deepcopy(model)
    lay_out(ours)  # as `harden report` does

    def folded(run: Callable[[Attack, nn.Module, Tensor, Tensor], Tensor]) -> Contestant:
        def attack(images: Tensor, labels: Tensor) -> Tensor:
            # Each time anew: the folded weights are memory that it takes, too.
            with find_folding(ours, laid_out(images[:FEW], ours)).on():
                return run(duel.ours(eps), ours, images, labels)

        return Contestant(attack)

    return {
        "harden": folded(to_the_end),
        "harden, unfolded": Contestant(partial(to_the_end, duel.ours(eps), ours)),
        "harden, as it audits": folded(as_audited),
        **{name: Contestant(partial(_without_harden, peer, model, eps)) for name, peer in duel.peers.items()},
    }


def _without_harden(peer: Peer, model: nn.Module, eps: float, images: Tensor, labels: Tensor) -> Tensor:
    return peer(model, images, labels, eps)


def take_turns(contestants: Sequence[Contestant], subject: Subject, repeats: int) -> None:
    """Let each attack in turn, so that a slow minute of the machine is everyone's."""
    for _ in range(repeats):
        for contestant in contestants:
            began = time.process_time()
            contestant.examples = quietly(contestant, subject.images, subject.labels)
            contestant.seconds = min(contestant.seconds, time.process_time() - began)


def quietly(contestant: Contestant, images: Tensor, labels: Tensor) -> Tensor:
    """Let one attack, whatever it warns of or seeds."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return contestant.run(images, labels)


def risen(contestant: Contestant, subject: Subject) -> float:
    """Return MiB by which the resident memory of this process rose at most during an attack."""
    quietly(contestant, subject.images[:2], subject.labels[:2])
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed counts as free again
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _status("VmRSS")
    quietly(contestant, subject.images, subject.labels)
    return (_status("VmHWM") - before) / 1024


def _status(field_name: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field_name)]
    return int(line.split()[1])


def tell_memory(duel: Duel, names: Sequence[str]) -> None:
    """Measure each in a process of its own, and compare it with the leanest peer."""
    command = [sys.executable, "-m", "tests.benchmarks.peers", *sys.argv[1:], "--one", duel.name]
    found = {}
    for name in names:
        done = subprocess.run([*command, name], check=True, capture_output=True, text=True)
        found[name] = float(done.stdout.splitlines()[-1])
    leanest = min(value for name, value in found.items() if name in duel.peers)
    print(duel.name)
    for name, value in found.items():
        print(f"  {name:28} {value:6.0f} MiB, {value / leanest:.2f} of the leanest peer's", flush=True)


def tell_speed(duel: Duel, contestants: dict[str, Contestant], subject: Subject) -> None:
    """Say what each found, and how fast."""
    whole = contestants["harden"]
    mine = subject.stands(whole.examples)
    print(duel.name)
    for name, one in contestants.items():
        found = subject.stands(one.examples)
        speed = f"{len(mine) / one.seconds:8.1f} images/s"
        print(f"  {name:28} {found.float().mean():6.1%} stand {speed}", end="")
        if one is not whole:
            print(
                f"  agree {(mine == found).float().mean():6.1%}; harden {one.seconds / whole.seconds:.2f}x as fast",
                end="",
            )
        print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Single attacks beside those of other libraries.")
    parser.add_argument("model")
    parser.add_argument("--data", help="images for a model that is no run folder")
    parser.add_argument("--eps", default="8/255", help="for a model that is no run folder")
    parser.add_argument("--arch")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--initial", action="store_true")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="regular expression on attacks")
    parser.add_argument("--steps", type=int, default=40, help="of PGD")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    chosen = [duel for duel in duels(options.steps) if re.search(options.only, duel.name)]
    subject = open_subject(options)
    if options.one:
        (duel,) = [duel for duel in chosen if duel.name == options.one[0]]
        print(risen(contestants_of(duel, subject)[options.one[1]], subject))
        return
    setting = f"l_inf eps {subject.eps:g}, {torch.get_num_threads()} threads"
    print(f"{options.model}: {len(subject.images)} images that are right when clean, {setting}")
    for duel in chosen:
        contestants = contestants_of(duel, subject)
        if options.memory:
            tell_memory(duel, tuple(contestants))
        else:
            take_turns(list(contestants.values()), subject, options.repeats)
            tell_speed(duel, contestants, subject)


if __name__ == "__main__":
    main()
