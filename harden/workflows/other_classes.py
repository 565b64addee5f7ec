"""Models that know more classes than the data, as `--class-map` and `--ignore-other-classes` say."""

from __future__ import annotations

from collections.abc import Sequence

from harden.errors import UsageError
from harden.models.output_subset import OutputSubset
from harden.models.preflight import other_number


def names_others(class_map: Sequence[int] | None) -> bool:
    """Return whether a class map is that of a model which knows more classes than there are in it."""
    return class_map is not None and max(class_map) >= len(class_map)


def subset_of(
    outputs: int, classes: Sequence[str], class_map: Sequence[int] | None, *, ignore_others: bool
) -> OutputSubset | None:
    """Return which of a model's `outputs` the `classes` of the data are, where it has more; else None.

    Args:
        outputs: how many the model has.
        classes: names of those of the data.
        class_map: output for each of them; None: nobody says.
        ignore_others: whether answers of other outputs do not count.

    Raises:
        PreflightError: it has another number of outputs, and there is no class map.
        UsageError: the class map names an output that it does not have, or there are no other classes to ignore.
    """
    if class_map is not None and max(class_map) >= outputs:
        raise UsageError(
            f"--class-map names the output {max(class_map)}, and the model has the outputs 0 to {outputs - 1}",
            hint="give the model's output for each class of the data",
        )
    if outputs > len(classes) and class_map is not None:
        return OutputSubset(outputs, tuple(class_map), others=not ignore_others)
    if outputs != len(classes):
        raise other_number(outputs, classes)
    if ignore_others:
        raise UsageError(
            f"--ignore-other-classes is for a model that knows more classes than the data, and this one has {outputs}",
            hint="leave --ignore-other-classes out",
        )
    return None


def told_of(subset: OutputSubset) -> str:
    """Return what a user is told of a model that knows more classes than the data."""
    rest = subset.outputs - len(subset.chosen)
    count = "counts as a wrong one, and attacks may aim at it" if subset.others else "is ignored"
    return f"the model knows {rest:,} classes that are not in the data: an answer of one of them {count}"
