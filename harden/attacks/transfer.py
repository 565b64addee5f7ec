"""Transfer: examples made on surrogates, tried on the model (the paper's black-box columns)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from harden.access import Access
from harden.attacks.norms import Norm
from harden.attacks.objectives import Objective
from harden.attacks.oracle import Oracle
from harden.attacks.protocol import Attack
from harden.attacks.run import run_attack


@dataclass(frozen=True, kw_only=True)
class Transfer(Attack):
    """For each surrogate, the example with the smallest margin on it: the strongest that `inner` finds, not the first.

    Attributes:
        inner: the attack on a surrogate, of the same norm and eps.
        surrogates: networks from images in [0, 1] to scores of the same classes.
        names: of the surrogates, for print.
    """

    access: ClassVar[Access] = Access.TRANSFER
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2, Norm.L1)

    inner: Attack
    surrogates: tuple[nn.Module, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.inner.norm, self.inner.eps) != (self.norm, self.eps):
            raise ValueError("a transfer attack has the norm and eps of the attack that crafts its examples")
        if not self.surrogates or len(self.surrogates) != len(self.names):
            raise ValueError("a transfer attack needs at least one surrogate, and a name for each")

    @property
    def name(self) -> str:
        """Transfer, with the attack that crafts."""
        return f"transfer {self.inner.name}"

    @property
    def definition(self) -> str:
        """The convention in words."""
        return (
            f"examples of the smallest margin on {' and, in turn, '.join(self.names)}, tried on the model; there: "
            f"{self.inner.definition}"
        )

    @property
    def crafted_by(self) -> str:
        """The name of the attack on the surrogates."""
        return self.inner.name

    @property
    def objective(self) -> Objective | None:
        """What is raised on the surrogates."""
        return self.inner.objective

    @property
    def passes(self) -> int:
        """Those on the surrogates, too, though they may be cheaper or dearer."""
        return len(self.surrogates) * (self.inner.passes + 1)

    def pursue(self, oracle: Oracle, generator: torch.Generator) -> None:
        """Craft on each surrogate for the images that still stand, and ask."""
        for surrogate in self.surrogates:
            rows = oracle.standing()
            if len(rows) == 0:
                return
            clean, labels = oracle.ball.clean[rows], oracle.labels[rows]
            # A black box is asked on the CPU, whatever device its surrogates are on.
            device = next((parameter.device for parameter in surrogate.parameters()), clean.device)
            crafted = run_attack(
                self.inner,
                surrogate,
                clean.to(device),
                labels.to(device),
                generator=generator,
                passes=oracle.passes.of_another(),
                drop_fooled=False,
            )
            oracle.ask(crafted.images.to(clean.device), rows)
