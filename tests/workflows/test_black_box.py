"""From a file that only answers to an audit of it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from harden.access import Access
from harden.attacks import ATTACKS, Planned
from harden.audit.runner import audit
from harden.cli.report import require_gates
from harden.data import DataSource, open_data
from harden.errors import GateError, ModelError, PreflightError, UsageError
from harden.export.to_onnx import save_onnx
from harden.models.black_box import BlackBox
from harden.models.classifier import Classifier, Normalisation
from harden.models.origin import Origin
from harden.report.report import Report
from harden.report.side_by_side import rows
from harden.report.verdict import verdict_of
from harden.workflows.black_box import is_black_box, open_black_box, score_attacks
from harden.workflows.prepare import Images, ModelSpec
from harden.workflows.report import report
from harden.workflows.side_by_side import ReportSettings

from .builders import Notebook, Workshop, trained

FUNCTION = """
import numpy as np
import torch

net = torch.load({pickled!r}, weights_only=False).eval()

def scores(images):
    with torch.no_grad():
        return net(torch.from_numpy(images)).numpy()

def probabilities(images):
    with torch.no_grad():
        return net(torch.from_numpy(images)).softmax(1)

def guesses(images):
    return np.eye(3)[np.arange(len(images)) % 3]

def raw(images):
    return scores(images * 255)

def labels(images):
    return np.eye(3)[scores(images).argmax(1)]

def network(*sizes):
    return net
"""


class Labels(nn.Module):
    """Shows nothing but the label of a network."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.inner(x)
        return (scores >= scores.max(dim=1, keepdim=True)[0]).float()


@pytest.fixture(scope="module")
def source(workshop: Workshop) -> DataSource:
    return open_data(str(workshop.data))


@pytest.fixture(scope="module")
def code(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "served.py"
    path.write_text(FUNCTION.format(pickled=str(workshop.pickled)))
    return path


def classifier_of(
    module: nn.Module, *, normalisation: Normalisation | None = None, classes: tuple[str, ...] = ("a", "b", "c")
) -> Classifier:
    plain = normalisation or Normalisation("none", (0.0,) * 3, (1.0,) * 3)
    return Classifier(
        module, normalisation=plain, classes=classes, input_size=(3, 16, 16), origin=Origin("factory", "x")
    ).eval()


def opened(source: DataSource, notebook: Notebook | None = None, **spec: object) -> tuple[BlackBox, Images]:
    return open_black_box(
        ModelSpec(**spec),  # type: ignore[arg-type]
        source,
        source.listings["train"],
        notebook or Notebook(),
    )


def save_script(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), path)
    return path


