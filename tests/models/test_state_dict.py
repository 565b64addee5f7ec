import argparse
import copy
import datetime
import fractions
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harden.errors import ModelError, UnsafeInputError
from harden.models.state_dict import fit_to, load_into, read_state_dict


def net(classes: int = 3) -> nn.Module:
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(body, nn.Flatten(), nn.Linear(16, classes))


@pytest.fixture
def source() -> nn.Module:
    module = net()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    return module.eval()


def fits(source: nn.Module, content: Any, path: Path, tolerance: float = 0.0) -> tuple[str, ...]:
    torch.save(content, path)
    target = net().eval()
    notes = fit_to(target, path)
    for key, value in source.state_dict().items():
        assert target.state_dict()[key].dtype == value.dtype
        torch.testing.assert_close(target.state_dict()[key], value, rtol=tolerance, atol=tolerance)
    return notes


WRAPPERS = ["state_dict", "model_state_dict", "model", "net", "module", "ema", "model_ema", "state_dict_ema", "mine"]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.model.", "net.", "whatever."])
def test_wrappers_and_prefixes(source: nn.Module, wrapper: str, prefix: str, tmp_path: Path) -> None:
    weights = {prefix + key: value for key, value in source.state_dict().items()}
    optimiser = {"state": {}, "param_groups": [{"lr": 0.1}], "extra": torch.zeros(2)}
    notes = fits(source, {"epoch": 3, wrapper: weights, "optimizer": optimiser}, tmp_path / "w.ckpt")
    assert any(repr(wrapper) in note for note in notes)
    assert any("prefix" in note for note in notes) == bool(prefix)


def test_nested_lightning_half_precision_and_old_counters(source: nn.Module, tmp_path: Path) -> None:
    weights = source.state_dict()
    fits(source, {"state": {"model": weights}}, tmp_path / "nested.pt")
    lightning = {f"model.{key}": value for key, value in weights.items()} | {"criterion.weight": torch.ones(3)}
    assert any("1 others left out" in note for note in fits(source, {"state_dict": lightning}, tmp_path / "l.ckpt"))
    for dtype in (torch.float16, torch.bfloat16):
        fits(
            source,
            {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights.items()},
            tmp_path / "h.pt",
            0.02,
        )
    old = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    fits(source, old | {"0.0.total_ops": torch.zeros(1)}, tmp_path / "old.pt")
    fits(source, {f"0.module{k[1:]}" if k[0] == "0" else k: v for k, v in weights.items()}, tmp_path / "inner.pt")


def test_a_prefix_that_only_the_network_has(source: nn.Module, tmp_path: Path) -> None:
    torch.save(source.state_dict(), tmp_path / "w.pt")
    outer = nn.ModuleDict({"wrapped": net()})
    assert any("put before" in note for note in fit_to(outer, tmp_path / "w.pt"))
    assert torch.equal(outer["wrapped"][2].weight, source[2].weight)


def test_averaged_weights_are_preferred_and_told(source: nn.Module, tmp_path: Path) -> None:
    raw = {key: value + 1 if value.is_floating_point() else value for key, value in source.state_dict().items()}
    averaged = torch.optim.swa_utils.AveragedModel(source).state_dict()
    notes = fits(source, {"model": raw, "model_ema": averaged}, tmp_path / "both.pt")
    assert any("averaged" in note for note in notes)


@pytest.mark.parametrize(
    "averaged", ["state_dict_ema", "model_ema", "ema", "model_ema_state_dict", "ema_model", "params_ema", "EMA"]
)
@pytest.mark.parametrize("raw", ["model", "state_dict", "params"])
def test_whatever_has_ema_in_its_name_is_preferred(source: nn.Module, averaged: str, raw: str, tmp_path: Path) -> None:
    weights = source.state_dict()
    other = {key: value + 1 if value.is_floating_point() else value for key, value in weights.items()}
    notes = fits(source, {raw: other, averaged: weights}, tmp_path / "both.pt")
    assert any("averaged ones were taken" in note and repr(raw) in note for note in notes)
    assert not any("averaged" in note for note in fits(source, {"cinema": weights}, tmp_path / "word.pt"))


def test_averaged_weights_under_a_prefix(source: nn.Module, tmp_path: Path) -> None:
    weights = source.state_dict()
    raw = {f"model.{key}": value + 1 if value.is_floating_point() else value for key, value in weights.items()}
    for prefix in ("model_ema.", "ema_model.module."):
        averaged = {prefix + key: value for key, value in weights.items()}
        notes = fits(source, {"state_dict": raw | averaged}, tmp_path / "lightning.ckpt")
        assert any("averaged ones were taken, not 'model.'" in note for note in notes)
    flat = {"model_ema." + key.replace(".", ""): value for key, value in weights.items()}
    torch.save({"state_dict": raw | flat}, tmp_path / "flat.ckpt")
    target = net()
    notes = fit_to(target, tmp_path / "flat.ckpt")
    assert torch.equal(target.state_dict()["2.weight"], raw["model.2.weight"])
    assert any("averaged (EMA) weights too, under 'model_ema.'" in note for note in notes)


