"""ONNX files as programs, run by onnxruntime on the CPU: which input takes the image, which output gives the scores."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harden.errors import ModelError
from harden.models.black_box import Program
from harden.models.loaded import one_line
from harden.models.outputs import scores_of
from harden.models.trial import GRAY, RGB

_FLOATS: dict[str, type[np.floating[Any]]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
}
_TRIAL_SIDE = 32
"""Height and width of the image of a first run, where the graph leaves them open."""


def open_onnx(path: Path, *, classes: int, size: tuple[int, int] | None) -> Program:
    """Return the network in an ONNX file.

    A graph with a batch of one fixed size is asked in portions of that size, the last one padded. Images with the
    channels last are turned round. Of several outputs the first that holds scores is taken, one with `classes` of them
    before others.

    Args:
        path: the file.
        classes: number of classes of the data.
        size: (height, width) of the images at hand, for a graph that leaves it open; None: not known.

    Raises:
        ModelError: onnxruntime cannot load it, or it does not map one batch of gray or RGB images to scores (N, K).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen unrelated types
        raise ModelError(
            f"onnxruntime cannot load {path}: {one_line(error)}",
            hint="export it again, for instance with torch.onnx.export or `harden export --to onnx`",
        ) from error
    graph = _image_input(session, path)
    _require_scores(session, graph, path, classes=classes, size=size)
    written = _written_by_harden(session)
    return Program(
        name=path.name,
        kind="ONNX",
        score=lambda images: _run(session, graph, images, classes),
        identity=hashlib.sha256(path.read_bytes()).hexdigest(),
        channels=graph.channels,
        size=graph.size or (written.size if written else None),
        unit_range=written is not None,
        classes=written.classes if written else None,
        any_size=graph.size is None,
        wanted=classes,
    )


@dataclass(frozen=True)
class _Input:
    """The input for images; None for what the graph leaves open."""

    name: str
    dtype: type[np.floating[Any]]
    batch: int | None
    channels: int | None
    size: tuple[int, int] | None
    channels_last: bool

    def array(self, images: Tensor) -> NDArray[Any]:
        """Return images (N, C, H, W) as this input takes them."""
        ordered = images.permute(0, 2, 3, 1) if self.channels_last else images
        return np.ascontiguousarray(ordered.numpy(), dtype=self.dtype)


def _image_input(session: Any, path: Path) -> _Input:
    inputs = session.get_inputs()
    described = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
    if len(inputs) != 1:
        raise ModelError(
            f"{path} takes {len(inputs)} inputs ({described}), an image classifier takes one",
            hint="export the classifier alone, or wrap the file in a function that returns scores (--black-box)",
        )
    (taken,) = inputs
    if taken.type not in _FLOATS or len(taken.shape) != 4:
        raise ModelError(
            f"{path} takes {described}; a batch of images as float (N, C, H, W) was expected",
            hint="wrap it in a function that takes such images and returns scores (--black-box)",
        )
    batch, *rest = (dim if isinstance(dim, int) and dim > 0 else None for dim in taken.shape)
    last = rest[2] in (GRAY, RGB) and rest[0] not in (GRAY, RGB)
    channels, height, width = (rest[2], rest[0], rest[1]) if last else rest
    if channels not in (GRAY, RGB, None):
        raise ModelError(f"{path} reads images of {channels} channels; gray (1) or RGB (3) was expected")
    size = (height, width) if height is not None and width is not None else None
    return _Input(taken.name, _FLOATS[taken.type], batch, channels, size, last)


def _require_scores(session: Any, graph: _Input, path: Path, *, classes: int, size: tuple[int, int] | None) -> None:
    """Run the graph once: shapes may be left open.

    Raises:
        ModelError: it cannot take such images, or none of its outputs holds scores.
    """
    height, width = graph.size or size or (_TRIAL_SIDE, _TRIAL_SIDE)
    images = torch.zeros(graph.batch or 2, graph.channels or RGB, height, width)
    try:
        _run(session, graph, images, classes)
    except ModelError as error:
        raise ModelError(
            f"{path}: {error.message}",
            hint="export a classifier, or wrap the file in a function that returns scores (--black-box)",
        ) from error
    except Exception as error:
        raise ModelError(
            f"{path} cannot take images of {images.shape[1]}x{height}x{width}: {one_line(error)}",
            hint="give the size that it was made for (--image-size)",
        ) from error


def _run(session: Any, graph: _Input, images: Tensor, classes: int) -> Tensor:
    """Return the scores among the outputs of the graph; see `scores_of`."""
    names = [given.name for given in session.get_outputs()]
    answers = []
    for portion in torch.split(images, graph.batch or len(images)):
        missing = (graph.batch or len(portion)) - len(portion)
        padded = torch.cat([portion, portion[-1:].expand(missing, -1, -1, -1)]) if missing else portion
        outputs = session.run(names, {graph.name: graph.array(padded)})
        tensors = {name: torch.from_numpy(a) for name, a in zip(names, outputs, strict=True) if _is_numeric(a)}
        answers.append(scores_of(tensors, images=len(padded), classes=classes).float()[: len(portion)])
    return torch.cat(answers)


def _is_numeric(answer: object) -> bool:
    return isinstance(answer, np.ndarray) and (
        np.issubdtype(answer.dtype, np.floating) or np.issubdtype(answer.dtype, np.signedinteger)
    )


@dataclass(frozen=True)
class _Written:
    """What `harden export` says in a file, whose normalisation is inside."""

    classes: tuple[str, ...]
    size: tuple[int, int]


def _written_by_harden(session: Any) -> _Written | None:
    """Return what the metadata of a file of `harden export` say; None for any other."""
    text = session.get_modelmeta().custom_metadata_map.get("harden")
    if text is None:
        return None
    try:
        described = json.loads(text)
        _, height, width = described["input"]["size"]
        written = _Written(tuple(map(str, described["classes"])), (int(height), int(width)))
        return written if described["input"]["range"] == [0, 1] else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
