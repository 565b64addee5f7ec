"""From what a user typed to a model and images that fit each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harden.data import open_data
from harden.errors import PreflightError
from harden.vision import import_timm
from harden.workflows.fit import fit
from harden.workflows.inspect import inspect
from harden.workflows.prepare import ModelSpec, find_normalisation, load_candidate, preflight_sample
from harden.workflows.settings import FitSettings
from tests.conftest import MakeImages

from .builders import Notebook, Workshop, build


@pytest.mark.parametrize(("gray", "wanted"), [(True, 3), (False, 1)])
def test_images_are_opened_as_the_network_wants_them(
    gray: bool, wanted: int, make_images: MakeImages, tmp_path: Path
) -> None:
    source = open_data(str(make_images(tmp_path / "imgs", gray=gray, all=2)))
    torch.save(nn.Sequential(nn.Conv2d(wanted, 2, 16), nn.Flatten(), nn.Linear(2, 3)), tmp_path / "m.pt")
    notebook = Notebook()
    candidate = load_candidate(ModelSpec(model=str(tmp_path / "m.pt")), source, source.listings["all"], notebook)
    assert candidate.images.image_format.channels == wanted
    images = candidate.images.decode(source.listings["all"], notebook, "images").images
    assert images.shape == (6, wanted, 16, 16)
    assert "are converted" in notebook.text


@pytest.mark.parametrize("pretrain", [None, 1])
def test_the_repair_of_a_model_that_does_not_know_the_data_works(
    pretrain: int | None, workshop: Workshop, tmp_path: Path
) -> None:
    """The preflight's hint says --pretrain; with it the preflight tells what it found and lets the run go on."""
    torch.save(build().eval(), tmp_path / "untrained.pt")
    notebook = Notebook()

    def dry_run() -> None:
        fit(
            FitSettings(
                model=str(tmp_path / "untrained.pt"), data=str(workshop.data), epochs=1, eps=0.03, pretrain=pretrain
            ),
            out=None,
            dry_run=True,
            narrator=notebook,
            stop_requested=lambda: False,
            command="harden fit",
        )

    if pretrain is None:
        with pytest.raises(PreflightError, match="does not know this data") as caught:
            dry_run()
        assert "--pretrain" in (caught.value.hint or "")
    else:
        dry_run()
        assert any("does not know this data" in warning for warning in notebook.warnings)
        assert "the network does not know the images; normalisation: the data's own" in notebook.text


@pytest.fixture
def timm_folder(tmp_path: Path) -> Path:
    """A network as timm saves it, whose classes are the workshop's in another order."""
    module = import_timm().create_model("test_resnet", num_classes=3)
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    pretrained = {"input_size": [3, 32, 32], "mean": [0.4] * 3, "std": [0.2] * 3}
    config = {"architecture": "test_resnet", "num_classes": 3, "label_names": ["c", "a", "b"]}
    (tmp_path / "config.json").write_text(json.dumps({**config, "pretrained_cfg": pretrained}))
    return tmp_path


def test_a_config_settles_size_normalisation_and_classes(timm_folder: Path, workshop: Workshop) -> None:
    source, notebook = open_data(str(workshop.data)), Notebook()
    spec = ModelSpec(model=f"local-dir:{timm_folder}")
    candidate = load_candidate(spec, source, source.listings["train"], notebook)
    assert candidate.images.image_format.size == (32, 32)  # the images have 16 x 16
    assert candidate.images.classes == ("c", "a", "b")
    assert candidate.images.mapping == (1, 2, 0)
    sample = preflight_sample(candidate.images, source.listings["train"][:9], notebook)
    found = find_normalisation(spec, candidate, sample, notebook, must_know=False)
    assert (found.mean, found.std) == ((0.4,) * 3, (0.2,) * 3)
    flags = ModelSpec(model=spec.model, image_size=48, class_map=(0, 1, 2), mean=(0.5,), std=(0.5,))
    candidate = load_candidate(flags, source, source.listings["train"], notebook)
    assert candidate.images.image_format.size == (48, 48)
    assert candidate.images.classes == ("a", "b", "c")
    assert find_normalisation(flags, candidate, sample, notebook, must_know=False).mean == (0.5,) * 3


def test_other_names_than_the_datas_are_told(timm_folder: Path, workshop: Workshop) -> None:
    config = json.loads((timm_folder / "config.json").read_text())
    (timm_folder / "config.json").write_text(json.dumps({**config, "label_names": ["cat", "dog", "fox"]}))
    notebook = Notebook()
    source = open_data(str(workshop.data))
    candidate = load_candidate(ModelSpec(model=str(timm_folder)), source, source.listings["train"], notebook)
    assert candidate.images.classes == ("a", "b", "c")
    assert "names of its classes (cat, dog, fox, ...) are not those of the data" in notebook.text


def test_without_data_a_config_says_what_the_classes_are(timm_folder: Path) -> None:
    found = inspect(ModelSpec(model=str(timm_folder)), data=None, narrator=Notebook())
    assert found.classifier.classes == ("c", "a", "b")
    assert found.classifier.input_size == (3, 32, 32)
    assert found.classifier.normalisation.mean == (0.4,) * 3
