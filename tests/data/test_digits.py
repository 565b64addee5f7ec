from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from harden.data import DataSource, Entry, Format, open_data
from harden.errors import UsageError


@pytest.fixture(scope="module")
def digits() -> DataSource:
    return open_data("sklearn:digits")


def test_listing(digits: DataSource) -> None:
    assert digits.location == "sklearn:digits"
    assert digits.classes == tuple("0123456789")
    assert list(digits.listings) == ["all"]
    entries = digits.listings["all"]
    assert len(entries) == 1797
    assert entries[0] == Entry("digit-00000", 0)
    assert len({entry.file for entry in entries}) == 1797
    probe = digits.probe()
    assert (probe.channels, probe.size, probe.uniform) == (1, (8, 8), True)


def test_pixels_are_those_of_scikit_learn(digits: DataSource) -> None:
    from sklearn.datasets import load_digits

    original = load_digits()
    images, unreadable = digits.decode(digits.listings["all"], Format(1, (8, 8)))
    assert unreadable == ()
    assert images.images.dtype == torch.uint8
    assert images.images.max() == 255
    assert images.labels.tolist() == original.target.tolist()
    assert torch.equal((images.images[:, 0].double() / 255 * 16).round(), torch.from_numpy(original.images))


def test_order_channels_and_size(digits: DataSource) -> None:
    entries = digits.listings["all"][10:0:-1]
    small, _ = digits.decode(entries, Format(1, (8, 8)))
    large, _ = digits.decode(entries, Format(3, (16, 16)))
    assert large.images.shape == (10, 3, 16, 16)
    assert large.files == tuple(entry.file for entry in entries)
    assert torch.equal(large.images[:, 0], large.images[:, 2])
    shrunk = torch.nn.functional.avg_pool2d(large.images[:, :1].float(), 2)
    assert (shrunk - small.images.float()).abs().mean() < 16


def test_unknown_files_are_listed(digits: DataSource) -> None:
    images, unreadable = digits.decode([Entry("digit-00003", 3), Entry("cat.png", 0)], Format(1, (8, 8)))
    assert images.files == ("digit-00003",)
    assert [item.file for item in unreadable] == ["cat.png"]


def test_another_name_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'digits'"):
        open_data("sklearn:digit")


def test_importing_the_package_imports_no_heavy_library() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import harden.data; "
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"sklearn", "scipy", "torchvision", "timm", "onnx", "matplotlib"} & set(loaded)
