import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from harden.errors import ModelError
from harden.models import (
    LoadedModel,
    accepted_channels,
    expected_channels,
    load_model,
    output_classes,
    rebuild,
)
from harden.models.origin import Origin

CODE = """
import neighbour
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes, in_chans=1):
        super().__init__()
        self.body = nn.Conv2d(in_chans, 2, 3)
        self.fc = nn.Linear(8, num_classes)
    def forward(self, x):
        return self.fc(self.body(x).flatten(1))
def breaks():
    raise ValueError("bad luck")
def number():
    return 3
def leaves():
    raise SystemExit(2)
constant = 5
"""


@pytest.fixture(autouse=True)
def _own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDEN_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("")
    (tmp_path / "nets.py").write_text(CODE)
    return tmp_path / "nets.py"


def load(spec: str, arch: str | None = None, classes: int = 5, channels: int = 3, size: int = 32) -> LoadedModel:
    return load_model(spec, arch=arch, classes=classes, in_channels=channels, image_size=(size, size))


def test_importing_the_package_imports_neither_timm_nor_torchvision() -> None:
    code = "import sys, harden.models; print([m for m in ('timm', 'torchvision') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("name", "channels", "size"), [("resnet10t", 1, 28), ("vit_tiny_patch16_224", 3, 32)])
def test_timm_networks_are_built_for_the_data_and_built_again(
    name: str, channels: int, size: int, tmp_path: Path
) -> None:
    loaded = load(f"timm:{name}", channels=channels, size=size)
    assert not loaded.has_weights
    assert expected_channels(loaded.module) == channels
    assert output_classes(loaded.module, channels, (size, size)) == 5
    assert ("img_size" in loaded.origin.arguments) == name.startswith("vit")
    origin = Origin.from_json(loaded.origin.to_json())
    rebuild(origin, skeleton_dir=tmp_path).load_state_dict(loaded.module.state_dict())


def test_timm_says_what_is_wrong() -> None:
    with pytest.raises(ModelError, match="did you mean 'resnet18'"):
        load("timm:resnet81")
    with pytest.raises(ModelError, match="did you mean 'timm:resnet18@a1_in1k'"):
        load("timm:resnet18.a1_in1k")
    with pytest.raises(ModelError, match=r"no weights 'a1_in1'.*did you mean 'a1_in1k'"):
        load("timm:resnet18@a1_in1")


def test_a_failing_download_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from harden.vision import import_timm

    timm = import_timm()
    real = timm.create_model

    def offline(*arguments: object, pretrained: bool = False, **keywords: object) -> object:
        if pretrained:
            raise OSError("no connection to the hub")
        return real(*arguments, **keywords)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ModelError, match=r"resnet10t.c3_in1k cannot be loaded: OSError: no connection") as caught:
        load("timm:resnet10t@c3_in1k")
    assert "--arch timm:resnet10t" in (caught.value.hint or "")


def test_torchvision(tmp_path: Path) -> None:
    loaded = load("torchvision:squeezenet1_1", size=64)
    rebuild(loaded.origin, skeleton_dir=tmp_path).load_state_dict(loaded.module.state_dict())
    assert output_classes(loaded.module, 3, (64, 64)) == 5
    assert load("torchvision:vit_b_32", size=64).origin.arguments["image_size"] == 64
    gray = load("torchvision:squeezenet1_1", channels=1, size=64)
    assert accepted_channels(gray.module, 1, (64, 64)) == 3  # the images will have to be converted
    with pytest.raises(ModelError, match="did you mean 'resnet18'"):
        load("torchvision:resnet-18")
    with pytest.raises(ModelError, match="pretrained weights cannot be named"):
        load("torchvision:resnet18@IMAGENET1K_V1")
    with pytest.raises(ModelError, match="cannot take 3x8x8 images"):
        load("torchvision:alexnet", size=8)


