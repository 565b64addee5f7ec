"""Files that take images of any size: what fits an image to the network is inside the graph.

The same as is done to pictures when they are read (`harden.data.pictures.fit`): the middle that has the network's
aspect ratio is cut out and resized with bicubic interpolation, antialiased. Two things are Pillow's own: it rounds to
8 bits, so that any pixel may differ by a level of 255; and where something is cut off its cut may begin inside a pixel
and its filter looks beyond, so that pixels at the edges differ more.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from harden.data.dataset import Format
from harden.data.pictures import fit
from harden.errors import ExportError
from harden.export.to_onnx import BATCH, INPUT, write_proto

OTHER_SIZE = "of another size"
"""What the wide ones of `of_other_sizes` are called where it is counted how many of them a file gets right."""
HOW = "by the ONNX files: middle cut to the aspect ratio, bicubic, antialiased"

_GRAPH = """
<ir_version: {ir}, opset_import: ["": {opset}]>
fit (float[{batch}, {channels}, height, width] {name}) => (float[{batch}, {channels}, {h}, {w}] fitted)
<int64[2] size = {{{h}, {w}}}, int64[2] turned = {{{w}, {h}}}, int64[2] one = {{1, 1}}, int64[2] two = {{2, 2}},
 int64[2] axes = {{2, 3}}, int64[1] first = {{0}}, float black = {{0.0}}, float white = {{1.0}}>
{{
    sides = Shape <start = 2> ({name})
    products = Mul (sides, turned)
    least = ReduceMin <keepdims = 1> (products, first)
    kept_exactly = Div (least, turned)
    kept = Max (kept_exactly, one)
    spare = Sub (sides, kept)
    begin = Div (spare, two)
    end = Add (begin, kept)
    middle = Slice ({name}, begin, end, axes)
    resized = Resize <mode = "cubic", cubic_coeff_a = -0.5, antialias = 1, exclude_outside = 1, axes = [2, 3]>
        (middle, , , size)
    fitted = Clip (resized, black, white)
}}
"""
"""Sides (H, W) times (w, h): the smaller product says which side is kept whole."""


def take_any_size(source: Path, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write the model in `source`, which takes images of one size, to `path` so that it takes images of any.

    All images of a batch have the same size. Those of the network's own are not changed at all.

    Args:
        source: a file of `save_onnx`, or one made from it.
        path: the file, written whole or not at all.
        metadata: JSON values, written under one metadata key.

    Raises:
        ExportError: the two graphs cannot be joined.
        RunFolderError: the file cannot be written.
    """
    import onnx

    model = onnx.load(source)
    channels, height, width = (side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim[1:])
    opset = max(entry.version for entry in model.opset_import if entry.domain == "")
    names = {"ir": model.ir_version, "opset": opset, "batch": BATCH, "name": INPUT}
    try:
        before = onnx.parser.parse_model(_GRAPH.format(channels=channels, h=height, w=width, **names))
        for entry in model.opset_import:
            if entry.domain:
                before.opset_import.append(entry)
        joined = onnx.compose.merge_models(
            before,
            onnx.compose.add_prefix(model, "network/", rename_outputs=False),
            io_map=[("fitted", f"network/{INPUT}")],
        )
        onnx.checker.check_model(joined)
    except Exception as error:
        raise ExportError(f"the graph cannot be made to take images of any size: {error}") from error
    write_proto(joined, path, metadata)


def of_other_sizes(images: Tensor) -> dict[str, Tensor]:
    """Return images of other sizes, in [0, 1] on 8-bit levels, made of images (N, C, H, W): wide, tall, smaller."""
    height, width = images.shape[2:]
    sizes = {
        "wide": (2 * height + 3, 3 * width),
        "tall": (2 * height + 5, width + 1),
        "smaller": (max(1, 2 * height // 3), max(1, width // 2)),
    }
    made = {
        name: F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)
        for name, size in sizes.items()
    }
    return {name: images.clamp(0, 1).mul(255).round() / 255 for name, images in made.items()}


def fit_in_torch(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return images (N, C, *size) of images (N, C, H, W) in [0, 1]: what the graph is to do, in torch."""
    height, width = images.shape[2:]
    least = min(height * size[1], width * size[0])
    kept = max(1, least // size[1]), max(1, least // size[0])
    top, left = (height - kept[0]) // 2, (width - kept[1]) // 2
    middle = images[:, :, top : top + kept[0], left : left + kept[1]]
    return F.interpolate(middle, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def fitted(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return images (N, C, *size) in [0, 1] of images (N, C, H, W) on 8-bit levels, as Pillow fits them."""
    pixels = images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    wanted = Format(images.shape[1], size)
    pictures = (Image.fromarray(one.squeeze(2) if one.shape[2] == 1 else one) for one in pixels)
    return torch.from_numpy(np.stack([fit(picture, wanted) for picture in pictures])).float() / 255