def test_safetensors_legacy_and_a_misleading_name(source: nn.Module, tmp_path: Path) -> None:
    save_file(source.state_dict(), tmp_path / "w.pth")
    torch.save(source.state_dict(), tmp_path / "w.safetensors", _use_new_zipfile_serialization=False)
    for name in ("w.pth", "w.safetensors"):
        target = net()
        fit_to(target, tmp_path / name)
        assert torch.equal(target[2].weight, source[2].weight)


def test_training_arguments_beside_the_weights_are_harmless(source: nn.Module, tmp_path: Path) -> None:
    beside = {"args": argparse.Namespace(lr=0.1, out=tmp_path), "best": np.float64(0.9), "accuracies": np.float32(1)}
    beside |= {"rng": np.random.RandomState(0).get_state(), "when": datetime.datetime(2020, 1, 1), "rows": slice(3)}
    fits(source, beside | {"state_dict": source.state_dict()}, tmp_path / "w.pt")


def test_mismatches_are_listed(source: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    weights = dict(source.state_dict())
    torch.save({key: value for key, value in weights.items() if key != "2.bias"} | {"9.odd": torch.ones(1)}, path)
    with pytest.raises(ModelError, match=r"the file lacks: 2\.bias\n.*9\.odd") as caught:
        fit_to(net(), path)
    assert "--arch" in (caught.value.hint or "")
    torch.save(weights | {"0.0.weight": torch.ones(4, 1, 5, 5)}, path)
    with pytest.raises(ModelError, match="other shapes"):
        fit_to(net(), path)
    torch.save(weights, path)
    with pytest.raises(ModelError, match=r"number of classes: their last layer \(2\) has 3 classes.* built for 7"):
        fit_to(net(7), path)


def test_weights_that_are_not_finite(source: nn.Module, tmp_path: Path) -> None:
    weights = copy.deepcopy(source.state_dict())
    weights["0.1.running_var"][0] = float("inf")
    torch.save(weights, tmp_path / "w.pt")
    target = net()
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(ModelError, match=r"not finite: 0\.1\.running_var"):
        fit_to(target, tmp_path / "w.pt")
    assert torch.equal(target.state_dict()["2.weight"], before["2.weight"])


def test_damaged_files_are_told_in_plain_words(source: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    for new in (True, False):
        torch.save(source.state_dict(), path, _use_new_zipfile_serialization=new)
        whole = path.read_bytes()
        for cut in (0, 1, 3, 20, 100, len(whole) // 2, len(whole) - 7):
            path.write_bytes(whole[:cut])
            with pytest.raises(ModelError):
                read_state_dict(path)
    save_file(source.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ModelError, match="truncated"):
        read_state_dict(path)
    for junk in (
        b"hello",
        b"<html>404</html>",
        b"\x80junk",
        bytes(range(256)),
        b"\x00" * 100,
        b"version https://git-lfs",
    ):
        path.write_bytes(junk)
        with pytest.raises(ModelError):
            read_state_dict(path)
    torch.save({"epoch": 3, "loss": [1.0]}, path)
    with pytest.raises(ModelError, match="no state dict"):
        read_state_dict(path)


def test_unknown_classes_beside_the_weights_are_not_imported(source: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"state_dict": source.state_dict(), "ratio": fractions.Fraction(1, 2)}, path)
    with pytest.raises(UnsafeInputError, match="fractions"):
        read_state_dict(path)
    assert read_state_dict(path, trust=True)[0].wrapper == "state_dict"


class Versioned(nn.Linear):
    """Asks which version of itself a state dict is of, as torchvision's MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state: Any, prefix: str, local: dict[str, Any], *rest: Any) -> None:
        if local.get("version") != 2:
            raise ValueError(f"version should be 2 instead of {local.get('version')}")
        super()._load_from_state_dict(state, prefix, local, *rest)


def test_plain_dictionaries_are_of_the_versions_of_the_module(tmp_path: Path) -> None:
    source, target = Versioned(2, 2), Versioned(2, 2)
    torch.save({"model": dict(source.state_dict())}, tmp_path / "w.pt")
    fit_to(target, tmp_path / "w.pt")
    assert torch.equal(source.weight, target.weight)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_into(target, {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)})


@pytest.mark.parametrize("head", ["head.", "classifier.fc.", "head.2."])
def test_a_body_and_a_head_under_two_prefixes(source: nn.Module, head: str, tmp_path: Path) -> None:
    """Libraries of backbones save the two parts side by side; the network has the head under a name of its own."""
    weights = source.state_dict()
    saved = {f"{head}{key[2:]}" if key.startswith("2.") else f"backbone.{key}": value for key, value in weights.items()}
    notes = fits(source, saved, tmp_path / "parts.pt")
    assert any("'backbone.'" in note for note in notes)


def test_a_list_of_state_dicts_is_unwrapped(source: nn.Module, tmp_path: Path) -> None:
    for content in ([source.state_dict()], (3, source.state_dict()), {"models": [source.state_dict()]}):
        assert any("under the key" in note for note in fits(source, content, tmp_path / "list.pt"))
