"""What the shell offers after `--split`: the layers of the model, where they are cheap to know.

The names of a run folder's layers are read from the head of its weights. A network of timm or torchvision is built
once, without memory for its weights, in the seconds that the import takes; its layers are then kept in the cache. No
other model is looked into: a key press neither loads a file nor runs code.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import typer

LIBRARIES = ("timm", "torchvision")
LONGEST_HEAD = 2**26
"""Bytes of a head of safetensors that are read."""


def layers(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the layers that begin with what is typed, no deeper than it: `layer1.` leads to `layer1.0`."""
    import contextlib
    import os

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
        try:
            names = _layers_of(_typed(ctx))
        except Exception:  # whatever is wrong with the model is told by the command, not at the prompt
            return []
    depth = incomplete.count(".")
    return [name for name in names if name.startswith(incomplete) and name.count(".") <= depth]


def _typed(ctx: typer.Context) -> str:
    """Return what builds the network: --arch, or MODEL."""
    # An option without a value yet ends the parsing, before the arguments that are no options have their names.
    words = [*filter(None, [ctx.params.get("model")]), *ctx.args]
    arch = ctx.params.get("arch") or ""
    # bash takes the colon for the end of a word, and passes `timm:resnet18` as three.
    if arch in LIBRARIES and ":" in words[:-1]:
        return f"{arch}:{words[words.index(':') + 1]}"
    return str(arch or "".join(words[:3] if words[1:2] == [":"] else words[:1]))


def _layers_of(spec: str) -> Iterable[str]:
    kind, colon, name = spec.partition(":")
    if colon and kind in LIBRARIES:
        return _of_library(kind, name.partition("@")[0])
    run = Path(spec).expanduser()
    weights = next((path for name in ("model", "initial") if (path := run / f"{name}.safetensors").is_file()), None)
    return _of_weights(weights) if weights is not None and (run / "config.json").is_file() else ()


def _of_weights(path: Path) -> Iterable[str]:
    """Return the modules that have parameters, from the head of a safetensors file (an 8-byte length, then JSON)."""
    import json

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        head = json.loads(file.read(length)) if length <= LONGEST_HEAD else {}
    modules: set[str] = set()
    for key in head:
        parts = key.split(".")[:-1] if key != "__metadata__" else []
        modules.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return sorted(modules)  # a head has the order of the types, not of the network


def _of_library(kind: str, name: str) -> Iterable[str]:
    import json
    import re
    from contextlib import suppress
    from importlib import metadata

    from harden.errors import HardenError
    from harden.files import write_whole
    from harden.folders import cache_root

    if not re.fullmatch(r"\w+", name):  # `hf-hub:...` would go to the network, `../x` elsewhere
        return ()
    kept = cache_root() / "layers" / f"{kind}-{metadata.version(kind)}-{name}.json"
    with suppress(OSError, ValueError):
        found = json.loads(kept.read_text(encoding="utf-8"))
        return [str(layer) for layer in found] if isinstance(found, list) else ()
    names = _built(kind, name)
    with suppress(HardenError):
        write_whole(kept, json.dumps(names))
    return names


def _built(kind: str, name: str) -> list[str]:
    import torch

    from harden.vision import import_timm, import_torchvision

    with torch.device("meta"):
        module = (
            import_timm().create_model(name)
            if kind == "timm"
            else import_torchvision().models.get_model(name, weights=None)
        )
    return [layer for layer, _ in module.named_modules() if layer]
