"""Networks of timm: `timm:NAME` with random weights, `timm:NAME@TAG` with the pretrained weights `NAME.TAG`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from harden.errors import MissingModelError, ModelError
from harden.models.loaded import LoadedModel, Stated, one_line
from harden.models.origin import Origin, require_sizes
from harden.models.trial import output_classes, refusal_of
from harden.registry import did_you_mean
from harden.vision import import_timm

_CLASSES = 1000
"""Of a network where nobody says."""


def build(
    reference: str,
    *,
    classes: int | None,
    in_channels: int,
    image_size: tuple[int, int],
    chosen: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Return the timm network `NAME` or `NAME@TAG` for images (N, in_channels, *image_size) and `classes` classes.

    Args:
        reference: the name.
        classes, in_channels, image_size: what it is built for. No classes: those of the weights, or else 1,000.
        chosen: further arguments of its constructor, of those that `require_arguments` accepts.

    Raises:
        ModelError: unknown name or tag, a size that the network cannot take, or weights that cannot be downloaded.
    """
    timm = import_timm()
    name, _, tag = reference.partition("@")
    _check_name(timm, name, tag)
    if classes is None:
        classes = int(timm.get_pretrained_cfg(reference.replace("@", ".")).num_classes) if tag else _CLASSES
    arguments: dict[str, Any] = {**(chosen or {}), "num_classes": classes, "in_chans": in_channels}
    module = _construct(timm, reference, arguments)
    if isinstance(refusal_of(module, in_channels, image_size), Exception):
        # Networks with position embeddings are made for one size and have to be told.
        try:
            sized = timm.create_model(reference.replace("@", "."), **{**arguments, "img_size": image_size})
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
    config = timm.get_pretrained_cfg(reference.replace("@", "."))
    stated = Stated(mean=tuple(config.mean), std=tuple(config.std), where="timm's")
    if pretrained_classes == classes:
        note = f"downloaded the weights {name}.{tag}"
        return LoadedModel(module, origin, has_weights=True, notes=(note,), stated=stated)
    note = (
        f"downloaded the weights {name}.{tag}; they know {pretrained_classes} classes, so the last layer is new and "
        f"untrained ({classes} classes)"
    )
    return LoadedModel(module, origin, has_weights=False, notes=(note,), stated=stated)


def rebuild(origin: Origin) -> nn.Module:
    """Return the network of `origin` again, with random weights.

    Raises:
        ModelError: this release of timm does not know the network.
        UnsafeInputError: the origin has arguments that `build` never gives.
    """
    require_arguments(origin)
    timm = import_timm()
    name, _, tag = origin.reference.partition("@")
    _check_name(timm, name, tag)
    return _construct(timm, origin.reference, origin.arguments)


def require_arguments(origin: Origin, *, field: str = "origin.arguments") -> None:
    """Return if the arguments of `origin` can do nothing but choose the form of a network.

    Args:
        origin: of kind "timm".
        field: where config.json has the arguments.

    Raises:
        UnsafeInputError: any other argument, or one that is not of its type.
    """
    require_sizes(
        origin,
        numbers=("num_classes", "in_chans", "img_size", "patch_size", "window_size", "reg_tokens", "output_stride"),
        pairs=("img_size", "patch_size", "window_size"),
        shares=("drop_rate", "drop_path_rate", "proj_drop_rate", "attn_drop_rate", "patch_drop_rate", "init_values"),
        switches=("class_token", "dynamic_img_size", "dynamic_img_pad", "no_embed_class", "strict_img_size"),
        words=("global_pool", "act_layer", "norm_layer"),
        field=field,
    )


def made_for(name: str) -> tuple[int, int] | None:
    """Return (height, width) of the images that the timm network `name` is made for; None where timm does not say."""
    config = import_timm().get_pretrained_cfg(name, allow_unregistered=True)
    size = getattr(config, "input_size", None)
    return (int(size[1]), int(size[2])) if size else None


def _check_name(timm: Any, name: str, tag: str) -> None:
    known = timm.list_models()
    if name not in known:
        # `resnet18.a1_in1k` is how timm itself writes what is `resnet18@a1_in1k` here.
        bare, dot, dotted = name.partition(".")
        meant = f"; did you mean 'timm:{bare}@{dotted}'?" if dot and bare in known else did_you_mean(name, known)
        raise MissingModelError(
            f"timm {timm.__version__} has no model {name!r}{meant}",
            hint="list the names with: python -c 'from harden.vision import import_timm; "
            "print(*import_timm().list_models())'",
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        raise MissingModelError(
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
