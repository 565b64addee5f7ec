"""An ONNX file as a `Scorer`, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harden.errors import ExportError


class OnnxScorer:
    """Runs `path` in onnxruntime: images (N, C, H, W) float in [0, 1] to scores (N, K) on the CPU.

    Attributes:
        providers: what the session really runs on, as it says itself.

    Raises:
        ExportError: the file cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        wanted = ["CUDAExecutionProvider"] if torch.cuda.is_available() else []
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=[*wanted, "CPUExecutionProvider"]
            )
        except Exception as error:
            raise ExportError(f"onnxruntime cannot load {path}: {error}") from error
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images: Tensor, /) -> Tensor:
        """Return scores (N, K)."""
        values = np.ascontiguousarray(images.detach().cpu().numpy(), dtype=np.float32)
        return torch.from_numpy(self._session.run(None, {self._input: values})[0])
