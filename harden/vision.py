"""The only module that imports torchvision and timm, and it knows how to repair torchvision's import.

The torchvision wheel of PyPI links CUDA; beside a CPU build of torch its C++ library does not load, and
`import torchvision` then fails on operators that exist only there (`operator torchvision::nms does not exist`).
Classification needs none of these operators, so it is enough to declare them.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch

_DECLARED: list[torch.library.Library] = []
"""Kept alive: a library's declarations vanish with the object."""


def import_torchvision() -> Any:
    """Return the torchvision package, with the operators that its C++ library lacks declared where necessary.

    Raises:
        RuntimeError: torchvision fails for any other reason; nothing else is repaired or hidden.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    if not _DECLARED:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        _DECLARED.append(library)
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    return importlib.import_module("torchvision")


def was_repaired() -> bool:
    """Return whether torchvision was imported, and only with its operators declared."""
    return bool(_DECLARED)


def import_timm() -> Any:
    """Return the timm package; torchvision, which timm imports, is repaired first."""
    import_torchvision()
    return importlib.import_module("timm")
