"""The same pictures in every layout that can hold them."""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@dataclass(frozen=True)
class Picture:
    """An encoded picture: `name` ends in its suffix and is unique; `split` is None in a set without splits."""

    name: str
    label: str
    content: bytes
    split: str | None = None


Names = dict[str, str]
"""Entry's file -> picture's name."""

Write = Callable[[Path, Sequence[Picture]], tuple[str, Names]]
"""Writes pictures below a folder and returns what --data is then, and which entry is which picture."""


def png(seed: int, side: int = 8) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()


def some_pictures(split: str | None = None, count: int = 4, first: int = 0) -> list[Picture]:
    return [
        Picture(f"{label}{first + n}.png", label, png(1000 * k + first + n), split)
        for k, label in enumerate(("cat", "dog"))
        for n in range(count)
    ]


def as_folder(root: Path, pictures: Sequence[Picture]) -> tuple[str, Names]:
    names = {}
    for picture in pictures:
        file = "/".join(filter(None, (picture.split, picture.label, picture.name)))
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(picture.content)
        names[file] = picture.name
    return str(root), names


def _beside(root: Path, pictures: Sequence[Picture]) -> tuple[dict[str, list[str]], Names]:
    """Write the files for a table, and return its columns."""
    (root / "pictures").mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        (root / "pictures" / picture.name).write_bytes(picture.content)
    columns = {
        "path": [f"pictures/{picture.name}" for picture in pictures],
        "label": [picture.label for picture in pictures],
    }
    if any(picture.split is not None for picture in pictures):
        columns["split"] = [picture.split or "" for picture in pictures]
    return columns, {f"pictures/{picture.name}": picture.name for picture in pictures}


def as_csv(root: Path, pictures: Sequence[Picture]) -> tuple[str, Names]:
    columns, names = _beside(root, pictures)
    with (root / "table.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([list(columns), *zip(*columns.values(), strict=True)])
    return f"csv:{root / 'table.csv'}", names


def as_parquet(root: Path, pictures: Sequence[Picture]) -> tuple[str, Names]:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed; it comes with the extra 'data'")
    import pyarrow
    import pyarrow.parquet

    columns, names = _beside(root, pictures)
    pyarrow.parquet.write_table(pyarrow.table(columns), root / "table.parquet")
    return f"parquet:{root / 'table.parquet'}", names


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def as_webdataset(root: Path, pictures: Sequence[Picture]) -> tuple[str, Names]:
    root.mkdir(parents=True, exist_ok=True)
    names = {}
    for split in dict.fromkeys(picture.split for picture in pictures):
        archive = root / f"{split or 'shard'}-000000.tar"
        with tarfile.open(archive, "w") as tar:
            for picture in pictures:
                if picture.split == split:
                    add(tar, picture.name, picture.content)
                    add(tar, f"{picture.name.partition('.')[0]}.cls", picture.label.encode())
                    names[f"{archive.name}/{picture.name}"] = picture.name
    return f"webdataset:{root}", names


def as_npz(root: Path, pictures: Sequence[Picture]) -> tuple[str, Names]:
    root.mkdir(parents=True, exist_ok=True)
    arrays, names = {}, {}
    for split in dict.fromkeys(picture.split for picture in pictures):
        chosen = [picture for picture in pictures if picture.split == split]
        images, labels = ("images", "labels") if split is None else (f"x_{split}", f"y_{split}")
        arrays[images] = np.stack([np.asarray(Image.open(io.BytesIO(picture.content))) for picture in chosen])
        arrays[labels] = np.array([picture.label for picture in chosen])
        ours = {None: "all", "validation": "val"}.get(split, split)
        names.update({f"{ours}/{number:06d}": picture.name for number, picture in enumerate(chosen)})
    np.savez(root / "arrays.npz", **arrays)
    return f"npz:{root / 'arrays.npz'}", names


def as_hf(root: Path, pictures: Sequence[Picture]) -> tuple[str, Names]:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed; it comes with the extra 'data'")
    classes = sorted({picture.label for picture in pictures})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=classes)})
    parts, names = {}, {}
    for split in dict.fromkeys(picture.split for picture in pictures):
        chosen = [picture for picture in pictures if picture.split == split]
        rows = {
            "image": [{"bytes": picture.content, "path": None} for picture in chosen],
            "label": [classes.index(picture.label) for picture in chosen],
        }
        parts[split] = datasets.Dataset.from_dict(rows, features=features)
        names.update({f"{split or 'all'}/{number:06d}": picture.name for number, picture in enumerate(chosen)})
    saved = parts[None] if None in parts else datasets.DatasetDict(parts)
    saved.save_to_disk(str(root / "saved"))
    return f"hf:{root / 'saved'}", names


PICTURES: dict[str, Write] = {
    "folder": as_folder,
    "csv": as_csv,
    "parquet": as_parquet,
    "webdataset": as_webdataset,
    "hf": as_hf,
}
"""Layouts that hold encoded pictures."""

OURS: dict[str, Write] = {**PICTURES, "npz": as_npz}
"""Layouts that hold what a user puts there."""

PUBLISHED = {"sklearn", "torchvision"}
"""Layouts of published data sets, which a library decodes."""
