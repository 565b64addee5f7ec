"""A new last layer: what it replaces, what it keeps, and how the network is built again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harden.errors import ModelError
from harden.models import LoadedModel, load_model, output_classes, rebuild
from harden.models.head import all_but, replace_head
from harden.models.origin import NewHead, Origin
from harden.models.pickled import save_skeleton
from harden.training.freezing import frozen_names
from harden.vision import import_timm, import_torchvision

CODE = """
from torch import nn
def fixed():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 7))
class Sized(nn.Module):
    def __init__(self, num_classes=7):
        super().__init__()
        self.body, self.fc, self.scale = nn.Conv2d(3, 4, 3), nn.Linear(4, num_classes), nn.Parameter(nn.init.ones_(
            nn.Parameter(__import__("torch").empty(num_classes))))
    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3))) * self.scale
"""


@pytest.fixture(autouse=True)
def _own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDEN_STATE", str(tmp_path / "state"))


def load(spec: str, arch: str | None = None, size: int = 64) -> LoadedModel:
    return load_model(spec, arch=arch, classes=None, in_channels=3, image_size=(size, size))


def with_new_head(loaded: LoadedModel, classes: int = 3, size: int = 64) -> tuple[LoadedModel, dict[str, Tensor]]:
    """Replace the head, check everything that must hold for any source, and return the weights from before."""
    before = {key: value.clone() for key, value in loaded.module.state_dict().items()}
    new = replace_head(loaded, classes=classes, in_channels=3, image_size=(size, size))
    assert output_classes(new.module, 3, (size, size)) == classes
    assert not new.has_weights
    assert new.origin.head is not None
    inside = tuple(f"{layer}." for layer in new.origin.head.layers)
    after = new.module.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items() if not key.startswith(inside))
    assert any(not torch.equal(after[key], value) for key, value in before.items() if key.startswith(inside))
    named = dict(new.module.named_parameters())
    frozen = frozen_names(new.module, all_but(new.module, new.origin.head.layers))
    assert set(named) - frozen == {key for key in named if key.startswith(inside)}
    return new, before


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("test_resnet", ("fc",)),
        ("test_mambaout", ("head.fc",)),
        ("deit_tiny_distilled_patch16_224", ("head", "head_dist")),
    ],
)
def test_timm(name: str, layers: tuple[str, ...], tmp_path: Path) -> None:
    size = 224 if name.startswith("deit") else 64
    torch.save(import_timm().create_model(name, num_classes=7).state_dict(), tmp_path / "w.pth")
    new, _ = with_new_head(load(str(tmp_path / "w.pth"), f"timm:{name}", size), size=size)
    assert new.origin.head == NewHead(layers, 3)
    assert new.origin.arguments["num_classes"] == 3
    assert any("7 outputs) is replaced by a new one of 3" in note for note in new.notes)
    again = rebuild(Origin.from_json(json.loads(json.dumps(new.origin.to_json()))), skeleton_dir=tmp_path)
    again.load_state_dict(new.module.state_dict())


@pytest.mark.parametrize(("name", "layer"), [("squeezenet1_1", "classifier.1"), ("mobilenet_v2", "classifier.1")])
def test_torchvision_networks_are_rebuilt_with_the_new_layer(name: str, layer: str, tmp_path: Path) -> None:
    models = import_torchvision().models
    torch.save(models.get_model(name, weights=None, num_classes=7).state_dict(), tmp_path / "w.pth")
    new, _ = with_new_head(load(str(tmp_path / "w.pth"), f"torchvision:{name}"))
    assert new.origin.head == NewHead((layer,), 3)
    again = rebuild(Origin.from_json(json.loads(json.dumps(new.origin.to_json()))), skeleton_dir=tmp_path)
    again.load_state_dict(new.module.state_dict())


def test_the_users_own_code_and_pickled_networks(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(CODE)
    built = load(f"{tmp_path / 'nets.py'}:fixed")
    torch.save(built.module.state_dict(), tmp_path / "w.pth")
    torch.save(built.module, tmp_path / "m.pt")
    new, before = with_new_head(load(str(tmp_path / "w.pth"), f"{tmp_path / 'nets.py'}:fixed"))
    assert before["4.weight"].shape == (7, 4)
    assert new.origin.head == NewHead(("4",), 3)
    rebuild(new.origin, skeleton_dir=tmp_path).load_state_dict(new.module.state_dict())
    named = f"{tmp_path / 'nets.py'}:fixed"
    rebuild(new.origin, skeleton_dir=tmp_path, arch=named).load_state_dict(new.module.state_dict())
    whole, _ = with_new_head(load(str(tmp_path / "m.pt")), classes=7)
    save_skeleton(whole.module, tmp_path / "m.pt")
    rebuild(whole.origin, skeleton_dir=tmp_path).load_state_dict(whole.module.state_dict())


def test_a_network_of_timm_without_a_last_layer_gets_one(tmp_path: Path) -> None:
    module = import_timm().create_model("test_resnet", num_classes=0)
    torch.save(module.state_dict(), tmp_path / "model.pth")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet", "num_classes": 0}))
    loaded = load(str(tmp_path / "model.pth"))
    assert loaded.origin.arguments["num_classes"] == 0
    new = replace_head(loaded, classes=3, in_channels=3, image_size=(64, 64))
    assert new.origin.head == NewHead(("fc",), 3)
    assert all(torch.equal(new.module.state_dict()[key], value) for key, value in module.state_dict().items())


def test_what_cannot_be_replaced_is_told(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(CODE)
    with pytest.raises(ModelError, match="this network has none yet") as caught:
        replace_head(load("timm:test_resnet"), classes=3, in_channels=3, image_size=(64, 64))
    assert "leave --replace-head out" in (caught.value.hint or "")
    sized = replace(load(f"{tmp_path / 'nets.py'}:Sized"), has_weights=True)
    with pytest.raises(ModelError, match=r"with a new last layer \(fc\)") as caught:
        replace_head(sized, classes=3, in_channels=3, image_size=(64, 64))
    assert "--arch" in (caught.value.hint or "")
    bilinear = replace(
        sized, module=nn.Sequential(nn.Flatten(), nn.Unflatten(1, (3, 4096)), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    )
    with pytest.raises(ModelError, match="none in it was found"):
        replace_head(bilinear, classes=5, in_channels=3, image_size=(64, 64))


def test_a_run_folder_cannot_name_any_layer(tmp_path: Path) -> None:
    origin = Origin("timm", "test_resnet", {"num_classes": 3, "in_chans": 3}, head=NewHead(("bn1",), 3))
    for layer in ("bn1", "nowhere", "__class__"):
        with pytest.raises(ModelError, match="no layer"):
            rebuild(replace(origin, head=NewHead((layer,), 3)), skeleton_dir=tmp_path)


def test_all_but_names_layers_where_it_can() -> None:
    module = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.ModuleDict({"c": nn.Linear(1, 1), "d": nn.Linear(1, 1)})})
    module.register_parameter("token", nn.Parameter(torch.zeros(1)))
    module["e"] = nn.ReLU()
    assert all_but(module, ("b.d",)) == ("token", "a", "b.c")
    assert all_but(module, ("a", "b.c")) == ("token", "b.d")
