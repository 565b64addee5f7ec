"""A new last layer for another number of classes, on a network that keeps the rest of its weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from harden.errors import ModelError
from harden.models import timm_models
from harden.models.classifier import Classifier
from harden.models.loaded import LoadedModel
from harden.models.normalisations import plain
from harden.models.origin import NewHead, Origin
from harden.models.split import head_layer
from harden.models.state_dict import load_into
from harden.models.trial import output_classes

_BUILD_IT = "build the network for that many classes in your --arch code, and load the weights of the rest there"


def replace_head(loaded: LoadedModel, *, classes: int, in_channels: int, image_size: tuple[int, int]) -> LoadedModel:
    """Return the network with a new, random last layer of `classes` outputs; the global generator draws it.

    A network of timm is built anew for so many classes, and gets the weights of all but its classifier. In any other
    the layer that computes the scores is exchanged, in place; it has to be linear or a convolution.

    Args:
        loaded: with trained weights.
        classes: outputs wanted.
        in_channels, image_size: of the images that it takes.

    Raises:
        ModelError: it has no weights to keep, or no such layer, or something else in it depends on the classes.
    """
    if not loaded.has_weights:
        raise ModelError(
            "--replace-head keeps the weights of all but the last layer, and this network has none yet",
            hint=f"leave --replace-head out: the network is then built for {classes} classes and trained first",
        )
    before = output_classes(loaded.module, in_channels, image_size)
    if loaded.origin.kind == "timm":
        module, origin, layers = _built_anew(loaded, classes)
    else:
        layers = (_layer(loaded, before, in_channels, image_size),)
        module, origin = loaded.module, loaded.origin
        _exchange(module, layers[0], classes)
    try:
        after = output_classes(module, in_channels, image_size)
    except ModelError as error:
        raise ModelError(f"with a new last layer ({layers[0]}), {error.message}", hint=_BUILD_IT) from error
    if after != classes:
        raise ModelError(
            f"with {layers[0]} replaced by a layer of {classes} outputs, the network still gives {after}",
            hint=_BUILD_IT,
        )
    note = f"the last layer ({', '.join(layers)}, {before} outputs) is replaced by a new one of {classes}"
    return replace(
        loaded,
        module=module,
        origin=replace(origin, head=NewHead(layers, classes)),
        has_weights=False,
        notes=(*loaded.notes, note),
        stated=replace(loaded.stated, labels=None),
    )


def renew(module: nn.Module, head: NewHead) -> None:
    """Give a network that was built for its first classes the layers that `replace_head` gave it, with random weights.

    Layers that have as many outputs already stay as they are.

    Raises:
        ModelError: it has no such layers.
    """
    for layer in head.layers:
        part = dict(module.named_modules()).get(layer)
        if not isinstance(part, (nn.Linear, nn.Conv2d)):
            raise ModelError(
                f"the network that was built has no layer {layer!r} that could be the last one",
                hint="name what built the network when the run began, with --arch",
            )
        if part.weight.shape[0] != head.classes:
            _exchange(module, layer, head.classes)


def all_but(module: nn.Module, layers: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of layers and of parameters that hold every parameter of `module` but those of `layers`."""

    def visit(part: nn.Module, name: str) -> Iterator[str]:
        if name in layers:
            return
        if not any(layer.startswith(f"{name}." if name else "") for layer in layers):
            if any(True for _ in part.parameters()):
                yield name
            return
        prefix = f"{name}." if name else ""
        yield from (prefix + own for own, _ in part.named_parameters(recurse=False))
        for child, inner in part.named_children():
            yield from visit(inner, prefix + child)

    return tuple(visit(module, ""))


def _built_anew(loaded: LoadedModel, classes: int) -> tuple[nn.Module, Origin, tuple[str, ...]]:
    origin = replace(loaded.origin, arguments={**loaded.origin.arguments, "num_classes": classes})
    module = timm_models.rebuild(origin)
    heads: Any = module.get_classifier()  # type: ignore[operator]
    heads = heads if isinstance(heads, (tuple, list)) else (heads,)
    layers = tuple(name for name, part in module.named_modules() if any(part is head for head in heads))
    if not layers or not any(True for head in heads for _ in head.parameters()):
        raise ModelError(f"timm says of no layer of {origin.reference} that it is the last one", hint=_BUILD_IT)
    inside = tuple(f"{layer}." for layer in layers)
    old = loaded.module.state_dict()
    wanted = module.state_dict()
    kept = [key for key in wanted if not key.startswith(inside)]
    if any(key not in old or old[key].shape != wanted[key].shape for key in kept):
        raise ModelError(
            f"more than the last layer of {origin.reference} depends on the number of classes", hint=_BUILD_IT
        )
    load_into(module, {**wanted, **{key: old[key] for key in kept}})
    return module, origin, layers


def _layer(loaded: LoadedModel, classes: int, in_channels: int, image_size: tuple[int, int]) -> str:
    """Return the name of the layer that computes the scores."""
    classifier = Classifier(
        loaded.module,
        normalisation=plain(in_channels),
        classes=tuple(map(str, range(classes))),
        input_size=(in_channels, *image_size),
        origin=loaded.origin,
    )
    layer = head_layer(classifier)
    part = loaded.module.get_submodule(layer) if layer else None
    if layer is None or not (isinstance(part, nn.Linear) or (isinstance(part, nn.Conv2d) and part.groups == 1)):
        found = f"{layer!r}, a {type(part).__name__}" if layer else "none in it"
        raise ModelError(
            f"the last layer cannot be replaced: a linear one or a convolution of {classes} outputs was looked for, "
            f"and {found} was found",
            hint=_BUILD_IT,
        )
    return layer


def _exchange(module: nn.Module, layer: str, classes: int) -> None:
    """Put a new layer of `classes` outputs in the place of a linear or convolutional one, with its other sizes."""
    old = module.get_submodule(layer)
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, classes, bias=old.bias is not None)
    else:
        assert isinstance(old, nn.Conv2d)
        new = nn.Conv2d(
            old.in_channels,
            classes,
            old.kernel_size,  # type: ignore[arg-type]
            stride=old.stride,  # type: ignore[arg-type]
            padding=old.padding,  # type: ignore[arg-type]
            dilation=old.dilation,  # type: ignore[arg-type]
            bias=old.bias is not None,
        )
    new.to(next(old.parameters()).device).train(old.training)
    owner, _, name = layer.rpartition(".")
    setattr(module.get_submodule(owner) if owner else module, name, new)
