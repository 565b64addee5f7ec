from __future__ import annotations

import pytest
from torch import Tensor, nn

from .nets import held_out, trained_cnn


@pytest.fixture(scope="session")
def net() -> nn.Sequential:
    return trained_cnn()


@pytest.fixture(scope="session")
def correct() -> tuple[Tensor, Tensor]:
    """96 held-out digits that the net reads correctly."""
    return held_out(96)
