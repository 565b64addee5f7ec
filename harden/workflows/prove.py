"""Proving an exported file: its scores beside the model's, its accuracy on the model's adversarial examples, and Square
run against the file itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from harden.attacks import ATTACKS, frozen, run_attack
from harden.attacks.square import Square
from harden.data import ImageSet, stratified_sample
from harden.errors import ExportError
from harden.export import PRECISIONS
from harden.export.any_size import OTHER_SIZE, fit_in_torch, fitted, of_other_sizes
from harden.export.blame import worst_layer
from harden.export.parity import Parity, Standing, compare, compare_with, require
from harden.export.sample import Sample, take_sample
from harden.models.classifier import Classifier, Scorer
from harden.randomness import stream
from harden.stopping import ask
from harden.workflows.narrator import Narrator

WHITE_BOX = "pgd-10"
SQUARE = "under Square"
FITTING = 10
"""Times the tolerance by which scores of images of another size may differ: what fits them is rounded as well."""
_BATCH = 32
_MOST_IMAGES, _FEWEST_IMAGES = 256, 32
_MOST_ATTACKED = 100
_MOST_QUERIES, _FEWEST_QUERIES = 200, 50
_PASSES = 32
"""Forward passes that crafting PGD-10 takes on an image, and comparing it."""
_CRAFTING, _SEARCHING = 3e12, 3e12
"""Floating point operations that crafting, and that Square on one model, may take: about a minute on a small machine
each. A number of operations is no matter of the machine, so the same model is always proven on the same images."""


@dataclass(frozen=True)
class Effort:
    """How much an export is proven on.

    Attributes:
        images: compared clean and as adversarial examples.
        attacked: of these, attacked by Square, and kept beside the files.
        queries: of Square, for each image.
    """

    images: int
    attacked: int
    queries: int


def effort_for(classifier: Classifier, samples: int | None) -> Effort:
    """Return how much to prove a model on: fewer images and queries for a network that takes long.

    Args:
        classifier: the model, in eval mode.
        samples: images to compare; None: by what a forward pass costs.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        classifier(torch.full((1, *classifier.input_size), 0.5, device=classifier.device))
    cost = max(1, counter.get_total_flops())
    images = samples or max(_FEWEST_IMAGES, min(_MOST_IMAGES, int(_CRAFTING / (cost * _PASSES))))
    attacked = min(images, max(_FEWEST_IMAGES, min(_MOST_ATTACKED, int(_SEARCHING / (cost * _MOST_QUERIES)))))
    queries = max(_FEWEST_QUERIES, min(_MOST_QUERIES, int(_SEARCHING / (cost * attacked))))
    return Effort(images, attacked, queries)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What every file of one model is proven on, and what the model itself makes of it.

    Attributes:
        clean: (N, C, H, W) float32 in [0, 1].
        adversarial: PGD-10 examples of these, crafted on the model.
        labels: (N,) int64.
        sample: some of them, which Square attacks.
        queries: of Square.
        standing: per kind, how many images of the sample the model classifies correctly.
    """

    clean: Tensor
    adversarial: Tensor
    labels: Tensor
    sample: Sample
    queries: int
    standing: dict[str, int]

    def sets(self) -> tuple[tuple[str, Tensor], ...]:
        """Return both kinds of images with their names."""
        return ("clean", self.clean), ("adversarial", self.adversarial)


def gather(classifier: Classifier, images: ImageSet, eps: float, effort: Effort, narrator: Narrator) -> Evidence:
    """Attack the model itself: PGD-10 on all images, Square on the sample.

    Args:
        classifier: the model, on the CPU.
        images: labelled as the model numbers the classes.
        eps: l_inf radius on the [0, 1] scale.
        effort: how much.
        narrator: hears how far it is.
    """
    clean, labels = images.batch(slice(None))
    adversarial = craft_white_box(classifier, clean, labels, eps, narrator)
    rows = stratified_sample(labels, effort.attacked, generator=stream(0, "export", "sample"))
    with frozen(classifier):
        sample = take_sample(classifier, images.images[rows], labels[rows], adversarial[rows], eps)
    # Crafted anew, as `harden verify` will: a batch of other images has another random start.
    again = craft_white_box(classifier, sample.clean(), sample.labels, eps, narrator, "crafting PGD-10 on the sample")
    with frozen(classifier), torch.no_grad():
        withstood = _score(classifier, again, sample.labels)
    standing = {
        "clean": _right(sample.clean_scores, sample.labels),
        "adversarial": _right(sample.adversarial_scores, sample.labels),
        WHITE_BOX: withstood,
        SQUARE: under_square(classifier, sample, effort.queries, narrator, "the model under Square"),
    }
    return Evidence(clean, adversarial, labels, sample, effort.queries, standing)


def craft_white_box(
    classifier: Classifier, clean: Tensor, labels: Tensor, eps: float, narrator: Narrator, task: str = "crafting PGD-10"
) -> Tensor:
    """Return PGD-10 examples (N, C, H, W) of `clean`, the ones with the smallest margins that were met."""
    attack, done = ATTACKS[WHITE_BOX](eps), []
    for number, (batch, true) in enumerate(_batches(clean, labels, _BATCH)):
        narrator.progress(task, number * _BATCH, len(clean))
        generator = stream(0, "export", WHITE_BOX, number)
        done.append(run_attack(attack, classifier, batch, true, generator=generator, drop_fooled=False).images)
    narrator.progress(task, len(clean), len(clean))
    return torch.cat(done)


def under_square(model: Callable[[Tensor], Tensor], sample: Sample, queries: int, narrator: Narrator, task: str) -> int:
    """Return how many images of `sample` a model classifies correctly when clean and after Square.

    Args:
        model: images in [0, 1] to scores (N, K).
        sample: the images, and eps.
        queries: for each image; given up on one that stands clear, as in the audit.
        narrator: hears how far it is.
        task: for print.
    """
    attack = Square(eps=sample.eps, queries=queries, hope=3.0)
    standing, clean = 0, sample.clean()
    for number, (batch, true) in enumerate(_batches(clean, sample.labels, _BATCH)):
        narrator.progress(task, number * _BATCH, len(clean))
        with torch.no_grad():
            right = model(batch).argmax(dim=1).cpu() == true
        if bool(right.any()):
            generator = stream(0, "export", "square", number)
            examples = run_attack(attack, model, batch[right], true[right], generator=generator)
            standing += int((examples.predictions.cpu() == true[right]).sum())
    narrator.progress(task, len(clean), len(clean))
    return standing


@dataclass(frozen=True)
class Proof:
    """What was found of one file.

    Attributes:
        parities: its scores beside the model's.
        standings: its accuracy beside the model's.
        counts: per kind, how many images of the sample it classifies correctly.
    """

    parities: tuple[Parity, ...]
    standings: tuple[Standing, ...]
    counts: dict[str, int]


def prove(
    classifier: Classifier,
    scorer: Scorer,
    evidence: Evidence,
    *,
    tolerance: float | None,
    max_drop: float,
    narrator: Narrator,
    name: str,
    any_size: bool = False,
) -> Proof:
    """Hold a file against the model.

    Args:
        classifier: the model.
        scorer: the file in its runtime.
        evidence: of the model.
        tolerance: bound on the difference of any score, as a share of their scale; None for a file of smaller numbers.
        max_drop: largest share of images that it may lose.
        narrator: hears what was found.
        name: of the file.
        any_size: whether it takes images of any size, so that some of others are tried too: against what the file says
            of them fitted in torch, of which as many must have the same top-1 as may be lost; and of those that Pillow
            fits, how many it gets right.
    """
    sample = evidence.sample
    with frozen(classifier), torch.no_grad():
        parities = tuple(
            compare(classifier, scorer, images, kind=kind, tolerance=tolerance) for kind, images in evidence.sets()
        )
        pairs = [
            (kind, len(images), _score(classifier, images, evidence.labels), _score(scorer, images, evidence.labels))
            for kind, images in evidence.sets()
        ]
        counts = {kind: _score(scorer, images, sample.labels) for kind, images in sample.sets()}
        if any_size:
            size = classifier.input_size[1:]
            others = of_other_sizes(sample.clean())
            for name, images in others.items():
                reference = torch.cat([scorer(part) for part in torch.split(fit_in_torch(images, size), _BATCH)])
                looser = FITTING * tolerance if tolerance is not None else None
                parities += (compare_with(reference, scorer, images, kind=name, tolerance=looser),)
                same = round(parities[-1].agreement * len(images))
                pairs.append((name, len(images), len(images), same))
            known = _score(classifier, fitted(others["wide"], size), sample.labels)
            counts[OTHER_SIZE] = _score(scorer, others["wide"], sample.labels)
            pairs.append((OTHER_SIZE, len(sample), known, counts[OTHER_SIZE]))
    counts[SQUARE] = under_square(scorer, sample, evidence.queries, narrator, f"{name} under Square")
    pairs.append((SQUARE, len(sample), evidence.standing[SQUARE], counts[SQUARE]))
    return Proof(parities, tuple(Standing(*pair, max_drop) for pair in pairs), counts)


def tell(proof: Proof, narrator: Narrator) -> None:
    """Say what was found of a file."""
    standings = {standing.kind: standing for standing in proof.standings}
    rows = [
        (p.kind, f"{p.agreement:.2%}", f"{p.largest_difference:.2g}", *_shares(standings.get(p.kind)))
        for p in proof.parities
    ]
    compared = {parity.kind for parity in proof.parities}
    rows += [(s.kind, "", "", *_shares(s)) for s in proof.standings if s.kind not in compared]
    narrator.table(("images", "top-1", "off by", "model", "file"), rows)


def _shares(standing: Standing | None) -> tuple[str, str]:
    if standing is None:
        return "", ""
    return f"{standing.original / standing.images:.1%}", f"{standing.exported / standing.images:.1%}"


def require_proof(proof: Proof, name: str, precision: str, folder: Path, evidence: Evidence) -> None:
    """Raise if a file does not agree with the model, naming the layer where smaller numbers go wrong.

    Args:
        proof: of the file.
        name: of the file.
        precision: of the file.
        folder: where that file for images of the network's own size is, and the one of 32-bit floats.
        evidence: of the model.

    Raises:
        ExportError: with the figures.
    """
    called = name if precision == "fp32" else f"{name} ({precision})"
    try:
        require(proof.parities, proof.standings, called)
    except ExportError:
        if precision == "fp32":
            raise
        blamed = worst_layer(folder / PRECISIONS["fp32"], folder / name, evidence.clean)
        require(proof.parities, proof.standings, called, why=blamed.sentence() if blamed else None)


def _score(model: Scorer, images: Tensor, labels: Tensor) -> int:
    return sum(_right(model(batch), true) for batch, true in _batches(images, labels, 64))


def _right(scores: Tensor, labels: Tensor) -> int:
    return int((scores.argmax(dim=1).cpu() == labels).sum())


def _batches(images: Tensor, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in zip(torch.split(images, size), torch.split(labels, size), strict=True):
        ask()
        yield batch
