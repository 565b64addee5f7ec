"""Image folders: `ROOT/<split>/<class>/*` or `ROOT/<class>/*`.

This file knows which folder is a split, which a class and which file an image; listing opens none of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harden.data.dataset import Entry
from harden.data.encoded import EncodedSource, stamp
from harden.data.names import SPLIT_NAMES, in_order, some
from harden.data.pictures import SUFFIXES
from harden.errors import DataError, MissingDataError
from harden.registry import did_you_mean
from harden.stopping import ask

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

    Folders and files whose names begin with a dot are ignored, and so are files without an image suffix. Below a
    class folder images are found at any depth; links to folders are followed.

    Raises:
        DataError: no folder there, an archive, fewer than two classes, a class without images, or a class in val or
            test that train does not know.
    """
    root = Path(os.path.abspath(Path(path).expanduser()))
    _check_is_folder(root)
    splits = _split_folders(root)
    if not splits:
        _refuse_collection(root)
        folders = _subfolders(root)
        classes = _classes(root, folders)
        return files_below(root, str(root), classes, {"all": _list_classes(root, root, classes)}, gray_bits)
    if "train" not in splits:
        found = next(iter(splits.values()))
        raise DataError(
            f"{root} has a folder {found.name!r} but no folder 'train'",
            hint=f"give {found} itself to use it as one unsplit set, or rename it if {found.name!r} is a class",
        )
    classes = _classes(splits["train"], _subfolders(splits["train"]))
    listings = {"train": _list_classes(root, splits["train"], classes)}
    for split in ("val", "test"):
        if split in splits:
            entries = _list_held_out(root, splits[split], classes)
            if entries:
                listings[split] = entries
    return files_below(root, str(root), classes, listings, gray_bits)


def files_below(
    root: Path,
    location: str,
    classes: tuple[str, ...],
    listings: Mapping[str, tuple[Entry, ...]],
    gray_bits: int | None,
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
    )


def _check_is_folder(root: Path) -> None:
    if root.is_dir():
        return
    if not root.exists():
        siblings = [path.name for path in _subfolders(root.parent)] if root.parent.is_dir() else []
        raise MissingDataError(f"no folder at {root}{did_you_mean(root.name, siblings)}", hint=_LAYOUT_HINT)
    for suffix, command in _UNPACKERS.items():
        if root.name.lower().endswith(suffix):
            unpack = command.format(file=root)
            in_place = f", or --data webdataset:{root} if every KEY.jpg in it has a KEY.cls" if suffix == ".tar" else ""
            raise DataError(
                f"{root} is an archive; a folder of images was expected",
                hint=f"unpack it first (mkdir FOLDER && {unpack}) and give FOLDER{in_place}",
            )
    raise DataError(f"{root} is a file; a folder of images was expected", hint=_FILE_HINT)


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the folders of `root` that are splits: named like one, and with class folders inside.

    A folder `train` that holds images and no folders is a class of its own (trains), not a split.
    """
    splits: dict[str, Path] = {}
    for folder in _subfolders(root):
        split = SPLIT_NAMES.get(folder.name.lower())
        if split is None or not _subfolders(folder):
            continue
        if split in splits:
            raise DataError(
                f"{root} has two folders for the {split} split: {splits[split].name!r} and {folder.name!r}",
                hint="merge them, or move one of them away",
            )
        splits[split] = folder
    return splits


def _refuse_collection(root: Path) -> None:
    for folder in _subfolders(root):
        if "train" in _split_folders(folder):
            raise DataError(
                f"{root} holds a whole data set in {folder.name!r}, where a class was expected", hint=f"give {folder}"
            )


def _classes(root: Path, folders: Sequence[Path]) -> tuple[str, ...]:
    if len(folders) < 2:
        archives = any(root.glob("*.tar"))
        raise DataError(
            f"{root} has {len(folders)} class folder{'' if len(folders) == 1 else 's'}; at least 2 were expected",
            hint=f"for tar archives of KEY.jpg and KEY.cls: --data webdataset:{root}" if archives else _LAYOUT_HINT,
        )
    return in_order(folder.name for folder in folders)


def _list_classes(root: Path, split: Path, classes: Sequence[str]) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    for label, name in enumerate(classes):
        files = sorted(_image_files(split / name, f"{_prefix(root, split)}{name}/"))
        if not files:
            raise DataError(
                f"class {name!r} has no images in {split / name}",
                hint=f"put images there ({' '.join(sorted(SUFFIXES))}), or move the folder away if it is not a class",
            )
        entries.extend(Entry(file, label) for file in files)
    return tuple(entries)


def _list_held_out(root: Path, split: Path, classes: Sequence[str]) -> tuple[Entry, ...]:
    """List a val or test folder, whose classes must be among those of train; it may lack some of them."""
    label_of = {name: label for label, name in enumerate(classes)}
    entries: list[Entry] = []
    for folder in _subfolders(split):
        if folder.name not in label_of:
            raise DataError(
                f"class {folder.name!r} of {split} is unknown in train{did_you_mean(folder.name, classes)}",
                hint=f"the classes of train are: {some(classes)}; rename the folder or move it away",
            )
        files = sorted(_image_files(folder, f"{_prefix(root, split)}{folder.name}/"))
        entries.extend(Entry(file, label_of[folder.name]) for file in files)
    return tuple(sorted(entries, key=lambda entry: entry.label))


def _subfolders(folder: Path) -> list[Path]:
    """Return the visible folders directly in `folder`, sorted by name."""
    found = []
    with _scan(folder) as items:
        for item in items:
            ask()
            if item.is_dir() and _is_visible(item.name):
                found.append(Path(item.path))
    return sorted(found)


def _prefix(root: Path, split: Path) -> str:
    return "" if split == root else f"{split.name}/"


def _image_files(folder: Path, prefix: str, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield `prefix` + the POSIX path of each image below `folder`; a link back to a folder above is not followed.

    Broken links are yielded: decoding then reports them as unreadable.
    """
    here = os.path.realpath(folder)
    if here in above:
        return
    with _scan(folder) as items:
        for item in items:
            ask()
            if not _is_visible(item.name):
                continue
            if item.is_dir():
                yield from _image_files(Path(item.path), f"{prefix}{item.name}/", above | {here})
            elif os.path.splitext(item.name)[1].lower() in SUFFIXES and (item.is_file() or item.is_symlink()):
                yield prefix + item.name


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _scan(folder: Path) -> os._ScandirIterator[str]:
    try:
        return os.scandir(folder)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"the folder {folder} cannot be listed: {reason}", hint="check its permissions") from error
