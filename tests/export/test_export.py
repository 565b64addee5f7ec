"""Exports, run by the programs that will load them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from harden.errors import ExportError
from harden.export import EXPORTERS
from harden.export.parity import Parity, compare, require
from harden.export.runtime import OnnxScorer
from harden.export.to_onnx import save_onnx
from harden.export.to_safetensors import load_weights, save_weights
from harden.models.classifier import Classifier, Normalisation
from harden.models.origin import Origin
from harden.vision import import_timm

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def classifier(module: nn.Module, *, size: int = 16, bgr: bool = False) -> Classifier:
    return Classifier(
        module,
        normalisation=Normalisation("ImageNet", MEAN, STD, flip_channels=bgr),
        classes=("a", "b", "c", "d"),
        input_size=(3, size, size),
        origin=Origin("factory", "tests:net"),
    ).eval()


def batch_norm_net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 4),
        )
        module.train()
        with torch.no_grad():
            for _ in range(3):
                module(torch.randn(32, 3, 16, 16) * 2 + 1)
    return module


def timm_net() -> nn.Module:
    timm = import_timm()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module: nn.Module = timm.create_model("test_resnet", num_classes=4)
    return module


def images(count: int = 70, size: int = 16) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, Path]:
    model, path = classifier(batch_norm_net(), bgr=True), tmp_path_factory.mktemp("onnx") / "deep" / "model.onnx"
    assert save_onnx(model, path, {"a": 1}) == 20
    return model, path


# -- ONNX --------------------------------------------------------------------------------------------------------------


def test_one_file_with_a_dynamic_batch_and_the_normalisation_inside(exported: tuple[Classifier, Path]) -> None:
    model, path = exported
    assert [entry.name for entry in path.parent.iterdir()] == ["model.onnx"]
    proto = onnx.load(path)
    onnx.checker.check_model(proto)
    (taken,), (given,) = proto.graph.input, proto.graph.output
    assert (taken.name, given.name) == ("images", "scores")
    assert taken.type.tensor_type.shape.dim[0].dim_param
    assert [d.dim_value for d in taken.type.tensor_type.shape.dim][1:] == [3, 16, 16]
    assert {entry.version for entry in proto.opset_import if entry.domain == ""} == {20}
    assert {entry.key: json.loads(entry.value) for entry in proto.metadata_props if entry.key == "harden"} == {
        "harden": {"a": 1}
    }
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    for count in (1, 2, 5):
        batch = images(count)
        with torch.no_grad():  # written out, not by the Classifier
            expected = model.module((batch.flip(1) - mean) / std)
        (scores,) = session.run(None, {"images": batch.numpy()})
        np.testing.assert_allclose(scores, expected.numpy(), atol=1e-5)


def test_the_bytes_depend_on_nothing_but_the_model(exported: tuple[Classifier, Path], tmp_path: Path) -> None:
    model, path = exported
    save_onnx(model, tmp_path / "again.onnx", {"a": 1})
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_it_prints_nothing_and_leaves_the_model_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = classifier(batch_norm_net())
    model.module.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    level = logging.getLogger("torch.onnx").level
    save_onnx(model, tmp_path / "model.onnx", {})
    assert capfd.readouterr() == ("", "")
    assert all(part.training for part in model.module.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert logging.getLogger("torch.onnx").level == level


def test_a_timm_network_agrees(tmp_path: Path) -> None:
    model = classifier(timm_net(), size=32)
    save_onnx(model, tmp_path / "model.onnx", {}, opset=18)
    with torch.no_grad():
        parity = compare(model, OnnxScorer(tmp_path / "model.onnx"), images(10, 32), kind="clean")
    require((parity,), (), "model.onnx")
    assert parity.agreement == 1.0
    proto = onnx.load(tmp_path / "model.onnx")
    assert {entry.version for entry in proto.opset_import if entry.domain == ""} == {18}


def test_attention_that_the_exporter_cannot_take_apart_is_unfused_in_the_file_only(tmp_path: Path) -> None:
    """BEiT's attention reshapes what torch's fused operator returns; with an open batch that export fails."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        beit = import_timm().create_model(
            "beit_base_patch16_224", num_classes=4, img_size=32, depth=1, embed_dim=32, num_heads=2
        )
    assert beit.blocks[0].attn.fused_attn
    model = classifier(beit, size=32)
    save_onnx(model, tmp_path / "model.onnx", {})
    with torch.no_grad():
        parity = compare(model, OnnxScorer(tmp_path / "model.onnx"), images(8, 32), kind="clean")
    assert parity.holds
    assert beit.blocks[0].attn.fused_attn


def test_what_cannot_be_exported_says_so(tmp_path: Path) -> None:
    class Wild(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=(2, 3)) if float(x.sum()) > 0 else x.amax(dim=(2, 3))

    with pytest.raises(ExportError) as caught:
        save_onnx(classifier(Wild()), tmp_path / "model.onnx", {})
    assert caught.value.hint
    with pytest.raises(ExportError):
        save_onnx(classifier(batch_norm_net()), tmp_path / "model.onnx", {}, opset=7)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match="cannot load"):
        OnnxScorer(tmp_path / "model.onnx")


