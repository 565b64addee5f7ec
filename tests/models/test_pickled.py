import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harden.errors import ModelError, UnsafeInputError
from harden.models import load_model, rebuild
from harden.models.pickled import load_pickled, read_pickle, save_skeleton
from harden.models.pickles.scan import scan
from harden.vision import import_timm, import_torchvision

TIMM = {
    "resnet18": 64,
    "mobilenetv3_small_050": 64,
    "efficientnet_b0": 64,
    "convnext_atto": 64,
    "vit_tiny_patch16_224": 224,
    "swin_tiny_patch4_window7_224": 224,
    "resmlp_12_224": 224,
    "edgenext_xx_small": 64,
    "ghostnet_050": 64,
}
TORCHVISION = {"resnet18": 64, "squeezenet1_1": 64, "mobilenet_v2": 64, "densenet121": 64}


class Payload:
    """A pickle that writes a file when it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def same(module: nn.Module, path: Path, size: int) -> None:
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    loaded = load_pickled(path, trust=False)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(images), module.eval()(images))


@pytest.mark.parametrize("name", TIMM)
def test_timm_networks_come_back_and_compute_the_same(name: str, tmp_path: Path) -> None:
    module = import_timm().create_model(name, num_classes=4)
    torch.save(module, tmp_path / "m.pt")
    same(module, tmp_path / "m.pt", TIMM[name])


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_networks_come_back_and_compute_the_same(name: str, tmp_path: Path) -> None:
    module = getattr(import_torchvision().models, name)(weights=None, num_classes=4)
    torch.save(module, tmp_path / "m.pt")
    same(module, tmp_path / "m.pt", TORCHVISION[name])


def test_a_torchvision_transformer_keeps_functools_partial(tmp_path: Path) -> None:
    transformer = import_torchvision().models.VisionTransformer
    module = transformer(image_size=32, patch_size=16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64)
    torch.save(module, tmp_path / "m.pt")
    assert "functools.partial" in scan(tmp_path / "m.pt").calls
    same(module, tmp_path / "m.pt", 32)


def plain(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def old(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


WRITERS = [torch.save, old, plain, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=0))]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("wrap", [lambda p: p, lambda p: {"state_dict": {"w": torch.ones(1)}, "p": p}])
def test_code_in_a_file_does_not_run(
    write: Callable[[object, Path], None], wrap: Callable[[object], object], tmp_path: Path
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    write(wrap(Payload(marker)), path)
    with pytest.raises(UnsafeInputError, match="system") as caught:
        load_model(str(path), classes=2, in_channels=1, image_size=(4, 4))
    assert "--arch" in (caught.value.hint or "")
    assert "--trust-pickle" in (caught.value.hint or "")
    with pytest.raises(UnsafeInputError):
        load_model(str(path), arch="timm:resnet18", classes=2, in_channels=3, image_size=(32, 32))
    assert not marker.exists()
    with pytest.raises(ModelError):  # it runs, and holds no network
        load_pickled(path, trust=True)
    assert marker.exists()


def behind(front: bytes, archive: Path, path: Path) -> None:
    path.write_bytes(front + archive.read_bytes())


def test_a_file_that_is_two_files_is_not_opened(tmp_path: Path) -> None:
    """The last bytes make these a harmless archive for `zipfile`; torch goes by the first ones."""
    harmless, path, marker = tmp_path / "harmless.pt", tmp_path / "evil.pt", tmp_path / "marker"
    torch.save({"w": torch.ones(1)}, harmless)
    assert not scan(harmless).calls - {"torch._utils._rebuild_tensor_v2", "collections.OrderedDict"}
    for write in (plain, old):
        write(Payload(marker), path)
        behind(path.read_bytes(), harmless, path)
        with pytest.raises(UnsafeInputError, match="a pickle with a zip archive behind it"):
            load_model(str(path), classes=2, in_channels=1, image_size=(4, 4))
    torch.save(Payload(marker), path)
    behind(path.read_bytes(), harmless, path)
    with pytest.raises(UnsafeInputError, match=r"another archive before it|not in its place"):
        read_pickle(path, trust=False)
    assert not marker.exists()


class Calls:
    """A pickle that names `target` (as text) and calls it."""

    def __init__(self, module: str, name: str, *arguments: object) -> None:
        self.module, self.name, self.arguments = module, name, arguments

    def write(self, path: Path) -> None:
        """Protocol 2, which torch reads: GLOBAL, arguments, REDUCE."""
        body = b"(" + b"".join(
            b"X" + len(a).to_bytes(4, "little") + a for a in map(str.encode, map(str, self.arguments))
        )
        path.write_bytes(b"\x80\x02c" + f"{self.module}\n{self.name}\n".encode() + body + b"tR.")


@pytest.mark.parametrize(
    "trick",
    [
        Calls("torch.nn.functional", "os.system", "true"),
        Calls("torch.nn.functional.os", "system", "true"),
        Calls("torch.nn.modules.module", "os.system", "true"),
        Calls("timm.models._hub", "os.system", "true"),
        Calls("timm.models._helpers", "load_checkpoint", "true"),
        Calls("torchvision.models.feature_extraction", "DualGraphModule", "true"),
        Calls("torch.nn.modules.linear", "Linear", "true"),  # may be named and made, but not called
        Calls("torch.nn.modules.module", "torch", "true"),
        Calls("builtins", "eval", "1"),
        Calls("builtins", "getattr", "1", "x"),
        Calls("torch", "load", "x"),
        Calls("torch.hub", "load", "x"),
    ],
    ids=lambda trick: f"{trick.module}.{trick.name}",
)
def test_roundabout_names_and_calls_are_refused(trick: Calls, tmp_path: Path) -> None:
    trick.write(tmp_path / "evil.pt")
    assert f"{trick.module}.{trick.name}" in scan(tmp_path / "evil.pt").calls
    with pytest.raises(UnsafeInputError, match=trick.name.rpartition(".")[2]):
        read_pickle(tmp_path / "evil.pt", trust=False)


def test_the_users_own_class_is_refused_unless_trusted(tmp_path: Path) -> None:
    class_at_module_level = OwnNet()
    torch.save(class_at_module_level, tmp_path / "own.pt")
    with pytest.raises(UnsafeInputError, match="OwnNet"):
        load_model(str(tmp_path / "own.pt"), classes=2, in_channels=1, image_size=(4, 4))
    loaded = load_model(str(tmp_path / "own.pt"), classes=2, in_channels=1, image_size=(4, 4), trust_pickle=True)
    assert isinstance(loaded.module, OwnNet)
    assert any("--trust-pickle" in note for note in loaded.notes)
    with pytest.raises(ModelError, match="cannot be kept in the run folder"):
        save_skeleton(loaded.module, tmp_path / "skeleton.pt")
    assert not (tmp_path / "skeleton.pt").exists()


class OwnNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1))


def test_old_files_of_harmless_networks_say_what_to_do(tmp_path: Path) -> None:
    old(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), tmp_path / "old.pt")
    with pytest.raises(UnsafeInputError, match="its format cannot"):
        load_pickled(tmp_path / "old.pt", trust=False)
    assert isinstance(load_pickled(tmp_path / "old.pt", trust=True), nn.Sequential)


def test_a_skeleton_rebuilds_what_was_loaded(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    torch.save({"epoch": 1, "model": nn.DataParallel(net)}, tmp_path / "m.pt")
    loaded = load_model(str(tmp_path / "m.pt"), classes=3, in_channels=1, image_size=(4, 4))
    assert loaded.has_weights
    assert isinstance(loaded.module, nn.Sequential)
    assert torch.equal(loaded.module[1].weight, net[1].weight)
    (tmp_path / "run").mkdir()
    save_skeleton(loaded.module, tmp_path / "run" / loaded.origin.reference)
    again = rebuild(loaded.origin, skeleton_dir=tmp_path / "run")
    assert again.state_dict().keys() == net.state_dict().keys()
    net.register_forward_hook(lambda *_: None)
    with pytest.raises(ModelError, match="pickled"):
        save_skeleton(net, tmp_path / "bad.pt")


def test_an_averaged_network_is_preferred(tmp_path: Path) -> None:
    raw, averaged = (nn.Sequential(nn.Flatten(), nn.Linear(4, 2)) for _ in range(2))
    torch.save({"model": raw, "model_ema": averaged}, tmp_path / "m.pt")
    assert torch.equal(load_pickled(tmp_path / "m.pt", trust=False)[1].weight, averaged[1].weight)


def with_norms() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 2), nn.BatchNorm2d(2), nn.Flatten())


def test_what_the_file_has_frozen_stays_frozen_and_is_told(tmp_path: Path) -> None:
    module = with_norms()
    module[0].requires_grad_(False)
    module[3].eval()
    torch.save(module, tmp_path / "m.pt")
    loaded = load_model(str(tmp_path / "m.pt"), classes=2, in_channels=1, image_size=(4, 4))
    kept = {name for name, p in loaded.module.named_parameters() if not p.requires_grad}
    assert kept == {"0.weight", "0.bias"}
    assert any("0.weight, 0.bias (43% of it)" in note for note in loaded.notes)
    assert any("eval mode" in note and "--freeze 3)" in note for note in loaded.notes)
    save_skeleton(loaded.module, tmp_path / loaded.origin.reference)
    again = rebuild(loaded.origin, skeleton_dir=tmp_path)
    assert {name for name, p in again.named_parameters() if not p.requires_grad} == kept


@pytest.mark.parametrize("frozen", [True, False])
def test_a_network_saved_for_inference_is_trained_as_a_whole(frozen: bool, tmp_path: Path) -> None:
    torch.save(with_norms().eval().requires_grad_(not frozen), tmp_path / "m.pt")
    loaded = load_model(str(tmp_path / "m.pt"), classes=2, in_channels=1, image_size=(4, 4))
    assert all(p.requires_grad for p in loaded.module.parameters())
    assert any("every layer is frozen" in note for note in loaded.notes) == frozen
    assert not any("eval mode" in note for note in loaded.notes)


def test_functions_that_layers_keep_are_allowed(tmp_path: Path) -> None:
    for activation in (nn.functional.relu, nn.functional.gelu):
        layer = nn.TransformerEncoderLayer(8, 2, 16, activation=activation, batch_first=True)
        torch.save(layer, tmp_path / "m.pt")
        loaded = load_pickled(tmp_path / "m.pt", trust=False)
        x = torch.rand(1, 3, 8)
        with warnings.catch_warnings():
            assert torch.equal(loaded.eval()(x), layer.eval()(x))
