"""Where a file of smaller numbers goes wrong: its intermediate results beside those of the file it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from harden.export.to_onnx import INPUT

_LAYERS = ("Conv", "Gemm", "MatMul")
_IMAGES = 16


@dataclass(frozen=True)
class Blame:
    """The layer after which two files differ most.

    Attributes:
        layer: the user's own name of it, without `.weight`.
        error: root mean square of the difference over that of the values themselves.
        before: the largest such error among the layers before it.
    """

    layer: str
    error: float
    before: float

    def sentence(self) -> str:
        """Return it in words."""
        before = f", at most {self.before:.0%} before it" if self.before else ""
        return f"the error grows most in {self.layer} ({self.error:.0%} of its output{before})"


def worst_layer(original: Path, reduced: Path, images: Tensor) -> Blame | None:
    """Return the layer with weights in which the error of `reduced` grows most.

    Args:
        original: the ONNX file of 32-bit floats.
        reduced: the one made from it.
        images: (N, C, H, W) float in [0, 1]; a few are enough.

    Returns:
        The layer; None where the two files were rewritten so much that they have no result in common.
    """
    import onnx

    first, second = onnx.load(original), onnx.load(reduced)
    made = {name for node in second.graph.node for name in node.output}
    stored = {tensor.name for tensor in first.graph.initializer}
    results: dict[str, str] = {}
    layer = None
    for node in first.graph.node:
        layer = _name(node, stored) or layer
        if layer is not None and node.output[0] in made:
            results[layer] = node.output[0]  # the last one that both have before the next layer begins
    if not results:
        return None
    expected, given = (_outputs(proto, list(results.values()), images[:_IMAGES]) for proto in (first, second))
    found: Blame | None = None
    before = 0.0
    for name, error in zip(results, map(_relative, expected, given), strict=True):
        if found is None or error - before > found.error - found.before:
            found = Blame(name, error, before)
        before = max(before, error)
    return found


def _name(node: Any, stored: set[str]) -> str | None:
    """Return what the user calls the layer, whose weights keep their names; None for a node without weights."""
    weights: list[str] = [name for name in node.input if name in stored and name.endswith(".weight")]
    if node.op_type not in _LAYERS or not weights:
        return None
    return weights[0].removesuffix(".weight").removeprefix("module.")


def _outputs(proto: Any, names: list[str], images: Tensor) -> list[NDArray[np.float32]]:
    import onnx
    import onnxruntime

    there = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(answer, dtype=np.float32) for answer in session.run(names, {INPUT: images.numpy()})]


def _relative(expected: NDArray[np.float32], given: NDArray[np.float32]) -> float:
    scale = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    difference = float(np.sqrt(np.mean(np.square(given - expected, dtype=np.float64))))
    return difference / scale if scale > 0 else difference
