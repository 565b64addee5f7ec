"""What an outcome says of its attack, for programs: fields with a round trip, and an identity."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from harden.attacks import ATTACKS, FGSM, MIM, PGD, Attack, Objective, Transfer
from harden.audit.checks.rivals import _on_cross_entropy
from harden.audit.result import AttackOutcome, ImageOrigin
from harden.report.side_by_side import attack_keys
from tests.report.builders import build_result


def transfer(inner: Attack, *names: str) -> Transfer:
    return Transfer(eps=0.1, inner=inner, surrogates=tuple(nn.Identity() for _ in names), names=names)


def test_attacks_have_one_identity_only_if_all_of_their_settings_are_the_same() -> None:
    different = [
        *(make(0.1) for make in ATTACKS.values()),
        FGSM(eps=0.1000001),
        PGD(eps=0.1, iterations=20, relative_step=0.2),
        PGD(eps=0.1, iterations=20, random_start=True),
        transfer(FGSM(eps=0.1), "a"),
        transfer(FGSM(eps=0.1), "b"),
        transfer(MIM(eps=0.1), "a"),
    ]
    assert len({attack.identity for attack in different}) == len(different)
    assert [make(0.1).identity for make in ATTACKS.values()] == [make(0.1).identity for make in ATTACKS.values()]
    assert transfer(FGSM(eps=0.1), "a").identity == transfer(FGSM(eps=0.1), "a").identity


def test_method_and_objective_are_fields() -> None:
    assert (ATTACKS["pgd-20"](0.1).method, ATTACKS["pgd-20"](0.1).objective) == ("PGD", Objective.CROSS_ENTROPY)
    assert ATTACKS["pgd-50-margin"](0.1).objective is Objective.MARGIN
    assert ATTACKS["apgd-dlr"](0.1).objective is Objective.DLR
    assert ATTACKS["square"](0.1).objective is None
    assert (transfer(FGSM(eps=0.1), "a").crafted_by, FGSM(eps=0.1).crafted_by) == ("FGSM", "")


def test_an_outcome_reads_back_and_so_does_one_of_an_earlier_version() -> None:
    outcome = replace(build_result(images=20).outcomes[0], method="PGD", objective="cross-entropy", identity="PGD(...)")
    data = outcome.to_json()
    again = AttackOutcome.from_json(data)
    assert (again.method, again.objective, again.identity) == ("PGD", "cross-entropy", "PGD(...)")
    old = AttackOutcome.from_json({k: v for k, v in data.items() if k not in ("method", "objective", "identity")})
    assert (old.method, old.objective, old.identity) == ("", "", outcome.definition)


def test_what_an_attack_raises_is_not_read_from_its_definition() -> None:
    outcome = replace(build_result(images=20).outcomes[0], definition="cross-entropy", objective="")
    assert not _on_cross_entropy(outcome)
    assert _on_cross_entropy(replace(outcome, definition="Kreuzentropie", objective=str(Objective.CROSS_ENTROPY)))


@pytest.mark.parametrize("same", [True, False])
def test_attacks_stand_side_by_side_by_identity_whatever_their_words(same: bool) -> None:
    result = build_result(images=20, attacks=1)
    first = replace(result.outcomes[0], identity="one", definition="as it was worded")
    second = replace(first, identity="one" if same else "two", definition="as it is worded now")
    keys = [set(attack_keys(replace(result, outcomes=(outcome,)))) for outcome in (first, second)]
    assert (keys[0] == keys[1]) is same


def test_where_images_came_from_reads_back() -> None:
    result = replace(build_result(images=20), origin=ImageOrigin("imgs, or so", "test", 30, "test images of the run"))
    assert type(result).from_json(result.to_json()).origin == result.origin
    data = result.to_json()
    del data["origin"]
    assert type(result).from_json(data).origin is None
