"""Image folders: `ROOT/<split>/<class>/*` or `ROOT/<class>/*`.

This file knows which folder is a split, which a class and which file an image; listing opens none of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from harden.data.dataset import Entry
from harden.data.encoded import EncodedSource, stamp
from harden.data.names import SPLIT_NAMES, composed, in_order, some
from harden.data.passed_over import NOTHING, PassedOver
from harden.data.pictures import SUFFIXES
from harden.data.scan import Scan, subfolders
from harden.data.spec import check_is_there, path_of, shown
from harden.errors import DataError
from harden.registry import did_you_mean

_LAYOUT_HINT = (
    "expected ROOT/train/<class>/<images> and, where they exist, ROOT/val and ROOT/test, or ROOT/<class>/<images>"
)
_FILE_HINT = f"{_LAYOUT_HINT}; or one of these files: .csv, .tsv, .parquet (paths and labels), .npz (arrays)"
_UNPACKERS = {
    ".zip": "unzip {file} -d FOLDER",
    ".tar": "tar xf {file} -C FOLDER",
    ".tgz": "tar xzf {file} -C FOLDER",
    ".tar.gz": "tar xzf {file} -C FOLDER",
    ".tar.bz2": "tar xjf {file} -C FOLDER",
    ".tar.xz": "tar xJf {file} -C FOLDER",
    ".7z": "7z x {file} -oFOLDER",
}


def open_folder(path: str, gray_bits: int | None = None) -> EncodedSource:
    """List the image folder at `path`; entries are ordered by class and then by path.

    Hidden files and folders, and those that systems write, are passed over, and so are files that are no images. Below
    a class folder images are found at any depth; links to folders are followed. Names of classes are compared, and
    given, in Unicode's form NFC. A folder without splits that is itself called like one for validation or testing is
    that split.

    Raises:
        DataError: no folder there, an archive, fewer than two classes, a class without images, or a class in val or
            test that train does not know.
    """
    root = path_of(path)
    _check_is_folder(root)
    layout = Scan(root)
    splits = _split_folders(root)
    if not splits:
        _refuse_collection(root)
        folders = _class_folders(root)
        classes = _classes(root, folders)
        split = SPLIT_NAMES.get(root.name.lower(), "train")
        listings = {"all" if split == "train" else split: _list_classes(layout, root, classes, folders)}
    else:
        classes, listings = _list_splits(layout, splits)
    layout.count_outside(root, [*splits.values()] if splits else subfolders(root))
    return files_below(root, str(root), classes, listings, gray_bits, passed_over=layout.passed_over)


def _list_splits(layout: Scan, splits: Mapping[str, Path]) -> tuple[tuple[str, ...], dict[str, tuple[Entry, ...]]]:
    """Return the classes and the entries per split; without one to train on, the classes are those of the others."""
    folders = {split: _class_folders(path) for split, path in splits.items()}
    if "train" in splits:
        classes = _classes(splits["train"], folders["train"])
        listings = {"train": _list_classes(layout, splits["train"], classes, folders["train"])}
    else:
        _require_only_splits(layout.root, splits)
        classes = _classes(layout.root, {name: paths for found in folders.values() for name, paths in found.items()})
        listings = {}
    for split in ("val", "test"):
        if split in splits:
            entries = _list_held_out(layout, splits[split], classes, folders[split])
            if entries:
                listings[split] = entries
    for path in splits.values():
        layout.count_outside(path, subfolders(path))
    if not listings:
        raise DataError(f"no images in the class folders of {layout.root}", hint=_LAYOUT_HINT)
    return classes, listings


def files_below(
    root: Path,
    location: str,
    classes: tuple[str, ...],
    listings: Mapping[str, tuple[Entry, ...]],
    gray_bits: int | None,
    *,
    passed_over: PassedOver = NOTHING,
) -> EncodedSource:
    """Return the data set whose entries name files relative to `root`."""

    def path(entry: Entry) -> str:
        return os.path.join(root, entry.file)

    return EncodedSource(
        location,
        classes,
        listings,
        stored=lambda entry: Path(path(entry)),
        version=lambda entries: stamp(map(path, entries)),
        gray_bits=gray_bits,
        passed_over=passed_over,
        file_of=path,
    )


def _check_is_folder(root: Path) -> None:
    check_is_there(root, "folder", _LAYOUT_HINT)
    if root.is_dir():
        return
    for suffix, command in _UNPACKERS.items():
        if root.name.lower().endswith(suffix):
            unpack = command.format(file=root)
            in_place = f", or --data webdataset:{root} if every KEY.jpg in it has a KEY.cls" if suffix == ".tar" else ""
            raise DataError(
                f"{shown(root)} is an archive; a folder of images was expected",
                hint=f"unpack it first (mkdir FOLDER && {unpack}) and give FOLDER{in_place}",
            )
    raise DataError(f"{shown(root)} is a file; a folder of images was expected", hint=_FILE_HINT)


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the folders of `root` that are splits: named like one, and with class folders inside.

    A folder `train` that holds images and no folders is a class of its own (trains), not a split.
    """
    splits: dict[str, Path] = {}
    for folder in subfolders(root):
        split = SPLIT_NAMES.get(folder.name.lower())
        if split is None or not subfolders(folder):
            continue
        if split in splits:
            raise DataError(
                f"{root} has two folders for the {split} split: {splits[split].name!r} and {folder.name!r}",
                hint="merge them, or move one of them away",
            )
        splits[split] = folder
    return splits


