"""Splitting a network at a named module: one forward pass gives `(features, logits)`.

A hook captures the module's output on its way, so every control flow works (residual, attention, your own) and nothing
is traced or rebuilt. Rules:

- a module that is called several times in one pass is tapped at its last call;
- a hook that fires outside the tapped pass (activation checkpointing runs modules again in backward) is ignored;
- of a tuple, list or dictionary the first floating-point tensor is taken;
- an in-place operation right behind the layer (`x += shortcut`, an in-place ReLU) changes what was captured: name the
  block rather than a layer inside it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harden.errors import MissingModelError, ModelError
from harden.models.classifier import Classifier
from harden.registry import did_you_mean

MAX_FEATURES = 16_384
"""Widest representation that discriminators are given; larger feature maps are pooled (see `as_representation`)."""


class Tap:
    """A context manager that taps `classifier` at `layer`; leaving it removes the hook.

    Args:
        classifier: whose `module` is tapped.
        layer: the name of a submodule of `classifier.module`, as `named_modules` gives it; None taps nothing and gives
            the logits as features, for defences that need none.
        autocast: what the network's layers compute in, where torch thinks it safe (`torch.autocast`); None: as they
            are. Features and logits are float32 in any case.

    Attributes:
        seen: images that passed through so far.

    Raises:
        ModelError: no submodule has that name.
    """

    def __init__(self, classifier: Classifier, layer: str | None, *, autocast: torch.dtype | None = None) -> None:
        self.classifier = classifier
        self.layer = layer
        self.autocast = autocast
        self.seen = 0
        self._target = None if layer is None else _submodule(classifier.module, layer)
        self._captured: Tensor | None = None
        self._listening = False
        self._remove: Callable[[], None] | None = None

    def __enter__(self) -> Tap:
        if self._target is not None:
            self._remove = self._target.register_forward_hook(self._capture).remove
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._remove is not None:
            self._remove()
            self._remove = None
        self._captured = None

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (as the layer gives them) and logits (N, K) of images (N, C, H, W) in [0, 1].

        Raises:
            ModelError: the layer was not reached in this pass, or gave no tensor.
            RuntimeError: the tap is not entered.
        """
        self.seen += len(images)
        if self._target is None:
            logits = self._pass(images)
            return logits, logits
        if self._remove is None:
            raise RuntimeError("use a Tap as a context manager: `with Tap(classifier, layer) as tapped:`")
        self._captured, self._listening = None, True
        try:
            logits = self._pass(images)
        finally:
            self._listening = False
        features, self._captured = self._captured, None
        if features is None:
            raise ModelError(
                f"layer {self.layer!r} is not reached when the model scores an image",
                hint="choose another --split; `harden inspect MODEL` lists the layers that can be split at",
            )
        return features if self.autocast is None else features.float(), logits

    def _pass(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, self.autocast, enabled=self.autocast is not None):
            logits: Tensor = self.classifier(images)
        return logits if self.autocast is None else logits.float()

    def _capture(self, module: nn.Module, inputs: object, output: object) -> None:
        if self._listening:
            self._captured = first_tensor(output)


def _submodule(module: nn.Module, name: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(module.named_modules())
    if name in modules and name:
        return modules[name]
    raise MissingModelError(
        f"the model has no layer {name!r}{did_you_mean(name, modules)}",
        hint="`harden inspect MODEL` lists the layers that can be split at",
    )


def first_tensor(output: object) -> Tensor | None:
    """Return the first floating-point tensor in a module's output, or None."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    values = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    for value in values:
        found = first_tensor(value)
        if found is not None:
            return found
    return None


def as_representation(features: Tensor, *, limit: int = MAX_FEATURES) -> Tensor:
    """Return features as (N, D) with D <= `limit` where pooling can do it.

    - (N, D) stays as it is.
    - (N, C, H, W) is flattened if C * H * W <= limit, else first average-pooled to the largest s x s
      (s <= H, W) that fits; C itself is never cut. Maps with their channels last (N, H, W, C), as Swin has them, are
      turned first; they are recognised by H = W and C > H.
    - (N, T, D) tokens are flattened if T * D <= limit, else averaged over T.
    - anything else is flattened.
    """
    if features.ndim == 4 and features[0].numel() > limit:
        if features.shape[1] == features.shape[2] < features.shape[3]:
            features = features.permute(0, 3, 1, 2)
        side = max(1, int((limit / features.shape[1]) ** 0.5))
        size = (min(side, features.shape[2]), min(side, features.shape[3]))
        features = F.adaptive_avg_pool2d(features, size)
    elif features.ndim == 3 and features[0].numel() > limit:
        features = features.mean(dim=1)
    return features.flatten(1)
