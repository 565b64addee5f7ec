"""The training loop: optimiser, schedules, averaging, the canary, selection and checkpoints around a defence's loss.

Every random draw of a step comes from a generator named by (seed, epoch, step), and the global state that dropout uses
is kept in the checkpoint, so that a resumed run takes exactly the steps an uninterrupted one would have taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from harden.data.dataset import ImageSet
from harden.defences import Defence
from harden.distributed import ALONE, Processes
from harden.errors import BudgetError, Interrupted, TrainingError
from harden.memory import is_out_of_memory, release
from harden.models.classifier import Classifier
from harden.models.layout import laid_out, lay_out
from harden.models.modes import try_both_modes
from harden.models.recompute import recomputing
from harden.models.tap import Tap
from harden.models.user_code import backward_pass
from harden.randomness import capture_global_rng, derive_seed, restore_global_rng, stream
from harden.stopping import ask, held
from harden.training.augment import AUGMENTATIONS
from harden.training.averaging import WeightAverage
from harden.training.batches import Batches, parts_of
from harden.training.batchnorm import SyncedBatchNorm
from harden.training.canary import Collapse, Vitals, Watch, diagnose
from harden.training.checkpoint import read_checkpoint, write_checkpoint
from harden.training.crafting import Batch, Crafting
from harden.training.evaluate import vitals_of
from harden.training.freezing import frozen_names, resting_modules
from harden.training.history import EpochRecord, History
from harden.training.optimizer import build_optimizer
from harden.training.reduction import Reduction
from harden.training.schedule import Schedule
from harden.training.selection import Selection
from harden.training.settings import TRAINING_PRECISIONS, Observer, Replan, Trained, TrainingSettings
from harden.training.sharding import WholeCopy, shard, units_of, whole
from harden.training.snapshot import Snapshots
from harden.training.sources import Sources

SMALL_SELECTION = 200
"""The canary looks at every second validation image, or at all of them where there are no more than this."""
MAX_ROLLBACKS = 3
CHECKPOINT_SECONDS = 30.0
REPLAN_AT = (0.25, 0.5, 0.75, 0.9)
SLOW_START = 4
"""A first step of so many times the seconds that all may take is the only one that is timed."""
RECENT = 3
"""An epoch is expected to take as long as the mean of all, or of this many last ones if they were slower."""


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
        time_is_over: asked after every step; true ends the training with the epochs that are finished, or, in the
            first one, with what that is so far.
        processes: that train together; each has the same arguments, and the leader alone writes the checkpoint.
        replan: asked for the number of epochs after the first one and at the shares `REPLAN_AT` of them, when their
            time is known; None keeps `settings.epochs`. From then on the number is part of the checkpoint.

    Raises:
        UsageError: a freeze pattern matches nothing, or a step has too few images for so many processes.
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
        time_is_over: Callable[[], bool] = lambda: False,
        replan: Replan | None = None,
        processes: Processes = ALONE,
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
        self.time_is_over = time_is_over
        self.replan = replan
        self.processes = processes
        self.epochs = settings.epochs
        self.schedule = Schedule(settings.lr, settings.lr_warmup, settings.eps, settings.eps_ramp)
        self.batches = Batches(len(train), settings.batch_size, settings.epoch_parts, settings.seed, processes.size)
        for name in frozen_names(classifier.module, settings.freeze):
            classifier.module.get_parameter(name).requires_grad_(False)
        self._resting = resting_modules(classifier.module)
        lay_out(classifier)
        processes.make_alike(classifier, self.defence)
        self.sources = Sources(settings.source_attacks)
        self._whole = WholeCopy(classifier) if settings.shard and processes.size > 1 else None
        self.average = WeightAverage(classifier, settings.ema)
        self.crafting = Crafting(
            classifier, self.sources, tuple(train.images.shape), same_function=self._is_same_function()
        )
        if self._whole is not None:
            units = units_of(classifier, self._two_images())
            for model in (classifier, self.averaged):
                shard(model, [model.module.get_submodule(name) for name in units])
        self.optimizer = build_optimizer(classifier, self.defence, lr=settings.lr, weight_decay=settings.weight_decay)
        self._trained = [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]

        self.epoch = self.step = self.rollbacks = 0
        self.strength = 1.0
        self.records: list[EpochRecord] = []
        self.selection = Selection(
            val,
            eps=settings.eps if settings.source_attacks else None,
            max_clean_drop=settings.max_clean_drop,
            seed=settings.seed,
            processes=processes,
        )
        self.reduction = Reduction(processes, classifier, self.defence)
        self.defence.gather = self.reduction.gather
        self.state = Snapshots(classifier, self.average, self.optimizer, self.defence)
        self.good = self.state.take()
        self.watch = Watch()
        self.sums: dict[str, Tensor] = {}
        self.stopped, self.spent, self.passes = False, 0.0, 0
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
            UsageError: the steps of a resumed run have too few images for so many processes, or the network has no
                blocks to recompute.
        """
        # Several processes stop together after a step, which is where all of them can answer.
        together = held() if self.processes.size > 1 else nullcontext()
        with together, self.processes.explaining(), torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(derive_seed(self.settings.seed, "global"))
            if resume and self.checkpoint is not None and self.checkpoint.exists():
                self._load(read_checkpoint(self.checkpoint))
                self.processes.any(False)  # the leader may replace the file once all have read it
            else:
                with self._plain(self.classifier) as model:
                    self.selection.begin(model)
                self._save()
            with self._tapping() as tapped, self._recomputing():
                while self.epoch < self.epochs and not self.stopped:
                    if self._train_epoch(tapped):
                        self._finish_epoch_or_save()
            self._save()
            return self._choose()

    def time_steps(self, count: int, seconds: float) -> tuple[float, int]:
        """Return seconds per training step, averaged over `count` steps, or over fewer once `seconds` have passed.

        Also the passes of a step for each clean image, forward and backward. A first step warms up and is not counted,
        unless it takes `SLOW_START` times `seconds`.
        For the plan of a run, on a trainer of its own: the weights change.
        """
        order, spent = self.batches.order(0), list[float]()
        devices = range(torch.cuda.device_count())
        with self._tapping() as tapped, torch.random.fork_rng(devices), self._recomputing():
            while not spent or (len(spent) <= count and sum(spent) < (seconds if spent[1:] else SLOW_START * seconds)):
                ask()
                began = time.perf_counter()
                self._train_step(tapped, order, len(spent) % self.batches.steps)
                if self.classifier.device.type == "cuda":
                    torch.cuda.synchronize(self.classifier.device)
                spent.append(time.perf_counter() - began)
        passes = self.passes / (len(spent) * self.batches.size)
        counted = spent[1:] or spent
        return sum(counted) / len(counted), round(passes)

    def _train_epoch(self, tapped: Tap) -> bool:
        """Take the steps of an epoch, and return whether they are one: time that is over may have cut it off."""
        order = self.batches.order(self.epoch)
        began = time.monotonic()
        while self.step < self.batches.steps:
            with held():
                scalars = self._step_that_fits(tapped, order)
            for name, value in scalars.items():
                self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.step += 1
            self.observer.step(self.epoch * self.batches.steps + self.step, self.epochs * self.batches.steps)
            stop = self.stop_requested()
            if self.processes.any(stop or self.time_is_over()):
                self.spent += time.monotonic() - began
                if self.processes.any(stop):
                    self._save()
                    raise Interrupted("stopped; everything up to this step is kept")
                self.stopped = True
                self.observer.note(f"the time for training is over, and ends it in epoch {self.epoch + 1}")
                return self.epoch == 0 or self.step == self.batches.steps
            if self.step < self.batches.steps and self._is_due(4 * CHECKPOINT_SECONDS):
                self.spent += time.monotonic() - began
                began = time.monotonic()
                self._save()
        self.spent += time.monotonic() - began
        return True

    def _step_that_fits(self, tapped: Tap, order: Tensor) -> dict[str, Tensor]:
        """Take the step that is due; where memory runs out the batches are half as large from here on.

        Raises:
            TrainingError: there is not enough memory for two images.
        """
        while True:
            try:
                return self._train_step(tapped, order, self.step)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self._whole is not None:  # the others wait in an exchange for which this one has nothing
                    raise TrainingError(
                        f"memory ran out in a step of {self.batches.size} images",
                        hint="a smaller --batch-size, --accumulate, --recompute, or more processes",
                    ) from error
            done, steps = self.step * self.batches.size, self.step
            if not self.batches.halve():
                raise TrainingError(
                    f"memory ran out in a step of {self.batches.size} images",
                    hint="a smaller --image-size or network, or another --device, where --resume goes on with the run",
                )
            self.optimizer.zero_grad(set_to_none=True)
            release()
            self.reduction.undo()
            self.step = done // self.batches.size
            self.sums = {name: value * (self.step / steps) for name, value in self.sums.items()}
            self.observer.note(f"memory ran out; training goes on with {self.batches.size} images a step")

    def _train_step(self, tapped: Tap, order: Tensor, i: int) -> dict[str, Tensor]:
        progress = (self.epoch + (i + 0.5) / self.batches.steps) / self.epochs  # no step is lost to a rate of 0
        if not self.processes.leads:  # dropout: others than the leader's, whose generator goes into the checkpoint
            torch.manual_seed(derive_seed(self.settings.seed, "global", self.processes.rank, self.epoch, i))
        self._train_mode()
        self.defence.set_progress(progress, self.strength)
        for group in self.optimizer.param_groups:
            group["lr"] = self.strength * self.schedule.lr_at(progress)
        batch = order[i * self.batches.size : (i + 1) * self.batches.size]
        own = self.processes.part(len(batch))
        share, counted, scalars = (own.stop - own.start) / len(batch), 0, dict[str, Tensor]()
        with self._syncing(), self.processes.fitting() if self._whole is None else nullcontext():
            self.reduction.begin(len(batch))
            self.optimizer.zero_grad(set_to_none=True)
            for part in parts_of(own, self.settings.accumulate, len(batch) // self.processes.size):
                found, passes = self._pass(tapped, batch, part, i, self.schedule.eps_at(progress))
                weight, counted = (part.stop - part.start) / (own.stop - own.start), counted + passes
                scalars = {name: scalars.get(name, 0) + weight * value for name, value in found.items()}
        self.passes += round(counted / share)
        scalars = self.reduction.add_up(scalars, share)
        self.crafting.exchange(batch, self.processes)
        self.optimizer.step()
        self.average.update(self.classifier)
        return scalars

    def _pass(self, tapped: Tap, batch: Tensor, part: slice, i: int, eps: float) -> tuple[dict[str, Tensor], int]:
        """Pass a part of step i's batch through and add to the gradients; return scalars and passes of images.

        What is drawn at random is drawn for the whole batch, so that an image's draws do not depend on the parts.
        """
        ask()  # held in training, where a step is taken whole
        rows, noise = batch[part], stream(self.settings.seed, "step", self.epoch, i)
        images, labels = self.train.batch(rows)
        images, labels = images.to(self.classifier.device), labels.to(self.classifier.device)
        placement = AUGMENTATIONS[self.settings.augment]((len(batch), *images.shape[2:]), noise, part)
        images = images if placement is None else placement.moved(images)
        images = laid_out(images, self.classifier)
        seen, crafted = tapped.seen, self.crafting.passes
        craft_now = self.crafting.of(Batch(rows, placement, noise, part, len(batch)), eps)
        result = self.defence.step_loss(tapped, images, labels, craft_now, noise)
        # Parts of parameters are no leaves of the graph: FSDP fills in their gradients.
        leaves = self._trained if self._whole is None else None
        with backward_pass():
            (result.loss * (len(rows) / len(batch))).backward(inputs=leaves)  # type: ignore[no-untyped-call]
        passes = 2 * (tapped.seen - seen) + result.backwards + self.crafting.passes - crafted
        return {"loss": result.loss.detach(), **result.scalars}, passes

    def _tapping(self) -> Tap:
        return Tap(self.classifier, self.layer, autocast=TRAINING_PRECISIONS[self.settings.precision])

    def _is_same_function(self) -> bool:
        """Whether the network in training is the function that it is at rest: no BatchNorm, dropout or autocast."""
        if self.settings.precision != "fp32":
            return False
        ask()
        try:
            return try_both_modes(self.classifier, self._two_images(), self._train_mode).same
        except Exception:  # whatever the user's forward raises, a step will raise as well
            return False

    def _two_images(self) -> Tensor:
        images, _ = self.train.batch(torch.arange(min(len(self.train), 2)))
        return laid_out(images.to(self.classifier.device), self.classifier)

    def _recomputing(self) -> AbstractContextManager[object]:
        return recomputing(self.classifier.module) if self.settings.recompute else nullcontext()

    def _syncing(self) -> AbstractContextManager[object]:
        wanted = self.settings.sync_batchnorm and self.processes.size > 1
        return SyncedBatchNorm(self.processes) if wanted else nullcontext()

    @property
    def averaged(self) -> Classifier:
        """The classifier with averaged weights."""
        averaged: Classifier = self.average.module  # type: ignore[assignment]
        return averaged

    def _plain(self, classifier: Classifier) -> AbstractContextManager[Classifier]:
        """Return what each process may pass images through alone: the classifier, or a whole copy of a sharded one."""
        return nullcontext(classifier) if self._whole is None else self._whole.of(classifier)

    def _train_mode(self) -> None:
        self.classifier.train()
        self.defence.train()
        for module in self._resting:
            module.training = False

    # -- the end of an epoch ------------------------------------------------------------------------------------------

    def _finish_epoch_or_save(self) -> None:
        """Finish the epoch; where its measurements are stopped, keep its steps, so that they can be made again."""
        try:
            self._finish_epoch()
        except (Interrupted, BudgetError):
            self._save()
            raise

    def _finish_epoch(self) -> None:
        settings, began = self.settings, time.monotonic()
        scalars = {name: float(value) / self.step for name, value in self.sums.items()}
        progress = (self.epoch + 1) / self.epochs
        scalars["lr"] = self.strength * self.schedule.lr_at(self.epoch / self.epochs)
        sources, collapse, vitals = self.sources.now, Collapse.NONE, None
        full_eps = progress >= settings.eps_ramp
        if settings.source_attacks:
            scalars["eps"] = self.schedule.eps_at(progress)
            vitals = self._vitals(scalars["loss"])
            scalars |= {"val_source": vitals.source, "val_canary": vitals.canary}
            collapse = diagnose(
                vitals,
                self.watch,
                classes=len(self.classifier.classes),
                samples=len(self.canary),
                full_eps=full_eps,
            )
        event = self._handle(collapse) if collapse is not Collapse.NONE else ""
        undone = bool(event) and (settings.on_collapse != "keep" or collapse is Collapse.NOT_FINITE)
        if not undone:
            with self._plain(self.averaged) as model:
                scalars |= self.selection.consider(self.epoch + 1, model)
            watch = self.watch.after(vitals, full_eps=full_eps) if vitals is not None else self.watch
            if vitals is None or watch.best is vitals:
                self.good = self.state.take()
            self.watch = watch
        record = EpochRecord(
            epoch=self.epoch + 1,
            seconds=self.spent + time.monotonic() - began,
            source_attacks=sources,
            scalars=scalars,
            rolled_back=undone,
            event=event,
            passes=self.passes,
            collapse=collapse,
        )
        self.records.append(record)
        self.epoch, self.step, self.sums, self.spent = self.epoch + 1, 0, {}, 0.0
        self.passes = 0
        if self.sources.returned(self.epoch):
            self.observer.note(
                f"after epoch {record.epoch} training goes on from {' + '.join(self.sources.now)} examples again"
            )
        if event:
            self.observer.note(f"epoch {record.epoch}: {event}")
        self.observer.epoch(record, History(tuple(self.records)))
        asked = {1, *(max(2, int(self.epochs * share)) for share in REPLAN_AT)}
        if self.replan is not None and self.epoch in asked:
            seconds = [record.seconds for record in self.records]
            self.epochs = max(self.epoch, self.replan(self.epoch, max(mean(seconds), mean(seconds[-RECENT:]))))
            self._save()
        if self._is_due(CHECKPOINT_SECONDS):
            self._save()

    def _vitals(self, loss: float) -> Vitals:
        first, eps, seed = self.sources.used[0], self.settings.eps, self.settings.seed
        with self._plain(self.classifier) as model:
            return vitals_of(model, self.canary, first=first, eps=eps, loss=loss, seed=seed, processes=self.processes)

    def _handle(self, collapse: Collapse) -> str:
        """Act on a collapse and say in words what was done."""
        if self.settings.on_collapse == "keep" and collapse is not Collapse.NOT_FINITE:
            return f"{collapse.value} on held-out images; kept going as --on-collapse keep asks"
        if self.settings.on_collapse == "stop" or self.rollbacks >= MAX_ROLLBACKS:
            self.stopped = True
            return f"{collapse.value} on held-out images; stopped, with the best epoch so far"
        self.rollbacks += 1
        self.state.restore(self.good)
        self.crafting.forget()
        if collapse is Collapse.CATASTROPHIC_OVERFITTING and self.sources.curable:
            long = self.sources.overfitted(self.epoch, self.epochs)
            return f"{collapse.value} on held-out images; rolled back, and training goes on from N-FGSM examples{long}"
        self.sources.stay()
        self.strength /= 2
        return f"{collapse.value} on held-out images; rolled back, and halved the learning rate and the domain terms"

    def _choose(self) -> Trained:
        """Load the chosen epoch's weights."""
        with self._plain(self.averaged) as model:
            choice = self.selection.choose(model)
        if choice is None:
            raise TrainingError(
                "training collapsed in every epoch, so there is nothing to keep",
                hint="lower --lr or --eps, or lengthen the eps ramp in a recipe",
            )
        if not choice.within_drop:
            self.observer.note(
                f"no epoch stayed within --max-clean-drop {self.settings.max_clean_drop}; "
                "took one of those with the smallest drop"
            )
        if self._whole is not None:
            self._whole.replace(self.classifier)
        self.classifier.load_state_dict(choice.weights)
        self.classifier.eval()
        history = History(tuple(self.records), chosen_epoch=choice.epoch)
        return Trained(history, tuple(self.sources.used), choice.confirmation)

    # -- state --------------------------------------------------------------------------------------------------------

    def _is_due(self, seconds: float) -> bool:
        """Return whether the last checkpoint is so old; where all have to give their parts for one, the leader says."""
        due = time.monotonic() - self._written > seconds
        return due if self._whole is None else self.processes.any(due and self.processes.leads)

    def _save(self) -> None:
        if self.checkpoint is None or (self._whole is None and not self.processes.leads):
            return
        best = self.watch.best
        now, good = self.state.take(), self.good
        if self._whole is not None:
            now, good = (whole(state, keep=self.processes.leads) for state in (now, good))
        self._written = time.monotonic()
        if not self.processes.leads:
            return
        write_checkpoint(
            {
                "now": now,
                "good": good,
                "good_vitals": [best.clean, best.source, best.canary, best.loss, best.chance] if best else None,
                "narrowest": self.watch.narrowest,
                "selection": self.selection.state_dict(),
                "records": [record.to_json() for record in self.records],
                "sums": self.sums,
                "epochs": self.epochs,
                "epoch": self.epoch,
                "batch_size": self.batches.size,
                "step": self.step,
                "strength": self.strength,
                "rollbacks": self.rollbacks,
                "sources": self.sources.state_dict(),
                "memory": self.crafting.state(),
                "stopped": self.stopped,
                "spent": self.spent,
                "passes": self.passes,
                "rng": capture_global_rng(),
            },
            self.checkpoint,
        )
        self._written = time.monotonic()

    def _load(self, state: dict[str, Any]) -> None:
        self.batches.go_on_with(state.get("batch_size", self.batches.size))
        self.state.restore(state["now"])
        self.good = state["good"]
        self.watch = Watch(Vitals(*state["good_vitals"]) if state["good_vitals"] else None, state["narrowest"])
        self.selection.load_state_dict(state["selection"])
        self.records = [EpochRecord.from_json(record) for record in state["records"]]
        self.sums = state["sums"]
        self.epochs, self.epoch, self.step = state["epochs"], state["epoch"], state["step"]
        self.strength, self.rollbacks = state["strength"], state["rollbacks"]
        self.sources.load_state_dict(state["sources"])
        self.crafting.load(state["memory"])
        self.stopped, self.spent, self.passes = state["stopped"], state["spent"], state["passes"]
        restore_global_rng(state["rng"])
