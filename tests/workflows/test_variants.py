from __future__ import annotations

import pytest

from harden.defences import DEFENCES
from harden.errors import UsageError
from harden.workflows.variants import NAMES, parse_variants


def test_every_method_has_its_name_in_print() -> None:
    assert NAMES.keys() == DEFENCES.keys()


def test_a_variant_is_a_method_with_its_own_sources_and_settings() -> None:
    plain, source, two, logit = parse_variants(
        ["sat, sat@nfgsm", "adv4adv@fgsm+mim,adv4adv:beta=0:gamma=1.5:classwise=false:split=layer3"]
    )
    assert (plain.name, plain.changes) == ("SAT", {"method": "sat"})
    assert source.name == "SAT from nfgsm"
    assert source.changes == {"method": "sat", "source_attack": ("nfgsm",)}
    assert two.name == "Adv-4-Adv from fgsm + mim"
    assert logit.changes == {"method": "adv4adv", "beta": 0, "gamma": 1.5, "classwise": False, "split": "layer3"}
    assert logit.name == "Adv-4-Adv, beta 0, gamma 1.5, classwise False, split layer3"
    assert logit.folder == "adv4adv-beta=0-gamma=1.5-classwise=false-split=layer3"


def test_everything_that_is_wrong_is_listed_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        parse_variants(["satt", "nt@fgsm", "eat@fgms", "adv4adv:betta=1", "adv4adv:epochs=3", "sat:lr", "pat", "pat"])
    for part in (
        "'satt'; did you mean 'sat'?",
        "nt crafts no examples",
        "'fgms'; did you mean 'fgsm'?",
        "'betta=1' in 'adv4adv:betta=1' is no setting of a variant; did you mean 'beta'?",
        "'epochs=3'",
        "'lr' in 'sat:lr'",
        "pat is named twice",
    ):
        assert part in caught.value.message, part


@pytest.mark.parametrize("texts", [[], [""], [" , "]])
def test_nothing_is_no_comparison(texts: list[str]) -> None:
    with pytest.raises(UsageError, match="which methods"):
        parse_variants(texts)
