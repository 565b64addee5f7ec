"""`harden compare` on real networks that train for a second."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harden.errors import Interrupted, RunFolderError, TrainingError
from harden.recipe import read_recipe, resolve
from harden.report import document
from harden.report.comparison import Comparison
from harden.workflows import compare as compare_module
from harden.workflows import defaults as defaults_module
from harden.workflows import surrogate_training
from harden.workflows.compare import CompareSettings, compare
from harden.workflows.defaults import passes_per_image
from harden.workflows.export import export
from harden.workflows.export_subject import ExportSettings
from harden.workflows.plan import epochs_within
from harden.workflows.prepare import ModelSpec
from harden.workflows.run_folder import RunFolder
from harden.workflows.settings import FitSettings
from harden.workflows.surrogate_training import Effort
from harden.workflows.variants import parse_variants
from tests.conftest import MakeImages

from .builders import Notebook, Workshop
from .test_fit import after


def asked(shop: Workshop, methods: str, *, seeds: tuple[int, ...] = (0,), **changes: Any) -> CompareSettings:
    own = {name: changes.pop(name) for name in ("passes", "attacks", "samples", "surrogates") if name in changes}
    values = {
        "model": str(shop.pickled),
        "data": str(shop.data),
        "eps": 0.03,
        "batch_size": 20,
        "ema": 0.9,
        "epochs": 1,
        "selection_samples": 12,
        **changes,
    }
    variants = parse_variants([methods])
    return CompareSettings(
        common=resolve({**values, "method": "eat"}, {}),
        variants=variants,
        settings=tuple(resolve(values, dict(variant.changes)) for variant in variants),
        seeds=seeds,
        **{"attacks": ("fgsm", "pgd-20"), "samples": 12, "surrogates": (), **own},
    )


def run(
    settings: CompareSettings, out: Path, notebook: Notebook | None = None, stop: Callable[[], bool] = lambda: False
) -> Comparison:
    found, folder = compare(
        settings,
        out=out,
        narrator=notebook or Notebook(),
        stop_requested=stop,
        command="harden compare",
        read_settings=lambda run: resolve(read_recipe(run.recipe), {}),
    )
    assert folder == out
    return found


@pytest.fixture(scope="module")
def two(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    out = tmp_path_factory.mktemp("compare") / "two"
    return out, run(asked(workshop, "sat,adv4adv:beta=0.5", seeds=(0, 1), surrogates=(str(workshop.pickled),)), out)


def weights(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("model.safetensors"))}


def test_every_variant_is_trained_with_every_seed_and_audited_on_the_same_images(
    two: tuple[Path, Comparison], workshop: Workshop
) -> None:
    out, found = two
    assert [(t.variant, t.seed) for t in found.trials] == [
        (name, seed) for seed in (0, 1) for name in ("SAT", "Adv-4-Adv, beta 0.5")
    ]
    assert len(weights(out)) == 4
    assert len(set(weights(out).values())) == 4
    assert len({t.audit.files for t in found.trials}) == 1
    assert all(file.startswith("test/") for file in found.trials[0].audit.files)
    steps = len(RunFolder(out / "sat" / "seed-0").read_splits().train) // 20
    for trial in found.trials:
        assert trial.history.passes == 6 * 20 * steps  # 2F+2B to train and 1F+1b to craft
    recipe = resolve(read_recipe(out / "adv4adv-beta=0.5" / "seed-1" / "recipe.toml"), {})
    assert (recipe.method, recipe.beta, recipe.seed, recipe.epochs) == ("adv4adv", 0.5, 1, 1)


def test_the_folder_holds_the_comparison_in_every_format(two: tuple[Path, Comparison]) -> None:
    out, found = two
    assert {"comparison.html", "comparison.json", "comparison.md"} <= {path.name for path in out.iterdir()}
    written = Comparison.from_json(json.loads((out / "comparison.json").read_text()))
    assert written.verdict() == found.verdict()
    assert [c.name for c in written.columns] == [
        "clean", "FGSM", "PGD-20", "worst case", "transfer FGSM", "transfer PGD-20", "transfer R+FGSM", "transfer MIM",
    ]  # fmt: skip
    assert found.trials[0].audit.representation is not None
    assert not list(out.rglob("progress"))


def test_asked_again_nothing_is_trained_or_attacked_and_more_may_be_added(
    two: tuple[Path, Comparison], workshop: Workshop
) -> None:
    out, found = two
    before, notebook = weights(out), Notebook()
    again = run(
        asked(workshop, "sat,adv4adv:beta=0.5", seeds=(0, 1), surrogates=(str(workshop.pickled),)), out, notebook
    )
    assert notebook.tasks == []
    assert again.verdict() == found.verdict()
    more = run(asked(workshop, "sat,adv4adv:beta=0.5,nt", seeds=(0, 1), surrogates=(str(workshop.pickled),)), out)
    assert {name: data for name, data in weights(out).items() if name in before} == before
    assert more.variants == ("SAT", "Adv-4-Adv, beta 0.5", "NT")
    with pytest.raises(RunFolderError, match="asked for otherwise") as caught:
        run(asked(workshop, "sat", seeds=(0,), surrogates=(str(workshop.pickled),), samples=9), out)
    assert "samples" in caught.value.message


def test_a_folder_of_something_else_is_left_alone(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="is no comparison"):
        run(asked(workshop, "sat"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("steps", [2, 8])
def test_stopped_anywhere_it_goes_on_to_the_same_weights(
    steps: int, two: tuple[Path, Comparison], workshop: Workshop, tmp_path: Path
) -> None:
    out, wanted = tmp_path / "stopped", asked(workshop, "sat,adv4adv:beta=0.5", surrogates=(str(workshop.pickled),))
    with pytest.raises(Interrupted) as caught:
        run(wanted, out, stop=after(steps))
    assert str(out) in str(caught.value.hint)
    run(wanted, out)
    whole = weights(two[0])
    assert weights(out) == {
        name: data for name, data in whole.items() if "seed-0" in name and not name.startswith("nt")
    }


def test_killed_before_anything_was_kept_a_run_starts_again(workshop: Workshop, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    half = out / "sat" / "seed-0"
    half.mkdir(parents=True)
    (half / "recipe.toml").write_text("")
    (out / "asked.json").write_text("{}")
    with pytest.raises(RunFolderError, match="otherwise"):  # whose it is cannot be told
        run(asked(workshop, "sat"), out)
    (out / "asked.json").unlink()
    other = tmp_path / "other"
    run(asked(workshop, "nt"), other)
    (other / "sat" / "seed-0").mkdir(parents=True)
    (other / "sat" / "seed-0" / "recipe.toml").write_text("")
    assert run(asked(workshop, "nt,sat"), other).variants == ("NT", "SAT")


def test_no_seed_trains_on_what_another_is_tested_on(
    make_images: MakeImages, workshop: Workshop, tmp_path: Path
) -> None:
    """Without a test folder the splits are drawn; they are drawn once."""
    data = make_images(tmp_path / "imgs", all=40)
    wanted = asked(replace(workshop, data=data), "sat", seeds=(0, 5), samples=None)
    found = run(wanted, tmp_path / "out")
    plans = [RunFolder(tmp_path / "out" / "sat" / f"seed-{seed}").read_splits() for seed in (0, 5)]
    assert plans[0] == plans[1]
    assert {entry.file for entry in plans[0].test} == set(found.trials[1].audit.files)


def test_equal_passes_are_more_epochs_for_what_costs_less(workshop: Workshop, tmp_path: Path) -> None:
    found = run(asked(workshop, "nt,sat", passes=12, epochs=None), tmp_path / "out")
    nt, sat = (found.of(name)[0].history for name in ("NT", "SAT"))
    assert (len(nt.epochs), len(sat.epochs)) == (6, 2)
    assert nt.passes == sat.passes
    assert found.basis == "12 passes for each training image"


@pytest.mark.parametrize(
    ("passes", "cost", "parts", "expected"),
    [
        (12, 6, None, (2, 1)),
        (120, 44, None, (8, 3)),  # 2.73 epochs: 3 would be a tenth too many
        (9, 6, None, (3, 2)),
        (9, 44, None, (1, 5)),  # a fifth of an epoch, not the whole one that would be five times as much
        (1, 44, None, (1, 10)),
        (9, 6, 4, (6, 4)),  # the user's own parts
        (12, 44, 1, (1, 1)),
    ],
)
def test_passes_are_kept_to_by_parts_of_an_epoch(
    passes: float, cost: int, parts: int | None, expected: tuple[int, int]
) -> None:
    assert epochs_within(passes, cost, parts) == expected


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({"method": "nt"}, 2),
        ({"method": "sat"}, 6),
        ({"method": "adv4adv"}, 6),
        ({"method": "pat"}, 44),
        ({"method": "atda"}, 7),
        ({"method": "atda", "source_attack": ("fgsm",)}, 6),
        ({"method": "eat"}, 14),
        ({"method": "eat", "static": ("a",)}, 10),
        ({"method": "sat", "source_attack": ("fgsm", "mim")}, 6 + 22),
    ],
)
def test_passes_of_an_epoch(changes: dict[str, Any], passes: int) -> None:
    assert passes_per_image(FitSettings(model="m", data="d", **changes)) == passes


def test_eat_counts_the_passes_on_its_static_networks(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surrogate_training, "Effort", lambda: Effort(steps=10))
    found = run(asked(workshop, "eat"), tmp_path / "out")
    steps = len(RunFolder(tmp_path / "out" / "eat" / "seed-0").read_splits().train) // 20
    assert found.trials[0].history.passes == 14 * 20 * steps
    assert any("EAT" in remark for remark in found.remarks())


def test_what_fails_is_left_out_and_said_so(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = compare_module.fit

    def fail(settings: FitSettings, **options: Any) -> Any:
        if settings.method == "sat":
            raise TrainingError("training collapsed in every epoch")
        return honest(settings, **options)

    monkeypatch.setattr(compare_module, "fit", fail)
    found = run(asked(workshop, "sat,nt"), tmp_path / "out")
    assert found.variants == ("NT",)
    assert any("SAT, seed 0, is left out: training collapsed" in remark for remark in found.remarks())
    with pytest.raises(TrainingError):
        run(asked(workshop, "sat"), tmp_path / "alone")


def test_images_that_are_gone_are_told_and_new_ones_change_nothing(
    make_images: MakeImages, workshop: Workshop, tmp_path: Path
) -> None:
    data = make_images(tmp_path / "imgs", all=40)
    shop = replace(workshop, data=data)
    before = run(asked(shop, "nt", samples=None), tmp_path / "out")
    (data / "a" / "new.png").write_bytes((data / "a" / "0.png").read_bytes())
    after_all = run(asked(shop, "nt,sat", samples=None), tmp_path / "out")
    assert {t.audit.files for t in after_all.trials} == {before.trials[0].audit.files}
    (data / before.trials[0].audit.files[0]).unlink()
    with pytest.raises(RunFolderError, match="not in"):
        run(asked(shop, "nt,sat,pat", samples=None), tmp_path / "out")


def test_the_source_is_what_the_run_settled_on(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many images to remember: N-FGSM is the default, and no trial has switched."""
    monkeypatch.setattr(defaults_module, "LARGEST", 100)
    found = run(asked(workshop, "sat"), tmp_path / "out")
    assert found.trials[0].sources == ("nfgsm",)
    assert not found.trials[0].switched
    assert ("source attacks", "SAT: nfgsm") in found.facts


def test_the_card_of_a_compared_run_quotes_its_audit(two: tuple[Path, Comparison], tmp_path: Path) -> None:
    """Its report words the images in another way than that of a fit; the card reads fields, not words."""
    out, _ = two
    folder = next(path.parent for path in out.rglob("model.safetensors"))
    settings = ExportSettings(spec=ModelSpec(model=str(folder)), formats=("safetensors",), samples=6, anyway=True)
    export(settings, out=tmp_path / "export", narrator=Notebook())
    card = (tmp_path / "export" / "README.md").read_text()
    audit = document.read(folder / "report.json").subject
    assert audit.origin is not None
    assert "It was not audited" not in card
    assert f"| held out for the figures above | {len(audit)} of {audit.origin.available} test images |" in card
