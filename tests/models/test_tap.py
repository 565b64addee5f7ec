from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from harden.errors import ModelError, UserCodeError
from harden.models.tap import Tap, as_representation, first_tensor
from tests.attacks.nets import as_classifier

IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = (
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Linear(4, 10),
        )

    def forward(self, x):
        x = self.stem(x)
        x = F.relu(x + self.block(x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Repeated(nn.Module):
    """One layer of a ModuleList is called three times, on different values."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 16), nn.Linear(16, 16)])
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.layers[0](x.flatten(1))
        for _ in range(3):
            x = torch.tanh(self.layers[1](x))
        return self.head(x)


class Checkpointed(nn.Module):
    """Its body runs a second time in the backward pass."""

    def __init__(self, on=True):
        super().__init__()
        self.body, self.head, self.on = nn.Sequential(nn.Linear(64, 16), nn.Tanh()), nn.Linear(16, 10), on

    def forward(self, x):
        x = x.flatten(1)
        return self.head(checkpoint(self.body, x, use_reentrant=False) if self.on else self.body(x))


class Nested(nn.Module):
    """A layer that returns a mask, then what counts in a dictionary in a tuple."""

    class Layer(nn.Module):
        def forward(self, x):
            return torch.ones(len(x), dtype=torch.bool), {"ids": torch.arange(len(x)), "hidden": [x * 2, x * 3]}

    def __init__(self):
        super().__init__()
        self.layer, self.head = Nested.Layer(), nn.Linear(64, 10)

    def forward(self, x):
        _, found = self.layer(x.flatten(1))
        return {"logits": self.head(found["hidden"][1])}


class Auxiliary(nn.Module):
    """As GoogLeNet in training mode: (main, auxiliary)."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.aux = nn.Linear(64, 8), nn.Linear(8, 10), nn.Linear(8, 10)

    def forward(self, x):
        x = self.body(x.flatten(1))
        return self.head(x), self.aux(x)


def hooks_on(module):
    return sum(
        len(part._forward_hooks) + len(part._forward_pre_hooks) + len(part._backward_hooks) for part in module.modules()
    )


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_a_residual_net_is_tapped_without_changing_what_it_computes():
    net = Residual()
    classifier = as_classifier(net)
    with Tap(classifier, "block") as tapped:
        features, logits = tapped(IMAGES)
    torch.testing.assert_close(features, net.block(net.stem(IMAGES)))
    torch.testing.assert_close(logits, net(IMAGES))


def test_gradients_flow_through_features_and_logits_in_one_pass():
    net = Residual()
    with Tap(as_classifier(net), "stem") as tapped:
        features, logits = tapped(IMAGES)
    (from_features,) = torch.autograd.grad(features.sum(), net.stem.weight, retain_graph=True)
    (from_logits,) = torch.autograd.grad(logits.sum(), net.stem.weight)
    (plain,) = torch.autograd.grad(net.stem(IMAGES).sum(), net.stem.weight)
    torch.testing.assert_close(from_features, plain)
    assert from_logits.abs().sum() > 0


def test_a_layer_called_several_times_is_tapped_at_its_last_call():
    net = Repeated()
    with Tap(as_classifier(net), "layers.1") as tapped:
        features, logits = tapped(IMAGES)
    torch.testing.assert_close(net.head(torch.tanh(features)), logits)


def test_checkpointing_runs_the_layer_again_and_is_not_heard():
    net, plain = Checkpointed(), Checkpointed(on=False)
    plain.load_state_dict(net.state_dict())
    calls = []
    handle = net.body[0].register_forward_hook(lambda *a: calls.append(1))
    classifier = as_classifier(net)
    with Tap(classifier, "body.0") as tapped:
        features, logits = tapped(IMAGES)
        kept = features.detach().clone()
        (features.pow(2).sum() + logits.sum()).backward()
        assert len(calls) == 2  # the second in backward
        assert tapped._captured is None
        assert torch.equal(features, kept)
    handle.remove()
    with Tap(as_classifier(plain), "body.0") as tapped:
        features, logits = tapped(IMAGES)
        (features.pow(2).sum() + logits.sum()).backward()
    for a, b in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_forward_outside_the_tap_is_not_heard():
    classifier = as_classifier(Residual())
    with Tap(classifier, "block") as tapped:
        tapped(IMAGES)
        classifier(IMAGES)
        assert tapped._captured is None


def test_the_first_floating_point_tensor_of_a_nested_output_is_taken():
    net = Nested()
    with Tap(as_classifier(net), "layer") as tapped:
        features, logits = tapped(IMAGES)
    torch.testing.assert_close(features, IMAGES.flatten(1) * 2)
    torch.testing.assert_close(logits, net.head(IMAGES.flatten(1) * 3))
    assert first_tensor({"a": [torch.arange(2)], "b": None}) is None


def test_of_auxiliary_heads_the_main_one_is_taken():
    net = Auxiliary()
    with Tap(as_classifier(net), "body") as tapped:
        features, logits = tapped(IMAGES)
    torch.testing.assert_close(features, net.body(IMAGES.flatten(1)))
    torch.testing.assert_close(logits, net.head(features))


def test_no_layer_gives_the_logits_twice():
    with Tap(as_classifier(Residual()), None) as tapped:
        features, logits = tapped(IMAGES)
    assert features is logits


def test_nothing_stays_on_the_module():
    net = Residual()
    before, keys = hooks_on(net), {k: v.clone() for k, v in net.state_dict().items()}
    classifier = as_classifier(net)
    with Tap(classifier, "block") as tapped:
        assert hooks_on(net) == before + 1
        tapped(IMAGES)
    assert hooks_on(net) == before == 0
    assert list(net.state_dict()) == list(keys)
    assert all(torch.equal(v, keys[k]) for k, v in net.state_dict().items())


def test_nothing_stays_after_an_error_either():
    net = Residual()
    with pytest.raises(UserCodeError), Tap(as_classifier(net), "block") as tapped:
        tapped(torch.rand(2, 5, 8, 8))
    with pytest.raises(KeyError), Tap(as_classifier(net), "block"):
        raise KeyError("the caller's own")
    assert hooks_on(net) == 0


def test_features_of_a_pass_that_failed_are_not_given_to_the_next():
    class Switch(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.mode = nn.Linear(64, 8), nn.Linear(64, 10), "fail"

        def forward(self, x):
            if self.mode == "fail":
                self.body(x.flatten(1))
                raise RuntimeError("after the layer")
            return self.head(x.flatten(1))

    net = Switch()
    with Tap(as_classifier(net), "body") as tapped:
        with pytest.raises(UserCodeError, match="after the layer"):
            tapped(IMAGES)
        net.mode = "skip"
        with pytest.raises(ModelError, match="not reached"):
            tapped(IMAGES)


def test_a_layer_that_is_not_reached_is_an_error_with_a_repair():
    net = Residual()
    net.unused = nn.Linear(2, 2)
    with Tap(as_classifier(net), "unused") as tapped, pytest.raises(ModelError, match="'unused' is not reached") as e:
        tapped(IMAGES)
    assert "inspect" in e.value.hint


@pytest.mark.parametrize("name", ["blocks", "", "head.weight"])
def test_an_unknown_layer_is_an_error_that_names_the_near_miss(name):
    with pytest.raises(ModelError, match="no layer") as e:
        Tap(as_classifier(Residual()), name)
    if name == "blocks":
        assert "did you mean 'block'" in e.value.message


def test_a_tap_that_is_not_entered_says_so():
    tapped = Tap(as_classifier(Residual()), "block")
    with pytest.raises(RuntimeError, match="context manager"):
        tapped(IMAGES)
    with tapped:
        tapped(IMAGES)
    with pytest.raises(RuntimeError, match="context manager"):
        tapped(IMAGES)


class TestAsRepresentation:
    def test_rows_stay_as_they_are_however_wide(self):
        rows = torch.rand(2, 50)
        assert torch.equal(as_representation(rows, limit=10), rows)

    def test_a_map_that_just_fits_is_flattened(self):
        maps = torch.rand(2, 4, 5, 5)
        assert torch.equal(as_representation(maps, limit=100), maps.flatten(1))

    @pytest.mark.parametrize(
        ("shape", "limit", "width"),
        [
            ((4, 5, 5), 99, 4 * 16),  # one too many: 4x4 is the largest square that fits
            ((4, 5, 5), 64, 4 * 16),
            ((4, 5, 5), 63, 4 * 9),
            ((4, 5, 5), 4, 4),
            ((4, 5, 5), 3, 4),  # channels are never cut
            ((4, 2, 20), 100, 4 * 2 * 5),
            ((2048, 7, 7), 16384, 2048 * 4),
        ],
    )
    def test_a_map_that_does_not_fit_is_pooled(self, shape, limit, width):
        pooled = as_representation(torch.rand(2, *shape), limit=limit)
        assert pooled.shape == (2, width)

    def test_pooling_takes_means(self):
        maps = torch.arange(16.0).view(1, 1, 4, 4)
        expected = [(0 + 1 + 4 + 5) / 4, (2 + 3 + 6 + 7) / 4, (8 + 9 + 12 + 13) / 4, (10 + 11 + 14 + 15) / 4]
        assert as_representation(maps, limit=4).flatten().tolist() == expected

    def test_a_map_with_its_channels_last_is_turned_before_it_is_pooled(self):
        first = torch.rand(2, 12, 4, 4)
        last = first.permute(0, 2, 3, 1)
        torch.testing.assert_close(as_representation(last, limit=48), as_representation(first, limit=48))

    def test_tokens_are_flattened_or_averaged(self):
        tokens = torch.rand(2, 5, 6)
        assert torch.equal(as_representation(tokens, limit=30), tokens.flatten(1))
        torch.testing.assert_close(as_representation(tokens, limit=29), tokens.mean(1))

    def test_anything_else_is_flattened(self):
        assert as_representation(torch.rand(2, 2, 2, 2, 2), limit=3).shape == (2, 16)

    def test_gradients_reach_every_position(self):
        maps = torch.rand(1, 2, 5, 5, requires_grad=True)
        as_representation(maps, limit=8).sum().backward()
        assert (maps.grad > 0).all()
