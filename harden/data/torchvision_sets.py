"""Data sets that torchvision reads, by name: `torchvision:svhn`, or `torchvision:svhn@FOLDER`.

torchvision downloads what is not in the folder yet, and checks the sums of what it downloads and of what it unpickles
(CIFAR) before it reads it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from harden.data.dataset import Entry
from harden.data.indexed import IndexedSource
from harden.data.spec import path_of
from harden.errors import DataError
from harden.folders import cache_root
from harden.registry import lookup
from harden.vision import import_torchvision

FOLDER_VARIABLE = "HARDEN_DATASETS"


@dataclass(frozen=True)
class Reader:
    """A data set of torchvision.

    Attributes:
        kind: its class in `torchvision.datasets`.
        splits: our name of a split -> the arguments that select it.
    """

    kind: str
    splits: Mapping[str, Mapping[str, Any]]


_BY_TRAIN: Mapping[str, Mapping[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
_BY_SPLIT: Mapping[str, Mapping[str, Any]] = {"train": {"split": "train"}, "test": {"split": "test"}}

READERS: dict[str, Reader] = {
    "cifar10": Reader("CIFAR10", _BY_TRAIN),
    "cifar100": Reader("CIFAR100", _BY_TRAIN),
    "fashion-mnist": Reader("FashionMNIST", _BY_TRAIN),
    "flowers102": Reader(
        "Flowers102", {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
    ),
    "food101": Reader("Food101", _BY_SPLIT),
    "gtsrb": Reader("GTSRB", _BY_SPLIT),
    "imagenette": Reader("Imagenette", {"train": {"split": "train"}, "test": {"split": "val"}}),
    "kmnist": Reader("KMNIST", _BY_TRAIN),
    "mnist": Reader("MNIST", _BY_TRAIN),
    "oxford-iiit-pet": Reader("OxfordIIITPet", {"train": {"split": "trainval"}, "test": {"split": "test"}}),
    "stl10": Reader("STL10", _BY_SPLIT),
    "svhn": Reader("SVHN", _BY_SPLIT),
}
"""By name on the command line."""


def open_torchvision(spec: str) -> IndexedSource:
    """Open the data set that `spec` names, "svhn" or "svhn@FOLDER".

    Without a folder it is where $HARDEN_DATASETS says, or beside the decoded images.

    Raises:
        UsageError: an unknown name.
        DataError: it is not there and cannot be downloaded, or is damaged.
    """
    typed, at, folder = spec.partition("@")
    # FashionMNIST and fashion_mnist are fashion-mnist, too.
    name = next((key for key in READERS if _bare(key) == _bare(typed)), typed)
    reader = lookup(READERS, name, kind="torchvision data set")
    root = path_of(folder) if at else _default_root()
    torchvision = import_torchvision()
    kind = getattr(torchvision.datasets, reader.kind)
    sets = {split: _read(kind, name, root, arguments) for split, arguments in reader.splits.items()}
    labels = {split: _labels(found) for split, found in sets.items()}

    def picture(split: str, number: int) -> Image.Image:
        image: Image.Image = sets[split][number][0]
        return image

    return IndexedSource(
        location=f"torchvision:{name}@{root.resolve()}",
        classes=_classes(next(iter(sets.values())), max(max(some) for some in labels.values()) + 1),
        listings={
            split: tuple(Entry(f"{split}/{number:06d}", label) for number, label in enumerate(some))
            for split, some in labels.items()
        },
        picture=picture,
        version=f"torchvision {torchvision.__version__}",
    )


def _bare(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _default_root() -> Path:
    named = os.environ.get(FOLDER_VARIABLE)
    return path_of(named) if named else cache_root() / "datasets"


def _read(kind: Any, name: str, root: Path, arguments: Mapping[str, Any]) -> Any:
    """Return the data set from the folder, downloaded first where it is not there."""
    try:
        return kind(str(root), **arguments, download=False)
    except (RuntimeError, OSError):
        pass
    try:
        root.mkdir(parents=True, exist_ok=True)
        return kind(str(root), **arguments, download=True)
    except Exception as error:  # readers raise whatever their formats and the network do
        raise DataError(
            f"{name} is not in {root}, and torchvision cannot download it: {str(error)[:200]}",
            hint=f"put its files there, or name their folder: --data torchvision:{name}@FOLDER",
        ) from error


def _labels(found: Any) -> list[int]:
    """Return the label of every image; readers keep them under different names, or in the items alone."""
    for name in ("targets", "labels", "_labels"):
        if hasattr(found, name):
            return [int(label) for label in getattr(found, name)]
    if hasattr(found, "_samples"):
        return [int(label) for _, label in found._samples]
    return [int(found[number][1]) for number in range(len(found))]


def _classes(found: Any, count: int) -> tuple[str, ...]:
    """Return the names of the classes, or their numbers where the reader knows no names for all of them."""
    names = [name if isinstance(name, str) else ", ".join(name) for name in getattr(found, "classes", ())]
    return tuple(names) if len(names) == count == len(set(names)) else tuple(map(str, range(count)))
