from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """The tests' own draws are the same whatever ran before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
