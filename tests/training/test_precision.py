"""Training in bf16: the network's passes, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from harden.defences import DEFENCES, SOURCES, DefenceContext, DefenceSettings

from .test_loop import net, of_digits, trainer


@pytest.mark.parametrize("method", DEFENCES)
def test_every_method_trains_in_bf16_and_everything_else_is_float32(method: str) -> None:
    classifier = net()
    passes: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

    def look(layer: nn.Module, inputs: object, output: Tensor) -> None:
        passes[layer.training].add(output.dtype)

    context = DefenceContext(10, 32, torch.Generator().manual_seed(7))
    defence = DEFENCES[method](context, DefenceSettings(beta=1.0, gamma=0.5))
    sources = SOURCES.get(method, ("fgsm",)) if method != "nt" else ()
    run = trainer(defence=defence, classifier=classifier, epochs=2, source_attacks=sources, precision="bf16")
    next(m for m in classifier.modules() if isinstance(m, nn.Conv2d)).register_forward_hook(look)
    records = run.run().history.epochs
    # What is crafted and measured sees the network at rest.
    assert passes == {True: {torch.bfloat16}, False: {torch.float32}}
    assert records[1].scalars["loss"] < records[0].scalars["loss"] < 10
    assert all(math.isfinite(value) for record in records for value in record.scalars.values())
    assert {p.dtype for p in (*classifier.parameters(), *defence.parameters())} == {torch.float32}


def test_examples_are_crafted_apart_from_a_pass_in_bf16() -> None:
    """Where BatchNorm and dropout do not tell them apart, FGSM's examples come out of the clean images' own pass."""
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    shared, apart = (
        trainer("sat", classifier=of_digits(plain), source_attacks=("fgsm",), precision=precision)
        for precision in ("fp32", "bf16")
    )
    assert [run.time_steps(2, 1.0)[1] for run in (shared, apart)] == [4, 6]
