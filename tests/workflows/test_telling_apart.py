"""Weights of ResNet-18, which fit its blurred twin too: what labelled images say of whose they are."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harden.data import DataSource, Format, open_data
from harden.errors import ModelError
from harden.models.loaded import LoadedModel
from harden.models.origin import Origin
from harden.models.recognise import Fit
from harden.vision import import_timm
from harden.workflows.prepare import Candidate, ModelSpec, load_candidate, open_images
from harden.workflows.telling_apart import MOST, by_accuracy, probability
from tests.conftest import MakeImages

from .builders import Notebook


@pytest.fixture(scope="module")
def source(make_images: MakeImages, tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    return open_data(str(make_images(tmp_path_factory.mktemp("apart") / "imgs", side=32, train=20)))


@functools.cache
def knowing(name: str, source: DataSource) -> Mapping[str, Tensor]:
    """Return weights with which `name` knows the images: random ones, and the last layer fitted to its features."""
    images, labels = source.decode(source.listings["train"], Format(3, (32, 32)))[0].batch(slice(None))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = import_timm().create_model(name, num_classes=3)
        for _ in range(10):
            network.train()(images)  # BatchNorm gets to know them
        network.eval()
        features = network.forward_head(network.forward_features(images), pre_logits=True)
        ones = torch.ones(len(features), 1)
        fitted = torch.linalg.lstsq(torch.cat([features, ones], dim=1), F.one_hot(labels, 3).float(), driver="gelsd")
        network.fc.weight.copy_(fitted.solution[:-1].T)
        network.fc.bias.copy_(fitted.solution[-1])
    weights: Mapping[str, Tensor] = network.state_dict()
    return weights


def opened(path: Path, source: DataSource, notebook: Notebook | None = None, **said: object) -> Candidate:
    spec = ModelSpec(model=str(path), mean=(0.0,), std=(1.0,), **said)  # type: ignore[arg-type]
    return load_candidate(spec, source, source.listings["train"], notebook or Notebook())


@pytest.mark.parametrize("name", ["resnet18", "resnetblur18"])
def test_the_one_that_knows_the_images_is_taken_and_said_so(name: str, source: DataSource, tmp_path: Path) -> None:
    torch.save(knowing(name, source), tmp_path / "w.pth")
    notebook = Notebook()
    candidate = opened(tmp_path / "w.pth", source, notebook)
    assert candidate.loaded.origin.reference.endswith(name)
    told = next(line for line in notebook.lines if line.startswith("recognised"))
    assert f"timm:{name} 100.0% of 60 labelled images right" in told
    assert "the best by far of those that fit: " in told
    assert told.count(" of 60 labelled images right") == 2


def test_where_nothing_tells_all_are_listed_with_what_was_measured(source: DataSource, tmp_path: Path) -> None:
    weights = copy.deepcopy(knowing("resnet18", source))
    weights["fc.bias"].copy_(torch.tensor([100.0, 0.0, 0.0]))  # always the first class, with scores that differ
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="none is clearly more accurate than the others") as caught:
        opened(tmp_path / "w.pth", source)
    lines = caught.value.message.splitlines()[1:]
    assert len(lines) == 2
    assert all(line.endswith(": 33.3% of 60 labelled images right") for line in lines)
    assert "--arch timm:resnet18" in (caught.value.hint or "")


def test_a_new_last_layer_leaves_nothing_to_measure(source: DataSource, tmp_path: Path) -> None:
    torch.save(knowing("resnet18", source), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"fit several networks .* do not show\):") as caught:
        opened(tmp_path / "w.pth", source, replace_head=True)
    assert "images right" not in caught.value.message


class Constant(nn.Module):
    """Answers with the brightness of the image, or always the same."""

    def __init__(self, classes: int, output: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((classes,), output))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(1, 2, 3))[:, None] * 0 + self.scale


def fits(*modules: nn.Module) -> list[Fit]:
    return [Fit(LoadedModel(m, Origin("timm", f"n{k}"), has_weights=True), (f"n{k}",)) for k, m in enumerate(modules)]


@pytest.mark.parametrize(
    ("modules", "told"),
    [
        ([Constant(3, 1.0) for _ in range(MOST + 1)], ()),
        ([Constant(4, 1.0), Constant(4, 2.0)], ()),
        ([Constant(3, float("nan")), Constant(3, 1.0)], ("0.0% of 60 labelled images right", "33.3% of 60 ")),
    ],
    ids=["too many", "other classes", "not a number"],
)
def test_what_cannot_be_decided(modules: list[nn.Module], told: tuple[str, ...], source: DataSource) -> None:
    images = open_images(source, channels=3, size=(32, 32), class_map=None)
    decide = by_accuracy(
        lambda channels: (images.decode(source.listings["train"], Notebook(), "images"), images.classes),
        lambda channels: None,
        channels=3,
        size=(32, 32),
        narrator=Notebook(),
    )
    decision = decide(fits(*modules))
    assert len(decision.told) == len(told)
    assert all(words.startswith(start) for words, start in zip(decision.told, told, strict=True))
    if len(modules) != 2 or not told:
        assert decision.chosen is None
    else:
        assert decision.chosen == 1, "20 images right against none are no accident"


def right(text: str) -> Tensor:
    return torch.tensor([letter == "x" for letter in text])


def test_the_test_by_hand() -> None:
    assert probability(right("xxxxxxxxxx"), right("..........")) == 2**-10
    assert probability(right("xxx.x"), right("...xx")) == pytest.approx((4 + 1) / 16)
    assert probability(right("xx.."), right("xx..")) == 1
    assert probability(right("...."), right("xxxx")) == 1
