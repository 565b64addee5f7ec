"""The part of config.json that timm reads: with it, `timm.create_model("local-dir:FOLDER", pretrained=True)` works."""

from __future__ import annotations

from typing import Any

import torch

from harden.errors import HardenError
from harden.models.classifier import Classifier
from harden.models.timm_models import require_arguments
from harden.vision import import_timm


def timm_keys(classifier: Classifier) -> dict[str, Any] | None:
    """Return what config.json must say for timm to build the network that the weights belong to.

    Args:
        classifier: the model; its module's state dict is what is saved beside the config.

    Returns:
        JSON values; None where timm has no such network, or cannot say what it wants (BGR).
    """
    origin = classifier.origin
    if origin.kind != "timm" or classifier.normalisation.flip_channels:
        return None
    name, _, tag = origin.reference.partition("@")
    channels, height, width = classifier.input_size
    count = len(classifier.classes)
    arguments = {key: value for key, value in origin.arguments.items() if key not in ("num_classes", "in_chans")}
    if channels != 3:
        arguments["in_chans"] = channels
    if not _is_that_network(classifier, name, {**arguments, "num_classes": count}):
        return None
    return {
        "architecture": name,
        "num_classes": count,
        "model_args": arguments,
        "label_names": list(classifier.classes),
        "pretrained_cfg": {
            **({"tag": tag} if tag else {}),
            "custom_load": False,
            "input_size": [channels, height, width],
            "fixed_input_size": "img_size" in arguments,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(classifier.normalisation.mean),
            "std": list(classifier.normalisation.std),
            "num_classes": count,
            "label_names": list(classifier.classes),
        },
    }


def _is_that_network(classifier: Classifier, name: str, arguments: dict[str, Any]) -> bool:
    """Return whether timm builds a network with the same names and shapes; a new last layer may have others."""
    try:
        require_arguments(classifier.origin)
        keywords = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
        with torch.device("meta"):
            built = import_timm().create_model(name, **keywords)
    except HardenError:
        raise
    except Exception:  # timm raises whatever it meets; then it does not have it
        return False
    ours, theirs = classifier.module.state_dict(), built.state_dict()
    return ours.keys() == theirs.keys() and all(ours[key].shape == theirs[key].shape for key in ours)
