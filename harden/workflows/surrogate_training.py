"""Training a network to craft on once, on images that are not audited, and keeping it beside the decoded images."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from harden.data import Entry, ImageSet, SplitPlan, stratified_sample
from harden.defences import DEFENCES, DefenceContext, DefenceSettings
from harden.errors import ExportError, Interrupted, RunFolderError, UsageError
from harden.export.to_safetensors import load_weights, save_weights
from harden.folders import cache_root
from harden.models.black_box import Audited
from harden.models.classifier import Classifier, Normalisation
from harden.models.layout import lay_out
from harden.models.normalisations import OWN_STATISTICS, own_statistics
from harden.models.origin import Origin
from harden.models.surrogate import Architecture, other_family
from harden.randomness import derive_seed, stream
from harden.training.evaluate import predictions, share
from harden.training.history import EpochRecord, History
from harden.training.loop import Trainer
from harden.training.settings import TrainingSettings
from harden.workflows.narrator import Narrator
from harden.workflows.prepare import Images

MOST_IMAGES = 50_000
"""More training images are sampled: a surrogate needs to be plausible, not good."""
HELD_OUT, MOST_HELD_OUT = 0.1, 1000
LEAST_PER_CLASS = 5
BATCH_SIZE = 128
STEPS_PER_LOOK = 100
"""After about so many steps the held-out images, and the clock, are looked at."""


@dataclass(frozen=True)
class Effort:
    """How long a surrogate trains: about this many steps, or fewer, but some 100, where `seconds` are over."""

    steps: int = 1500
    seconds: float = 100.0


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A network to craft on.

    Attributes:
        name: for print.
        network: from the subject's images (N, C, H, W) in [0, 1] to scores (N, K) in the order of its classes.
        accuracy: in [0, 1], on labelled images that it was not trained on here.
    """

    name: str
    network: nn.Module
    accuracy: float


def training_pool(images: Images, plan: SplitPlan | None, audited: Sequence[Entry]) -> tuple[tuple[Entry, ...], str]:
    """Return what a surrogate may be trained on, never what is audited, and what that is in words.

    Training images of the run, or of the train split, or everything where the data has no splits; less
    what is audited.

    Raises:
        UsageError: that leaves too little.
    """
    listings = images.source.listings
    if plan is not None:
        pool, which = plan.train, "the run's training images"
    elif "train" in listings:
        pool, which = listings["train"], "the train split"
    else:
        pool, which = next(iter(listings.values())), "the data, which has no train split"
    attacked = {entry.file for entry in audited}
    left = tuple(entry for entry in pool if entry.file not in attacked)
    counts = [0] * len(images.source.classes)
    for entry in left:
        counts[entry.label] += 1
    if min(counts) < LEAST_PER_CLASS:
        raise UsageError(
            f"there is too little to train a surrogate on: besides the {len(attacked)} audited images, {which} has "
            f"{min(counts)} images of {images.source.classes[counts.index(min(counts))]!r}",
            hint=f"audit fewer images (--samples {max(1, len(pool) // 2)}), or name a surrogate: --surrogate MODEL",
        )
    words = f"{len(left)} images: {which}"
    return left, words if len(left) == len(pool) else f"{words}, without the images that are audited"


def trained_surrogate(
    subject: Audited,
    images: Images,
    pool: Sequence[Entry],
    *,
    seed: int,
    device: torch.device,
    narrator: Narrator,
    stop_requested: Callable[[], bool] = lambda: False,
    effort: Effort | None = None,
    architecture: Architecture | None = None,
) -> Surrogate:
    """Return a network, trained cleanly on `pool`, or from the cache.

    A stratified tenth of `pool` is held out to choose the epoch and to print an accuracy.

    Args:
        subject: the audited model; its image format and classes are the surrogate's.
        images: how its images are decoded.
        pool: labelled images that are not audited.
        seed: of everything random.
        device: where to train it.
        narrator: hears what happens.
        stop_requested: asked after every step.
        effort: how long to train; None: the usual.
        architecture: of the network; None: one of another family than the subject.

    Raises:
        Interrupted: a stop was requested.
    """
    effort = effort or Effort()
    size, classes = subject.input_size, subject.classes
    module = subject.module if isinstance(subject, Classifier) else None
    reference = subject.origin.reference if isinstance(subject, Classifier) else ""
    if architecture is None:
        architecture = other_family(size, classes=len(classes), subject=module, reference=reference)
    chosen = images.sample(pool, MOST_IMAGES, seed, "surrogate")
    path = cache_root() / "surrogates" / f"{_key(architecture, images, chosen, seed, effort)}.safetensors"
    cached = _from_cache(path, architecture, subject, seed)
    if cached is not None:
        narrator.note(f"{architecture.name} comes from the cache")
        lay_out(cached[0].to(device))  # as training left it
        return Surrogate(architecture.name, cached[0].eval(), cached[1])
    everything = images.decode(chosen, narrator, "images for the surrogate")
    held_out = min(MOST_HELD_OUT, round(HELD_OUT * len(everything)))
    val_rows = stratified_sample(everything.labels, held_out, generator=stream(seed, "surrogate", "val"))
    train_rows = torch.ones(len(everything), dtype=torch.bool)
    train_rows[val_rows] = False
    train, val = everything.subset(torch.nonzero(train_rows).squeeze(1)), everything.subset(val_rows)
    sample = stratified_sample(train.labels, MOST_HELD_OUT, generator=stream(seed, "surrogate", "statistics"))
    normalisation = own_statistics(train.batch(sample)[0])
    classifier = _untrained(normalisation, architecture, subject, seed).to(device)
    _train(classifier, train, val, architecture, effort, seed, narrator, stop_requested)
    accuracy = share(predictions(classifier, val) == val.labels)
    with contextlib.suppress(RunFolderError, ExportError):  # a cache that cannot be written costs time only
        _keep(path, classifier, accuracy)
    return Surrogate(architecture.name, classifier.eval(), accuracy)


