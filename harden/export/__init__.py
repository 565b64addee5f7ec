"""Exporting: safetensors and ONNX files, and the proof that they agree with the model."""

from __future__ import annotations

EXPORTERS: dict[str, str] = {"safetensors": "model.safetensors", "onnx": "model.onnx"}
"""Formats by name, and the file that each makes."""
