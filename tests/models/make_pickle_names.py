"""Makes the list of layers that a pickle may name anew: `python -m tests.models.make_pickle_names`.

It takes some ten minutes. The list has the classes of every module in every network that timm and torchvision build,
and the layers that `timm.layers` offers to networks of one's own.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from pathlib import Path

import torch
from torch import nn
from torch.fx import GraphModule

from harden.models import pickles
from harden.models.pickles.names import LAYERS_FILE
from harden.vision import import_timm
from tests.models.make_architectures import builders, weightless

CLASSES, CHANNELS = 10, 3


def layers() -> set[type]:
    """Return the classes of all modules in the networks of timm and torchvision, and those of `timm.layers`."""
    offered = vars(import_timm().layers).values()
    found = {one for one in offered if isinstance(one, type) and issubclass(one, nn.Module)}
    for _, build in builders():
        for device in weightless():
            with contextlib.suppress(Exception), device:  # constructors raise whatever they like
                found |= {type(module) for module in build(CLASSES, CHANNELS).modules()}
                break
    return {one for one in found if not issubclass(one, GraphModule)}


def main() -> None:
    """Write the list, the layers of torch apart, which `torch.nn.modules` lists itself."""
    listed: dict[str, list[str]] = defaultdict(list)
    for one in sorted(layers(), key=lambda one: (one.__module__, one.__qualname__)):
        if one.__module__.partition(".")[0] != torch.__name__:
            listed[one.__module__].append(one.__qualname__)
    text = json.dumps(listed, indent=1, sort_keys=True)
    Path(pickles.__file__).with_name(LAYERS_FILE).write_text(text + "\n", encoding="utf-8")
    print(f"{sum(map(len, listed.values()))} layers of {len(listed)} modules")


if __name__ == "__main__":
    main()
