"""Mean and std that a model's own files hold are found by their names, on either scale, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harden.models import load_model
from harden.models.classifier import Basis
from harden.models.held import held_keys, only, pairs_in
from harden.models.own_normalisation import inside_network
from harden.workflows.normalising import given_normalisation

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CODE = """
from torch import nn

def build(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, num_classes))
"""


def column(numbers: tuple[float, ...], *shape: int) -> Tensor:
    return torch.tensor(numbers).view(*shape)


@pytest.mark.parametrize(
    "content",
    [
        {"normalize.mean": column(MEAN, 1, 3, 1, 1), "normalize.std": column(STD, 1, 3, 1, 1)},
        {"0.mean": column(MEAN, 3), "0.std": column(STD, 3)},
        {"_mean": column(MEAN, 3, 1, 1), "_std": column(STD, 3, 1, 1)},
        {"module.pixel_mean": column(MEAN, 3) * 255, "module.pixel_std": column(STD, 3) * 255},
        {"state_dict": {"a.weight": torch.zeros(9)}, "mean": list(MEAN), "std": list(STD)},
        {"state_dict": {}, "args": {"image_mean": MEAN, "image_std": STD}},
        {"config": {"norm_mean": MEAN, "norm_std": STD}},
        {"preprocess": {"mean": MEAN, "std": STD}},
        {"IMG_MEAN": torch.tensor(MEAN), "IMG_STD": torch.tensor(STD)},
        {"norm": {"mu": MEAN, "sigma": STD}},
    ],
)
def test_names_shapes_and_scales(content: dict[str, Any]) -> None:
    pair = only(pairs_in(content), 3)
    assert pair is not None
    stated = pair.stated()
    assert stated.mean == pytest.approx(MEAN, abs=1e-6)
    assert stated.std == pytest.approx(STD, abs=1e-6)
    assert not stated.flip_channels


@pytest.mark.parametrize(
    "content",
    [
        {"bn.running_mean": torch.zeros(3), "bn.running_var": torch.ones(3)},
        {"metrics": {"loss_mean": 0.3, "loss_std": 0.1}},
        {"metrics": {"mean": 0.3, "std": 0.1}},
        {"layer1.mean": torch.rand(3), "layer1.std": torch.rand(3)},
        {"normalize.mean": torch.rand(64), "normalize.std": torch.rand(64)},
        {"normalize.mean": torch.tensor(MEAN)},
        {"normalize.mean": torch.tensor(MEAN), "normalize.std": torch.zeros(3)},
        {"normalize.mean": torch.zeros(3), "normalize.std": torch.ones(3)},
        {"a": {"image_mean": MEAN, "image_std": STD}, "b": {"image_mean": (0.5,) * 3, "image_std": STD}},
    ],
)
def test_what_is_no_normalisation_or_contradicts_itself_is_not_taken(content: dict[str, Any]) -> None:
    assert only(pairs_in(content), 3) is None


def test_one_number_for_all_channels_and_the_numbers_of_caffe() -> None:
    pair = only(pairs_in({"input_mean": 127.5, "input_std": 127.5}), 3)
    assert pair is not None
    found = given_normalisation(None, None, 3, pair.stated())
    assert found is not None
    assert (found.mean, found.std, found.basis) == ((0.5,) * 3, (0.5,) * 3, Basis.STATED)
    caffe = only(pairs_in({"pixel_mean": [103.939, 116.779, 123.68], "pixel_std": [1.0, 1.0, 1.0]}), 3)
    assert caffe is not None
    assert caffe.stated().flip_channels
    assert caffe.stated().std == pytest.approx((1 / 255,) * 3)
    assert held_keys({"m.mean": torch.tensor(MEAN), "m.std": torch.tensor(STD), "w": torch.zeros(5)}) == set()
    assert held_keys({"mean": torch.tensor(MEAN), "std": torch.tensor(STD), "w": torch.zeros(5)}) == {"mean", "std"}


@pytest.fixture
def arch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HARDEN_STATE", str(tmp_path / "state"))
    (tmp_path / "net.py").write_text(CODE)
    return f"{tmp_path / 'net.py'}:build"


def weights() -> dict[str, Tensor]:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    return dict(net.state_dict())


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_weights_file_that_holds_them_beside_its_network(tmp_path: Path, arch: str, prefix: str, kind: str) -> None:
    from safetensors.torch import save_file

    state = {prefix + key: value for key, value in weights().items()}
    state |= {"normalize.mean": column(MEAN, 1, 3, 1, 1).clone(), "normalize.std": column(STD, 1, 3, 1, 1).clone()}
    path = tmp_path / f"w.{kind}"
    if kind == "pth":
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        save_file(state, path)
    loaded = load_model(str(path), arch=arch, classes=2, in_channels=3, image_size=(8, 8))
    found = given_normalisation(None, None, 3, loaded.stated)
    assert found is not None
    assert (found.mean, found.std, found.basis) == (pytest.approx(MEAN), pytest.approx(STD), Basis.STATED)
    assert any("0.485,0.456,0.406" in note for note in loaded.notes)


def test_the_configuration_of_transformers_beside_the_weights(tmp_path: Path, arch: str) -> None:
    torch.save(weights(), tmp_path / "w.pth")
    config = tmp_path / "preprocessor_config.json"
    for text, expected in (
        ({"image_mean": MEAN, "image_std": STD, "do_normalize": True}, (MEAN, STD)),
        ({"do_normalize": False, "image_mean": MEAN, "image_std": STD}, ((0.0,) * 3, (1.0,) * 3)),
    ):
        config.write_text(json.dumps(text))
        loaded = load_model(str(tmp_path / "w.pth"), arch=arch, classes=2, in_channels=3, image_size=(8, 8))
        found = given_normalisation(None, None, 3, loaded.stated)
        assert found is not None
        assert (found.mean, found.std) == expected
    config.write_text("[]")
    loaded = load_model(str(tmp_path / "w.pth"), arch=arch, classes=2, in_channels=3, image_size=(8, 8))
    assert given_normalisation(None, None, 3, loaded.stated) is None


class Normalize(nn.Module):
    """Holds its numbers as plain attributes, as torchvision's transform does."""

    def __init__(self, mean: Any, std: Any) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> Tensor:
        return (x - torch.tensor(self.mean).view(-1, 1, 1)) / torch.tensor(self.std).view(-1, 1, 1)


class Buffers(nn.Module):
    def __init__(self, scale: float, *, used: bool = True) -> None:
        super().__init__()
        self.register_buffer("mean", column(MEAN, 1, 3, 1, 1) * scale)
        self.register_buffer("std", column(STD, 1, 3, 1, 1) * scale)
        self.used = used

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std if self.used else x


def network(first: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(first, nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2)).train()


@pytest.mark.parametrize(
    ("first", "name"),
    [
        (Buffers(1.0), "none"),
        (Buffers(255.0), "0-255"),
        (Normalize(list(MEAN), list(STD)), "none"),
        (Normalize(MEAN, STD), "none"),
        (Buffers(1.0, used=False), None),
        (nn.Identity(), None),
        (nn.BatchNorm2d(3), None),
    ],
)
def test_a_network_that_normalises_by_itself_gets_nothing_more(first: nn.Module, name: str | None) -> None:
    net = network(first)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    held = vars(first).get("mean")
    found = inside_network(net, torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert (found.name if found else None) == name
    assert found is None or found.basis is Basis.INSIDE
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert vars(first).get("mean") == held
    assert net.training
