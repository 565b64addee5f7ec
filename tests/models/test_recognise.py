"""Weights without --arch: what they are recognised as, and when that is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harden.errors import ModelError
from harden.models import LoadedModel, load_model, output_classes, rebuild
from harden.models.architectures import (
    architectures,
    described,
    digest,
    from_json,
    similarity,
    sketch_of,
    to_json,
)
from harden.models.state_dict import weight_shapes
from harden.vision import import_timm, import_torchvision

from .make_architectures import CLASSES, builders, describe, index_of

SMALL = (
    "timm:test_resnet",
    "timm:test_vit",
    "timm:test_efficientnet",
    "timm:mobilenetv3_small_050",
    "torchvision:squeezenet1_1",
    "torchvision:googlenet",
    "torchvision:swin_t",
    "torchvision:resnet18",
)


@pytest.fixture(autouse=True)
def _own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDEN_STATE", str(tmp_path / "state"))


def load(path: Path, *, size: int = 64, classes: int | None = 5, channels: int | None = 3) -> LoadedModel:
    return load_model(str(path), classes=classes, in_channels=channels, image_size=(size, size))


def timm_weights(name: str, seed: int = 1, **arguments: Any) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = import_timm().create_model(name, **arguments)
        for key, value in module.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point():
                value.add_(torch.randn_like(value) * 0.05)
    return module.state_dict()


# -- the index ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_the_index_that_ships_is_that_of_the_libraries(name: str) -> None:
    (built,) = index_of({name: dict(builders())[name]})
    (kept,) = [one for one in architectures() if name in one.names]
    assert (kept.keys, kept.shapes, kept.classes, kept.channels) == (
        built.keys,
        built.shapes,
        built.classes,
        built.channels,
    )
    assert dict(kept.open) == dict(built.open)
    assert similarity(kept.sketch, built.sketch) == 1


def test_the_index_knows_nearly_everything() -> None:
    known = {name for one in architectures() for name in one.names}
    models = import_torchvision().models
    assert {f"torchvision:{name}" for name in models.list_models(module=models)} <= known
    assert sum(f"timm:{name}" in known for name in import_timm().list_models()) > 1300


def test_classes_and_channels_are_left_open_and_nothing_else() -> None:
    shapes = {"stem.weight": (8, 1013, 3, 3), "patches.weight": (8, 2026), "head.weight": (CLASSES, 8), "norm": (8,)}
    found = describe("mine", shapes)
    assert found.open == {"stem.weight": (1,), "patches.weight": (1,), "head.weight": (0,)}
    other = {"norm": (8,), "head.weight": (3, 8), "patches.weight": (8, 6), "stem.weight": (8, 3, 3, 3)}
    assert found.has(other)
    assert found.classes is not None
    assert found.channels is not None
    assert (found.classes.read(other), found.channels.read(other)) == (3, 3)
    assert not found.has({**other, "norm": (9,)})
    assert not found.has({key: shape for key, shape in other.items() if key != "norm"})
    assert from_json(json.loads(to_json([found], {"timm": "0"}))) == (found,)


def test_networks_that_cannot_be_built_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(classes: int, channels: int) -> nn.Module:
        raise ValueError("no luck")

    def rgb_only(classes: int, channels: int) -> nn.Module:
        assert channels == 3
        return nn.Conv2d(channels, classes, 1)

    found = index_of({"a": broken, "b": rgb_only, "c": rgb_only})
    assert [(one.names, one.channels) for one in found] == [(("b", "c"), None)]
    assert "a is left out: no luck" in capsys.readouterr().err


def test_similarity_is_the_share_of_the_union() -> None:
    one, other = {f"w{i}" for i in range(1000)}, {f"w{i}" for i in range(500, 1000)}
    assert similarity(sketch_of(one), sketch_of(one)) == 1
    assert similarity(sketch_of(one), sketch_of({"x", "y"})) == 0
    assert abs(similarity(sketch_of(one), sketch_of(other)) - 0.5) < 0.25
    assert digest(["a", "b"]) == digest(["b", "a"]) != digest(["ab"])
    assert described({"w": (3, 4)}, {"w": (1,)}) == ["w 3x?"]


# -- files -------------------------------------------------------------------------------------------------------------


def test_the_classes_and_channels_are_those_of_the_weights(tmp_path: Path) -> None:
    weights = timm_weights("test_resnet", num_classes=7, in_chans=1)
    torch.save({"state_dict": {f"module.{key}": value for key, value in weights.items()}}, tmp_path / "w.pth")
    for classes, channels in ((7, 1), (5, 3), (None, None)):
        loaded = load(tmp_path / "w.pth", classes=classes, channels=channels)
        assert loaded.has_weights
        assert loaded.origin.reference == "test_resnet"
        assert loaded.origin.weights == str(tmp_path / "w.pth")
        assert output_classes(loaded.module, 1, (64, 64)) == 7
        assert all(torch.equal(value, loaded.module.state_dict()[key]) for key, value in weights.items())
        assert "recognised by names and shapes as the weights of timm:test_resnet" in loaded.notes[0]
        assert any("'module.'" in note for note in loaded.notes)
    rebuild(loaded.origin, skeleton_dir=tmp_path).load_state_dict(weights)


@pytest.mark.parametrize(
    ("wrapper", "prefix"),
    [("", ""), ("model", "_orig_mod."), ("state_dict", "model."), ("mine", "whatever."), ("weights", "module.net.")],
)
def test_wrappings_are_taken_off_as_with_an_arch(wrapper: str, prefix: str, tmp_path: Path) -> None:
    weights = {prefix + key: value.half() for key, value in timm_weights("test_resnet", num_classes=4).items()}
    extra = {"criterion.weight": torch.ones(3)} if prefix == "model." else {}
    content = {wrapper: weights | extra, "epoch": 3} if wrapper else weights
    torch.save(content, tmp_path / "w.ckpt")
    assert load(tmp_path / "w.ckpt").origin.reference == "test_resnet"


def test_averaged_weights_are_the_ones_that_are_recognised(tmp_path: Path) -> None:
    raw, averaged = (timm_weights("test_resnet", seed, num_classes=4) for seed in (1, 2))
    torch.save({"state_dict": raw, "state_dict_ema": averaged}, tmp_path / "w.pth")
    loaded = load(tmp_path / "w.pth")
    assert torch.equal(loaded.module.state_dict()["conv1.0.weight"], averaged["conv1.0.weight"])
    assert any("averaged ones were taken" in note for note in loaded.notes)


def test_fits_that_compute_the_same_are_one(tmp_path: Path) -> None:
    torch.save(timm_weights("deit_tiny_patch16_224", num_classes=3, depth=12), tmp_path / "w.pth")
    loaded = load(tmp_path / "w.pth", size=224)
    assert "weights of timm:deit_tiny_patch16_224 (" in loaded.notes[0]
    assert "timm:vit_tiny_patch16_224" in loaded.notes[0]
    assert "computes the same" in loaded.notes[0]


def test_fits_that_compute_different_things_are_listed(tmp_path: Path) -> None:
    """ResNet-18 with blurred and with plain pooling have the same weights; torchvision's is the plain one."""
    torch.save(timm_weights("resnet18", num_classes=3), tmp_path / "w.pth")
    with pytest.raises(ModelError, match="fit several networks that compute different things") as caught:
        load(tmp_path / "w.pth")
    lines = caught.value.message.splitlines()
    plain = next(line for line in lines if "torchvision:resnet18" in line)
    blurred = next(line for line in lines if "timm:resnetblur18" in line)
    assert "timm:resnet18" in plain
    assert plain != blurred
    assert "--arch timm:resnet18" in (caught.value.hint or "")
    named = load_model(str(tmp_path / "w.pth"), arch="timm:resnetblur18", classes=3, in_channels=3, image_size=(64, 64))
    assert named.origin.reference == "resnetblur18"


