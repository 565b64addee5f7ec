"""Imports what commands import, once for many of them; `terminal.harden` forks from here."""

import importlib

for name in ("fit", "report", "compare", "export", "verify", "inspect"):
    importlib.import_module(f"harden.workflows.{name}")
for name in ("harden.export.to_onnx", "onnxruntime", "onnxscript"):
    importlib.import_module(name)