def _require_only_splits(root: Path, splits: Mapping[str, Path]) -> None:
    """Refuse what may be class folders beside a test split: they would be ignored."""
    others = [folder.name for folder in subfolders(root) if folder not in splits.values()]
    if others:
        names = " and ".join(repr(folder.name) for folder in splits.values())
        raise DataError(
            f"{root} has a folder {names} of class folders, no folder 'train', and beside it the folders "
            f"{some(others)}",
            hint=f"move class folders to train on into {root / 'train'}, and all others away; or rename {names} if it "
            "is a class",
        )


def _refuse_collection(root: Path) -> None:
    for folder in subfolders(root):
        if "train" in _split_folders(folder):
            raise DataError(
                f"{root} holds a whole data set in {folder.name!r}, where a class was expected", hint=f"give {folder}"
            )


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """Return the folders in `folder` by the name of their class in NFC; two that differ in form only are one class."""
    found: dict[str, list[Path]] = {}
    for path in subfolders(folder):
        found.setdefault(composed(path.name), []).append(path)
    return found


def _classes(root: Path, folders: Mapping[str, Sequence[Path]]) -> tuple[str, ...]:
    if len(folders) < 2:
        archives = any(root.glob("*.tar"))
        raise DataError(
            f"{root} has {len(folders)} class folder{'' if len(folders) == 1 else 's'}; at least 2 were expected",
            hint=f"for tar archives of KEY.jpg and KEY.cls: --data webdataset:{root}" if archives else _LAYOUT_HINT,
        )
    return in_order(folders)


def _list_classes(
    layout: Scan, split: Path, classes: Sequence[str], folders: Mapping[str, Sequence[Path]]
) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    for label, name in enumerate(classes):
        files = sorted(file for folder in folders[name] for file in layout.images(folder))
        if not files:
            raise DataError(
                f"class {name!r} has no images in {split / name}",
                hint=f"put images there ({' '.join(sorted(SUFFIXES))}), or move the folder away if it is not a class",
            )
        entries.extend(Entry(file, label) for file in files)
    return tuple(entries)


def _list_held_out(
    layout: Scan, split: Path, classes: Sequence[str], folders: Mapping[str, Sequence[Path]]
) -> tuple[Entry, ...]:
    """List a val or test folder, whose classes must be among those of train; it may lack some of them."""
    label_of = {name: label for label, name in enumerate(classes)}
    entries: list[Entry] = []
    for name, paths in folders.items():
        if name not in label_of:
            raise DataError(
                f"class {name!r} of {split} is unknown in train{did_you_mean(name, classes)}",
                hint=f"the classes of train are: {some(classes)}; rename the folder or move it away",
            )
        entries.extend(Entry(file, label_of[name]) for path in paths for file in layout.images(path))
    return tuple(sorted(entries, key=lambda entry: (entry.label, entry.file)))
