"""Networks that know more classes than the data: in audits, training, exports and as black boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from harden.access import OTHER
from harden.data import open_data
from harden.errors import PreflightError, UsageError
from harden.models.output_subset import OutputSubset
from harden.report.report import Report
from harden.workflows.black_box import open_black_box
from harden.workflows.export import export
from harden.workflows.export_subject import ExportSettings
from harden.workflows.fit import fit
from harden.workflows.inspect import inspect
from harden.workflows.prepare import ModelSpec, images_for, open_model
from harden.workflows.report import report
from harden.workflows.run_folder import RunFolder
from harden.workflows.side_by_side import ReportSettings

from .builders import Notebook, Workshop, trained
from .test_fit import go_on, settings

CHOSEN = (5, 0, 3)


@pytest.fixture(scope="module")
def wide(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pickled network of six outputs, of which 5, 0 and 3 are the classes of the data."""
    path = tmp_path_factory.mktemp("wide") / "wide.pt"
    torch.save(trained(workshop.data, CHOSEN, outputs=6), path)
    return path


def audited(model: Path, data: Path, out: Path, **changes: Any) -> Report:
    base: dict[str, Any] = {"data": str(data), "eps": 0.05, "attacks": ("pgd-20",), "samples": 12}
    spec = ModelSpec(model=str(model), **changes)
    found, _ = report(ReportSettings(spec=spec, **base), out=out, narrator=Notebook(), command="harden report")
    return found


def test_the_largest_other_score_stands_for_all_of_them() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0], [9.0, 1.0, 2.0, 3.0, 4.0]], requires_grad=True)
    counted = OutputSubset(5, (3, 1), others=True)
    assert torch.equal(counted.of(scores), torch.tensor([[3.0, 1.0, 4.0], [3.0, 1.0, 9.0]]))
    assert torch.equal(OutputSubset(5, (3, 1), others=False).of(scores), scores[:, [3, 1]])
    (gradient,) = torch.autograd.grad(counted.of(scores)[:, 2].sum(), scores)
    assert gradient.nonzero().tolist() == [[0, 4], [1, 0]]
    assert counted.names("ab") == ("a", "b", OTHER)
    assert counted.all_names("ab") == ("output 0", "b", "output 2", "a", "output 4")
    assert OutputSubset.from_json(json.loads(json.dumps(counted.to_json()))) == counted


def test_an_audit_counts_answers_of_other_classes_as_wrong_unless_told_otherwise(
    wide: Path, workshop: Workshop, tmp_path: Path
) -> None:
    counted = audited(wide, workshop.data, tmp_path / "counted", class_map=CHOSEN).subject
    assert counted.classes == ("a", "b", "c", OTHER)
    assert counted.clean_accuracy().value == 1.0
    assert counted.absent() == ()
    ignored = audited(wide, workshop.data, tmp_path / "ignored", class_map=CHOSEN, ignore_other_classes=True).subject
    assert ignored.classes == ("a", "b", "c")
    assert ignored.worst_case().value >= counted.worst_case().value
    source = open_data(str(workshop.data))
    spec = ModelSpec(model=str(wide), class_map=CHOSEN)
    classifier, images = open_model(spec, source, source.listings["train"], Notebook())
    assert images.mapping == (0, 1, 2)
    with torch.no_grad():
        batch = torch.rand(20, 3, 16, 16)
        own = classifier.module((batch - classifier.mean) / classifier.std)
        told = torch.tensor([CHOSEN.index(k) if k in CHOSEN else 3 for k in own.argmax(1).tolist()])
        assert torch.equal(classifier(batch).argmax(1), told)