def test_the_size_that_the_network_is_made_for_is_named(tmp_path: Path) -> None:
    torch.save(timm_weights("vit_tiny_patch16_224", num_classes=3), tmp_path / "w.pth")
    with pytest.raises(
        ModelError, match="those of timm:deit_tiny_patch16_224 by their names and shapes, but"
    ) as caught:
        load(tmp_path / "w.pth", size=32)
    assert "--image-size 224" in (caught.value.hint or "")


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    weights = timm_weights("test_resnet", num_classes=3)
    weights["fc.weight"][0, 0] = float("nan")
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"not finite: fc\.weight") as caught:
        load(tmp_path / "w.pth")
    assert "earlier checkpoint" in (caught.value.hint or "")


def test_the_nearest_networks_are_proposed(tmp_path: Path) -> None:
    weights = timm_weights("test_resnet", num_classes=3)
    weights["fc.1.weight"] = weights.pop("fc.weight")
    torch.save({f"module.{key}": value for key, value in weights.items()}, tmp_path / "w.pth")
    with pytest.raises(
        ModelError, match=r"not the network they belong to.*nearest.*timm:test_resnet \(\d\d%\)"
    ) as caught:
        load(tmp_path / "w.pth")
    assert "--arch timm:NAME" in (caught.value.hint or "")
    torch.save(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 5)).state_dict(), tmp_path / "own.pth")
    with pytest.raises(ModelError, match="no network of timm or torchvision") as caught:
        load(tmp_path / "own.pth")
    assert "by the share" not in caught.value.message


def test_the_shapes_that_count_leave_out_counters() -> None:
    module = nn.BatchNorm2d(2)
    assert weight_shapes(module.state_dict()) == {
        "weight": (2,),
        "bias": (2,),
        "running_mean": (2,),
        "running_var": (2,),
    }
