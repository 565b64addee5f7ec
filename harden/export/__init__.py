"""Exporting: safetensors and ONNX files, and the proof that they agree with the model."""

from __future__ import annotations

EXPORTERS: dict[str, str] = {"safetensors": "model.safetensors", "onnx": "model.onnx"}
"""Formats by name, and the file that each makes."""

PRECISIONS: dict[str, str] = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_int8.onnx"}
"""Number formats of an ONNX file by name, and the file that each makes."""
