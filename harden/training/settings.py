"""What the training loop is told, whom it tells, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from harden.training.history import EpochRecord, History

TRAINING_PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16}
"""What a network may compute in while it is trained, by name: what `Tap` takes."""


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        epochs: passes over the training images, or parts of one (see `epoch_parts`).
        batch_size: clean images per step (the network sees as many adversarial ones besides).
        lr: peak learning rate of Adam.
        weight_decay: L2 penalty on the network's weights (not the discriminators').
        lr_warmup, eps_ramp: shares of training (see `Schedule`).
        eps: l_inf radius of the source attack on the [0, 1] scale.
        ema: decay of the weight average.
        augment: a key of `AUGMENTATIONS`.
        source_attacks: keys of `CRAFTERS`, one for each adversarial domain; none trains without adversarial examples
            and selects on clean accuracy.
        on_collapse: "switch" (roll back and go on from N-FGSM), "stop" (end with the best epoch so far) or "keep".
        max_clean_drop: largest loss of clean validation accuracy, against the start, that selection accepts; None: any.
        epoch_parts: parts that a pass is cut into; each is an epoch of its own, with its canary and selection.
        freeze: patterns of parameter names (as in file names) that keep their values.
        accumulate: parts in which a process passes its images of a step through the network, one after the other.
        recompute: whether blocks of the network run again in backward passes (see `recomputing`).
        sync_batchnorm: whether BatchNorm in training normalises by the images of all processes (`SyncedBatchNorm`).
        shard: whether each of several processes keeps a part of weights, average and optimiser state (`shard`).
        precision: a key of `TRAINING_PRECISIONS`: what the network computes in while its weights are trained. Examples
            are crafted, and everything is measured, in float32.
        seed: of everything random.
    """

    epochs: int
    batch_size: int
    lr: float
    eps: float
    source_attacks: tuple[str, ...]
    weight_decay: float = 0.0
    lr_warmup: float = 0.05
    eps_ramp: float = 0.15
    ema: float = 0.998
    augment: str = "none"
    on_collapse: str = "switch"
    max_clean_drop: float | None = None
    epoch_parts: int = 1
    freeze: tuple[str, ...] = ()
    accumulate: int = 1
    recompute: bool = False
    sync_batchnorm: bool = False
    shard: bool = False
    precision: str = "fp32"
    seed: int = 0


Replan = Callable[[int, float], int]
"""Called with the epochs done and the mean seconds of one; returns how many there shall be in all."""


class Observer(Protocol):
    """Hears what training does; the loop itself prints nothing."""

    def step(self, done: int, total: int) -> None:
        """Called after every step with the steps done and all there are."""

    def epoch(self, record: EpochRecord, history: History) -> None:
        """Called after every epoch, with the history so far."""

    def note(self, text: str) -> None:
        """Called with a sentence that a person should read."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What training gives back; the classifier holds the chosen weights.

    Attributes:
        history: every epoch and the chosen one.
        source_attacks: the crafters that were used, in order (more than one after a switch).
        confirmation: worst case of the chosen epoch on the validation images under the selection and the confirmation
            attack, in [0, 1]; None for training without adversarial examples.
    """

    history: History
    source_attacks: tuple[str, ...]
    confirmation: float | None
