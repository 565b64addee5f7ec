"""The whole classifier, normalisation included, as one ONNX file with a dynamic batch."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harden.errors import ExportError
from harden.files import write_with
from harden.models.classifier import Classifier

OPSET = 20
INPUT, OUTPUT, BATCH = "images", "scores", "batch"


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
    copied = copy.deepcopy(classifier).cpu().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    example = torch.full((2, *classifier.input_size), 0.5)
    try:
        with _quiet():
            program = torch.onnx.export(
                copied,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={"images": {0: torch.export.Dim(BATCH)}},
                verbose=False,
            )
    except Exception as error:
        raise ExportError(
            f"the model cannot be exported to ONNX: {type(error).__name__}: {_first_line(error)}",
            hint="export to safetensors only, or replace the operation that ONNX lacks",
        ) from error
    if program is None:
        raise ExportError("the ONNX exporter returned nothing")
    proto = program.model_proto
    written = max(entry.version for entry in proto.opset_import if entry.domain == "")
    if written != opset:
        raise ExportError(f"asked for ONNX opset {opset}, got {written}", hint=f"use --opset {written}")
    entry = proto.metadata_props.add()
    entry.key, entry.value = "harden", json.dumps(metadata, sort_keys=True)
    if proto.ByteSize() >= 2**31:
        raise ExportError("the model is larger than one ONNX file can be (2 GB)", hint="export to safetensors")
    write_with(path, lambda temporary: temporary.write_bytes(proto.SerializeToString()))
    return int(written)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep the exporter's progress, warnings and log lines from the user; errors still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
