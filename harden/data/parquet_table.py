"""Parquet files with paths and labels: `parquet:FILE`, read by pyarrow (the extra `data`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from harden.data.encoded import EncodedSource
from harden.data.spec import check_is_file, read_spec
from harden.data.table import KEYS, Columns, Line, find_columns, open_table
from harden.errors import DataError, UsageError


def open_parquet(text: str, gray_bits: int | None = None) -> EncodedSource:
    """List the images that a Parquet file names: `FILE`, or `FILE?path=COLUMN&label=COLUMN&split=COLUMN`.

    Labels are texts or integers. No image is opened, and only these columns are read.

    Raises:
        UsageError: pyarrow is not installed, or the spec names a column that is not there.
        DataError: no such file, not Parquet, pictures instead of paths, or see `open_table`.
    """
    spec = read_spec(text, KEYS, example="parquet:images.parquet?path=file&label=breed")
    check_is_file(spec.path, "a Parquet file")
    parquet = _pyarrow_parquet()
    try:
        schema = parquet.read_schema(spec.path)
        columns = find_columns(list(schema.names), spec)
        _check_holds_paths(schema, columns.path, spec.path)
        if columns.label is None:
            columns = replace(columns, others=_numbers(schema, columns.others))
        labels = columns.others if columns.label is None else (columns.label,)
        wanted = [name for name in (columns.path, *labels, columns.split) if name is not None]
        table = parquet.read_table(spec.path, columns=wanted, partitioning=None).to_pydict()
    except (OSError, ValueError, TypeError, NotImplementedError, KeyError, MemoryError) as error:
        raise DataError(
            f"{spec.path} cannot be read as Parquet: {_first_line(error)}",
            hint="write it again, for instance with pandas: frame.to_parquet(...)",
        ) from error
    return open_table("parquet", spec, columns, _read(table, columns), gray_bits)


def _read(table: dict[str, list[Any]], columns: Columns) -> Iterator[Line]:
    paths = table[columns.path]
    labels: list[Any] = (
        table[columns.label]
        if columns.label is not None
        else list(zip(*(table[name] for name in columns.others), strict=True)) or [()] * len(paths)
    )
    splits = table[columns.split] if columns.split is not None else [None] * len(paths)
    for number, (path, label, split) in enumerate(zip(paths, labels, splits, strict=True), start=1):
        yield Line(path, label, "" if split is None and columns.split is not None else split, f"row {number}")


def _numbers(schema: Any, names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of numbers: what else stands beside paths may not fit into memory."""
    kinds = {name: str(schema.field(name).type) for name in names}
    return tuple(name for name, kind in kinds.items() if kind.startswith(("bool", "int", "uint", "float", "double")))


def _check_holds_paths(schema: Any, name: str, file: Path) -> None:
    """Check it before the column is read: pictures may not fit into memory."""
    kind = str(schema.field(name).type)
    if not kind.startswith(("string", "large_string", "dictionary<values=string")):
        raise DataError(
            f"column {name!r} of {file} holds {kind[:60]}; paths as text were expected",
            hint=f"where it holds the pictures themselves: --data hf:{file.parent}",
        )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def _pyarrow_parquet() -> ModuleType:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UsageError(
            f"Parquet files are read by pyarrow, which is not installed ({error})",
            hint="pip install 'pyarrow>=15' (the extra 'data' brings it), or save the table as CSV",
        ) from error
    module: ModuleType = parquet
    return module
