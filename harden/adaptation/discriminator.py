"""Class-wise domain discriminators, all classes in one grouped matrix product per layer; with or without a trunk."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_SEPARATE = 12_000_000
"""Weights that separate discriminators may have together even where the network has fewer: some 50 MB."""


class ClasswiseDiscriminators(nn.Module):
    """K small perceptrons; a sample of class k goes only through the k-th (the paper's section 3.3).

    Samples are put by class into a padded (K, capacity, in_features) block, so that every layer is one batched
    matrix product instead of a loop over classes. Classes that are absent from a batch get no gradient.

    With a shared trunk all classes have the first layer in common, and the layers behind it are class-wise: the first
    one has nearly all the weights, and K times as many where there are K classes.

    Args:
        classes: K; 1 makes a single discriminator for all classes (the paper's ablation).
        in_features: width of the representation.
        hidden: widths of the hidden layers; ReLU after each. At least one for a shared trunk.
        shared_trunk: whether the first layer is one for all classes.
        domains: 2 gives one logit per sample (positive means clean, domain 1); more give one logit per domain.
        generator: of the initial weights, drawn as `nn.Linear` draws them.
    """

    def __init__(
        self,
        *,
        classes: int,
        in_features: int,
        hidden: Sequence[int],
        domains: int = 2,
        shared_trunk: bool = False,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.shared_trunk = shared_trunk and classes > 1
        self.domains = domains
        widths = [in_features, *hidden, 1 if domains == 2 else domains]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            bound, groups = 1 / math.sqrt(fan_in), 1 if self.shared_trunk and i == 0 else classes
            for holder, shape in ((self.weights, (groups, fan_in, fan_out)), (self.biases, (groups, 1, fan_out))):
                holder.append(nn.Parameter(torch.rand(shape, generator=generator) * 2 * bound - bound))

    def forward(self, values: Tensor, labels: Tensor) -> Tensor:
        """Return domain logits: (N,) for two domains, (N, domains) for more.

        Args:
            values: (N, in_features) float.
            labels: (N,) int64 in [0, K); ignored where there is one discriminator for all classes.
        """
        layers = list(zip(self.weights, self.biases, strict=True))
        if self.shared_trunk:
            (weight, bias), *layers = layers
            values = F.relu(torch.addmm(bias[0], values, weight[0]))
        if self.classes == 1:
            labels = torch.zeros_like(labels)
        order = torch.argsort(labels, stable=True)
        grouped = labels[order]
        counts = torch.bincount(labels, minlength=self.classes)
        capacity = int(counts.max())
        starts = torch.cumsum(counts, 0) - counts
        slots = torch.empty_like(order)
        slots[order] = grouped * capacity + torch.arange(len(labels), device=labels.device) - starts[grouped]
        block = values.new_zeros(self.classes * capacity, values.shape[1]).index_copy(0, slots, values)
        hidden = block.view(self.classes, capacity, -1)
        for i, (weight, bias) in enumerate(layers):
            hidden = torch.baddbmm(bias, hidden, weight)
            if i < len(layers) - 1:
                hidden = F.relu(hidden)
        logits = hidden.reshape(self.classes * capacity, -1).index_select(0, slots)
        return logits.squeeze(1) if self.domains == 2 else logits


def domain_loss(logits: Tensor, domains: Tensor) -> Tensor:
    """Return the mean over samples of the domain cross-entropy (scalar).

    The mean over samples, rather than the paper's sum over classes of class means, keeps the term's strength the same
    for any number of classes and makes it add up over accumulated or distributed batches.

    Args:
        logits: (N,) of the clean domain, or (N, domains).
        domains: (N,) int64: 1 clean and 0 adversarial for two domains; the domain's index for more.
    """
    if logits.ndim == 1:
        return F.binary_cross_entropy_with_logits(logits, domains.to(logits.dtype))
    return F.cross_entropy(logits, domains)


def domain_accuracy(logits: Tensor, domains: Tensor) -> Tensor:
    """Return the share of samples whose domain is recognised (scalar); chance is 1 / domains."""
    guessed = (logits > 0).long() if logits.ndim == 1 else logits.argmax(dim=1)
    return (guessed == domains).float().mean()


def default_hidden(in_features: int) -> tuple[int, int]:
    """Return the hidden widths for a representation of this width.

    A 1/16 of the input between 50 and 500, then 20: 50-20 for logits, 98-20 for the 1,568 features of the Fashion-MNIST
    network and 500-20 from 8,000 features on. The networks behind the paper's tables have 50-20, 100-20 and 500-20.
    """
    return max(50, min(500, in_features // 16)), 20


def separate_weights(in_features: int, classes: int) -> int:
    """Return the weights of the first layers of `classes` separate discriminators together: nearly all of theirs."""
    return in_features * default_hidden(in_features)[0] * classes


def outgrows(in_features: int, classes: int, network: int) -> bool:
    """Return whether separate discriminators would outgrow the network, so that they should share a trunk.

    They do where their first layers together have more weights than the network and than `MOST_SEPARATE`: a thousand
    classes on the 2,048 features of a ResNet-50 would have ten times the network's, and each optimiser step would be
    about them.

    Args:
        in_features: width of the representation.
        classes: K.
        network: parameters of the network.
    """
    return separate_weights(in_features, classes) > max(MOST_SEPARATE, network)
