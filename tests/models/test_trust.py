import json
from pathlib import Path

import pytest
from torch import nn

from harden.cli.errors import EXIT_UNSAFE, exit_code
from harden.errors import ModelError, UnsafeInputError
from harden.models import factory, load_model, rebuild, trust
from harden.models.origin import Origin

CODE = """
from pathlib import Path
from torch import nn
Path({marker!r}).write_text("ran")
def net(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, num_classes))
"""


@pytest.fixture(autouse=True)
def _own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDEN_STATE", str(tmp_path / "state"))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


@pytest.fixture
def code(tmp_path: Path, marker: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(CODE.format(marker=str(marker)))
    return path


def test_what_the_user_named_is_built_again_without_asking(code: Path, tmp_path: Path) -> None:
    loaded = load_model(f"{code}:net", classes=3, in_channels=1, image_size=(4, 4))
    assert loaded.origin.arguments == {"num_classes": 3}
    assert trust.is_trusted(loaded.origin)
    again = rebuild(Origin.from_json(loaded.origin.to_json()), skeleton_dir=tmp_path)
    assert isinstance(again, nn.Sequential)
    assert again.state_dict().keys() == loaded.module.state_dict().keys()
    assert len(json.loads(trust.ledger_path().read_text())) == 1


def test_a_strangers_run_folder_does_not_run_code(code: Path, marker: Path, tmp_path: Path) -> None:
    origin = factory.origin_of(f"{code}:net", {"num_classes": 3})
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "nets.py").write_text(code.read_text())
    with pytest.raises(UnsafeInputError, match="never named") as caught:
        rebuild(origin, skeleton_dir=folder)
    assert f"--arch {folder / 'nets.py'}:net" in (caught.value.hint or "")
    assert not marker.exists()
    rebuild(origin, skeleton_dir=folder, arch=f"{folder / 'nets.py'}:net")
    assert marker.exists()
    assert trust.is_trusted(factory.origin_of(f"{folder / 'nets.py'}:net", {}))
    assert not trust.is_trusted(origin)


def test_changed_or_moved_code_is_asked_about_again(code: Path, marker: Path, tmp_path: Path) -> None:
    loaded = load_model(f"{code}:net", classes=3, in_channels=1, image_size=(4, 4))
    marker.unlink()
    text = code.read_text()
    code.write_text(text + "\n# changed\n")
    with pytest.raises(UnsafeInputError, match="changed or moved"):
        rebuild(loaded.origin, skeleton_dir=tmp_path / "run")
    forged = Origin("factory", loaded.origin.reference, {}, code_sha256=None)
    assert not trust.is_trusted(forged)
    code.unlink()
    with pytest.raises(UnsafeInputError):
        rebuild(loaded.origin, skeleton_dir=tmp_path / "run")
    assert not marker.exists()


def test_a_package_is_located_without_being_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marker: Path
) -> None:
    package = tmp_path / "harden_test_package"
    package.mkdir()
    (package / "__init__.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n")
    (package / "nets.py").write_text("from torch import nn\ndef net():\n    return nn.Flatten()\n")
    monkeypatch.chdir(tmp_path)
    reference = "harden_test_package.nets:net"
    origin = factory.origin_of(reference, {})
    with pytest.raises(UnsafeInputError):
        rebuild(origin, skeleton_dir=tmp_path)
    assert not marker.exists()
    assert load_model(reference, classes=4, in_channels=1, image_size=(2, 2)).origin == origin
    assert marker.exists()


def test_a_damaged_or_unwritable_ledger_trusts_nothing_and_stops_nothing(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust.ledger_path().parent.mkdir(parents=True)
    trust.ledger_path().write_text("{not json")
    assert not trust.is_trusted(factory.origin_of(f"{code}:net", {}))
    (tmp_path / "file").touch()
    monkeypatch.setenv("HARDEN_STATE", str(tmp_path / "file" / "below"))
    loaded = load_model(f"{code}:net", classes=3, in_channels=1, image_size=(4, 4))
    assert any("could not write" in note for note in loaded.notes)


def test_an_override_of_another_kind_is_refused(code: Path, tmp_path: Path) -> None:
    origin = factory.origin_of(f"{code}:net", {})
    with pytest.raises(ModelError, match="cannot stand for"):
        rebuild(origin, skeleton_dir=tmp_path, arch="timm:resnet18")


@pytest.mark.parametrize(
    ("kind", "reference", "field", "value"),
    [
        ("timm", "resnet10t", "checkpoint_path", "evil.pth"),
        ("timm", "resnet10t", "pretrained", True),
        ("timm", "resnet10t", "pretrained_cfg", {"file": "evil.pth"}),
        ("timm", "resnet10t", "num_classes", True),
        ("timm", "resnet10t", "in_chans", "3"),
        ("timm", "vit_tiny_patch16_224", "img_size", [64, "64"]),
        ("timm", "vit_tiny_patch16_224", "img_size", "64"),
        ("torchvision", "resnet18", "weights", "DEFAULT"),
        ("torchvision", "resnet18", "num_classes", 2.0),
        ("factory", "nets.py:net", "checkpoint", "evil.pth"),
    ],
)
def test_a_strangers_run_folder_gives_a_constructor_nothing_but_sizes(
    kind: str, reference: str, field: str, value: object, code: Path, marker: Path, tmp_path: Path
) -> None:
    arguments = {"num_classes": 3, field: value}
    origin = Origin(kind, reference, arguments)
    if kind == "factory":  # the stranger knows a file that the user has named before
        trust.remember(origin := factory.origin_of(f"{code}:net", arguments))
    with pytest.raises(UnsafeInputError, match=rf"origin\.arguments\.{field} ") as caught:
        rebuild(Origin.from_json(json.loads(json.dumps(origin.to_json()))), skeleton_dir=tmp_path)
    assert "num_classes" in (caught.value.hint or "")
    assert exit_code(caught.value) == EXIT_UNSAFE
    assert not marker.exists()
