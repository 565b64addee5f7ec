from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harden.data import (
    Entry,
    Format,
    ImageSet,
    Probe,
    Progress,
    SplitPlan,
    Unreadable,
    continue_splits,
    duplicate_files,
    plan_splits,
    stratified_sample,
)
from harden.errors import DataError, UsageError
from harden.randomness import stream


@dataclass(frozen=True)
class Listed:
    """A source that can be listed and nothing else: planning must not look at an image."""

    classes: tuple[str, ...]
    listings: Mapping[str, tuple[Entry, ...]]
    location: str = "listed"

    def probe(self) -> Probe:
        raise AssertionError("an image was looked at")

    def decode(
        self, entries: Sequence[Entry], image_format: Format, progress: Progress | None = None
    ) -> tuple[ImageSet, tuple[Unreadable, ...]]:
        raise AssertionError("an image was decoded")

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        raise AssertionError("a file was looked at")


def listed(**sizes: Sequence[int]) -> Listed:
    """One listing per split with that many images of each class."""
    listings = {
        split: tuple(Entry(f"{split}/{label}/{i:06}.png", label) for label, n in enumerate(counts) for i in range(n))
        for split, counts in sizes.items()
    }
    return Listed(tuple(f"class{label}" for label in range(max(map(len, sizes.values())))), listings)


def counts(entries: Sequence[Entry]) -> Counter[int]:
    return Counter(entry.label for entry in entries)


class_sizes = st.lists(st.integers(3, 60), min_size=2, max_size=8)


@settings(max_examples=60, deadline=None)
@given(sizes=class_sizes, layout=st.sampled_from(["all", "train", "train+val", "train+test"]), seed=st.integers(0, 99))
def test_splits_are_disjoint_complete_stratified_and_deterministic(sizes: list[int], layout: str, seed: int) -> None:
    first, *given_splits = layout.split("+")
    source = listed(**{first: sizes}, **{split: [2] * len(sizes) for split in given_splits})
    plan = plan_splits(source, seed=seed)

    everything = [entry for listing in source.listings.values() for entry in listing]
    assert sorted([*plan.train, *plan.val, *plan.test], key=str) == sorted(everything, key=str)
    for split in (plan.train, plan.val, plan.test):
        assert set(counts(split)) == set(range(len(sizes)))
    if "test" not in given_splits:
        for label, size in enumerate(sizes):
            assert abs(counts(plan.test)[label] - 0.15 * size) <= 1
    else:
        assert plan.test == source.listings["test"]
    if "val" not in given_splits:
        for label, size in enumerate(sizes):
            rest = size if "test" in given_splits else size - counts(plan.test)[label]
            assert abs(counts(plan.val)[label] - 0.10 * rest) <= 1
    else:
        assert plan.val == source.listings["val"]

    shuffled = {split: tuple(random.Random(seed).sample(x, len(x))) for split, x in source.listings.items()}
    again = plan_splits(Listed(source.classes, shuffled), seed=seed)
    assert (again.train, again.val, again.test) == (plan.train, plan.val, plan.test)
    assert SplitPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_the_seed_chooses() -> None:
    source = listed(all=[50, 50])
    assert plan_splits(source, seed=0).test != plan_splits(source, seed=1).test
    assert plan_splits(source, seed=0).val != plan_splits(source, seed=1).val


def test_a_class_more_does_not_change_the_choice_within_the_others() -> None:
    """So that adding a class keeps a test image from becoming a training image."""
    few, more = plan_splits(listed(all=[40, 40]), seed=0), plan_splits(listed(all=[40, 40, 40]), seed=0)
    assert set(few.test) == {entry for entry in more.test if entry.label < 2}


def test_given_folders_are_used_as_they_are_even_if_small() -> None:
    source = listed(train=[2, 1], val=[1, 1], test=[1, 0])
    plan = plan_splits(source, seed=0)
    assert (plan.train, plan.val, plan.test) == tuple(source.listings[split] for split in ("train", "val", "test"))
    assert plan.how == (
        "train is all of the train split (3 images): 3 images; val is the val split (2 images); "
        "test is the test split (1 images); seed 0."
    )


def test_how_tells_what_was_held_out() -> None:
    how = plan_splits(listed(all=[100, 100]), seed=7).how
    assert "train is the rest of the unsplit data set (200 images): 153 images" in how
    assert "val is a stratified 0.1 of what then remains, held out (17 images)" in how
    assert "test is a stratified 0.15 of the unsplit data set (200 images), held out (30 images)" in how
    assert "seed 7" in how


