"""Weights with a config.json in timm's layout: local-dir:, hf-hub:, and a file beside its config."""

import fractions
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harden.errors import ModelError, UnsafeInputError
from harden.models import LoadedModel, load_model, output_classes, rebuild, stated_size, timm_folder
from harden.models.origin import Origin
from harden.vision import import_timm

CONFIG: dict[str, Any] = {
    "architecture": "test_vit",
    "num_classes": 3,
    "num_features": 64,
    "label_names": ["cat", "dog", "fox"],
    "model_args": {"img_size": 48, "global_pool": "avg", "class_token": False, "in_chans": 1, "drop_rate": 0.1},
    "pretrained_cfg": {
        "input_size": [1, 48, 48],
        "mean": [0.4],
        "std": [0.2],
        "crop_pct": 0.875,
        "num_classes": 3,
        "hf_hub_id": "someone/else",
    },
}


def network(config: dict[str, Any] = CONFIG) -> nn.Module:
    arguments = config.get("model_args", {})
    module: nn.Module = import_timm().create_model(
        config["architecture"], num_classes=config["num_classes"], **arguments
    )
    return module


def saved(folder: Path, config: dict[str, Any] = CONFIG, name: str = "model.safetensors") -> nn.Module:
    folder.mkdir(exist_ok=True)
    module = network(config)
    if name.endswith(".safetensors"):
        save_file(module.state_dict(), folder / name)
    else:
        torch.save(module.state_dict(), folder / name)
    (folder / "config.json").write_text(json.dumps(config))
    return module


def load(spec: object, *, arch: str | None = None, size: int = 48, channels: int = 3) -> LoadedModel:
    return load_model(str(spec), arch=arch, classes=5, in_channels=channels, image_size=(size, size))


@pytest.mark.parametrize("form", ["local-dir:{}", "{}", "{}/model.safetensors"])
def test_a_folder_says_all_that_is_needed(form: str, tmp_path: Path) -> None:
    module = saved(tmp_path / "net")
    spec = form.format(tmp_path / "net")
    assert stated_size(spec, arch=None) == (48, 48)
    loaded = load(spec)
    assert loaded.has_weights
    assert all(torch.equal(value, loaded.module.state_dict()[key]) for key, value in module.state_dict().items())
    assert output_classes(loaded.module, 1, (48, 48)) == 3
    assert loaded.stated.labels == ("cat", "dog", "fox")
    assert (loaded.stated.mean, loaded.stated.std) == ((0.4,), (0.2,))
    assert any("middle 88%" in note for note in loaded.notes)
    origin = Origin.from_json(json.loads(json.dumps(loaded.origin.to_json())))
    rebuilt = rebuild(origin, skeleton_dir=tmp_path)
    rebuilt.load_state_dict(loaded.module.state_dict())
    images = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(images), module.eval()(images))


def test_an_arch_makes_the_config_of_a_file_irrelevant(tmp_path: Path) -> None:
    other = {"architecture": "test_resnet", "num_classes": 5}
    saved(tmp_path, other)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    loaded = load(tmp_path / "model.safetensors", arch="timm:test_resnet")
    assert loaded.origin.reference == "test_resnet"
    assert loaded.stated.labels is None
    assert stated_size(str(tmp_path / "model.safetensors"), arch="timm:test_resnet") is None
    with pytest.raises(ModelError, match="do not fit"):
        load(tmp_path / "model.safetensors")


def test_pickled_weights_go_through_the_guarded_reader(tmp_path: Path) -> None:
    saved(tmp_path, name="pytorch_model.bin")
    assert load(f"local-dir:{tmp_path}").origin.reference == "test_vit"
    torch.save(
        {"state_dict": network().state_dict(), "ratio": fractions.Fraction(1, 2)}, tmp_path / "pytorch_model.bin"
    )
    with pytest.raises(UnsafeInputError, match="fractions"):
        load(f"local-dir:{tmp_path}")


