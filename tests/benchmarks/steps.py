"""Training steps side by side: SAT, Adv-4-Adv, and Adv-4-Adv as a plain loop, at several sizes.

python -m tests.benchmarks.steps [--repeats 7] [--only REGEX] [--memory]

All steps of a size take turns in one process, each on its own copy of the network, with FGSM as source attack. Times
are the medians of processor time, which other work on the machine moves less than the clock. The plain loop is what
public code does: an attack object of torchattacks, one forward pass of both batches, and a discriminator for each class
in turn. With --memory every step runs in a process of its own, whose peak is compared with what it had before.
"""

from __future__ import annotations

import argparse
import itertools
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.fashion_cnn import fashion_cnn
from examples.resnet_cifar import resnet20
from harden.adaptation import default_hidden, reverse_gradient
from harden.data import ImageSet
from harden.defences import DEFENCES, DefenceContext, DefenceSettings
from harden.models.classifier import Classifier
from harden.models.normalisations import plain
from harden.models.origin import Origin
from harden.models.tap import Tap, as_representation
from harden.randomness import stream
from harden.training.loop import Trainer
from harden.training.settings import TrainingSettings
from harden.vision import import_timm

EPS = 8 / 255
STEPS = ("SAT", "Adv-4-Adv", "plain loop")
Step = Callable[[], float]
"""Takes one training step and returns its processor time in seconds."""


@dataclass(frozen=True)
class Size:
    """A network with images for it."""

    name: str
    network: Callable[[int], nn.Module]
    layer: str
    classes: int
    image: tuple[int, int, int]
    batch: int


SIZES = (
    Size("Fashion network", lambda k: fashion_cnn(num_classes=k), "3", 10, (1, 28, 28), 256),
    Size("Fashion network", lambda k: fashion_cnn(num_classes=k), "3", 100, (1, 28, 28), 256),
    Size("ResNet-20", lambda k: resnet20(num_classes=k), "layer3", 10, (3, 32, 32), 64),
    Size("ResNet-20", lambda k: resnet20(num_classes=k), "layer3", 100, (3, 32, 32), 64),
    Size("ResNet-18", lambda k: _timm("resnet18", k), "layer4", 10, (3, 64, 64), 32),
    Size("ResNet-50", lambda k: _timm("resnet50", k), "global_pool", 10, (3, 64, 64), 16),
    Size("ResNet-50", lambda k: _timm("resnet50", k), "global_pool", 100, (3, 64, 64), 16),
    Size("ResNet-50", lambda k: _timm("resnet50", k), "global_pool", 1000, (3, 64, 64), 16),
)


def _timm(name: str, classes: int) -> nn.Module:
    network: nn.Module = import_timm().create_model(name, num_classes=classes)
    return network


