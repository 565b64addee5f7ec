from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from harden.errors import ModelError, UserCodeError
from harden.models.split import default_split, require_features, split_points
from harden.models.tap import MAX_FEATURES, Tap, as_representation
from harden.vision import import_timm
from tests.attacks.nets import as_classifier, cnn, modal

TEN = tuple("0123456789")


def assert_can_be_tapped(classifier, point):
    with Tap(classifier, point.layer) as tapped, torch.no_grad():
        features, _ = tapped(torch.rand(2, *classifier.input_size))
    assert tuple(features.shape[1:]) == point.shape
    assert as_representation(features).shape[1] == point.width


def timm_classifier(name, size=64, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = import_timm().create_model(name, pretrained=False, num_classes=10, **kwargs)
    return as_classifier(net.eval(), size=(3, size, size))


def test_a_net_with_a_linear_head_is_split_at_its_last_map():
    found = default_split(as_classifier(cnn()))
    assert found.point.layer == "3"  # the ReLU after the second convolution, not the flattening after it
    assert found.point.shape == (32, 4, 4)
    assert found.point.width == 512
    assert "last feature map" in found.reason
    assert "512" in found.reason


def test_a_net_that_ends_in_a_1x1_convolution_and_pooling_is_split_before_that_convolution():
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 14, 3, stride=2, padding=1),
        nn.ELU(),
        nn.Conv2d(14, 10, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    points = {p.layer: p for p in split_points(as_classifier(net))}
    assert default_split(as_classifier(net)).point.layer == "3"
    assert [layer for layer, p in points.items() if p.head][:2] == ["4", "5"]
    assert not any(points[layer].head for layer in ("0", "1", "2", "3"))


def test_a_perceptron_is_split_at_its_last_hidden_layer():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
    found = default_split(as_classifier(net))
    assert found.point.layer == "2"
    assert "last representation" in found.reason


def test_a_linear_model_cannot_be_split():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            return self.head(x.flatten(1))

    with pytest.raises(ModelError, match="no layer before") as e:
        default_split(as_classifier(Bare()))
    assert e.value.hint


def test_a_map_that_is_too_large_is_said_to_be_pooled():
    net = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 24 * 24, 10))
    found = default_split(as_classifier(net, size=(1, 24, 24)))
    assert found.point.shape == (64, 24, 24)
    assert found.point.width == 64 * 16 * 16 == MAX_FEATURES
    assert "average-pooled to 16,384" in found.reason


def test_every_point_can_be_tapped_and_is_as_wide_as_said():
    classifier = as_classifier(cnn())
    points = split_points(classifier)
    assert [p.layer for p in points][:5] == ["0", "1", "2", "3", "4"]
    assert not any(p.head for p in points[:5])
    for point in points:
        assert_can_be_tapped(classifier, point)


def test_a_block_that_returns_the_tensor_of_its_last_layer_is_listed_once():
    net = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh()), nn.Linear(8, 10))
    assert [p.layer for p in split_points(as_classifier(net))][:3] == ["0.0", "0.1", "0"]


def test_looking_changes_nothing():
    net = modal(channels=1, classes=10)
    modes = {n: m.training for n, m in net.named_modules()}
    state = {k: v.clone() for k, v in net.state_dict().items()}
    rng = torch.get_rng_state()
    split_points(as_classifier(net))
    assert {n: m.training for n, m in net.named_modules()} == modes
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())
    assert torch.equal(torch.get_rng_state(), rng)


def test_looking_at_a_net_that_fails_changes_nothing_either():
    net = modal(channels=3, classes=10)
    modes = {n: m.training for n, m in net.named_modules()}
    with pytest.raises(UserCodeError):
        split_points(as_classifier(net, size=(1, 8, 8)))  # three channels are wanted
    assert {n: m.training for n, m in net.named_modules()} == modes
    assert not any(m._forward_hooks for m in net.modules())


def test_dropout_is_not_split_at_but_the_layer_that_feeds_it_is():
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Dropout2d(0.3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(216, 10)
    )
    found = default_split(as_classifier(net))
    assert "Dropout" not in found.point.kind
    assert found.point.layer == "1"


def test_a_timm_resnet_is_split_at_its_last_stage():
    found = default_split(timm_classifier("test_resnet"))
    assert found.point.layer == "layer4"
    assert len(found.point.shape) == 3
    assert_can_be_tapped(timm_classifier("test_resnet"), found.point)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_a_timm_vit_is_split_at_its_pooled_representation(pool):
    classifier = timm_classifier("test_vit", img_size=64, global_pool=pool)
    found = default_split(classifier)
    assert found.point.shape == (classifier.module.embed_dim,)
    assert "Dropout" not in found.point.kind
    assert "attn" not in found.point.layer
    assert_can_be_tapped(classifier, found.point)


