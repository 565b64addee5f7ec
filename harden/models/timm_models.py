"""Networks of timm: `timm:NAME` with random weights, `timm:NAME@TAG` with the pretrained weights `NAME.TAG`."""

from __future__ import annotations

from typing import Any

from torch import nn

from harden.errors import ModelError
from harden.models.loaded import LoadedModel, one_line
from harden.models.origin import Origin, require_sizes
from harden.models.trial import output_classes, refusal_of
from harden.registry import did_you_mean
from harden.vision import import_timm


def build(reference: str, *, classes: int, in_channels: int, image_size: tuple[int, int]) -> LoadedModel:
    """Return the timm network `NAME` or `NAME@TAG` for images (N, in_channels, *image_size) and `classes` classes.

    Raises:
        ModelError: unknown name or tag, a size that the network cannot take, or weights that cannot be downloaded.
    """
    timm = import_timm()
    name, _, tag = reference.partition("@")
    _check_name(timm, name, tag)
    arguments: dict[str, Any] = {"num_classes": classes, "in_chans": in_channels}
    module = _construct(timm, reference, arguments)
    if isinstance(refusal_of(module, in_channels, image_size), Exception):
        # Networks with position embeddings are made for one size and have to be told.
        try:
            sized = timm.create_model(reference.replace("@", "."), img_size=image_size, **arguments)
        except Exception:  # no such argument, or an impossible size: the first network's refusal tells more
            sized = module
        else:
            arguments["img_size"] = list(image_size)
        output_classes(sized, in_channels, image_size)
        module = sized
    origin = Origin("timm", reference, arguments)
    if not tag:
        return LoadedModel(module, origin, has_weights=False, notes=(f"timm:{name} starts from random weights",))
    module, pretrained_classes = _with_weights(timm, reference, arguments)
    origin = Origin("timm", reference, arguments, weights=f"timm:{reference}")
    if pretrained_classes == classes:
        return LoadedModel(module, origin, has_weights=True, notes=(f"downloaded the weights {name}.{tag}",))
    note = (
        f"downloaded the weights {name}.{tag}; they know {pretrained_classes} classes, so the last layer is new and "
        f"untrained ({classes} classes)"
    )
    return LoadedModel(module, origin, has_weights=False, notes=(note,))


def rebuild(origin: Origin) -> nn.Module:
    """Return the network of `origin` again, with random weights.

    Raises:
        ModelError: this release of timm does not know the network.
        UnsafeInputError: the origin has arguments that `build` never gives.
    """
    require_sizes(origin, numbers=("num_classes", "in_chans"), pairs=("img_size",))
    timm = import_timm()
    name, _, tag = origin.reference.partition("@")
    _check_name(timm, name, tag)
    return _construct(timm, origin.reference, origin.arguments)


def _check_name(timm: Any, name: str, tag: str) -> None:
    known = timm.list_models()
    if name not in known:
        # `resnet18.a1_in1k` is how timm itself writes what is `resnet18@a1_in1k` here.
        bare, dot, dotted = name.partition(".")
        meant = f"; did you mean 'timm:{bare}@{dotted}'?" if dot and bare in known else did_you_mean(name, known)
        raise ModelError(
            f"timm {timm.__version__} has no model {name!r}{meant}",
            hint="list the names with: python -c 'from harden.vision import import_timm; "
            "print(*import_timm().list_models())'",
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        raise ModelError(
            f"timm {timm.__version__} has no weights {tag!r} for {name}{did_you_mean(tag, tags)}",
            hint=f"known: {', '.join(f'timm:{name}@{known_tag}' for known_tag in tags)}"
            if tags
            else f"timm has no pretrained weights for it: use timm:{name}, which starts from random weights",
        )


def _construct(timm: Any, reference: str, arguments: dict[str, Any]) -> nn.Module:
    keywords = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    try:
        module: nn.Module = timm.create_model(reference.replace("@", "."), **keywords)
    except Exception as error:
        raise ModelError(
            f"timm cannot build {reference!r} with {arguments}: {one_line(error)}",
            hint="choose another timm model; not every one takes other channels or classes",
        ) from error
    return module


def _with_weights(timm: Any, reference: str, arguments: dict[str, Any]) -> tuple[nn.Module, int]:
    full = reference.replace("@", ".")
    keywords = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    try:
        module: nn.Module = timm.create_model(full, pretrained=True, **keywords)
    except Exception as error:  # the hub's client raises a dozen unrelated types
        raise ModelError(
            f"the pretrained weights {full} cannot be loaded: {one_line(error)}",
            hint=f"check the connection to huggingface.co, or download the file elsewhere and pass it: "
            f"FILE --arch timm:{reference.partition('@')[0]}",
        ) from error
    return module, int(timm.get_pretrained_cfg(full).num_classes)
