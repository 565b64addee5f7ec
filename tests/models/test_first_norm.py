import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from harden.models.first_norm import watching_first_norm


def test_the_norm_that_is_called_first_is_compared_with_its_own_statistics() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.later = nn.BatchNorm2d(2)
            self.first = nn.BatchNorm2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.later(self.first(x))

    net = Net().eval()
    net.first.running_mean.copy_(torch.tensor([1.0, -2.0]))
    net.first.running_var.copy_(torch.tensor([4.0, 0.25]))
    images = torch.randn(40, 2, 5, 5, generator=torch.Generator().manual_seed(0)) * 3 + 0.5
    with watching_first_norm(net) as first:
        for batch in images.split(15):
            net(batch)
    values = images.transpose(0, 1).flatten(1)
    got = Normal(values.mean(1), values.std(1, correction=0))
    expected = kl_divergence(got, Normal(net.first.running_mean, net.first.running_var.sqrt())).mean().item()
    assert first.divergence() == pytest.approx(expected, rel=1e-3)
    assert not net.first._forward_pre_hooks
    assert not net.later._forward_pre_hooks


def test_a_network_without_running_statistics_has_nothing_to_compare() -> None:
    net = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten()).eval()
    with watching_first_norm(net) as first:
        net(torch.rand(3, 1, 4, 4))
    assert first.divergence() is None
