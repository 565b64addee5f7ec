"""From what a user typed to a model and images that fit each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from harden.data import open_data
from harden.errors import PreflightError
from harden.workflows.fit import fit
from harden.workflows.prepare import ModelSpec, load_candidate
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
    candidate = load_candidate(ModelSpec(model=str(tmp_path / "m.pt")), source, notebook)
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
