"""From what a user typed to a model and images that fit each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from harden.data import open_data
from harden.workflows.prepare import ModelSpec, load_candidate
from tests.conftest import MakeImages

from .builders import Notebook


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
