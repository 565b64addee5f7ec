from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteImage = Callable[..., Path]


@pytest.fixture
def write_image(tmp_path: Path) -> WriteImage:
    """Save an image of one colour, or of noise, under tmp_path/data; PNG unless the name says otherwise."""

    def write(
        file: str,
        colour: object = None,
        *,
        mode: str = "RGB",
        size: tuple[int, int] = (8, 8),
        seed: int = 0,
        **options: object,
    ) -> Path:
        path = tmp_path / "data" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if colour is None:
            height, width = size
            shape = (height, width) if mode == "L" else (height, width, 3)
            noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
            image = Image.fromarray(noise)
        else:
            image = Image.new(mode, size[::-1], colour)  # type: ignore[arg-type]
        image.save(path, **options)  # type: ignore[arg-type]
        return path

    return write


@pytest.fixture
def photos(write_image: WriteImage, tmp_path: Path) -> Path:
    """Two classes, train and test, 5 + 2 distinct 8x8 RGB images per class."""
    seed = 0
    for split, count in (("train", 5), ("test", 2)):
        for name in ("cat", "dog"):
            for index in range(count):
                seed += 1
                write_image(f"{split}/{name}/{index}.png", seed=seed)
    return tmp_path / "data"
