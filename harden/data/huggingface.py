"""Data sets that Hugging Face's `datasets` reads: `hf:NAME`, or `hf:FOLDER` of one that was saved or is in Parquet.

The library is not a part of the program; `pip install 'datasets>=4'` brings it. Older versions run code that a data set
brings along, and are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from harden.data.dataset import Entry
from harden.data.encoded import EncodedSource, stamp
from harden.data.labels import column_labels, single_labels
from harden.data.names import SPLIT_NAMES, composed, some
from harden.data.passed_over import NOTHING, PassedOver, Why
from harden.data.pictures import Stored
from harden.data.rows import Row, list_rows
from harden.data.spec import Spec, read_spec
from harden.errors import DataError, UsageError
from harden.registry import did_you_mean

KEYS = ("image", "label", "config")
OLDEST = 4
"""The first version without data sets that are programs."""

LOOKED_AT = 16
"""Images that are looked at to tell whether they lie in files of their own."""

_INSTALL = f"pip install 'datasets>={OLDEST}' (the extra 'data' brings it)"


def open_hf(text: str, gray_bits: int | None = None) -> EncodedSource:
    """List the images of the data set that `text` names: NAME or FOLDER, and ?image=COLUMN&label=COLUMN&config=NAME.

    A folder is one that `save_to_disk` wrote, or one that `load_dataset` reads. Unless they are named, the columns are
    the only one of images, and the only one of class labels or the one called "label"; without any of these, columns of
    0 and 1 for each class. Splits other than train, val and test are passed over where there is one of these. The
    library downloads what is not on the disk, unless HF_HUB_OFFLINE is set.

    Raises:
        UsageError: `datasets` is not installed, or too old.
        DataError: it cannot read the data set, the columns are not found, or see `list_rows`.
    """
    spec = read_spec(text, KEYS, example="hf:cifar10?image=img&label=label")
    name = text.removesuffix(spec.query)
    library = _library()
    loaded = _load(library, spec, name)
    splits = _splits(loaded, name)
    features = next(iter(splits.values())).features
    image = _column(library.Image, "image", features, spec, name)
    hot = _hot_columns(library, features, spec)
    label = None if hot else _column(library.ClassLabel, "label", features, spec, name)
    classes = None if label is None else _classes(library, splits, label, name)
    for split, part in splits.items():
        if not isinstance(part.features.get(image), library.Image):
            raise DataError(
                f"column {image!r} of {split} of {name} holds no images", hint="name another with ?image=COLUMN"
            )
    encoded = {split: part.cast_column(image, library.Image(decode=False)) for split, part in splits.items()}

    def cell(entry: Entry) -> Stored | None:
        split, _, number = entry.file.rpartition("/")
        found = encoded[split][int(number)][image]
        if found is None or found["bytes"] is not None:
            return None if found is None else bytes(found["bytes"])
        return None if found["path"] is None else Path(found["path"])

    def stored(entry: Entry) -> Stored:
        found = cell(entry)
        if found is None:
            raise DataError("no image")
        return found

    def version(entries: Sequence[Entry]) -> str:
        used = sorted({entry.file.rpartition("/")[0] for entry in entries})
        files = [found["filename"] for split in used for found in splits[split].cache_files]
        if any(isinstance(cell(entry), Path) for entry in entries[:LOOKED_AT]):
            files += [str(found) for found in map(cell, entries) if isinstance(found, Path)]
        return stamp(files)

    rows = (row for split, part in splits.items() for row in _rows(split, part, label or hot, classes, name))
    listed_classes, listings = list_rows(rows, name, classes)
    location = f"hf:{spec.path}{spec.query}" if spec.path.is_dir() else f"hf:{text}"
    return EncodedSource(
        location, listed_classes, listings, stored, version, gray_bits, passed_over=_passed_over(loaded, splits)
    )


def _library() -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"hf: is read by Hugging Face's datasets, which is not installed ({error})", hint=_INSTALL
        ) from error
    version = getattr(datasets, "__version__", None)
    if version is None:
        raise UsageError(
            "hf: is read by Hugging Face's datasets, and `import datasets` finds a folder of that name instead",
            hint=f"{_INSTALL}; or run harden in another folder",
        )
    if int(version.partition(".")[0]) < OLDEST:
        raise UsageError(
            f"datasets {version} runs code that comes with a data set; version {OLDEST} does not", hint=_INSTALL
        )
    module: ModuleType = datasets
    return module


def _load(library: ModuleType, spec: Spec, name: str) -> Any:
    saved = any((spec.path / file).is_file() for file in ("dataset_dict.json", "state.json"))
    try:
        if saved:
            return library.load_from_disk(str(spec.path))
        return library.load_dataset(str(spec.path) if spec.path.is_dir() else name, spec.options.get("config"))
    except Exception as error:  # the library raises whatever its formats and the network do
        raise DataError(
            f"datasets cannot read {name!r}: {type(error).__name__}: {str(error)[:200]}",
            hint="check the name, or save it where it can be read with save_to_disk(FOLDER) and give hf:FOLDER",
        ) from error


def _splits(loaded: Any, name: str) -> dict[str, Any]:
    """Return the parts by the library's name of the split, as plain rows; "all" for one that is not split."""
    if not isinstance(loaded, Mapping):
        return {"all": loaded.with_format(None)}
    known = {split: part.with_format(None) for split, part in loaded.items() if split.lower() in SPLIT_NAMES}
    if known:
        return known
    if len(loaded) == 1:
        return {"all": next(iter(loaded.values())).with_format(None)}
    raise DataError(
        f"{name} has the splits {some([repr(split) for split in loaded])}, and none of them is for training",
        hint="name one 'train' and save the data set with save_to_disk(FOLDER)",
    )


