"""Importing the libraries that the program stands on, in a process that may die of it.

An install can be broken so that an import raises, ends Python with a signal, or never returns. So `harden doctor` runs
`main` in a process of its own, which says what it found of each library before it goes on to the next.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

IDENTITY = (
    b'\x08\n:9\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x03oneZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x14"
)
"""An ONNX model y = x of one float, of the versions that `harden export` writes (IR 10, opset 20).

It is written down, so that a broken onnx is no fault of onnxruntime's.
"""


def main(names: Sequence[str]) -> None:
    """Write a line of JSON to standard output, {"name": ..., "error": null, ...}, for each of the `PROBES` named."""
    # Libraries may print while they are imported: what they write to standard output goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    for name in names:
        try:
            answer = {"name": name, "error": None, **PROBES[name]()}
        except (Exception, SystemExit) as error:
            lines = str(error).strip().splitlines()
            answer = {"name": name, "error": f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _torch() -> dict[str, Any]:
    import torch

    answer: dict[str, Any] = {
        "version": str(torch.__version__),
        "built_for_cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "devices": [],
        "cuda_refusal": None,
    }
    if torch.cuda.is_available():
        answer["devices"] = [_cuda_device(torch, index) for index in range(torch.cuda.device_count())]
    elif torch.version.cuda is not None:
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except Exception as error:  # the driver's own errors have no class in common
            answer["cuda_refusal"] = str(error).strip().splitlines()[0]
    return answer


def _cuda_device(torch: Any, index: int) -> dict[str, Any]:
    """Return what a GPU is, and why it cannot compute, if it cannot: a build of torch may lack its architecture."""
    device: dict[str, Any] = {"name": torch.cuda.get_device_name(index), "refusal": None}
    try:
        device["free_bytes"], device["total_bytes"] = torch.cuda.mem_get_info(index)
        if float((torch.ones(2, device=f"cuda:{index}") * 2).sum()) != 4:
            device["refusal"] = "it computes 1 * 2 + 1 * 2 wrongly"
    except Exception as error:
        device["refusal"] = str(error).strip().splitlines()[0]
    return device


def _torchvision() -> dict[str, Any]:
    from harden.vision import import_torchvision, was_repaired

    version = str(import_torchvision().__version__)
    return {"version": version, "repaired": was_repaired()}


def _timm() -> dict[str, Any]:
    from harden.vision import import_timm

    return {"version": str(import_timm().__version__)}


def _onnx() -> dict[str, Any]:
    onnx = importlib.import_module("onnx")
    return {"version": str(onnx.__version__)}


def _onnxruntime() -> dict[str, Any]:
    """Run `IDENTITY` on the providers that the program would ask for."""
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    torch = sys.modules.get("torch")
    wanted = ["CUDAExecutionProvider"] if torch is not None and torch.cuda.is_available() else []
    session = onnxruntime.InferenceSession(IDENTITY, options, providers=[*wanted, "CPUExecutionProvider"])
    numpy = importlib.import_module("numpy")
    session.run(None, {"x": numpy.ones(1, dtype=numpy.float32)})
    return {
        "version": str(onnxruntime.__version__),
        "available": list(onnxruntime.get_available_providers()),
        "used": list(session.get_providers()),
    }


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": _torch,
    "torchvision": _torchvision,
    "timm": _timm,
    "onnx": _onnx,
    "onnxruntime": _onnxruntime,
}
"""By name of the library; each imports it and returns what is worth knowing of it (JSON values)."""
