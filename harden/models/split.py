"""Where a network can be split into extractor and predictor, and where it is split by default."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harden.errors import ModelError
from harden.models.answer_path import Node, feeding_weights
from harden.models.classifier import Classifier
from harden.models.modes import modes_restored
from harden.models.tap import Tap, as_representation, first_tensor

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass(frozen=True)
class SplitPoint:
    """A layer whose output can be tapped.

    Attributes:
        layer: its name in `named_modules` of the user's module.
        kind: class name of the module.
        shape: of its output for one image.
        width: of the representation that class-wise discriminators would get.
        head: whether it gives scores: no weight matrix comes between it and the answer. There may be several heads.
    """

    layer: str
    kind: str
    shape: tuple[int, ...]
    width: int
    head: bool


@dataclass(frozen=True)
class DefaultSplit:
    """The layer chosen without being told, and the reason in a sentence."""

    point: SplitPoint
    reason: str


@dataclass(frozen=True, eq=False)
class _Call:
    name: str
    module: nn.Module
    output: Tensor
    feeds: bool | None
    """Whether the output feeds weights on its way to the answer; None where it does not reach the answer."""


def split_points(classifier: Classifier) -> tuple[SplitPoint, ...]:
    """Return every layer that can be split at, in the order in which a forward pass finishes them.

    One image passes through in eval mode; the modes are restored. Wrappers that return the very tensor of a module
    inside them are listed once, under the outermost name. Dropout is left out: in eval mode it returns its input, and
    in training the discriminators should not see its noise.
    """
    calls = [call for call in _trace(classifier) if call.name and not isinstance(call.module, _DROPOUT)]
    last = _head_index(calls, classifier.outputs)
    return tuple(
        SplitPoint(
            layer=call.name,
            kind=type(call.module).__name__,
            shape=tuple(call.output.shape[1:]),
            width=as_representation(call.output).shape[1],
            head=i >= last if call.feeds is None else not call.feeds,
        )
        for i, call in enumerate(calls)
        if call.output.ndim >= 2 and all(later.output is not call.output for later in calls[i + 1 :])
    )


def default_split(classifier: Classifier) -> DefaultSplit:
    """Return the layer to split at when nobody says.

    The last feature map before the head, as long as pooling and not striding takes its positions away. Otherwise
    (vision transformers, whose tokens follow their patches; networks so deep that the last map of a small image is one
    pixel) the last representation before the head. On ResNet-20 the flattened map came out ahead of its pooled form in
    an early prototype (29.0 against 28.4 % under PGD-20); the layer of pre-logits has not been compared yet.

    Raises:
        ModelError: there is no layer before the head, as in a purely linear model.
    """
    body = [point for point in split_points(classifier) if not point.head]
    if not body:
        raise ModelError(
            "the model has no layer before its classification head, so it cannot be split",
            hint="choose a deeper model, or a layer with --split",
        )
    point = _last_map(body)
    if point is not None:
        pooled = math.prod(point.shape) > point.width
        how = f"average-pooled to {point.width:,} features" if pooled else f"{point.width:,} features"
        return DefaultSplit(point, f"the last feature map before the classification head ({how})")
    last = body[-1]
    return DefaultSplit(last, f"the last representation before the classification head ({last.width:,} features)")


def require_features(classifier: Classifier, layer: str) -> None:
    """Return if a network can be split at a layer.

    Raises:
        ModelError: there is no such layer, or it gives scores: discriminators would see what the attack aims at.
    """
    with Tap(classifier, layer):
        pass
    point = next((point for point in split_points(classifier) if point.layer == layer), None)
    if point is not None and point.head:
        raise ModelError(
            f"layer {layer!r} gives class scores: no further weights come between it and the answer; --split takes a "
            "layer whose output is features",
            hint=f"leave --split out, which takes {default_split(classifier).point.layer!r}, or choose a layer from "
            "`harden inspect MODEL`",
        )


def head_layer(classifier: Classifier) -> str | None:
    """Return the last layer with weights that computes one number for each class; None where there is none."""
    calls = _trace(classifier)
    head = _head_index(calls, classifier.outputs)
    return calls[head].name if head < len(calls) else None


def _last_map(body: list[SplitPoint]) -> SplitPoint | None:
    """Return the last feature map that the head still pools, or None."""
    positioned = [i for i, p in enumerate(body) if len(p.shape) == 2 or (len(p.shape) == 3 and _positions(p) > 1)]
    if not positioned or len(body[positioned[-1]].shape) != 3:
        return None
    after = [p for p in body[positioned[-1] + 1 :] if len(p.shape) == 3]
    strided = bool(after) and "Pool" not in after[0].kind
    return None if strided else body[positioned[-1]]


def _positions(point: SplitPoint) -> int:
    return point.shape[1] * point.shape[2]


def _trace(classifier: Classifier) -> list[_Call]:
    """Every module call of one forward pass, in the order of finishing; a module called twice keeps its last call."""
    calls: dict[str, tuple[nn.Module, Tensor, Node | None]] = {}
    handles = []

    def hook(name: str) -> object:
        def capture(module: nn.Module, inputs: object, output: object) -> None:
            tensor = first_tensor(output)
            if tensor is not None and tensor.ndim >= 1 and tensor.shape[0] == 2:
                calls.pop(name, None)
                # An in-place operation behind the layer would put another function here.
                calls[name] = module, tensor, tensor.grad_fn

        return capture

    # Networks may keep what they computed for later (attention biases), and with gradients it could not be copied.
    looked_at, graph = _twin(classifier)
    for name, module in looked_at.module.named_modules():
        handles.append(module.register_forward_hook(hook(name)))  # type: ignore[arg-type]
    try:
        with modes_restored(looked_at), torch.set_grad_enabled(graph):
            looked_at.eval()
            images = torch.full((2, *classifier.input_size), 0.5, device=classifier.device, requires_grad=graph)
            feeding = feeding_weights(looked_at(images).grad_fn, images)
    finally:
        for handle in handles:
            handle.remove()
    return [
        _Call(name, module, output, feeding.get(node) if node is not None else None)
        for name, (module, output, node) in calls.items()
    ]


def _twin(classifier: Classifier) -> tuple[Classifier, bool]:
    """Return a copy all of whose weights take gradients, and True; the network itself and False if it has no copy."""
    try:
        twin = copy.deepcopy(classifier)
    except Exception:  # whatever a layer of the user's says to being copied
        return classifier, False
    for p in twin.parameters():
        p.requires_grad_(p.is_floating_point())
    return twin, True


def _head_index(calls: list[_Call], classes: int) -> int:
    """Index of the first call that belongs to the head: the last leaf with weights that yields K channels.

    Two classes may have a single score, where no such leaf yields two.
    """
    for channels in (classes, 1) if classes == 2 else (classes,):
        for i in range(len(calls) - 1, -1, -1):
            module, output = calls[i].module, calls[i].output
            leaf = not any(True for _ in module.children())
            if leaf and any(True for _ in module.parameters()) and _channels(module, output) == channels:
                return i
    return len(calls)


def _channels(module: nn.Module, output: Tensor) -> int:
    return output.shape[1] if isinstance(module, nn.Conv2d) and output.ndim == 4 else output.shape[-1]
