"""Networks of torchvision: `torchvision:NAME`, with random weights."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from harden.errors import MissingModelError, ModelError
from harden.models.loaded import LoadedModel, one_line
from harden.models.origin import Origin, require_sizes
from harden.models.trial import output_classes, refusal_of
from harden.registry import did_you_mean
from harden.vision import import_torchvision


def build(reference: str, *, classes: int, image_size: tuple[int, int]) -> LoadedModel:
    """Return the torchvision classifier `reference` for RGB images (N, 3, *image_size) and `classes` classes.

    Raises:
        ModelError: unknown name, or a size that the network cannot take.
    """
    import_torchvision()
    _check_name(reference)
    arguments: dict[str, Any] = {"num_classes": classes}
    module = _construct(reference, arguments)
    if isinstance(refusal_of(module, 3, image_size), Exception):
        sized = arguments | {"image_size": image_size[0]}
        if image_size[0] == image_size[1] and hasattr(module, "image_size"):
            module, arguments = _construct(reference, sized), sized
        output_classes(module, 3, image_size)
    note = f"torchvision:{reference} starts from random weights"
    return LoadedModel(module, Origin("torchvision", reference, arguments), has_weights=False, notes=(note,))


def rebuild(origin: Origin) -> nn.Module:
    """Return the network of `origin` again, with random weights.

    Raises:
        ModelError: this release of torchvision does not know the network.
        UnsafeInputError: the origin has arguments that `build` never gives.
    """
    require_sizes(origin, numbers=("num_classes", "image_size"))
    import_torchvision()
    _check_name(origin.reference)
    return _construct(origin.reference, origin.arguments)


def _check_name(name: str) -> None:
    models = import_torchvision().models
    known = models.list_models(module=models)
    if name in known:
        return
    bare, at, _ = name.partition("@")
    if at and bare in known:
        raise MissingModelError(
            f"torchvision's pretrained weights cannot be named here ({name!r})",
            hint=f"use timm:NAME@TAG, or a downloaded weights file: FILE --arch torchvision:{bare}",
        )
    raise MissingModelError(
        f"torchvision has no classifier {name!r}{did_you_mean(name, known)}",
        hint=f"known: {', '.join(known)}",
    )


def _construct(name: str, arguments: dict[str, Any]) -> nn.Module:
    models = import_torchvision().models
    builder = models.get_model_builder(name)
    keywords = dict(arguments)
    if name in ("googlenet", "inception_v3"):
        # Left out, it means the same today and warns that this will change.
        keywords["init_weights"] = True
    try:
        module: nn.Module = builder(weights=None, **keywords)
    except Exception as error:
        raise ModelError(
            f"torchvision cannot build {name!r} with {arguments}: {one_line(error)}",
            hint=f"its signature is {name}{inspect.signature(builder)}",
        ) from error
    return module
