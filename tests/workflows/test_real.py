"""The real Fashion-MNIST checkpoint on a part of the real data."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from harden.workflows.fit import fit
from harden.workflows.settings import FitSettings
from tests.conftest import REPOSITORY

from .builders import Notebook

PER_CLASS = {"train": 200, "test": 20}


@pytest.fixture(scope="module")
def fashion(harden_test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 + 20 images of each class."""
    archive, root = harden_test_data / "fashion-mnist.tar.gz", tmp_path_factory.mktemp("fashion")
    if not archive.exists():
        pytest.skip(f"no {archive}")
    left = {(split, str(k)): count for split, count in PER_CLASS.items() for k in range(10)}
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            parts = Path(member.name).parts[-3:]
            if member.isfile() and len(parts) == 3 and left.get(parts[:2], 0) > 0:
                left[parts[:2]] -= 1
                target = root.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
                if not any(left.values()):
                    break
    assert not any(left.values())
    return root


def test_a_real_checkpoint_becomes_robust_in_a_few_epochs(
    fashion: Path, harden_test_data: Path, tmp_path: Path
) -> None:
    notebook = Notebook()
    result = fit(
        FitSettings(
            model=str(harden_test_data / "checkpoints" / "chyun_fashion_mnist_cnn.pth"),
            arch=f"{REPOSITORY / 'examples' / 'fashion_cnn.py'}:fashion_cnn",
            data=str(fashion),
            epochs=3,
            attacks=("fgsm", "pgd-20"),
            selection_samples=100,
        ),
        out=tmp_path / "run",
        dry_run=False,
        narrator=notebook,
        stop_requested=lambda: False,
        command="harden fit",
    )
    assert "normalisation: Fashion-MNIST" in notebook.text
    assert "eps 0.1 = 25.5/255" in notebook.text
    assert "the default" in notebook.text
    assert result.report is not None
    before, after = result.report.results
    assert before.clean_accuracy().value > 0.85
    assert before.worst_case().value < 0.1
    assert after.clean_accuracy().value > 0.6
    assert after.worst_case().value > 0.4
