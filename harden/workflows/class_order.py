"""The order of the classes in the outputs of a network."""

from __future__ import annotations

from collections.abc import Sequence

from harden.data import (
    DataSource,
)
from harden.errors import UsageError


def class_order(source: DataSource, class_map: Sequence[int] | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the class names in the order of the model's outputs, and the output of each class of the data.

    Args:
        source: the data.
        class_map: output of the model for each class of the data; None: the same order. One that goes beyond the number
            of classes is for a model that knows more; see `OutputSubset`.

    Raises:
        UsageError: the map does not name one output for each class.
    """
    count = len(source.classes)
    mapping = tuple(class_map) if class_map is not None else tuple(range(count))
    if len(mapping) != count or len(set(mapping)) != count or min(mapping) < 0:
        raise UsageError(
            f"--class-map must name a different output for each of the {count} classes, got "
            f"{','.join(map(str, mapping[:8]))} ({len(mapping)} numbers)",
            hint=f"give {count} numbers: the model's output for {source.classes[0]!r}, {source.classes[1]!r}, ...",
        )
    if max(mapping) >= count:  # the model has more outputs, which are put into the order of the data
        return tuple(source.classes), tuple(range(count))
    names = [""] * count
    for label, output in enumerate(mapping):
        names[output] = source.classes[label]
    return tuple(names), mapping
