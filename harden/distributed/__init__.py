"""Several processes that train or audit one model, and everything that they tell each other.

The process with rank 0 leads: it prepares the run, prints, and writes every file. The others follow: they open what the
leader has opened, and take their part of every batch, of every held-out measurement and of every attack of an audit.

Not torch's DistributedDataParallel. It wraps one module and averages its gradients while they are computed; it supports
neither `autograd.grad`, which crafting needs, nor a loss that owns discriminators and taps features by a hook, and it
takes parts for equally large. Here every process weighs its loss, a mean over its own samples, by its share of the
batch, and after the backward pass all gradients are summed. That sum is the gradient of the mean over the whole batch,
whatever the loss consists of, class-wise terms included. The price: the sum does not overlap with the backward pass.
FSDP2 has no such limits, and is what a network that does not fit is trained with (`harden.training.sharding`).

Where a process is slower or runs out of memory the others must not go on to another exchange than it does. So the
processes exchange at fixed points only, and whatever decides which point comes next is agreed upon there.

The batches of an attack are independent of each other, and some take many times as long as others. So whichever process
is free takes the next one (`claims`), all meet when none is left, and what each found is put together (`unite`).
"""

from __future__ import annotations

from harden.distributed.join import join
from harden.distributed.processes import ALONE, Processes
from harden.distributed.seat import Seat, seat_in

__all__ = ["ALONE", "Processes", "Seat", "join", "seat_in"]
