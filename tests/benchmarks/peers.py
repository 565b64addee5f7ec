"""Single attacks beside torchattacks, ART and foolbox on one model: verdicts image by image, and images per second.

python -m tests.benchmarks.peers RUN [--samples 500] [--repeats 3] [--arch net.py:build] [--initial]

Every library gets the same images in one batch and the same parameters; they take turns in one process, and times are
the best of the repeats. harden attacks twice: as the others do, to the last step on every image, and as its audit does,
where an image leaves once it is fooled. "agree" is the share of images on which both say the same of the last step.
Where the arithmetic of a peer differs, its line says so.
"""

from __future__ import annotations

import argparse
import copy
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
from harden.models.layout import lay_out
from tests.benchmarks.opened import open_run

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


def duels() -> list[Duel]:
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
            "PGD-40",
            lambda eps: PGD(eps=eps, iterations=40),
            {
                "torchattacks": by_torchattacks(
                    lambda m, eps: ta.PGD(m, eps=eps, alpha=eps / 10, steps=40, random_start=False)
                ),
                "ART": by_art(
                    lambda m, eps: art.ProjectedGradientDescent(
                        m, eps=eps, eps_step=eps / 10, max_iter=40, batch_size=1000, verbose=False
                    )
                ),
                "foolbox": by_foolbox(lambda: fb.LinfPGD(rel_stepsize=0.1, steps=40, random_start=False)),
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

    run: Callable[[], Tensor]
    examples: Tensor = field(default_factory=lambda: torch.empty(0))
    seconds: float = float("inf")


def take_turns(contestants: Sequence[Contestant], repeats: int) -> None:
    """Let each attack in turn, so that a slow minute of the machine is everyone's."""
    for _ in range(repeats):
        for contestant in contestants:
            began = time.perf_counter()
            with torch.random.fork_rng(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                contestant.examples = contestant.run()
            contestant.seconds = min(contestant.seconds, time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--arch")
    parser.add_argument("--initial", action="store_true")
    options = parser.parse_args()
    opened = open_run(options.run, arch=options.arch, samples=options.samples, initial=options.initial)
    model, eps = opened.classifier.eval(), opened.eps
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    images, labels = opened.images.batch(slice(None))
    with torch.no_grad():
        right = model(images).argmax(dim=1) == labels
    images, labels = images[right], labels[right]
    setting = f"l_inf eps {eps:g}, {torch.get_num_threads()} threads"
    print(f"{options.run}: {len(images)} images that are right when clean, {setting}")

    def stands(adversarial: Tensor) -> Tensor:
        with torch.no_grad():
            return model(adversarial).argmax(dim=1) == labels

    ours = copy.deepcopy(model)
    lay_out(ours)  # as `harden report` does
    for duel in duels():
        whole = Contestant(partial(to_the_end, duel.ours(eps), ours, images, labels))
        dropping = Contestant(partial(as_audited, duel.ours(eps), ours, images, labels))
        peers = {name: Contestant(partial(peer, model, images, labels, eps)) for name, peer in duel.peers.items()}
        take_turns([whole, dropping, *peers.values()], options.repeats)
        mine = stands(whole.examples)
        print(duel.name)
        for name, one in {"harden": whole, "harden, as it audits": dropping, **peers}.items():
            found = stands(one.examples)
            print(f"  {name:28} {found.float().mean():6.1%} stand {len(images) / one.seconds:8.0f} images/s", end="")
            if name in peers:
                print(
                    f"  agree {(mine == found).float().mean():6.1%}; harden {one.seconds / whole.seconds:.2f}x as "
                    f"fast, {one.seconds / dropping.seconds:.2f}x as it audits",
                    end="",
                )
            print(flush=True)


if __name__ == "__main__":
    main()
