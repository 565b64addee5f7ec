"""How images lie in memory: channels last where a network with convolutions takes it, which is faster."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harden.models.agreement import agree
from harden.models.classifier import Classifier
from harden.models.modes import try_both_modes
from harden.randomness import stream
from harden.stopping import ask

_AGREE = 1e-3
"""Largest difference of the scores in the two layouts, as a share of their scale: other kernels round otherwise."""


def lay_out(classifier: Classifier) -> None:
    """Put the weights of a network with convolutions channels last, in place, unless it then fails or says otherwise.

    A module that calls `.view` on a feature map does fail. Values, keys and shapes stay what they are.
    """
    if layout_of(classifier) is torch.channels_last or not any(isinstance(m, nn.Conv2d) for m in classifier.modules()):
        return
    images = torch.rand(2, *classifier.input_size, generator=stream(0, "layout")).to(classifier.device)
    before = _answers(classifier, images)
    classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    after = _answers(classifier, laid_out(images, classifier))
    if before is None or after is None or not agree(before, after, share=_AGREE):
        classifier.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def layout_of(module: object) -> torch.memory_format:
    """Return the layout that images should have for a module: that of its weights."""
    if isinstance(module, nn.Module):
        for p in module.parameters():
            if p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous():
                return torch.channels_last
    return torch.contiguous_format


def laid_out(images: Tensor, module: object) -> Tensor:
    """Return images (N, C, H, W) in the layout of a module's weights; the same ones where they are."""
    return images.contiguous(memory_format=layout_of(module))


def _answers(classifier: Classifier, images: Tensor) -> Tensor | None:
    """Return the scores (2, K) in eval mode; None where a forward pass fails in eval or in training mode.

    In training mode the scores say nothing: dropout follows the order in memory.
    """
    ask()
    try:
        return try_both_modes(classifier, images).resting
    except Exception:  # whatever the user's forward raises
        return None
