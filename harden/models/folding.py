"""BatchNorm folded into the layer before it, while a network at rest is attacked.

In eval mode BatchNorm scales and shifts each channel, which the weights before it can do as well. Autograd, which keeps
what goes into BatchNorm, then keeps about half as many feature maps. Parameters and buffers are never touched: layers
are lent another `forward`, and the folded weights are a second copy.

Nothing is traced. Which BatchNorm follows which layer is watched in one pass. Then the layers' outputs are made NaN and
BatchNorm's are left as they are: where the scores stay, nothing else takes those outputs. Rules:

- the layer is exactly an `nn.Conv1d`, `nn.Conv2d` or `nn.Linear`; BatchNorm exactly that of torch or timm's with an
  activation, which still runs; each is called once in a pass;
- layers with hooks, or with a `forward` of their own, are left alone, also while they have them only meanwhile (`Tap`);
- a layer whose output is used elsewhere as well, such as by a shortcut, is left alone.

What only other images than those of the check reach cannot be seen by it: whoever attacks a folded network asks the
network itself about the examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from harden.models.agreement import agree
from harden.models.classifier import Classifier
from harden.models.first_convolution import convolved
from harden.models.modes import evaluating
from harden.stopping import ask

_Layer = nn.Conv1d | nn.Conv2d | nn.Linear
_Norm = nn.BatchNorm1d | nn.BatchNorm2d
_DIMENSIONS: dict[type[nn.Module], int] = {nn.Linear: 2, nn.Conv1d: 3, nn.Conv2d: 4}
"""Dimensions of what a layer takes and returns where its channels are those of BatchNorm."""


class _Pair:
    """A layer and the BatchNorm behind it.

    Attributes:
        hiding: whether all but BatchNorm is given NaN instead of what the layer returns, to see who takes it.
    """

    def __init__(self, layer: _Layer, norm: _Norm) -> None:
        self.layer, self.norm = layer, norm
        self.hiding = False
        self._weight, self._bias = _folded_weights(layer, norm)
        self._made: Tensor | None = None
        self._hidden: Tensor | None = None

    def lend(self) -> None:
        """Let the layer do the work of both."""
        self.layer.forward = self._both  # type: ignore[method-assign]
        self.norm.forward = self._rest  # type: ignore[method-assign]

    def take_back(self) -> None:
        """Undo `lend`, whether all, some or none of it was done."""
        for module, lent in ((self.layer, self._both), (self.norm, self._rest)):
            if module.__dict__.get("forward") == lent:
                del module.__dict__["forward"]
        self._made = self._hidden = None

    def _both(self, input: Tensor) -> Tensor:
        layer = self.layer
        if not self._applies(input):
            return type(layer).forward(layer, input)  # type: ignore[arg-type]
        if isinstance(layer, nn.Linear):
            self._made = nn.functional.linear(input, self._weight, self._bias)
        elif isinstance(layer, nn.Conv2d):
            self._made = convolved(layer, input, self._weight, self._bias)
        else:
            self._made = layer._conv_forward(input, self._weight, self._bias)
        if self.hiding:
            self._hidden, self._made = self._made, torch.full_like(self._made, torch.nan)
        return self._made

    def _rest(self, input: Tensor) -> Tensor:
        made, self._made = self._made, None
        if input is not made:
            return type(self.norm).forward(self.norm, input)
        if self._hidden is not None:
            input, self._hidden = self._hidden, None
        if _activates(self.norm):
            result: Tensor = self.norm.get_submodule("act")(self.norm.get_submodule("drop")(input))
            return result
        return input

    def _applies(self, values: Tensor) -> bool:
        """Whether the two are at rest and nobody looks at what is between them."""
        if self.norm.training or values.ndim != _DIMENSIONS[type(self.layer)]:
            return False
        trained = torch.is_grad_enabled() and any(p.requires_grad for m in self._modules for p in m.parameters(False))
        return not trained and not any(_hooked(m) for m in self._modules)

    @property
    def _modules(self) -> tuple[nn.Module, nn.Module]:
        return self.layer, self.norm


class Folding:
    """What of a network is folded while `on`.

    Args:
        pairs: of layers with the BatchNorm behind them; none where nothing can be folded.
    """

    def __init__(self, pairs: Sequence[_Pair] = ()) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    @contextmanager
    def on(self, *, hiding: bool = False) -> Iterator[None]:
        """Fold meanwhile; layers that were lent a `forward` by others since are left alone.

        Args:
            hiding: whether all but BatchNorm is given NaN instead of what the layers return.
        """
        free = [pair for pair in self._pairs if not _lent(pair.layer) and not _lent(pair.norm)]
        try:
            for pair in free:
                pair.hiding = hiding
                pair.lend()
            yield
        finally:
            for pair in free:
                pair.take_back()


def find_folding(classifier: Classifier, images: Tensor) -> Folding:
    """Return what of a network can be folded without changing its scores beyond rounding.

    The weights of now are folded: find it anew where they have changed.

    Args:
        classifier: in any mode; it is restored.
        images: (N, C, H, W) float in [0, 1] on its device, a few of those that it is meant for.
    """
    if not any(_is_norm(m) for m in classifier.modules()):
        return Folding()
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices), evaluating(classifier):
        ask()
        expected = classifier(images)
        pairs = [_Pair(layer, norm) for layer, norm in _followed(classifier, images)]

        def agrees(some: Sequence[_Pair], *, hiding: bool = True) -> bool:
            ask()
            try:
                with Folding(some).on(hiding=hiding):
                    scores = classifier(images)
            except Exception:  # whatever the user's forward raises
                return False
            return agree(expected, scores)

        # A network that answers at random draws on here, and does not agree with itself.
        found = _agreeing(pairs, agrees) if pairs and agrees(()) else ()
        return Folding(found if agrees(found) and agrees(found, hiding=False) else ())


def _agreeing(pairs: Sequence[_Pair], agrees: Callable[[Sequence[_Pair]], bool]) -> Sequence[_Pair]:
    """Return all pairs, or what agrees of each half of them."""
    if not pairs or agrees(pairs):
        return pairs
    if len(pairs) == 1:
        return ()
    half = len(pairs) // 2
    return (*_agreeing(pairs[:half], agrees), *_agreeing(pairs[half:], agrees))


def _followed(classifier: Classifier, images: Tensor) -> list[tuple[_Layer, _Norm]]:
    """Return the layers whose output, the very tensor and unchanged, is what a BatchNorm was given."""
    calls: Counter[nn.Module] = Counter()
    made: dict[int, tuple[_Layer, Tensor, int]] = {}
    followed: list[tuple[_Layer, _Norm]] = []

    def after(layer: nn.Module, inputs: object, output: object) -> None:
        calls[layer] += 1
        if isinstance(output, Tensor) and not output.is_inference() and output.ndim == _DIMENSIONS[type(layer)]:
            made[id(output)] = layer, output, output._version  # type: ignore[assignment]

    def before(norm: nn.Module, inputs: tuple[object, ...]) -> None:
        calls[norm] += 1
        layer, output, version = made.get(id(inputs[0]) if inputs else 0, (None, None, 0))
        if layer is not None and output is not None and output._version == version:
            followed.append((layer, norm))  # type: ignore[arg-type]

    removers = []
    try:
        for m in classifier.modules():
            if _lent(m) or _hooked(m):
                continue
            if type(m) in _DIMENSIONS:
                removers.append(m.register_forward_hook(after))
            elif _is_norm(m):
                removers.append(m.register_forward_pre_hook(before))
        classifier(images)
    finally:
        for remover in removers:
            remover.remove()
    return [(layer, norm) for layer, norm in followed if calls[layer] == calls[norm] == 1 and _foldable(layer, norm)]


def _foldable(layer: _Layer, norm: _Norm) -> bool:
    return norm.running_mean is not None and norm.running_var is not None and layer.weight.is_floating_point()


def _folded_weights(layer: _Layer, norm: _Norm) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias of both together, computed in double precision."""

    def double(values: Tensor | None, otherwise: float) -> Tensor:
        if values is None:
            return torch.full((norm.num_features,), otherwise, dtype=torch.float64)
        return values.detach().cpu().double()

    scale = double(norm.weight, 1.0) / (double(norm.running_var, 1.0) + norm.eps).sqrt()
    weight = double(layer.weight, 1.0) * scale.view(-1, *[1] * (layer.weight.ndim - 1))
    bias = (double(layer.bias, 0.0) - double(norm.running_mean, 0.0)) * scale + double(norm.bias, 0.0)
    return weight.to(layer.weight), bias.to(layer.weight)


def _is_norm(m: nn.Module) -> bool:
    return type(m) in (nn.BatchNorm1d, nn.BatchNorm2d) or _activates(m)


def _activates(m: nn.Module) -> bool:
    """Whether a module is timm's BatchNorm with an activation; timm need not be imported to know."""
    return (type(m).__module__, type(m).__name__) == ("timm.layers.norm_act", "BatchNormAct2d")


def _lent(m: nn.Module) -> bool:
    return "forward" in m.__dict__


def _hooked(m: nn.Module) -> bool:
    return bool(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks)
