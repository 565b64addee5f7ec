"""What may be said of how a data set is read, where its files leave that open.

That is the order of its classes, and how many bits of gray its deep images use.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harden.data.dataset import DataSource, Entry, Format, ImageSet, Probe, Progress, Unreadable, Written
from harden.data.names import composed, some
from harden.data.passed_over import PassedOver
from harden.errors import UsageError
from harden.registry import did_you_mean

LEXICOGRAPHIC, NATURAL = "lexicographic", "natural"
ORDERS = (LEXICOGRAPHIC, NATURAL)
"""Orders of classes that have a name."""

FEWEST_BITS, MOST_BITS = 9, 16
"""Of gray, in images with more than 8."""

_LONGEST_FILE = 10_000_000
"""Bytes of a list of classes."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a data set is read.

    Attributes:
        class_order: one of `ORDERS`, or every class by name; None: the data set's own order.
        gray_bits: how many bits of gray the images with more than 8 use: 12 for values up to 4095; None: such images
            are refused.
    """

    class_order: str | tuple[str, ...] | None = None
    gray_bits: int | None = None


AS_IT_IS = Reading()
"""Nothing is said."""


@dataclass(frozen=True, eq=False)
class Reordered:
    """A `DataSource` whose labels count its classes in another order; every split has the same one.

    Attributes:
        source: the data set in its own order.
        classes: names in the order asked for.
        listings: the entries of `source`, in their order, with labels of this one.
    """

    source: DataSource
    classes: tuple[str, ...]
    listings: Mapping[str, tuple[Entry, ...]]

    @property
    def location(self) -> str:
        """Where the data set is."""
        return self.source.location

    @property
    def passed_over(self) -> PassedOver:
        """See `DataSource.passed_over`."""
        return self.source.passed_over

    def probe(self) -> Probe:
        """See `DataSource.probe`."""
        return self.source.probe()

    def decode(
        self, entries: Sequence[Entry], image_format: Format, progress: Progress | None = None
    ) -> tuple[ImageSet, tuple[Unreadable, ...]]:
        """See `DataSource.decode`; the labels are those of `entries`."""
        return self.source.decode(entries, image_format, progress)

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """See `DataSource.fingerprint`."""
        return self.source.fingerprint(entries)

    def written(self, entry: Entry) -> Written | None:
        """See `DataSource.written`."""
        return self.source.written(entry)


def in_class_order(source: DataSource, order: str | Sequence[str] | None) -> DataSource:
    """Return `source` with its classes in `order`: a name of `ORDERS`, or every class by name; None: as it is.

    Raises:
        UsageError: the names are not those of the classes, each once; every mistake is told.
    """
    if order is None:
        return source
    if order == LEXICOGRAPHIC:
        classes = tuple(sorted(source.classes))
    elif order == NATURAL:
        classes = tuple(sorted(source.classes, key=natural))
    else:
        classes = tuple(map(composed, order))
        _check_permutation(classes, source)
    if classes == source.classes:
        return source
    label_of = {name: label for label, name in enumerate(classes)}
    labels = [label_of[name] for name in source.classes]
    listings = {
        split: tuple(replace(entry, label=labels[entry.label]) for entry in entries)
        for split, entries in source.listings.items()
    }
    return Reordered(source, classes, listings)


def natural(name: str) -> tuple[list[str | int], str]:
    """Return what puts names into natural order: numbers count as numbers, so that class2 comes before class10."""
    parts = re.split("([0-9]{1,300})", name)  # text and number take turns, so like is compared with like
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def read_class_order(text: str) -> str | tuple[str, ...]:
    """Return the order that `text` names: one of `ORDERS`, or the names in a file of one class per line.

    Empty lines do not count. Whether the names are the data's classes is seen once the data is opened.

    Raises:
        UsageError: neither an order nor a file that can be read, or the file holds no names.
    """
    if text in ORDERS:
        return text
    path = Path(text).expanduser()
    hint = f"write {LEXICOGRAPHIC}, {NATURAL}, or the path of a file with one class name per line"
    try:
        with path.open("rb") as stream:
            content = stream.read(_LONGEST_FILE + 1)
        lines = content.decode("utf-8-sig").splitlines() if len(content) <= _LONGEST_FILE else []
    except FileNotFoundError:
        raise UsageError(
            f"the class order {text!r} is neither the name of an order nor a file{did_you_mean(text, ORDERS)}",
            hint=hint,
        ) from None
    except (OSError, ValueError) as error:
        reason = "no text in UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise UsageError(f"the class order {text!r} cannot be read: {reason}", hint=hint) from error
    names = tuple(line for line in lines if line.strip())
    if not names:
        raise UsageError(f"the file {text!r} names no classes", hint=hint)
    return names


def _check_permutation(names: Sequence[str], source: DataSource) -> None:
    known = set(source.classes)
    twice = [name for name, count in Counter(names).items() if count > 1]
    unknown = [name for name in dict.fromkeys(names) if name not in known]
    missing = [name for name in source.classes if name not in set(names)]
    problems = [
        *(f"{name!r} stands there twice" for name in twice),
        *(f"{name!r} is no class of the data{did_you_mean(name, missing)}" for name in unknown),
        *(f"{name!r} is missing" for name in missing),
    ]
    if problems:
        told = "\n".join(f"  - {problem}" for problem in problems[:20])
        more = f"\n  - and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise UsageError(
            f"the class order must name each of the {len(source.classes)} classes of {source.location} once:\n"
            f"{told}{more}",
            hint=f"the classes are: {some(source.classes)}",
        )
