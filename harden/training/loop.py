"""The training loop: optimiser, schedules, averaging, the canary, selection and checkpoints around a defence's loss.

Every random draw of a step comes from a generator named by (seed, epoch, step), and the global state that dropout uses
is kept in the checkpoint, so that a resumed run takes exactly the steps an uninterrupted one would have taken.
"""

from __future__ import annotations

import copy
import fnmatch
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from harden.attacks import ATTACKS, CRAFTERS, craft
from harden.data.dataset import ImageSet
from harden.defences import Defence
from harden.errors import Interrupted, TrainingError, UsageError
from harden.models.classifier import Classifier
from harden.models.tap import Tap
from harden.randomness import capture_global_rng, derive_seed, restore_global_rng, stream
from harden.training.augment import AUGMENTATIONS
from harden.training.averaging import WeightAverage
from harden.training.canary import Collapse, Vitals, diagnose
from harden.training.checkpoint import read_checkpoint, write_checkpoint
from harden.training.evaluate import predictions, source_accuracy, standing_after
from harden.training.history import EpochRecord, History
from harden.training.schedule import Schedule

CANARY_ATTACK = "pgd-10"
SELECTION_ATTACK = "pgd-20"
CONFIRMATION_ATTACK = "pgd-50-margin"
CANDIDATES = 3
"""How many of the best epochs the stronger attack chooses among."""
SMALL_SELECTION = 200
"""The canary looks at every second validation image, or at all of them where there are no more than this."""
MAX_ROLLBACKS = 3
CHECKPOINT_SECONDS = 30.0


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        epochs: passes over the training images.
        batch_size: clean images per step (the network sees as many adversarial ones besides).
        lr: peak learning rate of Adam.
        weight_decay: L2 penalty on the network's weights (not the discriminators').
        lr_warmup, eps_ramp: shares of training (see `Schedule`).
        eps: l_inf radius of the source attack on the [0, 1] scale.
        ema: decay of the weight average.
        augment: a key of `AUGMENTATIONS`.
        source_attack: a key of `CRAFTERS`; None trains without adversarial examples and selects on clean accuracy.
        on_collapse: "switch" (roll back and go on from N-FGSM), "stop" (end with the best epoch so far) or "keep".
        max_clean_drop: largest loss of clean validation accuracy, against the start, that selection accepts; None: any.
        freeze: patterns of parameter names (as in file names) that keep their values.
        seed: of everything random.
    """

    epochs: int
    batch_size: int
    lr: float
    eps: float
    source_attack: str | None
    weight_decay: float = 0.0
    lr_warmup: float = 0.05
    eps_ramp: float = 0.15
    ema: float = 0.998
    augment: str = "none"
    on_collapse: str = "switch"
    max_clean_drop: float | None = None
    freeze: tuple[str, ...] = ()
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


class Trainer:
    """Trains one classifier with one defence.

    Args:
        classifier: trained in place; at the end it holds the chosen averaged weights, in eval mode.
        defence: gives the loss of a step.
        layer: where to tap, or None for a defence that uses no features.
        train: training images.
        val: held-out images for the canary and selection, never trained on.
        settings: see `TrainingSettings`.
        checkpoint: where to keep the state; None keeps none.
        observer: hears what happens.
        stop_requested: asked after every step; true writes a checkpoint and raises `Interrupted`.
        replan: asked for the number of epochs after the first one and after a quarter of them, when their time is
            known; None keeps `settings.epochs`. From then on the number is part of the checkpoint.

    Raises:
        UsageError: a freeze pattern matches nothing, or there is less than one batch of images.
    """

    def __init__(
        self,
        *,
        classifier: Classifier,
        defence: Defence,
        layer: str | None,
        train: ImageSet,
        val: ImageSet,
        settings: TrainingSettings,
        checkpoint: Path | None,
        observer: Observer,
        stop_requested: Callable[[], bool] = lambda: False,
        replan: Replan | None = None,
    ) -> None:
        self.classifier = classifier
        self.defence = defence.to(classifier.device)
        self.layer = layer
        self.train = train
        self.val = val
        self.canary = val.subset(torch.arange(len(val))[:: 1 if len(val) <= SMALL_SELECTION else 2])
        self.settings = settings
        self.checkpoint = checkpoint
        self.observer = observer
        self.stop_requested = stop_requested
        self.replan = replan
        self.epochs = settings.epochs
        self.schedule = Schedule(settings.lr, settings.lr_warmup, settings.eps, settings.eps_ramp)
        self.batch_size = min(settings.batch_size, len(train))
        self.steps_per_epoch = len(train) // self.batch_size
        self._freeze()
        self.has_convolutions = any(isinstance(m, nn.Conv2d) for m in classifier.modules())
        if self.has_convolutions:
            classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = WeightAverage(classifier, settings.ema)
        trainable = [p for p in classifier.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": trainable, "weight_decay": settings.weight_decay}]
        discriminators = list(self.defence.parameters())
        if discriminators:
            groups.append({"params": discriminators, "weight_decay": 0.0})
        self.optimizer = torch.optim.Adam(groups, lr=settings.lr)

        self.epoch = 0
        self.step = 0
        self.lr_scale = 1.0
        self.rollbacks = 0
        self.sources = [settings.source_attack] if settings.source_attack else []
        self.records: list[EpochRecord] = []
        self.candidates: list[dict[str, Any]] = []
        self.good: dict[str, Any] | None = None
        self.good_vitals: Vitals | None = None
        self.clean_at_start: float | None = None
        self.sums: dict[str, Tensor] = {}
        self.stopped = False
        self.spent = 0.0
        self._written = time.monotonic()

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self, *, resume: bool = False) -> Trained:
        """Train to the end and load the chosen weights into the classifier.

        Args:
            resume: continue from the checkpoint instead of starting.

        Raises:
            Interrupted: a stop was requested; the checkpoint holds everything.
            TrainingError: not one epoch could be kept.
            RunFolderError: the checkpoint cannot be read or written.
        """
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(self.settings.seed, "global"))
            if resume and self.checkpoint is not None and self.checkpoint.exists():
                self._load(read_checkpoint(self.checkpoint))
            else:
                self.clean_at_start = _share(predictions(self.classifier, self.val) == self.val.labels)
                self._save()
            with Tap(self.classifier, self.layer) as tapped:
                while self.epoch < self.epochs and not self.stopped:
                    self._train_epoch(tapped)
                    self._finish_epoch()
            self._save()
            return self._choose()

    def time_steps(self, count: int, seconds: float) -> float:
        """Return seconds per training step, averaged over `count` steps, or over fewer once `seconds` have passed.

        A first step warms up and is not counted. For the plan of a run, on a trainer of its own: the weights change.
        """
        order = self._order(0)
        spent: list[float] = []
        with Tap(self.classifier, self.layer) as tapped, torch.random.fork_rng():
            while len(spent) < 2 or (len(spent) <= count and sum(spent) < seconds):
                began = time.perf_counter()
                self._train_step(tapped, order, len(spent) % self.steps_per_epoch)
                if self.classifier.device.type == "cuda":
                    torch.cuda.synchronize(self.classifier.device)
                spent.append(time.perf_counter() - began)
        return sum(spent[1:]) / len(spent[1:])

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(len(self.train), generator=stream(self.settings.seed, "order", epoch))

    def _train_epoch(self, tapped: Tap) -> None:
        order = self._order(self.epoch)
        began = time.monotonic()
        for i in range(self.step, self.steps_per_epoch):
            for name, value in self._train_step(tapped, order, i).items():
                self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.step = i + 1
            self.observer.step(self.epoch * self.steps_per_epoch + i + 1, self.epochs * self.steps_per_epoch)
            if self.stop_requested():
                self.spent += time.monotonic() - began
                self._save()
                raise Interrupted("stopped; everything up to this step is kept")
            if self.step < self.steps_per_epoch and time.monotonic() - self._written > 4 * CHECKPOINT_SECONDS:
                self.spent += time.monotonic() - began
                began = time.monotonic()
                self._save()
        self.spent += time.monotonic() - began

    def _train_step(self, tapped: Tap, order: Tensor, i: int) -> dict[str, Tensor]:
        settings, classifier = self.settings, self.classifier
        progress = (self.epoch + i / self.steps_per_epoch) / self.epochs
        noise = stream(settings.seed, "step", self.epoch, i)
        self._train_mode()
        rows = order[i * self.batch_size : (i + 1) * self.batch_size]
        images, labels = self.train.batch(rows)
        images, labels = images.to(classifier.device), labels.to(classifier.device)
        images = AUGMENTATIONS[settings.augment](images, noise)
        if self.has_convolutions:
            images = images.contiguous(memory_format=torch.channels_last)

        def craft_now(model: Classifier, clean: Tensor, targets: Tensor) -> Tensor:
            attack = CRAFTERS[self.sources[-1]](self.schedule.eps_at(progress))
            return craft(attack, model, clean, targets, generator=noise)

        self.defence.set_progress(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr_scale * self.schedule.lr_at(progress)
        result = self.defence.step_loss(tapped, images, labels, craft_now, noise)
        self.optimizer.zero_grad(set_to_none=True)
        result.loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.average.update(classifier)
        return {"loss": result.loss.detach(), **result.scalars}

    def _train_mode(self) -> None:
        self.classifier.train()
        self.defence.train()
        for module in self._frozen_modules:
            module.eval()

    def _freeze(self) -> None:
        self._frozen_modules: list[nn.Module] = []
        module = self.classifier.module
        for name in frozen_names(module, self.settings.freeze):
            module.get_parameter(name).requires_grad_(False)
        if self.settings.freeze:
            self._frozen_modules = [
                m
                for m in module.modules()
                if list(m.parameters(recurse=False)) and not any(p.requires_grad for p in m.parameters(recurse=False))
            ]

    # -- the end of an epoch ------------------------------------------------------------------------------------------

    def _finish_epoch(self) -> None:
        settings = self.settings
        began = time.monotonic()
        scalars = {name: float(value) / self.steps_per_epoch for name, value in self.sums.items()}
        progress = (self.epoch + 1) / self.epochs
        scalars["lr"] = self.lr_scale * self.schedule.lr_at(self.epoch / self.epochs)
        source = self.sources[-1] if self.sources else ""
        collapse, vitals = Collapse.NONE, None
        if settings.source_attack is not None:
            scalars["eps"] = self.schedule.eps_at(progress)
            vitals = self._vitals(scalars["loss"], source)
            scalars |= {"val_source": vitals.source, "val_canary": vitals.canary}
            collapse = diagnose(
                vitals, self.good_vitals, classes=len(self.classifier.classes), samples=len(self.canary)
            )
        event = self._handle(collapse) if collapse is not Collapse.NONE else ""
        undone = bool(event) and settings.on_collapse != "keep"
        if not undone:
            self._measure_average(scalars)
            if vitals is None or self.good_vitals is None or vitals.canary >= self.good_vitals.canary:
                self.good, self.good_vitals = self._snapshot(), vitals
        record = EpochRecord(
            epoch=self.epoch + 1,
            seconds=self.spent + time.monotonic() - began,
            source_attack=source,
            scalars=scalars,
            rolled_back=undone,
            event=event,
        )
        self.records.append(record)
        self.epoch, self.step, self.sums, self.spent = self.epoch + 1, 0, {}, 0.0
        if event:
            self.observer.note(f"epoch {record.epoch}: {event}")
        self.observer.epoch(record, History(tuple(self.records)))
        if self.replan is not None and self.epoch in (1, max(2, self.settings.epochs // 4)):
            seconds = sum(record.seconds for record in self.records) / self.epoch
            self.epochs = max(self.epoch, self.replan(self.epoch, seconds))
            self._save()
        if time.monotonic() - self._written > CHECKPOINT_SECONDS:
            self._save()

    def _vitals(self, loss: float, source: str) -> Vitals:
        clean = predictions(self.classifier, self.canary) == self.canary.labels
        eps, seed = self.settings.eps, self.settings.seed
        canary = standing_after(self.classifier, self.canary, ATTACKS[CANARY_ATTACK](eps), standing=clean, seed=seed)
        return Vitals(
            clean=_share(clean),
            source=source_accuracy(self.classifier, self.canary, CRAFTERS[source](eps), seed=seed),
            canary=_share(canary),
            loss=loss,
        )

    def _measure_average(self, scalars: dict[str, float]) -> None:
        averaged: Classifier = self.average.module  # type: ignore[assignment]
        clean = predictions(averaged, self.val) == self.val.labels
        scalars["val_clean"] = score = _share(clean)
        if self.settings.source_attack is not None:
            attack = ATTACKS[SELECTION_ATTACK](self.settings.eps)
            robust = standing_after(averaged, self.val, attack, standing=clean, seed=self.settings.seed)
            scalars["val_robust"] = score = _share(robust)
        drop, limit = (self.clean_at_start or 0.0) - scalars["val_clean"], self.settings.max_clean_drop
        self.candidates.append(
            {
                "epoch": self.epoch + 1,
                # Epochs within the allowed clean drop come first; where none is, the smallest drop wins.
                "rank": [1.0, score] if limit is None or drop <= limit else [0.0, -drop],
                "weights": copy.deepcopy(averaged.state_dict()),
            }
        )
        self.candidates.sort(key=lambda c: (c["rank"], c["epoch"]), reverse=True)
        del self.candidates[CANDIDATES:]

    def _handle(self, collapse: Collapse) -> str:
        """Act on a collapse and say in words what was done."""
        if self.settings.on_collapse == "keep":
            return f"{collapse.value} on held-out images; kept going as --on-collapse keep asks"
        if self.good is None:
            raise TrainingError(
                f"{collapse.value} in the first epoch, with nothing to go back to",
                hint="lower --lr or --eps, or lengthen the eps ramp",
            )
        if self.settings.on_collapse == "stop" or self.rollbacks >= MAX_ROLLBACKS:
            self.stopped = True
            return f"{collapse.value} on held-out images; stopped, with the best epoch so far"
        self.rollbacks += 1
        self._restore(self.good)
        switch = collapse is Collapse.CATASTROPHIC_OVERFITTING and self.sources[-1] != "nfgsm"
        if not switch:
            self.lr_scale /= 2
        # Going back undid the softenings since then, those of earlier roll-backs among them.
        scale = self.good["lr_scale"]
        while scale > self.lr_scale:
            self.defence.soften()
            scale /= 2
        if switch:
            self.sources.append("nfgsm")
            return f"{collapse.value} on held-out images; rolled back, and training goes on from N-FGSM examples"
        return f"{collapse.value} on held-out images; rolled back, and halved the learning rate and the domain terms"

    def _choose(self) -> Trained:
        """Confirm the best epochs under a stronger attack on the same held-out images, and load the winner."""
        if not self.candidates:
            raise TrainingError("no epoch could be kept", hint="lower --lr or --eps")
        averaged: Classifier = self.average.module  # type: ignore[assignment]
        chosen, confirmation = self.candidates[0], None
        if self.settings.source_attack is not None:
            best = (-1.0, -1.0)
            for candidate in self.candidates:
                averaged.load_state_dict(candidate["weights"])
                standing = predictions(averaged, self.val) == self.val.labels
                for name in (SELECTION_ATTACK, CONFIRMATION_ATTACK):
                    standing = standing_after(
                        averaged, self.val, ATTACKS[name](self.settings.eps), standing=standing, seed=self.settings.seed
                    )
                score = (candidate["rank"][0], _share(standing))
                if score > best:
                    best, chosen, confirmation = score, candidate, score[1]
            if best[0] == 0.0:
                self.observer.note(
                    f"no epoch stayed within --max-clean-drop {self.settings.max_clean_drop}; "
                    "took one of those with the smallest drop"
                )
        self.classifier.load_state_dict(chosen["weights"])
        self.classifier.eval()
        history = History(tuple(self.records), chosen_epoch=chosen["epoch"])
        return Trained(history, tuple(self.sources), confirmation)

    # -- state --------------------------------------------------------------------------------------------------------

    def _snapshot(self) -> dict[str, Any]:
        return copy.deepcopy(
            {
                "model": self.classifier.state_dict(),
                "average": self.average.module.state_dict(),
                "average_steps": self.average.steps,
                "optimizer": self.optimizer.state_dict(),
                "defence": self.defence.state_dict(),
                "lr_scale": self.lr_scale,
            }
        )

    def _restore(self, snapshot: dict[str, Any]) -> None:
        snapshot = copy.deepcopy(snapshot)
        self.classifier.load_state_dict(snapshot["model"])
        self.average.module.load_state_dict(snapshot["average"])
        self.average.steps = snapshot["average_steps"]
        self.optimizer.load_state_dict(snapshot["optimizer"])
        self.defence.load_state_dict(snapshot["defence"])

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        vitals = self.good_vitals
        write_checkpoint(
            {
                "now": self._snapshot(),
                "good": self.good,
                "good_vitals": [vitals.clean, vitals.source, vitals.canary, vitals.loss] if vitals else None,
                "candidates": self.candidates,
                "records": [record.to_json() for record in self.records],
                "sums": self.sums,
                "epochs": self.epochs,
                "epoch": self.epoch,
                "step": self.step,
                "lr_scale": self.lr_scale,
                "rollbacks": self.rollbacks,
                "sources": self.sources,
                "clean_at_start": self.clean_at_start,
                "stopped": self.stopped,
                "spent": self.spent,
                "rng": capture_global_rng(),
            },
            self.checkpoint,
        )
        self._written = time.monotonic()

    def _load(self, state: dict[str, Any]) -> None:
        self._restore(state["now"])
        self.good = state["good"]
        self.good_vitals = Vitals(*state["good_vitals"]) if state["good_vitals"] else None
        self.candidates = state["candidates"]
        self.records = [EpochRecord.from_json(record) for record in state["records"]]
        self.sums = state["sums"]
        self.epochs, self.epoch, self.step = state["epochs"], state["epoch"], state["step"]
        self.lr_scale, self.rollbacks, self.sources = state["lr_scale"], state["rollbacks"], state["sources"]
        self.clean_at_start, self.stopped, self.spent = state["clean_at_start"], state["stopped"], state["spent"]
        restore_global_rng(state["rng"])


def frozen_names(module: nn.Module, patterns: Sequence[str]) -> set[str]:
    """Return the names of the parameters that patterns (as for file names) or names of layers select.

    Raises:
        UsageError: a pattern selects none, or all of them together select every parameter.
    """
    names = {name for name, _ in module.named_parameters()}
    selected: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if fnmatch.fnmatch(name, pattern) or name.startswith(pattern + ".")}
        if not found:
            raise UsageError(
                f"--freeze {pattern!r} matches no parameter of the model",
                hint="`harden inspect MODEL` lists the layers; patterns work as for file names, e.g. 'layer1.*'",
            )
        selected |= found
    if selected == names:
        raise UsageError("--freeze leaves nothing to train", hint="give narrower patterns")
    return selected


def _share(flags: Tensor) -> float:
    return float(flags.float().mean())
