"""What aligns two domains: gradient reversal and class-wise discriminators."""

from harden.adaptation.discriminator import (
    ClasswiseDiscriminators,
    default_hidden,
    domain_accuracy,
    domain_loss,
)
from harden.adaptation.grl import reverse_gradient

__all__ = ["ClasswiseDiscriminators", "default_hidden", "domain_accuracy", "domain_loss", "reverse_gradient"]
