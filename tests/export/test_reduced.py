"""Files of smaller numbers: what onnxruntime makes of them, and which layer is blamed where one goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch

from harden.errors import ExportError
from harden.export.blame import worst_layer
from harden.export.parity import Standing, compare, require
from harden.export.reduced import save_fp16, save_int8
from harden.export.runtime import OnnxScorer
from harden.export.to_onnx import save_onnx
from harden.models.classifier import Classifier

from .test_export import batch_norm_net, classifier, images


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, Path]:
    model, path = classifier(batch_norm_net()), tmp_path_factory.mktemp("full") / "model.onnx"
    save_onnx(model, path, {"precision": "fp32"})
    return model, path


def elements(path: Path) -> set[int]:
    return {tensor.data_type for tensor in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_images_and_scores_stay_float32_and_the_answers_nearly_the_same(
    precision: str, full: tuple[Classifier, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, source = full
    path = tmp_path / "reduced.onnx"
    if precision == "fp16":
        save_fp16(source, path, {"precision": "fp16"})
        assert onnx.TensorProto.FLOAT not in elements(path)
    else:
        save_int8(source, path, {"precision": "int8"}, images(48))
        weights = [t for t in onnx.load(path).graph.initializer if t.data_type == onnx.TensorProto.INT8 and t.dims]
        assert {len(t.dims) for t in weights} >= {2, 4}  # those of Linear and Conv
    assert capfd.readouterr() == ("", "")
    proto = onnx.load(path)
    onnx.checker.check_model(proto)
    for value in (*proto.graph.input, *proto.graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    kept = [entry.value for entry in proto.metadata_props if entry.key == "harden"]
    assert kept == [f'{{"precision": "{precision}"}}']
    with torch.no_grad():
        found = compare(model, OnnxScorer(path), images(70), kind="clean", tolerance=None)
    assert found.holds
    assert 0 < found.largest_difference < (0.01 if precision == "fp16" else 0.5)


def test_each_channel_of_a_weight_has_its_own_scale(full: tuple[Classifier, Path], tmp_path: Path) -> None:
    save_int8(full[1], tmp_path / "m.onnx", {}, images(8))
    scales = [t for t in onnx.load(tmp_path / "m.onnx").graph.initializer if t.name.endswith("_scale") and t.dims]
    assert {8, 4} <= {t.dims[0] for t in scales}


def test_equal_inputs_give_equal_bytes_in_another_process(full: tuple[Classifier, Path], tmp_path: Path) -> None:
    """Names in sets come in another order with another hash seed."""
    code = (
        "import sys, torch\nfrom pathlib import Path\nfrom harden.export.reduced import save_fp16, save_int8\n"
        "source, out = map(Path, sys.argv[1:])\n"
        "images = torch.rand(48, 3, 16, 16, generator=torch.Generator().manual_seed(3))\n"
        "save_fp16(source, out / 'fp16', {'b': 1, 'a': 2})\nsave_int8(source, out / 'int8', {'b': 1, 'a': 2}, images)\n"
    )
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        line = [sys.executable, "-c", code, str(full[1]), str(tmp_path / seed)]
        subprocess.run(line, check=True, timeout=120, env={**os.environ, "PYTHONHASHSEED": seed})
    for name in ("fp16", "int8"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_what_cannot_be_converted_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no model")
    for write in (
        lambda: save_fp16(tmp_path / "no.onnx", tmp_path / "out", {}),
        lambda: save_int8(tmp_path / "no.onnx", tmp_path / "out", {}, images(4)),
    ):
        with pytest.raises(ExportError, match="--precision") as caught:
            write()
        assert "fp32" in (caught.value.hint or "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["no.onnx"]


@pytest.mark.parametrize(("broken", "layer"), [((32,), "6"), ((3, 3, 3), "0")])
def test_the_layer_that_goes_wrong_is_named(
    broken: tuple[int, ...], layer: str, full: tuple[Classifier, Path], tmp_path: Path
) -> None:
    """The weights of one layer of the fp16 file are doubled; its input has a known last part of its shape."""
    save_fp16(full[1], tmp_path / "m.onnx", {})
    proto = onnx.load(tmp_path / "m.onnx")
    (weight,) = (t for t in proto.graph.initializer if t.name.endswith(".weight") and tuple(t.dims)[1:] == broken)
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 2, weight.name))
    onnx.save(proto, tmp_path / "m.onnx")
    blamed = worst_layer(full[1], tmp_path / "m.onnx", images(8))
    assert blamed is not None
    assert blamed.layer == layer
    assert blamed.error > 0.3
    assert f"in {layer} (" in blamed.sentence()


def test_int8_layers_are_found_again_though_the_graph_was_rewritten(
    full: tuple[Classifier, Path], tmp_path: Path
) -> None:
    save_int8(full[1], tmp_path / "m.onnx", {}, images(48))
    blamed = worst_layer(full[1], tmp_path / "m.onnx", images(8))
    assert blamed is not None
    assert blamed.layer in {"0", "6"}
    assert 0 < blamed.error < 0.2


def test_a_file_may_lose_what_is_stated_and_no_more() -> None:
    assert Standing("clean", 100, 80, 78, 0.02).holds
    assert Standing("clean", 100, 80, 90, 0.02).holds
    assert Standing("clean", 10, 8, 7, 0.02).holds  # one image always may be lost
    lost = Standing("under Square", 100, 80, 77, 0.02)
    assert not lost.holds
    assert lost.drop == pytest.approx(0.03)
    with pytest.raises(ExportError, match=r"model_int8.onnx \(int8\).*77.0% of 100.*80.0%.*in layer1") as caught:
        require((), (lost,), "model_int8.onnx (int8)", why="it grows in layer1")
    assert "--max-drop" in (caught.value.hint or "")


def test_scores_that_are_no_numbers_never_hold() -> None:
    parity = compare(
        lambda x: torch.tensor([[1.0, 0.0]]), lambda x: torch.tensor([[float("nan"), 0.0]]), torch.zeros(1, 1, 1, 1),
        kind="clean", tolerance=None,
    )  # fmt: skip
    assert not parity.holds
