"""`harden inspect` with and without data, on files, factories and runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harden.errors import UsageError
from harden.models.classifier import Classifier, Normalisation
from harden.models.origin import Origin
from harden.models.pickled import save_skeleton
from harden.workflows.inspect import inspect
from harden.workflows.prepare import ModelSpec
from harden.workflows.run_folder import RunFolder, describe
from tests.conftest import REPOSITORY

from .builders import NET, Notebook, Workshop, build


@pytest.fixture
def run(workshop: Workshop, tmp_path: Path) -> Path:
    """A run folder of the workshop's network, without the training."""
    folder = RunFolder(tmp_path / "run")
    folder.skeleton.mkdir(parents=True)
    classifier = Classifier(
        workshop.module,
        normalisation=Normalisation("none", (0.0,) * 3, (1.0,) * 3),
        classes=("a", "b", "c"),
        input_size=(3, 16, 16),
        origin=Origin("pickled", "model.pt"),
    )
    save_skeleton(classifier.module, folder.skeleton / "model.pt")
    folder.save_classifier(classifier, folder.weights)
    folder.write_json(folder.config, describe(classifier))
    folder.recipe.write_text("")
    return folder.path


def test_a_run_with_data_gets_the_preflight(run: Path, workshop: Workshop) -> None:
    notebook = Notebook()
    found = inspect(ModelSpec(model=str(run)), data=str(workshop.data), narrator=notebook)
    assert found.classifier.normalisation.name == "none"
    assert [row[0] for row in notebook.tables[0]] == ["none"]  # the run knows its own
    assert "of 120 images right" in notebook.text
    assert not notebook.warnings
    with pytest.raises(UsageError):
        inspect(ModelSpec(model=str(run), mean=(0.5,), std=(0.5,)), data=None, narrator=Notebook())


def test_a_run_that_does_not_know_the_data_is_warned_of(run: Path, workshop: Workshop) -> None:
    folder = RunFolder(run)
    config = folder.read_json(folder.config)
    folder.write_json(folder.config, {**config, "classes": ["c", "a", "b"]})
    notebook = Notebook()
    found = inspect(ModelSpec(model=str(run)), data=str(workshop.data), narrator=notebook)
    assert found.points
    assert any("another order" in warning for warning in notebook.warnings)


@pytest.mark.parametrize("classes", [3, 7])
def test_a_factory_without_data_keeps_its_own_sizes_or_those_of_the_weights(classes: int, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    arch = f"{tmp_path / 'net.py'}:net"
    module = build()
    if classes != 3:
        module[-1] = torch.nn.Linear(16, classes)
    torch.save(module.state_dict(), tmp_path / "w.pt")
    for model, named in ((arch, None), (str(tmp_path / "w.pt"), arch)):
        found = inspect(ModelSpec(model=model, arch=named, image_size=16), data=None, narrator=Notebook())
        assert len(found.classifier.classes) == (3 if named is None else classes)
        assert found.default is not None


@pytest.mark.parametrize(
    ("checkpoint", "arch", "expected"),
    [
        ("chyun_fashion_mnist_cnn.pth", "fashion_cnn.py:fashion_cnn", (1, 28, 28)),
        ("resnet20-12fca82f.th", "resnet_cifar.py:resnet20", (3, 224, 224)),
    ],
)
def test_real_checkpoints_without_data(
    checkpoint: str, arch: str, expected: tuple[int, int, int], harden_test_data: Path
) -> None:
    path = harden_test_data / "checkpoints" / checkpoint
    if not path.exists():
        pytest.skip(f"no {path}")
    found = inspect(
        ModelSpec(model=str(path), arch=str(REPOSITORY / "examples" / arch)), data=None, narrator=Notebook()
    )
    assert found.classifier.input_size == expected
    assert len(found.classifier.classes) == 10