def _key(architecture: Architecture, images: Images, chosen: Sequence[Entry], seed: int, effort: Effort) -> str:
    image_format = images.image_format
    head = [
        architecture.name,
        architecture.version,
        images.source.location,
        images.source.fingerprint(chosen),
        list(images.classes),
        list(images.mapping),
        image_format.channels,
        *image_format.size,
        seed,
        effort.steps,
        effort.seconds,
    ]
    digest = hashlib.blake2b(json.dumps(head).encode(), digest_size=20)
    digest.update(json.dumps([[entry.file, entry.label] for entry in chosen]).encode())
    return digest.hexdigest()


def _untrained(normalisation: Normalisation, architecture: Architecture, subject: Audited, seed: int) -> Classifier:
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(derive_seed(seed, "surrogate"))
        network = architecture.build(len(subject.classes), subject.input_size)
    return Classifier(
        network,
        normalisation=normalisation,
        classes=subject.classes,
        input_size=subject.input_size,
        origin=Origin("surrogate", architecture.name),
    )


def _train(
    classifier: Classifier,
    train: ImageSet,
    val: ImageSet,
    architecture: Architecture,
    effort: Effort,
    seed: int,
    narrator: Narrator,
    stop_requested: Callable[[], bool],
) -> None:
    steps = max(1, len(train) // BATCH_SIZE)
    parts = max(1, round(steps / STEPS_PER_LOOK))
    epochs = max(1, round(effort.steps / max(1, steps // parts)))
    settings = TrainingSettings(
        epochs=epochs,
        batch_size=BATCH_SIZE,
        lr=architecture.lr,
        eps=0.0,
        source_attacks=(),
        eps_ramp=0.0,
        epoch_parts=parts,
        augment="none" if classifier.input_size[0] == 1 else "flip+shift",
        seed=derive_seed(seed, "surrogate", architecture.name),
    )

    def replan(done: int, seconds: float) -> int:
        return min(epochs, max(done, int(effort.seconds / max(seconds, 1e-9))))

    trainer = Trainer(
        classifier=classifier,
        defence=DEFENCES["nt"](DefenceContext(len(classifier.classes), 0, stream(0, "none")), DefenceSettings()),
        layer=None,
        train=train,
        val=val,
        settings=settings,
        checkpoint=None,
        observer=_Listener(f"training {architecture.name}", narrator),
        stop_requested=stop_requested,
        replan=replan,
    )
    try:
        trainer.run()
    except Interrupted as error:
        raise Interrupted(f"stopped while {architecture.name} was trained; nothing of it is kept") from error


class _Listener:
    """Passes the training's progress on."""

    def __init__(self, task: str, narrator: Narrator) -> None:
        self._task = task
        self._narrator = narrator
        self._detail = ""

    def step(self, done: int, total: int) -> None:
        self._narrator.progress(self._task, done, total, self._detail)

    def epoch(self, record: EpochRecord, history: History) -> None:
        self._detail = f"epoch {record.epoch}, {record.scalars['val_clean']:.1%} of held-out images right"

    def note(self, text: str) -> None:
        self._narrator.note(text)


def _keep(path: Path, classifier: Classifier, accuracy: float) -> None:
    state = {f"module.{name}": value for name, value in classifier.module.state_dict().items()}
    state |= {
        "mean": torch.tensor(classifier.normalisation.mean, dtype=torch.float64),
        "std": torch.tensor(classifier.normalisation.std, dtype=torch.float64),
        "accuracy": torch.tensor(accuracy, dtype=torch.float64),
    }
    save_weights(state, path, {"classes": list(classifier.classes)})


def _from_cache(path: Path, architecture: Architecture, subject: Audited, seed: int) -> tuple[Classifier, float] | None:
    """Return the kept surrogate and its accuracy; whatever is wrong with the file, it is thrown away."""
    if not path.exists():
        return None
    try:
        state = load_weights(path)
        normalisation = Normalisation(OWN_STATISTICS, tuple(state["mean"].tolist()), tuple(state["std"].tolist()))
        classifier = _untrained(normalisation, architecture, subject, seed)
        weights = {name.removeprefix("module."): v for name, v in state.items() if name.startswith("module.")}
        classifier.module.load_state_dict(weights)
        return classifier, float(state["accuracy"])
    except (ExportError, RuntimeError, KeyError, TypeError, ValueError):
        with contextlib.suppress(OSError):
            path.unlink()
        return None