@pytest.fixture(scope="module")
def exported(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    metadata = {"classes": ["a", "b", "c"], "input": {"range": [0, 1], "size": [3, 16, 16]}}
    save_onnx(classifier_of(workshop.module), path, metadata)
    return path


def test_an_exported_file_falls_to_the_same_queries_as_the_network_itself(
    exported: Path, workshop: Workshop, source: DataSource
) -> None:
    assert is_black_box(str(exported), black_box_flag=False)
    notebook = Notebook()
    box, images = opened(source, notebook, model=str(exported))
    assert (box.kind, box.name, box.classes, box.input_size) == ("ONNX", "model.onnx", ("a", "b", "c"), (3, 16, 16))
    assert "black-box only" in notebook.text
    assert "normalisation: inside" in notebook.text
    audited = images.decode(source.listings["test"], Notebook(), "images")
    planned = [Planned(ATTACKS[name](0.1), member) for name, member in score_attacks(["square"])]
    arguments = {"model": "m", "dataset": "d", "exposures": {}}
    blind = audit(box, audited, planned, **arguments)  # type: ignore[arg-type]
    sighted = audit(classifier_of(workshop.module), audited, planned, **arguments)  # type: ignore[arg-type]
    assert not blind.differentiable
    assert sighted.differentiable
    assert np.array_equal(blind.clean_predictions, sighted.clean_predictions)
    assert np.array_equal(blind.outcomes[0].predictions, sighted.outcomes[0].predictions)
    assert np.array_equal(blind.outcomes[0].queries, sighted.outcomes[0].queries)
    assert blind.outcomes[0].backwards == 0
    assert blind.worst_case().value < blind.clean_accuracy().value


def test_the_names_in_an_exported_file_settle_the_order_of_the_classes(workshop: Workshop, tmp_path: Path) -> None:
    source = open_data(str(workshop.data))
    module = trained(workshop.data, (2, 0, 1))  # class a has output 2
    path = tmp_path / "model.onnx"
    save_onnx(
        classifier_of(module), path, {"classes": ["b", "c", "a"], "input": {"range": [0, 1], "size": [3, 16, 16]}}
    )
    box, images = opened(source, model=str(path))
    assert box.classes == images.classes == ("b", "c", "a")
    audited = images.decode(source.listings["test"], Notebook(), "images")
    pixels, labels = audited.batch(slice(None))
    assert (box(pixels).argmax(1) == labels).float().mean() > 0.9


def test_torchscript_gets_the_normalisation_that_it_was_made_for(
    workshop: Workshop, source: DataSource, tmp_path: Path
) -> None:
    class Undo(nn.Module):
        """Wants 0-255 images, BGR."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x.flip(1) / 255)  # type: ignore[no-any-return]

    path = save_script(Undo(workshop.module), tmp_path / "model.bin")
    assert is_black_box(str(path), black_box_flag=False)
    box, images = opened(source, model=str(path))
    assert box.kind == "TorchScript"
    assert box.normalisation.name.startswith("0-255")
    pixels, labels = images.decode(source.listings["test"], Notebook(), "images").batch(slice(None))
    assert (box(pixels).argmax(1) == labels).float().mean() > 0.9
    given, _ = opened(source, model=str(path), mean=(0.0,), std=(1 / 255,))
    assert given.normalisation.name == "given"


def test_a_permuted_model_is_told_with_its_repair(workshop: Workshop, source: DataSource, tmp_path: Path) -> None:
    path = save_script(trained(workshop.data, (2, 0, 1)), tmp_path / "m.pt")
    with pytest.raises(PreflightError, match="another order") as caught:
        opened(source, model=str(path))
    assert caught.value.hint == "--class-map 2,0,1"
    box, _ = opened(source, model=str(path), class_map=(2, 0, 1))
    assert box.classes == ("b", "c", "a")


def test_functions(code: Path, source: DataSource, workshop: Workshop) -> None:
    notebook = Notebook()
    scores, images = opened(source, notebook, model=f"{code}:scores")
    probabilities, _ = opened(source, notebook, model=f"{code}:probabilities")
    assert "gives probabilities, whose logarithms attacks climb" in notebook.text
    assert (scores.probabilities, probabilities.probabilities) == (False, True)
    pixels, _ = images.decode(source.listings["test"], Notebook(), "images").batch(slice(None))
    with torch.no_grad():
        expected = workshop.module(pixels)
    torch.testing.assert_close(scores(pixels), expected)
    torch.testing.assert_close(probabilities(pixels), expected.log_softmax(1), atol=1e-4, rtol=1e-4)
    with pytest.raises(PreflightError, match="does not know this data") as caught:
        opened(source, model=f"{code}:guesses")
    assert "must normalise them itself" in (caught.value.hint or "")
    assert "--pretrain" not in (caught.value.hint or "")
    with pytest.raises(UsageError, match="its normalisation is inside"):
        opened(source, model=f"{code}:scores", mean=(0.5,), std=(0.5,))
    with pytest.raises(ModelError, match="returned Sequential, not scores"):
        opened(source, model=f"{code}:network")


def test_another_number_of_classes_and_another_size_are_refused(
    exported: Path, source: DataSource, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="takes images of 16x16, not of --image-size 20"):
        opened(source, model=str(exported), image_size=20)
    net = nn.Sequential(nn.Conv2d(3, 5, 16), nn.Flatten())
    with pytest.raises(PreflightError, match="has 5 outputs, the data has 3 classes"):
        opened(source, model=str(save_script(net, tmp_path / "m.pt")))


def audited(workshop: Workshop, model: str, out: Path, **settings: object) -> Report:
    arguments = {"data": str(workshop.data), "eps": 0.1, "attacks": ("square",), "fail_under": "robust=0.1,clean=0.1"}
    asked = ReportSettings(spec=ModelSpec(model=model), device="cpu", **{**arguments, **settings})  # type: ignore[arg-type]
    return report(asked, out=out, narrator=Notebook(), command="")[0]


@pytest.mark.parametrize("form", ["function", "ONNX", "TorchScript"])
@pytest.mark.parametrize("ignores", [False, True])
def test_labels_only_in_every_form_have_no_figure_and_meet_no_gate(
    code: Path, workshop: Workshop, tmp_path: Path, form: str, ignores: bool
) -> None:
    module = Labels(workshop.module).eval()
    if form == "function":
        model = f"{code}:labels"
    elif form == "ONNX":
        model = str(tmp_path / "m.onnx")
        metadata = {"classes": ["a", "b", "c"], "input": {"range": [0, 1], "size": [3, 16, 16]}}
        save_onnx(classifier_of(module), Path(model), metadata)
    else:
        model = str(save_script(module, tmp_path / "m.pt"))
    settings = {"black_box": form == "function", "gate_ignores_checks": ignores}
    found = audited(workshop, model, tmp_path / "out", **settings)
    assert not found.subject.measured
    assert found.to_json()["summary"][0]["worst_case"] is None
    robust, clean = found.gates
    assert (robust.accuracy, robust.met, clean.met) == (None, False, True)
    with pytest.raises(GateError, match=r"robust >= 0\.1 not met: the accuracy was not measured"):
        require_gates(found.gates)


def test_transfer_to_labels_only_has_a_row_but_is_no_robust_accuracy(
    code: Path, workshop: Workshop, tmp_path: Path
) -> None:
    settings = {"black_box": True, "surrogates": (str(workshop.pickled),)}
    found = audited(workshop, f"{code}:labels", tmp_path / "out", **settings)
    assert {outcome.access for outcome in found.subject.outcomes} == {Access.TRANSFER}
    robust, clean = found.gates
    assert (robust.accuracy, robust.met, clean.met) == (None, False, True)
    sentence = verdict_of(found).sentence()
    assert sentence.startswith("Robust accuracy was not measured: every attack was made on other networks.")
    assert "worst case" not in [row.label for row in rows(found)]


def test_the_same_scores_unrounded_are_measured(code: Path, workshop: Workshop, tmp_path: Path) -> None:
    found = audited(workshop, f"{code}:scores", tmp_path / "out", black_box=True)
    assert found.subject.measured
    assert found.gates[0].accuracy == found.subject.worst_case()


def test_what_is_a_black_box(code: Path, workshop: Workshop, exported: Path) -> None:
    assert is_black_box(str(exported), black_box_flag=True)
    assert is_black_box(f"{code}:scores", black_box_flag=True)
    for model in (f"{code}:scores", str(workshop.pickled), "timm:resnet18", str(workshop.root)):
        assert not is_black_box(model, black_box_flag=False)
    for model in (str(workshop.pickled), "timm:resnet18", str(workshop.root)):
        with pytest.raises(UsageError, match="--black-box is for"):
            is_black_box(model, black_box_flag=True)


def test_attacks_of_a_black_box_need_only_scores() -> None:
    assert score_attacks(None) == (("square-5000", False),)
    assert score_attacks(["square"]) == (("square", False),)
    assert score_attacks(["standard"]) == (("square", True),)
    with pytest.raises(UsageError, match="which fgsm, mim would need") as caught:
        score_attacks(["square", "fgsm", "mim"])
    assert "--surrogate" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="all attacks of paper need gradients"):
        score_attacks(["paper"])
    with pytest.raises(UsageError, match="unknown attack"):
        score_attacks(["sqare"])
