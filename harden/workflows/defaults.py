"""What a fit does where its settings leave it open."""

from __future__ import annotations

from torch import nn

from harden.defences import (
    SOURCES,
    STATIC_DEFENCES,
    UNLABELLED_DEFENCES,
)
from harden.training.crafting import cost_of
from harden.training.memory import LARGEST
from harden.workflows.settings import DEFAULT_SOURCE, FRUGAL_SOURCE, FitSettings

ENOUGH_STEPS = 2000
"""A training of fewer steps gains from smaller batches (recipes/README.md)."""


def default_sources(settings: FitSettings, memory: int = 0) -> tuple[str, ...] | None:
    """Return what crafts the training examples: as asked, or as the method has it; None for clean training.

    Args:
        settings: may leave it open.
        memory: bytes that perturbations of all training images would take.
    """
    own = SOURCES.get(settings.method, DEFAULT_SOURCE if memory <= LARGEST else FRUGAL_SOURCE)
    return (settings.source_attack or own) if own else None


def passes_per_image(settings: FitSettings) -> int:
    """Return the passes that one training image costs in an epoch, forward and backward, crafting included."""
    sources = default_sources(settings) or ()
    networks = 1 + (len(settings.static) or 2 if settings.method in STATIC_DEFENCES else 0)
    return cost_of(sources, networks=networks, labelled=settings.method not in UNLABELLED_DEFENCES).passes


def default_lr(module: nn.Module) -> float:
    """Return the peak learning rate when nobody says, from the kind of normalisation layers the network has.

    0.005, half the paper's: chosen on validation images, where 0.003 ended robust to FGSM alone and 0.01 stopped
    gaining half-way (recipes/README.md). 0.0005 with LayerNorm, as transformers are usually fine-tuned; that one was
    not measured here.
    """
    kinds = {type(m).__name__ for m in module.modules()}
    return 5e-4 if any("LayerNorm" in kind or "RMSNorm" in kind for kind in kinds) else 5e-3


def default_batch_size(images: int, passes: float | None = None) -> int:
    """Return the number of images per step when nobody says.

    256, or the power of two from 32 on that makes at least 40 steps of a pass over the images; and, where the number of
    passes is known, from 64 on, that makes at least `ENOUGH_STEPS` steps in all.
    """
    size = 256
    while size > 32 and images // size < 40:
        size //= 2
    while passes is not None and size > 64 and images // size * passes < ENOUGH_STEPS:
        size //= 2
    return size


def eps_text(eps: float) -> str:
    """Return eps for print, as a share of 255 too where that is a round number."""
    scaled = eps * 255
    return f"{eps:.6g}" + (f" = {scaled:.4g}/255" if abs(scaled - round(scaled, 2)) < 1e-6 else "")
