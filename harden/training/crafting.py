"""Making the adversarial examples of a training step, one batch for each source attack, and counting what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harden.attacks import CRAFTERS, GradientAttack, craft, finish, sees_one_gradient
from harden.defences import Craft
from harden.distributed import Processes
from harden.errors import TrainingError
from harden.models.classifier import Classifier
from harden.training.augment import Placement
from harden.training.memory import Perturbations
from harden.training.sources import Sources


@dataclass(frozen=True, eq=False)
class Batch:
    """The images of a step.

    Attributes:
        rows: (n,) which of the training images they are.
        placement: how they were moved; None where they were not.
        noise: generator of the step.
        part: of the `size` images of a step, which several processes may share, these.
        size: see `part`.
    """

    rows: Tensor
    placement: Placement | None
    noise: torch.Generator
    part: slice
    size: int


@dataclass(frozen=True)
class Cost:
    """Passes that one training image costs in an epoch.

    Attributes:
        trained: images that go forward and backward through the network to train it; the clean one is among them.
        gradients: forward and backward passes to craft.
        predictions: forward passes to predict what nobody labels.
    """

    trained: int
    gradients: int
    predictions: int

    @property
    def passes(self) -> int:
        """All of them, forward and backward counted each."""
        return 2 * self.trained + 2 * self.gradients + self.predictions


def cost_of(sources: Sequence[str], *, networks: int = 1, labelled: bool = True) -> Cost:
    """Return the cost of crafting with `sources` (keys of `CRAFTERS`) and of training on all that they make.

    Args:
        sources: none is clean training.
        networks: that examples are crafted on, the one in training among them.
        labelled: whether the labels are used, or what the networks predict.
    """
    attacks = [CRAFTERS[name](0.0) for name in sources]
    return Cost(
        trained=1 + networks * len(attacks),
        gradients=networks * sum(attack.steps for attack in attacks),
        predictions=networks * sum(passes_of(a, labelled=labelled) - 2 * a.steps for a in attacks),
    )


def passes_of(attack: GradientAttack, *, labelled: bool = True) -> int:
    """Return the passes of crafting one example, forward and backward; without labels they have to be predicted."""
    return 2 * attack.steps + (0 if labelled or attack.starts_clean else 1)


class Crafting:
    """Crafts with the source attacks of the moment.

    Args:
        model: the network in training, on the device where it stays; the memory is of perturbations found on it.
        sources: what crafts.
        shape: (N, C, H, W) of the training images.
        same_function: whether the network in training is the function that it is in eval mode.

    Attributes:
        memory: the last perturbations; None where no source attack goes on from them.
        passes: images passed through networks so far, forward and backward counted each.
    """

    def __init__(
        self, model: Classifier, sources: Sources, shape: tuple[int, ...], *, same_function: bool = False
    ) -> None:
        remembers = any(CRAFTERS[name](0.0).remembers for name in sources.now)
        self._model = model
        self._sources = sources
        self._same_function = same_function
        self.memory = Perturbations(shape, model.device) if remembers else None
        self.passes = 0

    def of(self, batch: Batch, eps: float) -> Craft:
        """Return what crafts for a batch, at eps on the [0, 1] scale, on the network in training or on others."""
        sources = [CRAFTERS[name](eps) for name in self._sources.now]

        def make(model: nn.Module, clean: Tensor, labels: Tensor | None) -> tuple[Tensor, ...]:
            attacks = sources
            if model is not self._model:
                attacks = [CRAFTERS["fgsm"](eps) if attack.remembers else attack for attack in sources]
            self.passes += len(clean) * sum(passes_of(attack, labelled=labels is not None) for attack in attacks)
            return tuple(self._examples(attack, model, clean, labels, batch) for attack in attacks)

        def from_gradient(clean: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
            return tuple(finish(attack, clean, gradient) for attack in sources)

        shared = self._same_function and all(sees_one_gradient(attack) for attack in sources)
        return Craft(make, from_gradient if shared else None, len(batch.rows) / batch.size)

    def forget(self) -> None:
        """The network is another one: what was found on it before is gone."""
        if self.memory is not None:
            self.memory.forget()

    def exchange(self, rows: Tensor, processes: Processes) -> None:
        """Remember, besides its own, what the other processes found for their parts of `rows` (n,)."""
        if self.memory is not None and processes.size > 1:
            levels, rows = self.memory.levels, rows.to(self.memory.levels.device)
            levels[rows] = processes.whole(levels[rows[processes.part(len(rows))]], len(rows))

    def state(self) -> Tensor | None:
        """Return what a checkpoint keeps; `load` takes it back."""
        return self.memory.levels if self.memory is not None else None

    def load(self, state: Tensor | None) -> None:
        """Go on where another run was.

        Raises:
            TrainingError: it had other training images, to whose number the perturbations belong.
        """
        if self.memory is not None and state is not None:
            if state.shape != self.memory.levels.shape:
                raise TrainingError(
                    f"the checkpoint holds a perturbation for each of {len(state)} training images, and "
                    f"{len(self.memory.levels)} can be read now",
                    hint="bring the training images back as they were, or start the run again in another folder",
                )
            self.memory.levels.copy_(state)

    def _examples(
        self, attack: GradientAttack, model: nn.Module, clean: Tensor, labels: Tensor | None, batch: Batch
    ) -> Tensor:
        if not attack.remembers or self.memory is None:
            return craft(attack, model, clean, labels, generator=batch.noise, part=batch.part, size=batch.size)
        last = self.memory.recall(batch.rows, attack.eps, batch.placement)
        examples = craft(attack, model, clean, labels, generator=batch.noise, last=last)
        self.memory.keep(batch.rows, examples - clean, attack.eps, batch.placement)
        return examples
