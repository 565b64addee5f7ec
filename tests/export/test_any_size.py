"""Files that take images of any size: the same as Pillow makes of pictures, and nothing where the size is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harden.export.any_size import _GRAPH, fit_in_torch, fitted, of_other_sizes, take_any_size
from harden.export.reduced import save_fp16, save_int8
from harden.export.runtime import OnnxScorer
from harden.export.to_onnx import save_onnx
from harden.models.classifier import Classifier

from .test_export import batch_norm_net, classifier, images


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, Path]:
    """A model, and a folder with its file for images of one size."""
    model, folder = classifier(batch_norm_net()), tmp_path_factory.mktemp("made")
    save_onnx(model, folder / "model.onnx", {})
    return model, folder


def fit_in_graph(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """What the part before the network gives, on its own."""
    import onnxruntime

    names = {"ir": 10, "opset": 18, "batch": "batch", "name": "images"}
    proto = onnx.parser.parse_model(_GRAPH.format(channels=pictures.shape[1], h=size[0], w=size[1], **names))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": pictures.numpy()})[0])


def pictures_of(height: int, width: int, channels: int) -> Tensor:
    """Two smooth pictures on 8-bit levels."""
    waves = np.add.outer(np.sin(np.arange(height) / 3), np.cos(np.arange(width) / 4)) / 4 + 0.5
    return torch.from_numpy(waves).float().mul(255).round().div(255).expand(2, channels, -1, -1).contiguous()


SIDES = st.tuples(st.integers(3, 40), st.integers(3, 40))


@settings(deadline=None, max_examples=40)
@given(size=SIDES, times=st.integers(1, 5), channels=st.sampled_from([1, 3]))
def test_images_are_resized_as_pillow_resizes_pictures(size: tuple[int, int], times: int, channels: int) -> None:
    pictures = pictures_of(size[0] * times, size[1] * times, channels)
    found = fit_in_graph(pictures, size)
    assert (found - fitted(pictures, size)).abs().max() < 1.5 / 255
    if times == 1:
        assert torch.equal(found, pictures)


@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 90), width=st.integers(1, 90), size=SIDES)
def test_any_size_gives_the_middle_of_the_picture_in_the_networks_own(
    height: int, width: int, size: tuple[int, int]
) -> None:
    pictures = pictures_of(height, width, 1)
    found = fit_in_graph(pictures, size)
    assert found.shape == (2, 1, *size)
    assert 0 <= found.min() <= found.max() <= 1
    assert torch.allclose(found, fit_in_torch(pictures, size), atol=1e-5)


def test_of_a_wide_picture_the_middle_is_as_pillow_has_it() -> None:
    pictures = pictures_of(96, 160, 3)
    difference = (fit_in_graph(pictures, (24, 24)) - fitted(pictures, (24, 24))).abs()
    assert difference[..., 1:-1].max() < 1.5 / 255
    assert difference.max() < 0.05


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_file_says_of_large_pictures_what_the_model_says_of_them_fitted(
    precision: str, made: tuple[Classifier, Path], tmp_path: Path
) -> None:
    model, folder = made
    source = folder / "model.onnx"
    if precision != "fp32":
        source = tmp_path / "reduced.onnx"
        if precision == "fp16":
            save_fp16(folder / "model.onnx", source, {})
        else:
            save_int8(folder / "model.onnx", source, {}, images(32))
    take_any_size(source, tmp_path / "any.onnx", {"a": 1})
    onnx.checker.check_model(onnx.load(tmp_path / "any.onnx"))
    scorer, before = OnnxScorer(tmp_path / "any.onnx"), OnnxScorer(source)
    own = images(9)
    assert torch.equal(scorer(own), before(own)), "images of its own size are not touched"
    larger = of_other_sizes(own)["wide"]
    assert larger.shape[2:] != own.shape[2:]
    expected = before(fitted(larger, model.input_size[1:]))
    assert (scorer(larger) - expected).abs().max() < 0.2 * expected.std()


def test_equal_inputs_give_equal_bytes_and_metadata_are_its_own(made: tuple[Classifier, Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        take_any_size(made[1] / "model.onnx", tmp_path / name, {"a": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert [e.value for e in onnx.load(tmp_path / "a").metadata_props if e.key == "harden"] == ['{"a": 1}']
