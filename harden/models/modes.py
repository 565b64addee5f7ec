"""Trying a module in eval or in training mode, and giving it back as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harden.errors import ModelError, NoGradientError, UserCodeError
from harden.models.classifier import Classifier
from harden.models.user_code import backward_pass


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
def buffers_restored(module: nn.Module) -> Iterator[None]:
    """Restore the values of all buffers afterwards: a pass in training mode updates BatchNorm's statistics."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


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
    devices = [images.device] if images.device.type == "cuda" else []
    with buffers_restored(classifier), modes_restored(classifier), torch.random.fork_rng(devices), torch.no_grad():
        buffers = [(buffer, buffer.clone()) for buffer in classifier.buffers()]
        classifier.eval()
        resting: Tensor = classifier(images)
        (train or classifier.train)()
        before = _random_states(devices)
        training: Tensor = classifier(images)
        draws = any(not torch.equal(a, b) for a, b in zip(before, _random_states(devices), strict=True))
        updates = any(not torch.equal(buffer, value) for buffer, value in buffers)
    return BothModes(resting, training, draws, updates)


def require_trainable(classifier: Classifier) -> None:
    """Return if a network can be trained on images of its size: it takes them in training mode, with gradients.

    Some have branches in training mode that need larger images.

    Raises:
        ModelError: its forward fails then, it is frozen as a whole, or its scores have no gradient.
    """
    images = torch.full((2, *classifier.input_size), 0.5, device=classifier.device)
    try:
        try_both_modes(classifier, images)
    except UserCodeError as error:
        size = "x".join(map(str, classifier.input_size))
        raise UserCodeError(
            f"the network fails on images of {size} in training mode: {error.reason}",
            reason=error.reason,
            hint="give a larger --image-size, or repair what its forward does in training mode",
        ) from error
    trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    if not trained:
        raise ModelError(
            "the network has nothing to train: it has no parameters, or all of them are frozen",
            hint="let its parameters have requires_grad, or choose a network with layers that can be trained",
        )
    devices = [images.device] if images.device.type == "cuda" else []
    with buffers_restored(classifier), modes_restored(classifier), torch.random.fork_rng(devices), torch.enable_grad():
        classifier.train()
        leaf = images.requires_grad_(True)
        total = classifier(leaf).float().sum()
        with backward_pass():
            reached = total.requires_grad and torch.autograd.grad(total, [leaf, *trained], allow_unused=True)
    if not reached or reached[0] is None or all(gradient is None for gradient in reached[1:]):
        raise NoGradientError


def _random_states(devices: list[torch.device]) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