def test_val_is_at_most_5000_by_default_and_what_is_asked_otherwise() -> None:
    source = listed(train=[40_000, 20_000, 3], test=[1, 1, 1])
    plan = plan_splits(source, seed=0)
    assert len(plan.val) == 5000
    assert counts(plan.val)[2] == 1
    assert counts(plan.val)[0] == pytest.approx(3333, abs=2)
    assert "(at most 5000)" in plan.how
    assert len(plan_splits(source, seed=0, val_fraction=0.2).val) == pytest.approx(12_000, abs=2)


def test_large_fractions_still_leave_every_class_in_train() -> None:
    plan = plan_splits(listed(all=[3, 30]), seed=0, val_fraction=0.9, test_fraction=0.9)
    assert counts(plan.train)[0] == counts(plan.val)[0] == counts(plan.test)[0] == 1


@pytest.mark.parametrize("layout", ["all", "train"])
def test_too_few_images_to_divide(layout: str) -> None:
    with pytest.raises(DataError, match=r"3 images per class; too few in: 'class1' \(2\)"):
        plan_splits(listed(**{layout: [10, 2]}), seed=0)


@pytest.mark.parametrize("fractions", [{"val_fraction": 0.0}, {"test_fraction": 1.0}, {"val_fraction": -1.0}])
def test_impossible_fractions(fractions: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        plan_splits(listed(all=[10, 10]), seed=0, **fractions)


@pytest.mark.parametrize("layout", ["all", "train", "train+test"])
def test_continued_splits_keep_every_image_where_it_was_and_new_ones_join_their_folder(layout: str) -> None:
    first, *given_splits = layout.split("+")
    before = listed(**{first: [20, 20]}, **{split: [4, 4] for split in given_splits})
    after = listed(**{first: [22, 20]}, **{split: [4, 5] for split in given_splits})
    plan = plan_splits(before, seed=3)
    found = continue_splits(plan, after)
    assert found.val == plan.val
    assert set(found.test) - set(plan.test) == set(after.listings.get("test", ())) - set(plan.test)
    assert len(found.train) == len(plan.train) + 2
    assert set(found.train) > set(plan.train)
    assert not set(found.train) & {*found.val, *found.test}
    assert "seed 3" in found.how
    assert f"{2 + len(given_splits)} of which came since" in found.how
    assert "came since" not in continue_splits(plan, before).how


def test_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="no train split"):
        plan_splits(listed(test=[10, 10]), seed=0)


GOOD = plan_splits(listed(all=[4, 4]), seed=0).to_json()


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        GOOD | {"train": {"files": ["a"], "labels": []}},
        GOOD | {"val": {"files": ["a"], "labels": ["cat"]}},
        GOOD | {"val": GOOD["test"]},
    ],
)
def test_damaged_split_lists_are_refused(data: object) -> None:
    with pytest.raises(DataError):
        SplitPlan.from_json(data)


# ---------------------------------------------------------------------------------------------- stratified_sample


@settings(max_examples=100, deadline=None)
@given(labels=st.lists(st.integers(0, 6), max_size=80), n=st.integers(0, 100), seed=st.integers(0, 99))
def test_stratified_sample(labels: list[int], n: int, seed: int) -> None:
    tensor = torch.tensor(labels, dtype=torch.int64)
    chosen = stratified_sample(tensor, n, generator=stream(seed, "sample"))
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == min(n, len(labels))
    assert torch.equal(chosen, stratified_sample(tensor, n, generator=stream(seed, "sample")))
    if 0 < n < len(labels):
        found = Counter(tensor[chosen].tolist())
        for label, size in Counter(labels).items():
            assert abs(found[label] - n * size / len(labels)) < 1


def test_stratified_sample_is_random_within_and_between_classes() -> None:
    labels = torch.arange(10).repeat_interleave(20)
    first, second = (stratified_sample(labels, 50, generator=stream(seed)) for seed in (0, 1))
    assert not torch.equal(first, second)
    few = Counter(
        label for seed in range(40) for label in labels[stratified_sample(labels, 3, generator=stream(seed))].tolist()
    )
    assert len(few) == 10, "with fewer images than classes, no class is always left out"


# ---------------------------------------------------------------------------------------------- duplicates


def test_duplicates_are_found_by_pixels_whatever_their_label() -> None:
    pixels = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8, generator=stream(0))
    pixels[2] = pixels[1]
    a = ImageSet(pixels[:4], torch.tensor([0, 0, 1, 1]), ("a0", "a1", "a2", "a3"))
    other = torch.cat([pixels[4:], pixels[2:3], pixels[3:4]])
    b = ImageSet(other, torch.tensor([1, 1, 0, 0]), ("b0", "b1", "b2", "b3"))
    assert duplicate_files(a, b) == [("a1", "b2"), ("a3", "b3")]
    assert duplicate_files(a, a) == [("a1", "a2")]
    nearly = other.clone()
    nearly[:, 0, 0, 0] ^= 1
    assert duplicate_files(a, ImageSet(nearly, b.labels, b.files)) == []
