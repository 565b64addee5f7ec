"""What every test may use: a home of its own, small image folders, the project's real data where it is there."""

from __future__ import annotations

import os

# One thread for each process, before torch is imported: the processes share the cores, and sums have one order.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.workflows.builders import Workshop, open_workshop

REPOSITORY = Path(__file__).parents[1]

MakeImages = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the cache and the ledger of trusted code out of the user's home, and the tests off the network."""
    home = tmp_path_factory.mktemp("home")
    settings = {"HARDEN_CACHE": str(home / "cache"), "HARDEN_STATE": str(home / "state"), "HF_HUB_OFFLINE": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        patch.delenv("HARDEN_DEBUG", raising=False)
        yield


@pytest.fixture(scope="session")
def harden_test_data() -> Path:
    """The folder of real data and checkpoints that the project keeps outside the repository."""
    named = os.environ.get("HARDEN_TEST_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not there (set HARDEN_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def make_images() -> MakeImages:
    """Write an image folder of classes that differ in where a bright blob is; 16 x 16 PNG, gray or RGB.

    `make_images(root, train=20, test=8)` makes root/{train,test}/{a,b,c}/N.png; `make_images(root, all=20)` makes
    root/{a,b,c}/N.png.
    """

    def make(root: Path, *, seed: int = 0, gray: bool = False, side: int = 16, **counts: int) -> Path:
        random = np.random.default_rng(seed)
        rows, columns = np.mgrid[:side, :side] / side
        for split, count in counts.items():
            for label, name in enumerate("abc"):
                folder = root / name if split == "all" else root / split / name
                folder.mkdir(parents=True, exist_ok=True)
                for index in range(count):
                    y, x = 0.25 + 0.25 * label + random.normal(0, 0.04), 0.5 + random.normal(0, 0.15)
                    blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 0.02)
                    image = 60 + 130 * blob + random.normal(0, 20, (side, side))
                    if not gray:
                        image = image[..., None] * random.uniform(0.7, 1, 3)
                    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
        return root

    return make


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Workshop:
    """Images and one trained network, as a pickled module and as a state dict with an --arch file."""
    root = tmp_path_factory.mktemp("workshop")
    return open_workshop(root, make_images(root / "imgs", train=40, test=12))
