from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harden.training.augment import AUGMENTATIONS, Augmentation, flip, shift


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def applied(augmentation: Augmentation, batch: Tensor, seed: int) -> Tensor:
    placement = augmentation((len(batch), *batch.shape[2:]), gen(seed), slice(None))
    return batch if placement is None else placement.moved(batch)


def images(shape: tuple[int, ...] = (40, 3, 16, 24)) -> Tensor:
    return torch.rand(shape, generator=gen(0))


@pytest.mark.parametrize("shape", [(40, 3, 16, 24), (40, 1, 28, 28), (9, 1, 4, 4)])
def test_shift_is_zero_padding_and_a_crop_per_image(shape: tuple[int, ...]) -> None:
    batch = images(shape)
    count, _, height, width = shape
    reach_y, reach_x = max(1, height // 8), max(1, width // 8)
    draws = gen(5)
    down = torch.randint(-reach_y, reach_y + 1, (count, 1), generator=draws).flatten().tolist()
    right = torch.randint(-reach_x, reach_x + 1, (count, 1), generator=draws).flatten().tolist()
    expected = [
        F.pad(image, (reach_x, reach_x, reach_y, reach_y))[
            :, reach_y + y : reach_y + y + height, reach_x + x : reach_x + x + width
        ]
        for image, y, x in zip(batch, down, right, strict=True)
    ]
    assert torch.equal(applied(shift, batch, 5), torch.stack(expected))
    assert {-reach_y, reach_y} <= set(down) or count < 20


def test_flip_mirrors_about_half_of_the_images_left_to_right() -> None:
    batch = images()
    flipped = applied(flip, batch, 1)
    mirrored = [i for i in range(len(batch)) if torch.equal(flipped[i], batch[i].flip(2))]
    same = [i for i in range(len(batch)) if torch.equal(flipped[i], batch[i])]
    assert sorted(mirrored + same) == list(range(len(batch)))
    assert 10 <= len(mirrored) <= 30


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_every_augmentation_repeats_and_stays_in_range(name: str) -> None:
    batch, change = images(), AUGMENTATIONS[name]
    kept, state = batch.clone(), torch.get_rng_state()
    once, twice = applied(change, batch, 3), applied(change, batch, 3)
    assert torch.equal(once, twice)
    assert torch.equal(batch, kept)
    assert once.shape == batch.shape
    assert once.dtype == batch.dtype
    assert 0 <= once.min() <= once.max() <= 1
    assert torch.equal(torch.get_rng_state(), state)
    if name != "none":
        assert not torch.equal(once, applied(change, batch, 4))


@pytest.mark.parametrize("name", ["flip", "shift", "flip+shift"])
def test_what_is_put_back_comes_to_where_it_was(name: str) -> None:
    """Pixels that the moved images show come back to their places; the others keep what they had."""
    batch = images()
    placement = AUGMENTATIONS[name]((len(batch), *batch.shape[2:]), gen(2), slice(None))
    assert placement is not None
    assert torch.equal(placement.put_back(placement.moved(batch), batch), batch)
    ones = torch.ones_like(batch)
    seen = placement.put_back(placement.moved(ones), -ones)
    assert torch.equal(seen == 1, placement.put_back(ones, torch.zeros_like(batch)) == 1)
    assert (seen == 1).sum() == placement.moved(ones).sum()
    assert bool((seen == -1).any()) is (name != "flip")
