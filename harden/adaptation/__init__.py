"""What aligns two domains: gradient reversal and class-wise discriminators; moments and class centres."""

from harden.adaptation.coral import coral
from harden.adaptation.discriminator import (
    ClasswiseDiscriminators,
    default_hidden,
    domain_accuracy,
    domain_loss,
    outgrows,
    separate_weights,
)
from harden.adaptation.grl import reverse_gradient
from harden.adaptation.margin import ClassCentres
from harden.adaptation.mmd import mmd

__all__ = [
    "ClassCentres",
    "ClasswiseDiscriminators",
    "coral",
    "default_hidden",
    "domain_accuracy",
    "domain_loss",
    "mmd",
    "outgrows",
    "reverse_gradient",
    "separate_weights",
]
