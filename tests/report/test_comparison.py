"""What a comparison says of its trials, in words and figures, on a terminal, in Markdown and on its page."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from harden.access import Access
from harden.audit.believe import Check, Status
from harden.audit.result import AuditResult
from harden.errors import DataError
from harden.report import comparison_page, comparison_text, document
from harden.report.comparison import CLEAN, WORST, Column, Comparison, Trial
from harden.training.canary import Collapse
from harden.training.history import EpochRecord, History

from .builders import build_history, build_representation, build_result


def audit(strength: float, *, images: int = 400, attacks: int = 3) -> AuditResult:
    result = build_result(images=images, strength=strength, attacks=attacks)
    black = replace(result.outcomes[0], name="transfer FGSM", access=Access.TRANSFER, crafted_by="FGSM")
    return replace(result, outcomes=(*result.outcomes, black))


def history(
    source: str = "fgsm", *, passes: int = 1000, collapse: Collapse = Collapse.NONE, other: str = ""
) -> History:
    scalars = {"val_robust": 0.3, "val_clean": 0.9}
    epochs = [
        EpochRecord(1, 2.0, (source,), scalars, passes=passes),
        EpochRecord(2, 2.0, (other or source,), scalars, event="it fell", passes=passes, collapse=collapse),
    ]
    return History(tuple(epochs), chosen_epoch=2)


def trial(variant: str, strength: float, seed: int = 0, *, method: str = "sat", **kept: object) -> Trial:
    return Trial(variant, method, ("fgsm",), seed, audit(strength), history(**kept))  # type: ignore[arg-type]


def comparison(*trials: Trial, **changes: object) -> Comparison:
    base = {"title": "imgs: methods compared", "basis": "10 epochs each", "facts": (("command", "harden compare"),)}
    return Comparison(**{**base, "trials": trials, **changes})  # type: ignore[arg-type]


@pytest.fixture
def three() -> Comparison:
    """Adv-4-Adv, which is clearly ahead of SAT in both seeds, and NT."""
    return comparison(
        *(trial("NT", 9.0 + 0.1 * seed, seed, method="nt", passes=300) for seed in (0, 1)),
        *(trial("SAT", 5.0 + 0.1 * seed, seed) for seed in (0, 1)),
        *(trial("Adv-4-Adv", 3.0 + 0.1 * seed, seed, method="adv4adv", passes=1100) for seed in (0, 1)),
    )


def text(found: Comparison, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(comparison_text.render(found, width=width))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_figures_are_means_and_spreads_over_seeds(three: Comparison) -> None:
    worst = [t.audit.worst_case().value for t in three.of("SAT")]
    figure = three.figure("SAT", WORST)
    assert figure.mean == pytest.approx(np.mean(worst))
    assert figure.spread == pytest.approx(np.std(worst, ddof=1))
    assert three.figure("SAT", CLEAN).mean == pytest.approx(three.of("SAT")[0].audit.clean_accuracy().value)
    black = three.figure("SAT", Column("transfer FGSM", "FGSM")).mean
    assert black == pytest.approx(
        np.mean([t.audit.robust_accuracy(t.audit.outcomes[-1]).value for t in three.of("SAT")])
    )
    assert comparison(trial("SAT", 5.0)).figure("SAT", WORST).spread is None
    assert three.passes("Adv-4-Adv") == 2200
    assert three.seconds("SAT") == 4.0


def test_columns_are_those_of_the_papers_table(three: Comparison) -> None:
    assert [c.name for c in three.columns] == ["clean", "FGSM", "R+FGSM", "PGD-20", "worst case", "transfer FGSM"]
    assert [c.group for c in three.columns] == ["", "white-box", "white-box", "white-box", "", "black-box"]


def test_a_member_of_an_ensemble_has_no_column_though_it_counts_in_the_worst_case() -> None:
    result = audit(5.0)
    standing = result.survived(result.outcomes[0])
    late = replace(result.outcomes[1], attacked=standing & (np.arange(len(result)) % 2 == 0))
    odd = comparison(
        Trial("SAT", "sat", ("fgsm",), 0, replace(result, outcomes=(result.outcomes[0], late)), history()),
    )
    assert [c.name for c in odd.columns] == ["clean", "FGSM", "worst case"]


def test_the_verdict_names_the_winner_its_lead_and_its_cost(three: Comparison) -> None:
    first, *rest = three.verdict()
    figure = three.figure("Adv-4-Adv", WORST)
    assert first.startswith("Adv-4-Adv withstands most: ")
    assert f"{100 * figure.mean:.1f} % ± {100 * (figure.spread or 0):.1f}" in first
    assert "10 epochs each" in first
    gain = three.gain("Adv-4-Adv", "SAT", among=2)
    assert gain is not None
    assert rest[0] == (
        f"Adv-4-Adv beats SAT by {100 * gain.value:.1f} ± {50 * (gain.high - gain.low):.1f} points, at 1.1x its passes."
    )
    assert "beats NT" in rest[1]
    assert not any("No variant of Adv-4-Adv" in sentence for sentence in rest)


def test_a_simpler_winner_is_said_so() -> None:
    found = comparison(trial("SAT from nfgsm", 2.0), trial("Adv-4-Adv", 4.0, method="adv4adv"))
    first, second, third = found.verdict()
    assert first.startswith("SAT from nfgsm withstands most")
    assert second == "No variant of Adv-4-Adv wins here: the best of them, Adv-4-Adv, comes after SAT from nfgsm."
    assert third.startswith("SAT from nfgsm beats Adv-4-Adv by")


def test_a_lead_that_the_seeds_cannot_tell_is_no_victory() -> None:
    found = comparison(
        *(trial("A", 4.0 + shift, seed) for seed, shift in enumerate((0.0, 1.0, 0.2))),
        *(trial("B", 4.1 + shift, seed) for seed, shift in enumerate((0.9, 0.1, 0.3))),
    )
    best, other = found.ranked()
    gain = found.gain(best, other)
    assert gain is not None
    assert gain.low < 0 < gain.high
    assert found.verdict()[1].endswith("too little to tell from 3 seeds and 400 images.")
    assert "beats" not in " ".join(found.verdict())


def test_the_interval_of_a_lead_counts_images_and_seeds(three: Comparison) -> None:
    pairs = list(zip(three.of("Adv-4-Adv"), three.of("SAT"), strict=True))
    found = [a.audit.worst_case_gain(b.audit) for a, b in pairs]
    values = [difference.value for difference in found]
    images = np.mean([difference.value - difference.low for difference in found])
    seeds = 12.7062 * np.std(values, ddof=1) / np.sqrt(2)
    gain = three.gain("Adv-4-Adv", "SAT")
    assert gain is not None
    assert gain.value == pytest.approx(np.mean(values))
    assert gain.value - gain.low == pytest.approx(np.hypot(images, seeds), rel=1e-4)
    one = comparison(trial("A", 4.0), trial("B", 5.0))
    paired = one.of("A")[0].audit.worst_case_gain(one.of("B")[0].audit)
    alone = one.gain("A", "B")
    assert alone is not None
    assert (alone.high - alone.low) == pytest.approx(paired.high - paired.low)


def test_seeds_that_agree_to_the_image_are_no_proof() -> None:
    """Ahead by one image of 400 with every seed: another sample of images could as well say the opposite."""
    behind = audit(4.0)
    worst = behind.standing()
    outcome = behind.outcomes[0]
    turned = outcome.predictions.copy()
    turned[np.flatnonzero(worst)[0]] += 1
    margins = outcome.margins.copy()
    margins[np.flatnonzero(worst)[0]] = -1
    worse = replace(behind, outcomes=(replace(outcome, predictions=turned % 10, margins=margins), *behind.outcomes[1:]))
    found = comparison(
        *(Trial("A", "sat", ("fgsm",), seed, behind, history()) for seed in range(3)),
        *(Trial("B", "sat", ("fgsm",), seed, worse, history()) for seed in range(3)),
    )
    assert found.ranked()[0] == "A"
    assert "too little to tell" in found.verdict()[1]


def test_more_leads_need_more_certainty() -> None:
    found = comparison(*(trial(name, strength) for name, strength in (("A", 4.0), ("B", 4.4), ("C", 5.0))))
    one, many = found.gain("A", "B"), found.gain("A", "B", among=6)
    assert one is not None
    assert many is not None
    assert many.high - many.low > 1.2 * (one.high - one.low)


def test_methods_without_a_common_seed_cannot_be_compared() -> None:
    found = comparison(trial("A", 4.0, 0), trial("B", 5.0, 1))
    assert found.gain("A", "B") is None
    assert found.verdict()[1] == "A and B have no seed in common: nothing can be said of the two."


def test_a_method_that_switched_is_marked_everywhere() -> None:
    fell = Collapse.CATASTROPHIC_OVERFITTING
    found = comparison(trial("SAT", 5.0, collapse=fell, other="nfgsm"), trial("Adv-4-Adv", 4.0, method="adv4adv"))
    assert found.marked("SAT") == "SAT †"
    assert found.marked("Adv-4-Adv") == "Adv-4-Adv"
    (remark,) = found.remarks()
    assert remark.startswith("† SAT (seed 0): catastrophic overfitting; ")
    for written in (text(found), comparison_text.dumps(found), comparison_page.dumps(found)):
        assert "SAT †" in written
        assert "no longer that method alone" in " ".join(written.split())


def test_failed_checks_are_told_once_for_all_that_fail_them() -> None:
    check = Check("masking", Status.FAIL, "Square beats PGD.", "do not believe it")
    doubtful = [replace(trial(name, 5.0), audit=replace(audit(5.0), checks=(check,))) for name in ("A", "B")]
    assert comparison(*doubtful).remarks() == (
        'All: the check "masking" fails, so do not believe the figures as they are. Square beats PGD.',
    )
    one = comparison(doubtful[0], trial("B", 4.0)).remarks()
    assert one[0].startswith('A: the check "masking"')


@pytest.mark.parametrize("width", [50, 80, 100, 200])
def test_no_line_of_the_terminal_is_too_long_and_every_cell_is_there(three: Comparison, width: int) -> None:
    shown = text(three, width)
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= width
    assert "…" not in shown
    cells = [cell for column in comparison_text.columns(three) for cell in column.cells]
    flat = " ".join(shown.split())
    for cell in cells:
        assert cell in flat


def test_markdown_is_one_table_with_the_worst_case_in_bold(three: Comparison) -> None:
    lines = [line for line in comparison_text.dumps(three).splitlines() if line.startswith("| ")]
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1
    assert all("**" in line for line in lines[2:])


def test_the_page_has_the_charts_the_table_and_the_pictures(three: Comparison) -> None:
    pictured = tuple(
        replace(t, audit=replace(t.audit, representation=build_representation(t.audit))) for t in three.trials
    )
    found = replace(three, trials=pictured)
    page = comparison_page.dumps(found)
    assert page.count("<polyline") >= 6  # three variants in two charts
    assert len(re.findall(r'class="points"', page)) == 3 * 4
    assert 'colspan="3"' in page
    assert "0.400" in page  # the silhouette of the clean logits
    assert "<script" not in page
    assert "Silhouette scores" in comparison_text.dumps(found)
    assert comparison_page.dumps(three).count('class="points"') == 0


def test_names_are_escaped() -> None:
    evil = comparison(trial("<b>|*x*", 5.0), trial("B", 4.0))
    assert "<b>" not in comparison_page.dumps(evil)
    assert "| \\*x" not in comparison_text.dumps(evil)
    assert "&lt;b&gt;\\|\\*x\\*" in comparison_text.dumps(evil)


def test_json_holds_the_table_and_reads_back(three: Comparison) -> None:
    written = json.loads(document.strict(three.to_json()))
    (row,) = [row for row in written["table"] if row["variant"] == "SAT"]
    assert row["worst case"]["mean"] == pytest.approx(three.figure("SAT", WORST).mean, abs=1e-6)
    assert row["passes"] == 2000
    again = Comparison.from_json(written)
    assert again.verdict() == three.verdict()
    assert again.remarks() == three.remarks()
    assert again.trials[0].history == three.trials[0].history
    with pytest.raises(DataError, match="schema"):
        Comparison.from_json({**written, "schema": "other"})


def test_histories_of_unequal_length_share_a_chart() -> None:
    long = replace(trial("A", 4.0), history=build_history(7, undone=None))
    page = comparison_page.dumps(comparison(long, trial("B", 5.0)))
    assert "Accuracy over the epochs" in page
