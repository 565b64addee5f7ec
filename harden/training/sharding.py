"""A network whose weights, gradients, average and optimiser state lie in parts on the processes that train it (FSDP2).

Every block of the network (`blocks_of`) is gathered from all processes for as long as it computes. What attacks it on
held-out images takes as many passes as the images need, which differ between processes; so that is done on a whole
copy, for which there must be room as long as it lasts.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from harden.models.classifier import Classifier
from harden.models.modes import evaluating
from harden.models.recompute import blocks_of
from harden.models.user_code import copied


def shard(classifier: Classifier, blocks: Sequence[nn.Module]) -> None:
    """Leave each process a part of every parameter of `classifier`, which is the same in all of them.

    Gradients become sums over the processes. A parameter that a step uses in one process only has zeros from the
    others, and one that it uses nowhere has a gradient of zeros. Parameters without dimensions stay whole everywhere.

    Args:
        classifier: its module is sharded.
        blocks: of that module (`units_of`), which are gathered one by one; what is in none of them, all at once.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(classifier.device.type, (torch.distributed.get_world_size(),))
    single = {parameter for parameter in classifier.module.parameters() if parameter.ndim == 0}
    for parameter in classifier.module.parameters():
        parameter.data = parameter.data.contiguous()  # those of convolutions may have their channels last
    for part in (*blocks, classifier.module):
        part.register_forward_hook(_not_its_input)
        fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=single)
    for part in classifier.module.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo has no other kind
            part.set_reduce_scatter_unused_params(True, recurse=False)


def _not_its_input(_: nn.Module, inputs: tuple[object, ...], output: object) -> Tensor | None:
    """Let a block that is left out in one process give a tensor of its own, so that gathering keeps its order there."""
    passed_on = isinstance(output, Tensor) and any(output is value for value in inputs)
    return output.clone() if passed_on else None  # type: ignore[attr-defined]


def units_of(classifier: Classifier, images: Tensor) -> tuple[str, ...]:
    """Return the names of the blocks of `classifier.module` that can be gathered on their own.

    They are those of `blocks_of` that are called as a whole whenever something inside them is, and that share no
    parameter with anything else.

    Args:
        classifier: whole yet; in eval mode afterwards as before.
        images: (N, C, H, W) to try it with.
    """
    module = classifier.module
    blocks = blocks_of(module)
    holders = Counter(id(p) for part in module.modules() for p in part.parameters(recurse=False))
    holders.update(id(p) for block in blocks for p in block.parameters())
    calls = [_Calls(block) for block in blocks]
    try:
        with evaluating(classifier):
            classifier(images)
    finally:
        for call in calls:
            call.end()
    whole_ones = {call.block for call in calls if call.as_a_whole}
    return tuple(
        name
        for name, part in module.named_modules()
        if part in whole_ones and all(holders[id(p)] == 2 for p in part.parameters())  # in a module, and in a block
    )


class _Calls:
    """Hears how a block is called: as a whole, or something inside it on its own."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self._depth, self._called, self._apart = 0, False, False
        inside = [part for part in block.modules() if part is not block]
        self._hooks = [block.register_forward_pre_hook(self._enter), block.register_forward_hook(self._leave)]
        self._hooks += [part.register_forward_pre_hook(self._hear) for part in inside]

    @property
    def as_a_whole(self) -> bool:
        return self._called and not self._apart

    def end(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _enter(self, *_: object) -> None:
        self._depth, self._called = self._depth + 1, True

    def _leave(self, *_: object) -> None:
        self._depth -= 1

    def _hear(self, *_: object) -> None:
        self._apart |= self._depth == 0


def is_part(value: object) -> bool:
    """Return whether this is a tensor of which each process has a part."""
    return hasattr(value, "full_tensor")


def whole(state: Any, *, keep: bool = True) -> Any:
    """Return nested dictionaries and lists in which every part is the whole, on the CPU.

    All processes have to ask for it, in the same order; those that do not `keep` it get nothing in these places.
    """

    def gathered(value: Tensor) -> Tensor | None:
        full: Tensor = value.full_tensor()  # type: ignore[attr-defined]
        return full.cpu() if keep else None

    return _with(state, lambda value: gathered(value) if is_part(value) else value)


def like(value: Any, model: Tensor) -> Any:
    """Return a whole tensor in parts, where `model` is in parts and has its shape."""
    if not is_part(model) or is_part(value) or not isinstance(value, Tensor) or value.shape != model.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(model, DTensor)
    return distribute_tensor(value.to(model.device), model.device_mesh, model.placements, src_data_rank=None)


def kept(state: Any) -> Any:
    """Return a copy of nested dictionaries and lists: tensors on the CPU, where there is room; parts where they are."""

    def copied(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return copy.deepcopy(value)
        return value.detach().clone() if is_part(value) else value.detach().to("cpu", copy=True)

    return _with(state, copied)


def _with(state: Any, change: Callable[[Any], Any]) -> Any:
    """Return nested dictionaries and lists, of the same kinds, in which everything else is changed."""
    if isinstance(state, dict):
        changed = copy.copy(state)  # a state dict has attributes besides
        changed.update({key: _with(value, change) for key, value in state.items()})
        return changed
    return [_with(value, change) for value in state] if isinstance(state, list) else change(state)


class WholeCopy:
    """A classifier of its own that takes the weights of one in parts, and lies on the CPU while nobody needs it.

    Args:
        classifier: whole yet.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._device = classifier.device
        self._copy = copied(classifier).requires_grad_(False).eval().cpu()

    @contextmanager
    def of(self, classifier: Classifier) -> Iterator[Classifier]:
        """Let the copy have the weights of `classifier`, in every process; on its device meanwhile."""
        self._copy.load_state_dict(whole(classifier.state_dict()))
        for mine, theirs in zip(self._copy.buffers(), classifier.buffers(), strict=True):
            if not torch.equal(mine, theirs.cpu()):  # what is in no state dict may have changed as well
                mine.copy_(theirs)
        self._copy.to(self._device)
        try:
            yield self._copy
        finally:
            self._copy.cpu()

    def replace(self, classifier: Classifier) -> None:
        """Give `classifier`, which was in parts, this whole module; what needs gradients does so again."""
        trained = {name for name, parameter in classifier.module.named_parameters() if parameter.requires_grad}
        module = self._copy.module.to(self._device)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in trained)
        classifier.module = module
