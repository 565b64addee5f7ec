"""CSV files with paths and labels: `csv:FILE`, read by the standard library."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from harden.data.encoded import EncodedSource
from harden.data.spec import Spec, check_is_file, read_spec
from harden.data.table import KEYS, Columns, Line, find_columns, open_table
from harden.errors import DataError

DELIMITERS = (",", ";", "\t")


def open_csv(text: str, gray_bits: int | None = None) -> EncodedSource:
    """List the images that a CSV file names: `FILE`, or `FILE?path=COLUMN&label=COLUMN&split=COLUMN`.

    The first line names the columns. Fields are separated by tabs in .tsv files, and elsewhere by whichever of comma,
    semicolon and tab the first line has most of. No image is opened.

    Raises:
        UsageError: the spec names a column that is not there.
        DataError: no such file, not UTF-8 text, a line of another length than the first, or see `open_table`.
    """
    spec = read_spec(text, KEYS, example="csv:images.csv?path=file&label=breed")
    check_is_file(spec.path, "a CSV file")
    lines = _lines(spec.path)
    _, header = next(lines, ("", []))
    names = [name.strip() for name in header]
    columns = find_columns(names, spec)
    return open_table("csv", spec, columns, _read(lines, names, columns, spec), gray_bits)


def _read(lines: Iterator[tuple[str, list[str]]], names: list[str], columns: Columns, spec: Spec) -> Iterator[Line]:
    path = names.index(columns.path)
    label = names.index(columns.label) if columns.label is not None else None
    others = [names.index(name) for name in columns.others]
    split = names.index(columns.split) if columns.split is not None else None
    for where, fields in lines:
        if len(fields) != len(names):
            raise DataError(
                f"{where} of {spec.path} has {len(fields)} fields; the first line names {len(names)} columns",
                hint="a field that holds the separator has to stand in double quotes",
            )
        cell = fields[label] if label is not None else [fields[other] for other in others]
        yield Line(fields[path], cell, None if split is None else fields[split], where)


def _lines(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield every line that is not empty, with its place."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            delimiter = "\t" if file.suffix.lower() == ".tsv" else _delimiter(stream.readline())
            stream.seek(0)
            reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True, strict=True)
            for fields in reader:
                if any(fields):
                    yield f"line {reader.line_num}", fields
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not text in UTF-8 (byte {error.start})", hint="save it as CSV in UTF-8, not as a spreadsheet"
        ) from error
    except csv.Error as error:
        raise DataError(
            f"{file} is no CSV file: line {reader.line_num}: {error}", hint="look at that line in a text editor"
        ) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{file} cannot be read: {reason}", hint="check its permissions") from error


def _delimiter(header: str) -> str:
    return max(DELIMITERS, key=header.count)