# -- parity ------------------------------------------------------------------------------------------------------------


def test_the_right_file_holds_at_every_batch_size(exported: tuple[Classifier, Path]) -> None:
    model, path = exported
    scorer, sizes = OnnxScorer(path), []

    def spy(batch: Tensor, /) -> Tensor:
        sizes.append(len(batch))
        return scorer(batch)

    with torch.no_grad():
        parity = compare(model, spy, images(), kind="clean")
    assert parity.holds
    assert parity.images == 70
    assert {1, 7, 64} <= set(sizes)
    require((parity,), (), "model.onnx")


@pytest.mark.parametrize("shift", [0.01, float("nan"), float("inf")])
def test_one_wrong_weight_is_caught(shift: float, exported: tuple[Classifier, Path], tmp_path: Path) -> None:
    model, path = exported
    proto = onnx.load(path)
    bias = next(entry for entry in proto.graph.initializer if list(entry.dims) == [4])
    values = onnx.numpy_helper.to_array(bias).copy()
    values[2] += shift
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(proto, tmp_path / "wrong.onnx")
    with torch.no_grad():
        parity = compare(model, OnnxScorer(tmp_path / "wrong.onnx"), images(20), kind="clean")
    assert not parity.holds
    with pytest.raises(ExportError, match=r"wrong\.onnx does not agree"):
        require((parity,), (), "wrong.onnx")


def test_top_1_may_differ_only_where_the_margin_is_small() -> None:
    scores = torch.tensor([[1.0, 0.0], [1.0, 1.0 - 1e-5], [0.0, 1.0]])
    swapped = scores.clone()
    swapped[1] = torch.tensor([1.0 - 1e-5, 1.0])

    def looked_up(table: Tensor) -> object:
        return lambda batch: table[batch[:, 0, 0, 0].round().long()]

    index = torch.arange(3.0).view(3, 1, 1, 1)
    parity = compare(looked_up(scores), looked_up(swapped), index, kind="clean", tolerance=1e-4)  # type: ignore[arg-type]
    assert (parity.undecided, parity.disagreements, parity.holds) == (1, 0, True)
    assert parity.agreement == pytest.approx(2 / 3)
    strict = compare(looked_up(scores), looked_up(swapped), index, kind="clean", tolerance=1e-6)  # type: ignore[arg-type]
    assert (strict.undecided, strict.disagreements, strict.holds) == (0, 1, False)


def test_a_difference_above_the_tolerance_fails_even_with_equal_classes() -> None:
    fine = Parity("clean", 5, 1.0, 0, 0, 1e-4, 1e-4)
    assert fine.holds
    for wrong in (Parity("clean", 5, 1.0, 0, 0, 2e-4, 1e-4), Parity("adversarial", 5, 0.8, 0, 1, 0.0, 1e-4)):
        with pytest.raises(ExportError, match=wrong.kind):
            require((fine, wrong), (), "f")


# -- safetensors -------------------------------------------------------------------------------------------------------


def test_safetensors_has_the_users_keys_and_one_metadata_key(tmp_path: Path) -> None:
    module, path = batch_norm_net(), tmp_path / "model.safetensors"
    save_weights(module.state_dict(), path, {"z": 1, "a": ["ü"]})
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(module.state_dict())
        metadata = file.metadata()
    assert list(metadata) == ["harden"]
    assert json.loads(metadata["harden"]) == {"z": 1, "a": ["ü"]}
    found = load_weights(path)
    assert all(torch.equal(found[name], value) for name, value in module.state_dict().items())
    assert found["1.num_batches_tracked"].dtype == torch.int64


def test_equal_weights_give_equal_bytes_whatever_their_layout(tmp_path: Path) -> None:
    module = batch_norm_net()
    save_weights(module.state_dict(), tmp_path / "one", {"a": 1, "b": 2})
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_weights(module.state_dict(), tmp_path / "two", {"b": 2, "a": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_tied_weights_and_views_load_back(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    module[1].weight = module[0].weight
    save_weights({**module.state_dict(), "view": torch.arange(6).view(2, 3).t()}, tmp_path / "f", {})
    found = load_weights(tmp_path / "f")
    assert torch.equal(found["0.weight"], found["1.weight"])
    assert torch.equal(found["view"], torch.arange(6).view(2, 3).t())


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(ExportError):
        load_weights(tmp_path / "nothing")
    (tmp_path / "half").write_bytes(b"1234567890")
    with pytest.raises(ExportError):
        load_weights(tmp_path / "half")


def test_the_table_names_every_format() -> None:
    assert EXPORTERS == {"safetensors": "model.safetensors", "onnx": "model.onnx"}
