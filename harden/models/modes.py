"""Trying a module in eval or in training mode, and giving it back as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harden.errors import ModelError
from harden.memory import is_out_of_memory
from harden.models.classifier import Classifier
from harden.models.loaded import one_line


@contextmanager
def modes_restored(module: nn.Module) -> Iterator[None]:
    """Restore each submodule's own mode afterwards: a blanket `.train()` would wake what the user put to rest."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put every submodule in eval mode without gradients; restore each one's own mode afterwards."""
    with modes_restored(module), torch.no_grad():
        module.eval()
        yield


@dataclass(frozen=True, eq=False)
class BothModes:
    """What a network gave for the same images.

    Attributes:
        resting: (N, K) scores in eval mode.
        training: (N, K) scores in training mode.
        draws: whether training mode drew random numbers, as dropout does.
        updates: whether training mode changed a buffer, as BatchNorm does.
    """

    resting: Tensor
    training: Tensor
    draws: bool
    updates: bool

    @property
    def same(self) -> bool:
        """Whether both modes are one function, bit for bit."""
        return not self.draws and not self.updates and torch.equal(self.resting, self.training)


def try_both_modes(classifier: Classifier, images: Tensor, train: Callable[[], object] | None = None) -> BothModes:
    """Pass images through in eval and in training mode; modes, buffers and random states are restored.

    Args:
        classifier: whatever its forward raises is raised.
        images: (N, C, H, W) float in [0, 1] on its device.
        train: puts the network into training mode; None: all of its modules.
    """
    buffers = [(buffer, buffer.clone()) for buffer in classifier.buffers()]
    devices = [images.device] if images.device.type == "cuda" else []
    try:
        with modes_restored(classifier), torch.random.fork_rng(devices), torch.no_grad():
            classifier.eval()
            resting: Tensor = classifier(images)
            (train or classifier.train)()
            before = _random_states(devices)
            training: Tensor = classifier(images)
            draws = any(not torch.equal(a, b) for a, b in zip(before, _random_states(devices), strict=True))
            updates = any(not torch.equal(buffer, value) for buffer, value in buffers)
        return BothModes(resting, training, draws, updates)
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def require_trainable(classifier: Classifier) -> None:
    """Return if a network takes images of its size in training mode too; some have branches then that need larger ones.

    Raises:
        ModelError: its forward fails then.
    """
    images = torch.full((2, *classifier.input_size), 0.5, device=classifier.device)
    try:
        try_both_modes(classifier, images)
    except Exception as error:  # whatever the user's forward raises
        if is_out_of_memory(error):
            raise
        size = "x".join(map(str, classifier.input_size))
        raise ModelError(
            f"the network fails on images of {size} in training mode: {one_line(error)}",
            hint="give a larger --image-size, or repair what its forward does in training mode",
        ) from error


def _random_states(devices: list[torch.device]) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
