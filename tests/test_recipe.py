from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harden.errors import UsageError
from harden.folders import recipe_folder
from harden.recipe import (
    find_recipe,
    parse_duration,
    parse_eps,
    read_recipe,
    resolve,
    resolve_variants,
)
from harden.workflows.settings import FitSettings, as_recipe
from harden.workflows.variants import parse_variants

BASE = {"model": "m.pt", "data": "d"}
SHIPPED = sorted(recipe_folder().glob("*.toml"))


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), (" 4 / 255 ", 4 / 255), ("0.1", 0.1), ("0", 0.0), ("1/1", 1.0)]
)
def test_eps(text: str, value: float) -> None:
    assert parse_eps(text) == value


@pytest.mark.parametrize("text", ["", "eight", "8/0", "1/2/3", "nan", "-0.1", "-1/255", "300/255", "inf", "8 255"])
def test_what_is_no_eps(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_eps(text)
    assert caught.value.hint


def test_an_eps_on_the_wrong_scale_gets_the_near_miss() -> None:
    with pytest.raises(UsageError) as caught:
        parse_eps("8")
    assert caught.value.hint == "did you mean 8/255?"


@given(st.integers(0, 255))
def test_eps_round_trip(value: int) -> None:
    assert parse_eps(f"{value}/255") == value / 255
    assert parse_eps(repr(value / 255)) == value / 255


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("15min", 900), ("1h30m", 5400), ("1h", 3600), ("2.5m", 150), ("1h 2m 3s", 3723)],
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_duration_round_trip(hours: int, minutes: int, seconds: int) -> None:
    total = hours * 3600 + minutes * 60 + seconds
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == total


@pytest.mark.parametrize("text", ["", "soon", "15 minutes please", "m", "1m1h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration(text)


def test_every_error_is_listed_at_once_with_the_near_miss() -> None:
    recipe = {
        "metod": "sat",
        "source_attack": "fgms",
        "method": "adv4adb",
        "eps": "8",
        "lr": "fast",
        "epochs": 0,
        "attacks": "pgd-21",
        "mean": [0.5],
        "beta": -1,
    }
    with pytest.raises(UsageError) as caught:
        resolve({**BASE, **recipe}, {})
    for part in (
        "'metod'; did you mean 'method'?",
        "did you mean 'fgsm'?",
        "did you mean 'adv4adv'?",
        "did you mean 8/255?",
        "lr:",
        "epochs: 0",
        "did you mean 'pgd-20'?",
        "mean and std",
        "beta: -1",
    ):
        assert part in caught.value.message, part


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": "0"},
        {"lr": "1e9"},
        {"lr": float("nan")},
        {"attacks": 5},
        {"attacks": [["fgsm"]]},
        {"attacks": []},
        {"freeze": 3},
        {"class_map": "0,1"},
        {"seed": 1.5},
        {"eps": [0.1]},
        {"budget": "5s"},
        {"budget": True},
        {"method": 3},
        {"image_size": 2},
        {"std": [1.0]},
    ],
    ids=str,
)
def test_what_a_recipe_must_not_say(values: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        resolve({**BASE, **values}, {})
    assert next(iter(values)) in caught.value.message


def test_trust_in_a_pickle_is_a_flag_and_nothing_else() -> None:
    for said in (True, "yes"):
        with pytest.raises(UsageError, match="--trust-pickle"):
            resolve({**BASE, "trust_pickle": said}, {})
        with pytest.raises(UsageError, match="--trust-pickle"):
            resolve({**BASE, "trust_pickle": said}, {"trust_pickle": True})
    settings = resolve({**BASE, "trust_pickle": False}, {"trust_pickle": True})
    assert settings.trust_pickle
    assert not resolve(tomllib.loads(as_recipe(settings)), {}).trust_pickle


def test_a_flag_whose_key_has_another_name() -> None:
    with pytest.raises(UsageError, match=r"'single_discriminator'; write classwise = false"):
        resolve({**BASE, "single_discriminator": True}, {})


def test_a_missing_model_is_named() -> None:
    with pytest.raises(UsageError, match="model"):
        resolve({"data": "d"}, {})


def test_a_common_source_attack_makes_no_sat_of_pat_and_statics_are_for_eat() -> None:
    variants = parse_variants(["nt,sat,pat,pat@mim,eat,adv4adv:split=4"])
    recipe = {**BASE, "source_attack": "fgsm", "static": ["a.pt"], "lr": 0.01}
    common, alone = resolve_variants(recipe, {"eps": "4/255"}, variants)
    assert common.static == ("a.pt",)
    assert [s.source_attack for s in alone] == [None, ("fgsm",), None, ("mim",), ("fgsm",), ("fgsm",)]
    assert [s.static for s in alone] == [(), (), (), (), ("a.pt",), ()]
    assert [s.method for s in alone] == ["nt", "sat", "pat", "pat", "eat", "adv4adv"]
    assert {s.lr for s in alone} == {0.01}
    assert alone[-1].split == "4"


def test_flags_win_over_the_recipe_and_absent_flags_do_not() -> None:
    settings = resolve({**BASE, "method": "sat", "beta": 3.0, "classwise": False}, {"method": "nt", "beta": None})
    assert (settings.method, settings.beta, settings.classwise) == ("nt", 3.0, False)
    assert resolve(BASE, {"eps": "8/255", "attacks": "fast, mim", "budget": "15m"}) == FitSettings(
        model="m.pt", data="d", eps=8 / 255, attacks=("fast", "mim"), budget=900.0
    )


def test_a_run_on_few_images_writes_a_recipe_that_reads_back() -> None:
    """Settled counts are those of the images there are, which may be fewer than ten."""
    settings = FitSettings(**BASE, epochs=1, selection_samples=8, audit_samples=3)
    assert resolve(tomllib.loads(as_recipe(settings)), {}) == settings


def test_epochs_and_budget_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="exclude"):
        resolve({**BASE, "epochs": 3}, {"budget": "15m"})