def test_small_pictures_do_not_push_the_split_back_into_the_middle_of_a_network():
    """On 32x32 pictures the last stage of a ResNet has one position: no reason to go back a stage."""
    found = default_split(timm_classifier("test_resnet", size=32))
    assert found.point.layer.startswith(("layer4", "global_pool"))


@pytest.mark.parametrize("classes", [10, 12])
def test_a_body_as_wide_as_the_number_of_classes_does_not_confuse_the_head(classes):
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, classes)
    )
    classifier = as_classifier(net, classes=tuple(map(str, range(classes))))
    assert default_split(classifier).point.layer == "4"


class Heads(nn.Module):
    """A body and several layers that each give scores, which are put together without further weights."""

    def __init__(self, *, width: int = 12, scale: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU())
        self.first, self.second = nn.Linear(width, 10), nn.Linear(width, 10)
        self.share = nn.Parameter(torch.full((10,), 0.5)) if scale else 0.5

    def forward(self, x):
        features = self.body(x)
        return self.share * (self.first(features) + self.second(features).softmax(dim=1))


@pytest.mark.parametrize("net", [Heads(), Heads(scale=True), Heads(width=10)], ids=["plain", "scaled", "width K"])
def test_no_head_is_split_at_however_many_there_are_and_features_may_have_k_numbers(net):
    classifier = as_classifier(net)
    heads = {point.layer: point.head for point in split_points(classifier)}
    assert heads["first"]
    assert heads["second"]
    assert not heads["body"]
    assert default_split(classifier).point.layer == "body"
    require_features(classifier, "body")
    for layer in ("first", "second"):
        with pytest.raises(ModelError, match=f"layer '{layer}' gives class scores") as caught:
            require_features(classifier, layer)
        assert "'body'" in (caught.value.hint or "")
    with pytest.raises(ModelError, match="no layer 'nowhere'"):
        require_features(classifier, "nowhere")


def test_a_head_in_the_middle_of_a_network_cuts_nothing_off():
    class Early(Heads):
        def __init__(self) -> None:
            super().__init__()
            self.later = nn.Sequential(nn.Linear(12, 12), nn.ReLU())

        def forward(self, x):
            features = self.body(x)
            early = self.first(features)
            return early + self.second(self.later(features))

    assert default_split(as_classifier(Early())).point.layer == "later"


def test_a_frozen_network_is_looked_at_and_stays_frozen():
    net = Heads().requires_grad_(False)
    assert default_split(as_classifier(net)).point.layer == "body"
    assert not any(p.requires_grad for p in net.parameters())


class Remembering(nn.Module):
    """Keeps what it computed in eval mode, as attention with biases does."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.kept = nn.Parameter(torch.ones(12)), None

    def forward(self, x):
        self.kept = self.scale * 2
        return x * self.kept


def test_looking_leaves_nothing_of_its_graph_in_the_network():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), Remembering(), nn.Linear(12, 10))
    assert default_split(as_classifier(net)).point.layer == "2"
    copy.deepcopy(net)
    assert net[2].kept is None


class Unique(Remembering):
    def __deepcopy__(self, memo):
        raise RuntimeError("there is one of me")


def test_a_network_that_cannot_be_copied_is_split_before_its_last_layer_of_k():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), Unique(), nn.Linear(12, 10))
    assert default_split(as_classifier(net)).point.layer == "2"


@pytest.mark.filterwarnings("ignore")  # timm's own
@pytest.mark.parametrize(("name", "size"), [("efficientvim_m1", 64), ("deit_tiny_distilled_patch16_224", 64)])
def test_networks_of_timm_with_several_heads_are_split_at_features(name, size):
    sized = {"img_size": size} if "deit" in name else {}
    classifier = timm_classifier(name, size=size, **sized)
    heads = classifier.module.get_classifier()
    inside = {part for head in heads for part in head.modules()}
    points = split_points(classifier)
    found = default_split(classifier).point
    assert classifier.module.get_submodule(found.layer) not in inside
    linear = {n for n, m in classifier.module.named_modules() if m in inside and isinstance(m, nn.Linear)}
    assert linear
    assert all(point.head for point in points if point.layer in linear)
