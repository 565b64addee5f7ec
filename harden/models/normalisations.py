"""The normalisations that networks are usually trained with, for the preflight to try."""

from __future__ import annotations

import torch
from torch import Tensor

from harden.models.classifier import Conflict, Normalisation

NONE = Normalisation("none", (0.0,) * 3, (1.0,) * 3)

CANDIDATES: dict[int, tuple[Normalisation, ...]] = {
    1: (
        Normalisation("none", (0.0,), (1.0,)),
        Normalisation("0.5/0.5", (0.5,), (0.5,)),
        Normalisation("MNIST", (0.1307,), (0.3081,)),
        Normalisation("Fashion-MNIST", (0.2860,), (0.3530,)),
        Normalisation("0-255", (0.0,), (1 / 255,)),
    ),
    3: (
        NONE,
        Normalisation("ImageNet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        Normalisation("0.5/0.5", (0.5,) * 3, (0.5,) * 3),
        Normalisation("CIFAR-10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        Normalisation("CIFAR-10 (std 0.2)", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        Normalisation("0-255", (0.0,) * 3, (1 / 255,) * 3),
        Normalisation("none, BGR", (0.0,) * 3, (1.0,) * 3, flip_channels=True),
        Normalisation("ImageNet, BGR", (0.406, 0.456, 0.485), (0.225, 0.224, 0.229), flip_channels=True),
        Normalisation("0-255, BGR", (0.0,) * 3, (1 / 255,) * 3, flip_channels=True),
        Normalisation(
            "0-255, BGR minus ImageNet mean (Caffe)",
            (103.939 / 255, 116.779 / 255, 123.68 / 255),
            (1 / 255,) * 3,
            flip_channels=True,
        ),
    ),
}
"""By number of channels. "CIFAR-10 (std 0.2)" is a mean of per-image deviations that half the repositories copy."""

OWN_STATISTICS = "the data's own"
_SAME = 0.05
"""Normalisations whose mean and std differ by a smaller share of the std are the same: so much samples differ."""


def same(one: Normalisation, other: Normalisation) -> bool:
    """Return whether two normalisations give a network the same inputs, but for what samples of one data set differ."""
    return one.flip_channels == other.flip_channels and not changes_eps(one, other)


def changes_eps(one: Normalisation, other: Normalisation, *, share: float = _SAME) -> bool:
    """Return whether the same eps on images means something else to a network under two normalisations.

    The order in which the network takes the channels does not change it.

    Args:
        one, other: the two.
        share: of the std, by which mean or std must differ.
    """
    pairs = (zip(*_in_order(n), strict=True) for n in (one, other))
    return any(
        abs(mean - its_mean) >= share * min(std, its_std) or abs(std - its_std) >= share * min(std, its_std)
        for (mean, std), (its_mean, its_std) in zip(*pairs, strict=True)
    )


def _in_order(normalisation: Normalisation) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std in the order of the image's channels."""
    step = -1 if normalisation.flip_channels else 1
    return normalisation.mean[::step], normalisation.std[::step]


def flags(normalisation: Normalisation) -> str:
    """Return a normalisation by name, with what to type for it where it can be typed."""
    if normalisation.flip_channels:
        return normalisation.name
    mean, std = (",".join(f"{number:.4g}" for number in numbers) for numbers in (normalisation.mean, normalisation.std))
    return f"{normalisation.name} (--mean {mean} --std {std})"


_CONFLICTS = {
    Conflict.TIED: "Nothing tells {chosen} apart from {rivals}",
    Conflict.BATCHNORM_AGAINST_ACCURACY: "The first BatchNorm was trained on inputs as {chosen} gives them, but the "
    "network is clearly more accurate with {rivals}",
    Conflict.ACCURACY_AGAINST_LOSS: "The network is more accurate with {chosen}, but its loss is clearly lower with "
    "{rivals}",
}


def why_in_doubt(normalisation: Normalisation) -> str:
    """Return what speaks against a normalisation in a sentence without a full stop; "" where nothing does."""
    doubt = normalisation.doubt
    if doubt is None:
        return ""
    rivals = ", ".join(rival.name for rival in doubt.rivals)
    return _CONFLICTS[doubt.conflict].format(chosen=normalisation.name, rivals=rivals)


def what_to_type(normalisation: Normalisation) -> str:
    """Return how the user says which normalisation is right; "" where none is in doubt."""
    if normalisation.doubt is None:
        return ""
    choices = ", or ".join(map(flags, (normalisation, *normalisation.doubt.rivals)))
    return f"Give what the network was trained with: {choices}"


def plain(channels: int) -> Normalisation:
    """Return the normalisation that changes nothing."""
    return Normalisation("none", (0.0,) * channels, (1.0,) * channels)


def own_statistics(images: Tensor) -> Normalisation:
    """Return the mean and standard deviation per channel of `images` (N, C, H, W) float in [0, 1]."""
    flat = images.double().transpose(0, 1).flatten(1)
    std = flat.std(dim=1, correction=0).clamp_min(1e-3)
    return Normalisation(OWN_STATISTICS, tuple(flat.mean(dim=1).tolist()), tuple(std.tolist()))


def candidates(images: Tensor) -> tuple[Normalisation, ...]:
    """Return what to try for `images` (N, C, H, W) float in [0, 1], the data's own statistics last."""
    channels = images.shape[1]
    return (*CANDIDATES.get(channels, (plain(channels),)), own_statistics(images))


def apply(normalisation: Normalisation, images: Tensor) -> Tensor:
    """Return what the module sees of `images` (N, C, H, W) float in [0, 1]; as `Classifier` does it."""
    shape = (1, -1, 1, 1)
    mean = torch.tensor(normalisation.mean, device=images.device).view(shape)
    std = torch.tensor(normalisation.std, device=images.device).view(shape)
    return ((images.flip(1) if normalisation.flip_channels else images) - mean) / std