def classifier_of(size: Size) -> Classifier:
    """Build the network with random weights, the same ones every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = size.network(size.classes)
    return Classifier(
        network,
        normalisation=plain(size.image[0]),
        classes=tuple(map(str, range(size.classes))),
        input_size=size.image,
        origin=Origin("factory", "benchmark"),
    )


def images_of(size: Size) -> ImageSet:
    """Random images, three batches of them."""
    count = 3 * size.batch
    pixels = torch.randint(256, (count, *size.image), generator=stream(0, "pixels"), dtype=torch.uint8)
    labels = torch.randint(size.classes, (count,), generator=stream(0, "labels"))
    return ImageSet(pixels, labels, tuple(map(str, range(count))))


class _Deaf:
    def step(self, done: int, total: int) -> None: ...

    def epoch(self, record: object, history: object) -> None: ...

    def note(self, text: str) -> None: ...


def ours(size: Size, method: str) -> Step:
    """A step of the training loop as `harden fit` takes it, averaging of the weights included."""
    classifier, images = classifier_of(size), images_of(size)
    layer = size.layer if method == "adv4adv" else None
    width = 0
    if layer:
        with Tap(classifier.eval(), layer) as tapped, torch.no_grad():
            width = as_representation(tapped(images.batch(slice(2))[0])[0]).shape[1]
    parameters = sum(p.numel() for p in classifier.parameters())
    context = DefenceContext(size.classes, width, stream(0, "discriminators"), network=parameters)
    trainer = Trainer(
        classifier=classifier,
        defence=DEFENCES[method](context, DefenceSettings()),
        layer=layer,
        train=images,
        val=images.subset(torch.arange(2)),
        settings=TrainingSettings(
            epochs=1000, batch_size=size.batch, lr=1e-4, eps=EPS, source_attacks=("fgsm",), eps_ramp=0.0, ema=0.998
        ),
        checkpoint=None,
        observer=_Deaf(),
    )

    def step() -> float:
        began = time.process_time()
        trainer.time_steps(1, 0.0)  # two steps, the first of which it takes for a warm-up
        return (time.process_time() - began) / 2

    return step


def plain_loop(size: Size) -> Step:
    """A step of Adv-4-Adv as public code takes it."""
    import torchattacks

    network, images = classifier_of(size), images_of(size)
    captured: list[Tensor] = []
    target = network.module.get_submodule(size.layer)
    target.register_forward_hook(lambda module, inputs, output: captured.append(output.flatten(1)))
    with torch.no_grad():
        network.eval()(images.batch(slice(2))[0])
    width = captured.pop().shape[1]
    discriminators = nn.ModuleList(_perceptron(width) for _ in range(size.classes))
    optimizer = torch.optim.Adam([*network.parameters(), *discriminators.parameters()], lr=1e-4)
    batches = itertools.cycle(range(3))

    def step() -> float:
        i = next(batches)
        began = time.process_time()
        clean, labels = images.batch(slice(i * size.batch, (i + 1) * size.batch))
        network.train()
        adversarial = torchattacks.FGSM(network, eps=EPS)(clean, labels)
        captured.clear()
        scores = network(torch.cat([clean, adversarial]))
        everyone = labels.repeat(2)
        domains = torch.arange(2).flip(0).repeat_interleave(len(labels)).float()
        loss = F.cross_entropy(scores[: len(labels)], labels) + F.cross_entropy(scores[len(labels) :], labels)
        values = reverse_gradient(captured.pop(), 1.0)
        for k, discriminator in enumerate(discriminators):
            rows = everyone == k
            if rows.any():
                loss = loss + F.binary_cross_entropy_with_logits(discriminator(values[rows])[:, 0], domains[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return time.process_time() - began

    return step


def _perceptron(width: int) -> nn.Module:
    first, second = default_hidden(width)
    layers = [nn.Linear(width, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 1)]
    return nn.Sequential(*layers)


def build(size: Size, name: str) -> Step:
    """Return the step called `name`, one of `STEPS`."""
    return plain_loop(size) if name == "plain loop" else ours(size, {"SAT": "sat", "Adv-4-Adv": "adv4adv"}[name])


def peak_memory(size: Size, name: str) -> float:
    """Return MiB that two steps add to what the process had when they were built, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.steps", "--one", str(SIZES.index(size)), name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def affordable(size: Size, name: str) -> bool:
    """A thousand perceptrons on 2,048 features fit; on a large feature map they would not."""
    return name != "plain loop" or size.classes <= 100


def main() -> int:
    parser = argparse.ArgumentParser(description="Time training steps side by side.")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", default="", help="regular expression on sizes")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        step = build(SIZES[int(options.one[0])], options.one[1])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        step()
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
        return 0
    unit = "MiB" if options.memory else "ms"
    print(f"| network | classes | SAT, {unit} | Adv-4-Adv / SAT | plain loop / Adv-4-Adv |\n|---|---|---|---|---|")
    for size in SIZES:
        if not re.search(options.only, f"{size.name} {size.classes}"):
            continue
        names = [name for name in STEPS if affordable(size, name)]
        if options.memory:
            found = {name: peak_memory(size, name) for name in names}
        else:
            steps = {name: build(size, name) for name in names}
            times: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(options.repeats + 1):
                for name, step in steps.items():
                    times[name].append(step())
            found = {name: 1000 * statistics.median(times[name][1:]) for name in names}
        sat, full = found["SAT"], found["Adv-4-Adv"]
        slow = f"{found['plain loop'] / full:.2f}" if "plain loop" in found else ""
        print(f"| {size.name} | {size.classes} | {sat:.0f} | {full / sat:.2f} | {slow} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
