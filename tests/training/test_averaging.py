from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harden.training.averaging import WeightAverage


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


def drift(module: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.randn(value.shape, generator=generator))
            else:
                value.add_(3)


def slow_twin(decay: float, states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    average = {name: value.double() for name, value in states[0].items()}
    for step, state in enumerate(states[1:], start=1):
        d = min(decay, (1 + step) / (10 + step)) if decay > 0 else 0.0
        for name, value in state.items():
            average[name] = (
                d * average[name] + (1 - d) * value.double() if value.is_floating_point() else value.double()
            )
    return average


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.998])
def test_follows_the_slow_twin(decay: float) -> None:
    module, generator = net().train(), torch.Generator().manual_seed(1)
    average = WeightAverage(module, decay)
    states = [{name: value.clone() for name, value in module.state_dict().items()}]
    for _ in range(25):
        drift(module, generator)
        average.update(module)
        states.append({name: value.clone() for name, value in module.state_dict().items()})
    expected = slow_twin(decay, states)
    for name, value in average.module.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-5, msg=name)
    assert average.module.state_dict()["1.num_batches_tracked"].item() == 75


def test_the_first_steps_forget_the_start_quickly() -> None:
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(1.0)
    average = WeightAverage(module, 0.998)
    with torch.no_grad():
        module.weight.fill_(0.0)
    average.update(module)
    assert average.module.weight.item() == pytest.approx(2 / 11)


def test_is_a_copy_in_eval_mode_without_gradients_and_touches_nothing_of_the_original() -> None:
    module = net().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    average = WeightAverage(module, 0.5)
    average.update(module)
    assert not any(part.training for part in average.module.modules())
    assert not any(p.requires_grad for p in average.module.parameters())
    assert all(part.training for part in module.modules())
    assert all(p.requires_grad for p in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in average.module.state_dict().items())