settings_values = st.fixed_dictionaries(
    {},
    optional={
        "eps": st.floats(0, 1),
        "beta": st.floats(0, 1000),
        "lr": st.floats(1e-9, 100),
        "class_map": st.permutations(range(4)).map(tuple),
        "freeze": st.lists(st.text("abc.*", min_size=1), max_size=3).map(tuple),
        "attacks": st.sampled_from([("fast",), ("full", "mim")]),
        "method": st.sampled_from(["sat", "adv4adv-star"]),
        "classwise": st.booleans(),
        "model": st.text(min_size=1).filter(lambda text: text.isprintable()),
        "budget": st.floats(10, 1e5),
        "max_clean_drop": st.none() | st.floats(0, 1),
        "seed": st.integers(0, 2**62),
    },
)


@given(settings_values)
def test_what_is_written_reads_back_as_the_same_settings(values: dict[str, object]) -> None:
    settings = FitSettings(**{**BASE, **values})  # type: ignore[arg-type]
    assert resolve(tomllib.loads(as_recipe(settings)), {}) == settings


def test_every_setting_survives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    settings = FitSettings(model="ü.pt", data="d", mean=(0.5,), std=(0.2,), split="layer1", epochs=3, audit_samples=100)
    path.write_text(as_recipe(settings), encoding="utf-8")
    assert resolve(read_recipe(path), {}) == settings
    stated = {f.name for f in dataclasses.fields(settings) if getattr(settings, f.name) is not None}
    assert stated - {"trust_pickle"} == set(read_recipe(path))


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    with pytest.raises(UsageError, match="cannot read"):
        read_recipe(path)
    path.write_text("method = \n")
    with pytest.raises(UsageError, match="line 1"):
        read_recipe(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="UTF-8"):
        read_recipe(path)
    with pytest.raises(UsageError, match="no recipe"):
        find_recipe("nothing-of-that-name")
    path.write_text("beta = 1")
    assert find_recipe(str(path)) == path


def test_shipped_recipes_resolve() -> None:
    for path in SHIPPED:
        settings = resolve({**BASE, **read_recipe(path)}, {})
        assert isinstance(settings, FitSettings), path
        assert find_recipe(path.stem) == find_recipe(path.name) == path