def test_maps_that_cannot_be_are_refused(wide: Path, workshop: Workshop, tmp_path: Path) -> None:
    def refused(error: type[Exception], says: str, model: Path = wide, **changes: Any) -> None:
        with pytest.raises(error, match=says):
            audited(model, workshop.data, tmp_path / "none", **changes)

    refused(PreflightError, "the model has 6 outputs, the data has 3 classes")
    refused(UsageError, "names the output 6, and the model has the outputs 0 to 5", class_map=(6, 0, 3))
    refused(UsageError, "a different output for each of the 3 classes", class_map=(5, 5, 3))
    refused(UsageError, "a different output for each of the 3 classes", class_map=(5, 3))
    refused(UsageError, "this one has 3", workshop.pickled, ignore_other_classes=True)
    refused(PreflightError, "in another order", class_map=(0, 5, 3))
    assert not (tmp_path / "none").exists()


def test_the_map_that_is_suggested_repairs_the_order(wide: Path, workshop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(PreflightError) as caught:
        audited(wide, workshop.data, tmp_path / "none", class_map=(0, 5, 3))
    assert caught.value.hint == "--class-map 5,0,3"


@pytest.fixture(scope="module")
def run(wide: Path, workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that was stopped, and went on."""
    out = tmp_path_factory.mktemp("runs") / "run"
    wanted = settings(workshop, model=str(wide), class_map=CHOSEN, epochs=2, attacks=("fgsm",), audit_samples=12)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with pytest.raises(Exception, match="stopped"):
        fit(wanted, out=out, dry_run=False, narrator=Notebook(), stop_requested=stop, command="harden fit")
    go_on(out)
    return RunFolder(out)


def test_a_run_keeps_the_outputs_of_its_network(run: RunFolder, workshop: Workshop, tmp_path: Path) -> None:
    assert load_file(run.weights)["7.weight"].shape[0] == 6
    classifier = run.load_classifier()
    assert classifier.subset == OutputSubset(6, CHOSEN, others=True)
    images = images_for(classifier, open_data(str(workshop.data)))
    assert images.classes == classifier.classes == ("a", "b", "c", OTHER)
    with pytest.raises(UsageError, match="settles what --ignore-other-classes would say"):
        audited(run.path, workshop.data, tmp_path / "none", ignore_other_classes=True)
    again = audited(run.path, workshop.data, tmp_path / "again").subject
    assert again.clean_accuracy().value > 0.8
    looked = inspect(ModelSpec(model=str(run.path)), data=str(workshop.data), narrator=Notebook())
    assert [point.layer for point in looked.points if point.head] == ["7"]


def test_an_export_gives_all_outputs_and_names_those_of_the_data(
    run: RunFolder, workshop: Workshop, tmp_path: Path
) -> None:
    asked = ExportSettings(spec=ModelSpec(model=str(run.path)), formats=("onnx",), samples=8, anyway=True)
    (exported,) = export(asked, out=tmp_path / "export", narrator=Notebook())
    source = open_data(str(workshop.data))
    entries = source.listings["train"]
    box, images = open_black_box(ModelSpec(model=str(exported.path)), source, entries, Notebook())
    assert box.classes == images.classes == ("a", "b", "c", OTHER)
    pixels, labels = images.decode(entries[::10], Notebook(), "some").batch(slice(None))
    torch.testing.assert_close(box(pixels), run.load_classifier()(pixels).detach(), atol=1e-4, rtol=1e-4)
    assert (box(pixels).argmax(1) == labels).double().mean() > 0.9


def test_a_black_box_takes_a_map_too(wide: Path, workshop: Workshop, tmp_path: Path) -> None:
    code = tmp_path / "served.py"
    code.write_text(
        f"import torch\nnet = torch.load({str(wide)!r}, weights_only=False).eval()\n"
        "def scores(images):\n    with torch.no_grad():\n        return net(torch.from_numpy(images))\n"
    )
    source = open_data(str(workshop.data))
    spec = ModelSpec(model=f"{code}:scores", class_map=CHOSEN)
    box, images = open_black_box(spec, source, source.listings["train"], Notebook())
    assert box.classes == images.classes == ("a", "b", "c", OTHER)
    assert box(torch.rand(2, 3, 16, 16)).shape == (2, 4)