def _column(kind: type, what: str, features: Mapping[str, Any], spec: Spec, name: str) -> str:
    named = spec.options.get(what)
    if named is not None:
        if named not in features:
            raise UsageError(
                f"{name} has no column {named!r}{did_you_mean(named, features)}",
                hint=f"its columns are: {some([repr(column) for column in features])}",
            )
        return named
    found = [column for column, feature in features.items() if isinstance(feature, kind)]
    if not found and what in features:
        found = [what]
    if len(found) != 1:
        raise DataError(
            f"{name} has {len(found)} columns that could be the {what}"
            f"; its columns are: {some([repr(column) for column in features])}",
            hint=f"say which one it is: --data 'hf:{name}?{what}=COLUMN'",
        )
    return found[0]


def _classes(library: ModuleType, splits: Mapping[str, Any], label: str, name: str) -> list[str] | None:
    """Return the names of the classes, if the data set knows them: they have to be the same for every split."""
    known = {
        split: list(map(composed, part.features[label].names))
        if isinstance(part.features.get(label), library.ClassLabel)
        else None
        for split, part in splits.items()
    }
    first, *others = known.values()
    if any(other != first for other in others) or any(label not in part.features for part in splits.values()):
        raise DataError(
            f"the splits of {name} name different classes in {label!r}",
            hint="cast the column to one ClassLabel for all splits, and save the data set with save_to_disk(FOLDER)",
        )
    return first


def _passed_over(loaded: Any, splits: Mapping[str, Any]) -> PassedOver:
    """Return the rows of the splits that are left out."""
    if not isinstance(loaded, Mapping) or "all" in splits:
        return NOTHING
    left = (split for split in loaded if split not in splits)
    return PassedOver.of((Why.OUTSIDE, split, "") for split in left for _ in range(len(loaded[split])))


def _hot_columns(library: ModuleType, features: Mapping[str, Any], spec: Spec) -> tuple[str, ...]:
    """Return the columns of numbers where nothing is a label by its kind, its name, or what the user says."""
    if "label" in spec.options or "label" in features:
        return ()
    if any(isinstance(feature, library.ClassLabel) for feature in features.values()):
        return ()
    kinds = {column: str(getattr(feature, "dtype", "")) for column, feature in features.items()}
    found = tuple(name for name, kind in kinds.items() if kind.startswith(("bool", "int", "uint", "float")))
    return found if len(found) > 1 else ()


def _rows(
    split: str, part: Any, columns: str | tuple[str, ...], classes: Sequence[str] | None, name: str
) -> Iterator[Row]:
    def where(number: int) -> str:
        return f"row {number} of {split}"

    labels: Sequence[object] | None
    if isinstance(columns, str):
        labels = single_labels(list(part[columns]), where, name)
    else:
        labels = column_labels({column: list(part[column]) for column in columns}, where, name)
    if labels is None:
        raise DataError(
            f"{name} has no column for the labels, nor columns of 0 and 1 for the classes; its columns of numbers are: "
            f"{some([repr(column) for column in columns])}",
            hint=f"say which one it is: --data 'hf:{name}?label=COLUMN'",
        )
    for number, value in enumerate(labels):
        if not isinstance(value, str | int) or (classes is not None and value not in range(len(classes))):
            raise DataError(
                f"{where(number)} of {name} has the label {str(value)[:40]!r}; a class was expected",
                hint="leave such rows out (filter), and save the rest with save_to_disk(FOLDER)",
            )
        text = str(value) if classes is None else classes[int(value)]
        yield Row(f"{split}/{number:06d}", text, None if split == "all" else split, where(number))
