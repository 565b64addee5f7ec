"""The whole classifier, normalisation included, as one ONNX file with a dynamic batch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harden.errors import ExportError, ModelError, UserCodeError
from harden.export.quiet import quiet
from harden.files import write_with
from harden.models.classifier import Classifier
from harden.models.user_code import copied, user_code

OPSET = 20
OLDEST_OPSET = 18
INPUT, OUTPUT, BATCH = "images", "scores", "batch"
METADATA = "harden"
"""The metadata key under which everything stands that another team needs to know."""


def save_onnx(classifier: Classifier, path: Path, metadata: Mapping[str, Any], *, opset: int = OPSET) -> int:
    """Write `classifier` to `path` whole or not at all, and return the opset that was written.

    The file takes `images` (batch, C, H, W) float32 in [0, 1] and gives `scores` (batch, K).

    Args:
        classifier: exported in eval mode, from a copy on the CPU.
        path: the file.
        metadata: JSON values, written under one metadata key.
        opset: 18 or later; the exporter cannot go lower.

    Raises:
        ExportError: the model cannot be expressed, the opset is not to be had, or the file would exceed 2 GB.
        RunFolderError: the file cannot be written.
    """
    whole = copied(classifier).cpu().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    _unfuse_attention(whole)
    example = torch.full((2, *classifier.input_size), 0.5)
    try:
        with quiet(), user_code("the export"):
            program = torch.onnx.export(
                whole,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={"images": {0: torch.export.Dim(BATCH)}},
                verbose=False,
            )
    except ModelError as error:
        reason = error.reason if isinstance(error, UserCodeError) else error.message
        raise ExportError(
            f"the model cannot be exported to ONNX: {reason}",
            hint="export to safetensors only, or replace the operation that ONNX lacks",
        ) from error
    if program is None:
        raise ExportError("the ONNX exporter returned nothing")
    proto = program.model_proto
    written = max(entry.version for entry in proto.opset_import if entry.domain == "")
    if written != opset:
        raise ExportError(f"asked for ONNX opset {opset}, got {written}", hint=f"use --opset {written}")
    write_proto(proto, path, metadata)
    return int(written)


def write_proto(proto: Any, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write an ONNX model to `path` whole or not at all, with `metadata` as its only entry besides the libraries' own.

    Args:
        proto: an `onnx.ModelProto`.
        path: the file.
        metadata: JSON values, written under one metadata key.

    Raises:
        ExportError: the file would exceed 2 GB.
        RunFolderError: the file cannot be written.
    """
    others = [(entry.key, entry.value) for entry in proto.metadata_props if entry.key != METADATA]
    del proto.metadata_props[:]
    for key, value in (*others, (METADATA, json.dumps(metadata, sort_keys=True))):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    if proto.ByteSize() >= 2**31:
        raise ExportError("the model is larger than one ONNX file can be (2 GB)", hint="export to safetensors")
    write_with(path, lambda temporary: temporary.write_bytes(proto.SerializeToString()))


def first_line(error: Exception) -> str:
    """Return what an error says first, cut to 300 characters."""
    return (str(error).strip().splitlines() or [""])[0][:300]


def _unfuse_attention(module: nn.Module) -> None:
    """Let timm's attention layers compute in separate steps what torch has one operator for.

    Where the number of images is open, the exporter cannot take that operator apart in some networks (BEiT): the result
    has other strides than the layer's own `reshape` was traced with.
    """
    for part in module.modules():
        if isinstance(getattr(part, "fused_attn", None), bool):
            part.fused_attn = False  # type: ignore[assignment]
