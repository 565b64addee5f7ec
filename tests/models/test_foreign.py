"""Models of other programs are recognised, and the way that leads here is said."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harden.errors import ModelError
from harden.models import load_model

FILES = {
    "keras.h5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5", "tf2onnx"),
    "model.tflite": (b"\x1c\0\0\0TFL3" + bytes(99), "TensorFlow Lite", "tf2onnx"),
    "saved_model.pb": (b"\x08\x01\x12\xff" + bytes(99), "SavedModel", "tf2onnx"),
    "program.pte": (b"\x1c\0\0\0ET12" + bytes(99), "ExecuTorch", "state_dict"),
    "weights.pth": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer", "git lfs pull"),
    "page.pth": (b"\n <!doctype html>", "web page", "download"),
    "weights.pth.gz": (b"\x1f\x8b\x08" + bytes(99), "gzip", "unpack"),
    "weights.npy": (b"\x93NUMPY" + bytes(99), "numpy", "torch.save"),
    "words.txt": (b"hello, world", "not a model file", "expected"),
}


def refusal(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load_model(str(path), classes=2, in_channels=3, image_size=(32, 32))
    return caught.value


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_programs(name: str, tmp_path: Path) -> None:
    content, what, way = FILES[name]
    (tmp_path / name).write_bytes(content)
    error = refusal(tmp_path / name)
    assert what in error.message
    assert way in (error.hint or "")


def test_a_keras_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", "x")
    assert "Keras" in refusal(tmp_path / "model.keras").message


def test_folders_of_other_programs(tmp_path: Path) -> None:
    for name, content, what in (
        ("saved_model.pb", "", "SavedModel"),
        ("adapter_config.json", "{}", "LoRA"),
        ("config.json", json.dumps({"model_type": "vit", "architectures": ["ViTForImageClassification"]}), "ViTFor"),
    ):
        (tmp_path / what).mkdir()
        (tmp_path / what / name).write_text(content)
        assert what in refusal(tmp_path / what).message
    (tmp_path / "empty").mkdir()
    assert "is a folder" in refusal(tmp_path / "empty").message


def test_weights_of_other_programs(tmp_path: Path) -> None:
    key = "base_model.model.blocks.0.attn.qkv.lora_A.weight"
    torch.save({key: torch.ones(4, 8)}, tmp_path / "adapter.pt")
    error = refusal(tmp_path / "adapter.pt")
    assert "LoRA" in error.message
    assert "merge" in (error.hint or "")
    folder = tmp_path / "vit"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "vit", "architectures": ["ViTForImageClassification"]})
    )
    save_file({"vit.embeddings.cls_token": torch.ones(1, 1, 8)}, folder / "model.safetensors")
    error = refusal(folder / "model.safetensors")
    assert "ViTForImageClassification of Hugging Face transformers" in error.message
    assert "from_pretrained" in (error.hint or "")
