"""Train, val and test: taken from the folders that exist, held out of train, stratified, where they do not."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harden.data.dataset import DataSource, Entry, ImageSet
from harden.errors import DataError, UsageError
from harden.randomness import stream
from harden.stopping import ask

VAL_FRACTION = 0.10
TEST_FRACTION = 0.15
MAX_VAL = 5000
MIN_PER_CLASS = 3
"""A class that is to be divided needs one image for each of train, val and test."""


@dataclass(frozen=True)
class SplitPlan:
    """Which image is used for what; every split is ordered by label and then by file.

    Attributes:
        train: what the weights are fitted to.
        val: what the epoch and the settings are chosen by.
        test: what the final figures are measured on.
        seed: the seed of what was held out at random.
        how: where each split came from, in a sentence for a person.
    """

    train: tuple[Entry, ...]
    val: tuple[Entry, ...]
    test: tuple[Entry, ...]
    seed: int
    how: str

    def parts(self) -> tuple[tuple[str, tuple[Entry, ...]], ...]:
        """Return each split's name and entries."""
        return ("train", self.train), ("val", self.val), ("test", self.test)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain lists, the way splits.json keeps it."""
        return {"seed": self.seed, "how": self.how} | {
            name: {"files": [entry.file for entry in entries], "labels": [entry.label for entry in entries]}
            for name, entries in self.parts()
        }

    @classmethod
    def from_json(cls, data: Any) -> SplitPlan:
        """Return the plan that `to_json` wrote.

        Raises:
            DataError: something else, or a file that stands in two splits.
        """
        try:
            train, val, test = (
                tuple(
                    Entry(str(file), int(label))
                    for file, label in zip(data[name]["files"], data[name]["labels"], strict=True)
                )
                for name in ("train", "val", "test")
            )
            plan = cls(train, val, test, int(data["seed"]), str(data["how"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"not a list of splits as harden writes it ({type(error).__name__}: {error})",
                hint="it holds seed, how, and for train, val and test the lists files and labels",
            ) from error
        entries = train + val + test
        if len({entry.file for entry in entries}) != len(entries):
            raise DataError("the list of splits names a file twice", hint="every image belongs to one split only")
        return plan


def plan_splits(
    source: DataSource, *, seed: int, val_fraction: float | None = None, test_fraction: float = TEST_FRACTION
) -> SplitPlan:
    """Decide what is train, val and test, without opening an image.

    A split for val or test is used as it is. Without one, a stratified part of train is held out: first test, then
    val from what remains, at least one image of every class in each. The choice depends on the seed, the class and
    the file names, not on the order in which a file system lists them.

    Args:
        source: a data set with a "train" or an "all" listing.
        seed: names the random choice.
        val_fraction: in (0, 1); unless given, a tenth and at most 5000 images (but one per class in any case).
        test_fraction: in (0, 1); the part of train that becomes test where there is no test split.

    Raises:
        UsageError: a fraction outside (0, 1).
        DataError: nothing to train on, or something must be held out and a class has fewer than 3 images.
    """
    for name, fraction in (("val", val_fraction), ("test", test_fraction)):
        if fraction is not None and not 0 < fraction < 1:
            raise UsageError(f"the {name} fraction must lie between 0 and 1 (exclusive), got {fraction}")
    origin = "train" if "train" in source.listings else "all"
    if origin not in source.listings:
        raise DataError(
            f"{source.location} has no train split, only {' and '.join(source.listings)}, which nothing is cut from",
            hint="give a data set with a train split, or one without splits (if a folder is called like a split and is "
            "none, rename it); `harden report` needs no train split",
        )
    pool = list(source.listings[origin])
    whole = f"{'the train split' if origin == 'train' else 'the unsplit data set'} ({len(pool)} images)"
    if "val" not in source.listings or "test" not in source.listings:
        _check_divisible(source, pool)

    how: dict[str, str] = {}
    if "test" in source.listings:
        test = list(source.listings["test"])
        how["test"] = f"test is the test split ({len(test)} images)"
    else:
        reserve = 1 if "val" in source.listings else 2
        pool, test = _hold_out(source, pool, test_fraction, reserve=reserve, cap=None, seed=seed, name="test")
        how["test"] = f"test is a stratified {test_fraction:.3g} of {whole}, held out ({len(test)} images)"
    if "val" in source.listings:
        val = list(source.listings["val"])
        how["val"] = f"val is the val split ({len(val)} images)"
    else:
        fraction, cap = (VAL_FRACTION, MAX_VAL) if val_fraction is None else (val_fraction, None)
        before = "what then remains" if "test" not in source.listings else whole
        pool, val = _hold_out(source, pool, fraction, reserve=1, cap=cap, seed=seed, name="val")
        bound = f" (at most {MAX_VAL})" if cap is not None and len(val) == cap else ""
        how["val"] = f"val is a stratified {fraction:.3g}{bound} of {before}, held out ({len(val)} images)"
    sentence = f"train is {'the rest' if len(pool) < len(source.listings[origin]) else 'all'} of {whole}"
    return SplitPlan(
        _ordered(pool),
        _ordered(val),
        _ordered(test),
        seed,
        f"{sentence}: {len(pool)} images; {how['val']}; {how['test']}; seed {seed}.",
    )


def continue_splits(earlier: SplitPlan, source: DataSource) -> SplitPlan:
    """Return the splits of an earlier run on the same data, so that nothing it was fitted to is tested on.

    Images that came since join train, or val and test where they lie in such a folder.

    Args:
        earlier: its splits; every file is listed in `source`.
        source: the data.
    """
    known = {entry.file for entries in (earlier.train, earlier.val, earlier.test) for entry in entries}
    new = {
        split: tuple(entry for entry in entries if entry.file not in known)
        for split, entries in source.listings.items()
    }
    train = _ordered((*earlier.train, *new.get("all", ()), *new.get("train", ())))
    val = _ordered((*earlier.val, *new.get("val", ())))
    test = _ordered((*earlier.test, *new.get("test", ())))
    came = sum(map(len, new.values()))
    since = f", {came} of which came since" if came else ""
    how = (
        f"the splits are those of the earlier run, drawn with seed {earlier.seed}: "
        f"{len(train)} train, {len(val)} val and {len(test)} test images{since}."
    )
    return SplitPlan(train, val, test, earlier.seed, how)


def stratified_sample(labels: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    """Return the sorted indices of a random sample with the class proportions of `labels`.

    Each class gets its share of `n` by largest remainder; equal remainders are ordered at random.

    Args:
        labels: (N,) int64.
        n: how many; all of them where `n >= N`.
        generator: the source of randomness.

    Returns:
        (min(n, N),) int64 on the labels' device.
    """
    n = max(n, 0)
    if n >= len(labels):
        return torch.arange(len(labels), device=labels.device)
    sizes: list[int] = torch.bincount(labels.cpu()).tolist()
    groups = torch.split(labels.cpu().argsort(stable=True), sizes)
    quotas = _quotas(sizes, n, generator)
    parts = [group[_permutation(len(group), generator)[:quota]] for group, quota in zip(groups, quotas, strict=True)]
    return torch.cat(parts).sort().values.to(labels.device)


def duplicate_files(a: ImageSet, b: ImageSet) -> list[tuple[str, str]]:
    """Return `(file of a, file of b)` for each image of `b` whose pixels are also in `a`; labels do not count.

    Several copies in `a` give one pair, with the first of them; a file is no duplicate of itself. Both sets must be
    decoded to the same format.
    """
    first: dict[bytes, str] = {}
    for file, digest in zip(a.files, _digests(a), strict=True):
        first.setdefault(digest, file)
    return [
        (first[digest], file)
        for file, digest in zip(b.files, _digests(b), strict=True)
        if digest in first and first[digest] != file
    ]


def _digests(images: ImageSet) -> list[bytes]:
    digests = []
    for image in images.images.cpu().numpy():
        ask()
        digests.append(hashlib.blake2b(image.tobytes(), digest_size=16).digest())
    return digests


def _check_divisible(source: DataSource, pool: Sequence[Entry]) -> None:
    counts = [0] * len(source.classes)
    for entry in pool:
        counts[entry.label] += 1
    small = [f"{source.classes[label]!r} ({count})" for label, count in enumerate(counts) if count < MIN_PER_CLASS]
    if small:
        raise DataError(
            f"a split has to be held out, which takes {MIN_PER_CLASS} images per class; too few in: {', '.join(small)}",
            hint="add images, move the class away, or divide the images into train, val and test yourself",
        )


def _hold_out(
    source: DataSource, pool: Sequence[Entry], fraction: float, *, reserve: int, cap: int | None, seed: int, name: str
) -> tuple[list[Entry], list[Entry]]:
    """Divide `pool` into what stays and what is held out; `reserve` images of every class stay in any case."""
    by_label: dict[int, list[Entry]] = defaultdict(list)
    for entry in _ordered(pool):
        by_label[entry.label].append(entry)
    total = round(fraction * len(pool))
    if cap is not None:
        total = min(total, cap)
    sizes = [len(group) for group in by_label.values()]
    shares = _quotas(sizes, total, stream(seed, "split", name))
    quotas = [min(max(share, 1), size - reserve) for share, size in zip(shares, sizes, strict=True)]
    while cap is not None and sum(quotas) > cap and max(quotas) > 1:
        quotas[quotas.index(max(quotas))] -= 1
    stays: list[Entry] = []
    held_out: list[Entry] = []
    for (label, group), quota in zip(by_label.items(), quotas, strict=True):
        order = _permutation(len(group), stream(seed, "split", name, source.classes[label])).tolist()
        held_out.extend(group[index] for index in order[:quota])
        stays.extend(group[index] for index in order[quota:])
    return stays, held_out


def _quotas(sizes: Sequence[int], total: int, generator: torch.Generator) -> list[int]:
    """Share `total` (at most the sum of `sizes`) in proportion to `sizes`, by largest remainder."""
    whole = sum(sizes)
    quotas = [size * total // whole for size in sizes]
    by_chance = _permutation(len(sizes), generator).tolist()
    by_remainder = sorted(by_chance, key=lambda index: sizes[index] * total % whole, reverse=True)
    for index in by_remainder[: total - sum(quotas)]:
        quotas[index] += 1
    return quotas


def _permutation(n: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(n, generator=generator, device=generator.device).cpu()


def _ordered(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: (entry.label, entry.file)))
