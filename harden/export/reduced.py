"""ONNX files of smaller numbers, made from the one of 32-bit floats: 16-bit floats, and 8-bit integers.

Both are made by what comes with onnxruntime, which is also what will run them. Images and scores stay float32, so that
whoever serves the file need not know.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harden.errors import ExportError
from harden.export.quiet import quiet
from harden.export.to_onnx import INPUT, first_line, write_proto

_CALIBRATION_BATCH = 16


def save_fp16(source: Path, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write the model in `source` with 16-bit floats to `path`, whole or not at all.

    Args:
        source: an ONNX file of 32-bit floats.
        path: the file.
        metadata: JSON values, written under one metadata key.

    Raises:
        ExportError: the model cannot be converted.
        RunFolderError: the file cannot be written.
    """
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    try:
        with quiet():
            proto = convert_float_to_float16(onnx.load(source), keep_io_types=True)
            # The casts of input and output come last; onnxruntime does not mind, the format does.
            ONNXModel(proto).topological_sort()
            onnx.checker.check_model(proto)
    except Exception as error:  # the converter raises whatever it meets
        raise _refusal("fp16", error) from error
    write_proto(proto, path, metadata)


def save_int8(source: Path, path: Path, metadata: Mapping[str, Any], images: Tensor) -> None:
    """Write the model in `source` with 8-bit weights and activations to `path`, whole or not at all.

    Static quantisation: each tensor's range is the one that it has over `images`, each channel of a weight has a scale
    of its own, and the graph keeps its operators between pairs of QuantizeLinear and DequantizeLinear (QDQ), which
    every runtime can execute and onnxruntime fuses into integer kernels. Constants are folded and shapes inferred
    first, without which much would stay in floats.

    Args:
        source: an ONNX file of 32-bit floats.
        path: the file.
        metadata: JSON values, written under one metadata key.
        images: (N, C, H, W) float32 in [0, 1], N >= 1, such as the model will meet.

    Raises:
        ExportError: the model cannot be quantised.
        RunFolderError: the file cannot be written.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            prepared, quantised = Path(folder) / "prepared.onnx", Path(folder) / "quantised.onnx"
            quant_pre_process(source, prepared)
            quantize_static(
                prepared,
                quantised,
                _reader(images),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
            )
            proto = onnx.load(quantised)
            onnx.checker.check_model(proto)
    except Exception as error:  # the quantiser raises whatever it meets
        raise _refusal("int8", error) from error
    write_proto(proto, path, metadata)


def _reader(images: Tensor) -> Any:
    """Return the calibration images as onnxruntime asks for them: one dictionary of inputs after the other."""
    from onnxruntime.quantization import CalibrationDataReader

    batches: Iterator[Tensor] = iter(torch.split(images, _CALIBRATION_BATCH))

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            batch = next(batches, None)
            return None if batch is None else {INPUT: batch.numpy()}

    return Reader()


def _refusal(precision: str, error: Exception) -> ExportError:
    return ExportError(
        f"the model cannot be exported with --precision {precision}: {type(error).__name__}: {first_line(error)}",
        hint="export with --precision fp32",
    )
