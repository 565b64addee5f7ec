"""Makes the index of timm's and torchvision's networks anew: `python -m tests.models.make_architectures`.

It takes about a quarter of an hour. Every network is built once on torch's meta device, which takes no memory, for
numbers of classes and of channels that nothing else in a network is a multiple of. Where these primes turn up, they are
the classes and the channels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from harden import models
from harden.models.architectures import (
    INDEX_FILE,
    Architecture,
    Place,
    Shapes,
    described,
    digest,
    sketch_of,
    to_json,
)
from harden.models.state_dict import weight_shapes
from harden.vision import import_timm, import_torchvision

CLASSES, CHANNELS = 1009, 1013
_RGB = 3


def index_of(names: Mapping[str, Callable[[int, int], nn.Module]]) -> tuple[Architecture, ...]:
    """Return the architectures of networks, those with the same names and shapes under one.

    Args:
        names: what builds each, for a number of classes and of channels; one that fails for `CHANNELS` channels is
            built for three, and one that fails then too is left out.
    """
    found: dict[tuple[str, str], Architecture] = {}
    for name, build in names.items():
        shapes = _shapes(name, build)
        if shapes is None:
            continue
        one = describe(name, shapes)
        same = found.get((one.keys, one.shapes))
        found[one.keys, one.shapes] = one if same is None else replace(same, names=(*same.names, name))
    return tuple(found.values())


def describe(name: str, shapes: Shapes) -> Architecture:
    """Return the architecture of a network with these shapes, built for `CLASSES` classes and `CHANNELS` channels."""
    open_axes = {
        key: axes
        for key, shape in shapes.items()
        if (axes := tuple(axis for axis, n in enumerate(shape) if n and (n % CLASSES == 0 or n % CHANNELS == 0)))
    }
    texts = described(shapes, open_axes)
    return Architecture(
        names=(name,),
        keys=digest(shapes),
        shapes=digest(texts),
        open=open_axes,
        classes=_place(shapes, CLASSES),
        channels=_place(shapes, CHANNELS),
        sketch=sketch_of(texts),
    )


def builders() -> Iterator[tuple[str, Callable[[int, int], nn.Module]]]:
    """Yield every classifier of timm and of torchvision, by the name that `--arch` takes."""
    timm, torchvision = import_timm(), import_torchvision().models

    def of_timm(name: str) -> Callable[[int, int], nn.Module]:
        return lambda classes, channels: timm.create_model(name, num_classes=classes, in_chans=channels)  # type: ignore[no-any-return]

    def of_torchvision(name: str) -> Callable[[int, int], nn.Module]:
        keywords = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}

        def build(classes: int, channels: int) -> nn.Module:
            if channels != _RGB:
                raise ValueError("torchvision's networks read RGB images")
            module: nn.Module = torchvision.get_model(name, weights=None, num_classes=classes, **keywords)
            return module

        return build

    for name in timm.list_models():
        yield f"timm:{name}", of_timm(name)
    for name in torchvision.list_models(module=torchvision):
        yield f"torchvision:{name}", of_torchvision(name)


class _EmptyOnMeta(TorchFunctionMode):
    """Puts what is made by torch.empty on the meta device, as weights are, and no tensor that a constructor reads."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def weightless() -> tuple[AbstractContextManager[Any], ...]:
    """Return the ways of building a network without memory for its weights, in the order in which to try them."""
    return torch.device("meta"), _EmptyOnMeta()


def _shapes(name: str, build: Callable[[int, int], nn.Module]) -> Shapes | None:
    failure: Exception | None = None
    for channels in (CHANNELS, _RGB):
        for device in weightless():
            try:
                with device:
                    return weight_shapes(build(CLASSES, channels).state_dict())
            except Exception as error:  # constructors raise whatever they like
                failure = error
    print(f"{name} is left out: {failure}", file=sys.stderr)
    return None


def _place(shapes: Shapes, number: int) -> Place | None:
    return next((Place(key, shape.index(number)) for key, shape in shapes.items() if number in shape), None)


def main() -> None:
    """Write the index."""
    found = index_of(dict(builders()))
    libraries = {"timm": import_timm(), "torchvision": import_torchvision()}
    versions = {name: library.__version__.partition("+")[0] for name, library in libraries.items()}
    Path(models.__file__).with_name(INDEX_FILE).write_text(to_json(found, versions), encoding="utf-8")
    print(f"{sum(len(one.names) for one in found)} networks, {len(found)} sets of names and shapes")


if __name__ == "__main__":
    main()
