"""How learning rate and eps move over a run, as pure functions of the share of training that is done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up and linear decay of the learning rate; linear ramp of eps.

    Attributes:
        lr: peak learning rate.
        lr_warmup: share of training over which it rises from 0.
        eps: radius of the source attack on the [0, 1] scale.
        eps_ramp: share of training over which eps rises from 0; for a start that is not robust yet, full-strength
            examples in the first steps destroy more than they teach.
    """

    lr: float
    lr_warmup: float
    eps: float
    eps_ramp: float

    def lr_at(self, progress: float) -> float:
        """The learning rate at `progress` in [0, 1]: warm-up towards, and decay to 0 along, one straight line."""
        return self.lr * (1 - progress) * _ramp(progress, self.lr_warmup)

    def eps_at(self, progress: float) -> float:
        """The radius of the source attack at `progress` in [0, 1]."""
        return self.eps * _ramp(progress, self.eps_ramp)


def _ramp(progress: float, length: float) -> float:
    return 1.0 if length <= 0 else min(1.0, progress / length)
