"""Networks that return more than logits, or a single one, from opening to export."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from harden.data import open_data
from harden.export.quiet import quiet
from harden.models.classifier import Classifier
from harden.models.split import default_split, head_layer
from harden.models.tap import Tap
from harden.workflows.black_box import open_black_box
from harden.workflows.export import export
from harden.workflows.export_subject import ExportSettings
from harden.workflows.fit import fit
from harden.workflows.inspect import inspect
from harden.workflows.prepare import ModelSpec, open_model
from harden.workflows.settings import FitSettings

from .builders import Notebook, Workshop, trained

CODE = """
import torch
from torch import nn
from net import net

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        features = self.net[:6](x)
        return features, self.net[6:](features)

class Named(Pair):
    def forward(self, x):
        features, logits = super().forward(x)
        return {"features": features, "probabilities": logits.softmax(1), "out": logits}

class One(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net(1)

    def forward(self, x):
        return self.net(x)

class Flat(One):
    def forward(self, x):
        return self.net(x).squeeze(1)
"""


@pytest.fixture(scope="module")
def bench(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code, weights of three classes and of one logit, and data of two classes."""
    root = tmp_path_factory.mktemp("outputs")
    (root / "net.py").write_text((workshop.root / "net.py").read_text())
    (root / "odd.py").write_text(CODE)
    torch.save({f"net.{k}": v for k, v in workshop.module.state_dict().items()}, root / "three.pth")
    shutil.copytree(workshop.data, root / "two", ignore=shutil.ignore_patterns("c"))
    known = trained(root / "two", (0, 1)).state_dict()
    single = {f"net.{k}": v for k, v in known.items()}
    for name in ("net.7.weight", "net.7.bias"):  # the logit of the second class against the first
        single[name] = single[name][1:2] - single[name][0:1]
    torch.save(single, root / "one.pth")
    return root


def opened(bench: Path, name: str) -> Classifier:
    one = name in ("One", "Flat")
    data = bench / "two" if one else Path(str(bench)) / "three"
    source = open_data(str(data))
    spec = ModelSpec(model=str(bench / ("one.pth" if one else "three.pth")), arch=f"{bench / 'odd.py'}:{name}")
    return open_model(spec, source, source.listings["train"], Notebook())[0].eval()


@pytest.fixture(autouse=True)
def _three(bench: Path, workshop: Workshop) -> None:
    if not (bench / "three").exists():
        (bench / "three").symlink_to(workshop.data)


@pytest.mark.parametrize("name", ["Pair", "Named", "One", "Flat"])
def test_training_attack_and_tap_see_the_same_scores(name: str, bench: Path) -> None:
    classifier = opened(bench, name)
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    scores = classifier(images)
    assert scores.shape == (5, len(classifier.classes))
    last: nn.Module = classifier.module.net[-1]  # type: ignore[index]
    with Tap(classifier, default_split(classifier).point.layer) as tapped:
        features, logits = tapped(images)
    assert torch.equal(logits, scores)
    assert features.shape[0] == 5
    assert head_layer(classifier) == "net.7"
    if last.out_features == 1:  # type: ignore[attr-defined]
        assert torch.equal(scores[:, 0], torch.zeros(5))


@pytest.mark.parametrize("name", ["Named", "Flat"])
def test_a_fit_and_an_export_give_scores_for_each_class(name: str, bench: Path, tmp_path: Path) -> None:
    one = name == "Flat"
    data = str(bench / ("two" if one else "three"))
    wanted = FitSettings(
        model=str(bench / ("one.pth" if one else "three.pth")),
        data=data,
        arch=f"{bench / 'odd.py'}:{name}",
        epochs=1,
        eps=0.03,
        batch_size=20,
        attacks=("fgsm",),
        audit_samples=8,
    )
    result = fit(
        wanted, out=tmp_path / "run", dry_run=False, narrator=Notebook(), stop_requested=lambda: False, command="fit"
    )
    assert result.run is not None
    asked = ExportSettings(spec=ModelSpec(model=str(result.run.path)), formats=("onnx",), samples=6, anyway=True)
    (exported,) = export(asked, out=tmp_path / "export", narrator=Notebook())
    source = open_data(data)
    box, _ = open_black_box(ModelSpec(model=str(exported.path)), source, source.listings["train"], Notebook())
    images = torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(box(images), result.run.load_classifier()(images).detach(), atol=1e-4, rtol=1e-4)


def test_a_foreign_onnx_and_torchscript_file_of_one_logit_is_a_black_box_of_two_classes(
    bench: Path, tmp_path: Path
) -> None:
    source = open_data(str(bench / "two"))
    module = opened(bench, "Flat").module
    scripted = tmp_path / "one.pt"
    whole = tmp_path / "one.onnx"
    images, shapes = torch.zeros(2, 3, 16, 16), ({0: torch.export.Dim("n")},)
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.jit.trace(module, images).save(str(scripted))  # type: ignore[no-untyped-call]
        torch.onnx.export(module, (images,), str(whole), dynamo=True, dynamic_shapes=shapes, verbose=False)
    for path in (scripted, whole):
        box, _ = open_black_box(ModelSpec(model=str(path)), source, source.listings["train"], Notebook())
        assert torch.equal(box(torch.rand(3, 3, 16, 16))[:, 0], torch.zeros(3))


def test_without_data_the_last_layer_says_how_many_classes_there_are(bench: Path) -> None:
    spec = ModelSpec(model=str(bench / "three.pth"), arch=f"{bench / 'odd.py'}:Pair", image_size=16)
    assert len(inspect(spec, data=None, narrator=Notebook()).classifier.classes) == 3


def test_without_data_a_single_score_means_two_classes(bench: Path) -> None:
    spec = ModelSpec(model=str(bench / "one.pth"), arch=f"{bench / 'odd.py'}:Flat", image_size=16)
    found = inspect(spec, data=None, narrator=Notebook())
    assert found.classifier.classes == ("output 0", "output 1")
