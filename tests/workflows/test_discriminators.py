"""Which discriminators a run gets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from harden.errors import UsageError
from harden.workflows.hardening import build_defence
from harden.workflows.settings import FitSettings
from tests.attacks.nets import as_classifier


def job(classes: int, **changes: Any) -> Any:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4096), nn.ReLU(), nn.Linear(4096, classes))
    return SimpleNamespace(
        settings=FitSettings(model="m", data="d", split="2", **changes),
        classifier=as_classifier(net, classes=tuple(map(str, range(classes))), size=(3, 8, 8)),
        source_attacks=("fgsm",),
        statics=(),
    )


@pytest.mark.parametrize(
    ("classes", "changes", "first"),
    [
        (10, {}, (10, 4096, 256)),
        (10, {"shared_trunk": True}, (1, 4096, 256)),
        (100, {}, (1, 4096, 256)),
        (17, {"shared_trunk": False}, (17, 4096, 256)),
        (100, {"classwise": False}, (1, 4096, 256)),
        (1000, {"classwise": False, "shared_trunk": False}, (1, 4096, 256)),
    ],
)
def test_many_classes_share_a_trunk(classes: int, changes: dict[str, Any], first: tuple[int, int, int]) -> None:
    defence, layer = build_defence(job(classes, **changes))
    assert layer == "2"
    assert tuple(dict(defence.named_parameters())["on_features.weights.0"].shape) == first
    groups = 1 if changes.get("classwise") is False else classes
    assert len(dict(defence.named_parameters())["on_features.weights.2"]) == groups


def test_separate_ones_that_would_fill_the_memory_are_refused() -> None:
    with pytest.raises(UsageError, match="1,000 classes on 4,096 features would have 1,048,576,000 weights") as caught:
        build_defence(job(1000, shared_trunk=False))
    assert "shared_trunk" in str(caught.value.hint)