def test_factories_get_what_they_ask_for(code: Path) -> None:
    path_before = list(sys.path)
    loaded = load(f"{code}:Net", channels=2, size=4)
    assert sys.path == path_before
    assert loaded.origin.arguments == {"num_classes": 5, "in_chans": 2}
    assert expected_channels(loaded.module) == 2
    assert any(str(code) in note for note in loaded.notes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Nett", "no 'Nett'; did you mean 'Net'"),
        ("breaks", r"calling breaks\(\) failed: ValueError: bad luck \(nets.py, line 12\)"),
        ("number", "returned int, not a torch.nn.Module"),
        ("leaves", "SystemExit: 2"),
        ("constant", "is a int, not a function"),
    ],
)
def test_factories_say_what_is_wrong(code: Path, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load(f"{code}:{name}")
    assert caught.value.hint


def test_missing_files_and_broken_code(code: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"did you mean 'nets.py'"):
        load(f"{tmp_path}/net.py:Net")
    with pytest.raises(ModelError, match="no Python module 'nowhere_at_all"):
        load("nowhere_at_all.nets:Net")
    code.write_text("def f(:\n")
    with pytest.raises(ModelError, match=r"SyntaxError.*line 1"):
        load(f"{code}:f")
    torch.save({}, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match=r"did you mean 'weights.pth'"):
        load(str(tmp_path / "weigths.pth"))


def test_weights_need_an_arch_which_may_be_timm(code: Path, tmp_path: Path) -> None:
    source = load("timm:resnet10t").module
    torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "w.pth")
    torch.save(load(f"{code}:Net", size=4).module.state_dict(), tmp_path / "own.pth")
    with pytest.raises(ModelError, match="not the network") as caught:
        load(str(tmp_path / "own.pth"), size=4)
    assert "--arch timm:NAME" in (caught.value.hint or "")
    loaded = load(str(tmp_path / "w.pth"), arch="timm:resnet10t")
    assert loaded.has_weights
    assert loaded.origin.weights == str(tmp_path / "w.pth")
    assert all(torch.equal(v, loaded.module.state_dict()[k]) for k, v in source.state_dict().items())
    assert any("'module.'" in note for note in loaded.notes)
    with pytest.raises(ModelError, match="do not fit"):
        load(str(tmp_path / "w.pth"), arch=f"{code}:Net", size=4)
    with pytest.raises(ModelError, match="names no network"):
        load(str(tmp_path / "w.pth"), arch="resnet18")


def test_finished_programs_cannot_be_fine_tuned(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    example = torch.zeros(1, 1, 4, 4)
    path = tmp_path / "renamed.pth"
    torch.export.save(torch.export.export(net, (example,)), tmp_path / "m.pt2")
    (tmp_path / "m.pt2").rename(path)
    with pytest.raises(ModelError, match=r"exported program.*fine-tuned"):
        load(str(path), channels=1, size=4)
    path.write_bytes(b"\x08\x09\x12\x07pytorch\x1a\x062.13.0:\x05graph")
    with pytest.raises(ModelError, match=r"ONNX.*fine-tuned"):
        load(str(path), channels=1, size=4)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_cannot_be_fine_tuned(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    torch.jit.save(torch.jit.script(net), tmp_path / "renamed.pth")
    with pytest.raises(ModelError, match=r"TorchScript.*fine-tuned"):
        load(str(tmp_path / "renamed.pth"), channels=1, size=4)


def test_the_wrong_number_of_channels_is_told_as_such(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(8, 5)), tmp_path / "infrared.pt")
    with pytest.raises(ModelError, match=r"reads images of 4 channel\(s\), the data has 3") as caught:
        load(str(tmp_path / "infrared.pt"), size=4)
    assert "--channels" not in (caught.value.hint or "")


@pytest.mark.parametrize(("wanted", "stored"), [(1, 3), (3, 1)])
def test_a_network_of_the_other_number_of_channels_is_loaded_as_it_is(
    wanted: int, stored: int, code: Path, tmp_path: Path
) -> None:
    conv = nn.Sequential(nn.Conv2d(wanted, 2, 3), nn.Flatten(), nn.Linear(8, 5))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(16 * wanted, 5))
    for module in (conv, flat):
        torch.save(module, tmp_path / "m.pt")
        loaded = load(str(tmp_path / "m.pt"), channels=stored, size=4)
        assert accepted_channels(loaded.module, stored, (4, 4)) == wanted
    scope = load(f"{code}:Net", channels=wanted, size=4)
    torch.save(scope.module.state_dict(), tmp_path / "w.pt")
    loaded = load(str(tmp_path / "w.pt"), arch=f"{code}:Net", channels=stored, size=4)
    assert loaded.origin.arguments == {"num_classes": 5, "in_chans": wanted}
    assert torch.equal(loaded.module.fc.weight, scope.module.fc.weight)


def test_without_sizes_a_network_keeps_its_own(code: Path, tmp_path: Path) -> None:
    def open_(spec: str, arch: str | None = None, size: int = 4) -> LoadedModel:
        return load_model(spec, arch=arch, classes=None, in_channels=None, image_size=(size, size))

    assert open_(f"{code}:Net").origin.arguments == {"num_classes": 1000}  # it has a default for the channels
    for channels in (1, 3):
        torch.save(load(f"{code}:Net", classes=7, channels=channels, size=4).module.state_dict(), tmp_path / "w.pt")
        loaded = open_(str(tmp_path / "w.pt"), f"{code}:Net")
        assert output_classes(loaded.module, channels, (4, 4)) == 7
        assert accepted_channels(loaded.module, None, (4, 4)) == channels
    assert output_classes(open_("torchvision:squeezenet1_1", size=64).module, 3, (64, 64)) == 1000
