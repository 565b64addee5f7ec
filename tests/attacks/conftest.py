from __future__ import annotations

from collections.abc import Iterator

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


@pytest.fixture(autouse=True)
def _no_gradients_on_the_shared_net(net: nn.Sequential) -> Iterator[None]:
    """Other libraries leave gradients on the parameters of a network that they attack."""
    yield
    net.zero_grad(set_to_none=True)
