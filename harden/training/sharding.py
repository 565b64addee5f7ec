"""A network whose weights, gradients, average and optimiser state lie in parts on the processes that train it (FSDP2).

Every block of the network (`blocks_of`) is gathered from all processes for as long as it computes. What attacks it on
held-out images takes as many passes as the images need, which differ between processes; so that is done on a whole
copy, for which there must be room as long as it lasts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from harden.models.classifier import Classifier
from harden.models.recompute import blocks_of


def shard(module: nn.Module, device: torch.device) -> None:
    """Leave each process a part of every parameter of `module`, which is the same in all of them.

    Gradients become sums over the processes. Parameters without dimensions stay whole everywhere.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    single = {parameter for parameter in module.parameters() if parameter.ndim == 0}
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous()  # those of convolutions may have their channels last
    for part in (*blocks_of(module), module):
        fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=single)
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo has no other kind


def is_part(value: object) -> bool:
    """Return whether this is a tensor of which each process has a part."""
    return hasattr(value, "full_tensor")


def whole(state: Any) -> Any:
    """Return nested dictionaries, lists and tuples in which every part is the whole, on the CPU.

    All processes have to ask for it, in the same order.
    """
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(whole(value) for value in state)
    return state.full_tensor().cpu() if is_part(state) else state


def like(value: Any, model: Tensor) -> Any:
    """Return a whole tensor in parts, where `model` is in parts and has its shape."""
    if not is_part(model) or is_part(value) or not isinstance(value, Tensor) or value.shape != model.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(model, DTensor)
    return distribute_tensor(value.to(model.device), model.device_mesh, model.placements, src_data_rank=None)


def kept(state: Any) -> Any:
    """Return a copy of nested dictionaries, lists and tuples, with whole tensors on the CPU, where memory is plenty."""
    if isinstance(state, dict):
        return {key: kept(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(kept(value) for value in state)
    if isinstance(state, Tensor):
        return state.detach().clone() if is_part(state) else state.detach().to("cpu", copy=True)
    return copy.deepcopy(state)


class WholeCopy:
    """A classifier of its own that takes the weights of one in parts, and lies on the CPU while nobody needs it.

    Args:
        classifier: whole yet.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._copy = copy.deepcopy(classifier).requires_grad_(False).eval()
        self._device = classifier.device
        self._copy.cpu()

    @contextmanager
    def of(self, classifier: Classifier) -> Iterator[Classifier]:
        """Let the copy have the weights of `classifier`, in every process; on its device meanwhile."""
        self._copy.load_state_dict(whole(classifier.state_dict()))
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