def test_older_configs_have_everything_in_one_object(tmp_path: Path) -> None:
    old = {
        "architecture": "test_resnet",
        "num_classes": 4,
        "input_size": [3, 64, 64],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    saved(tmp_path, old)
    loaded = load(tmp_path, size=64)
    assert loaded.stated.size == (64, 64)
    assert loaded.stated.mean == (0.5, 0.5, 0.5)
    assert loaded.stated.labels is None
    assert output_classes(loaded.module, 3, (64, 64)) == 4


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"0": "cat", "2": "fox", "1": "dog"}, ("cat", "dog", "fox")),
        (["cat", "cat", "fox"], None),
        (["cat", "dog"], None),
        ({"0": "cat", "7": "dog"}, None),
        ([1, 2, 3], None),
        ("cat", None),
    ],
)
def test_names_of_classes(names: object, expected: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "label_names": names}))
    config = timm_folder.read(tmp_path / "config.json")
    assert config is not None
    assert config.stated.labels == expected


@pytest.mark.parametrize(
    "arguments",
    [
        {"checkpoint_path": "weights"},
        {"pretrained": True},
        {"pretrained_cfg": {"file": "/etc/passwd"}},
        {"global_pool": "../avg"},
        {"img_size": "big"},
    ],
)
def test_arguments_that_could_do_more_are_refused(arguments: dict[str, Any], tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "model_args": arguments}))
    with pytest.raises(UnsafeInputError, match=rf"model_args\.{next(iter(arguments))}"):
        load(f"local-dir:{tmp_path}")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architecture", "resnet18@a1_in1k"),
        ("num_classes", "many"),
        ("num_classes", -1),
        ("model_args", [1]),
        ("pretrained_cfg", {"input_size": [3, 224]}),
        ("pretrained_cfg", {"mean": ["x"]}),
        ("pretrained_cfg", {"mean": [0.5], "std": [0]}),
        ("pretrained_cfg", {"std": []}),
    ],
)
def test_damaged_fields_are_named(field: str, value: object, tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, field: value}))
    with pytest.raises(ModelError, match="is damaged") as caught:
        load(f"local-dir:{tmp_path}")
    assert "--arch" in (caught.value.hint or "")


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        load(f"local-dir:{tmp_path / 'nowhere'}")
    with pytest.raises(ModelError, match="timm's layout"):
        load(f"local-dir:{tmp_path}")
    with pytest.raises(ModelError, match="is a folder, not a model file"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ModelError, match=r"none of model\.safetensors"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "architecture": "test_vitt"}))
    save_file(network().state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="did you mean") as caught:
        load(tmp_path, size=64)
    assert "list the names" in (caught.value.hint or "")


def test_another_programs_config_says_nothing(tmp_path: Path) -> None:
    module = import_timm().create_model("test_resnet", num_classes=5)
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    for text in ('{"classes": ["a"]}', "{", '["architecture"]', '{"architecture": 3}', "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        assert load(tmp_path / "model.safetensors", size=64).origin.reference == "test_resnet"


def test_another_image_size_names_the_flag(tmp_path: Path) -> None:
    saved(tmp_path, {**CONFIG, "architecture": "vit_tiny_patch16_224"})
    with pytest.raises(ModelError, match="pos_embed") as caught:
        load(tmp_path, size=64)
    assert "--image-size 48" in (caught.value.hint or "")


def test_offline_the_hub_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*arguments: object, **keywords: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline mode is enabled")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(ModelError, match=r"hf-hub:someone/net cannot be downloaded.*offline") as caught:
        load("hf-hub:someone/net")
    assert "local-dir:FOLDER" in (caught.value.hint or "")


def test_the_hub_is_asked_for_the_files_of_one_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    saved(tmp_path, name="pytorch_model.bin")
    asked: list[tuple[object, ...]] = []

    def download(repository: str, file: str, *, revision: str | None) -> str:
        asked.append((repository, file, revision))
        if not (tmp_path / file).exists():
            raise huggingface_hub.errors.EntryNotFoundError("404")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    loaded = load("hf-hub:someone/net-2@v1")
    assert loaded.stated.labels == ("cat", "dog", "fox")
    assert asked == [
        ("someone/net-2", file, "v1")
        for file in ("config.json", "model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin")
    ]
