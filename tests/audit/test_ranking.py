"""A model that shows labels only is found out before the audit, and an honest one is not taken for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harden.attacks import PGD, Planned, Square
from harden.audit.believe import Status
from harden.audit.checks.ranking import Ranking, measure_ranking
from harden.audit.diagnostics import CHECKS, Evidence, believe
from harden.audit.runner import audit
from harden.data import ImageSet
from harden.models.black_box import BlackBox, Program
from harden.models.classifier import Normalisation
from harden.models.outputs import are_probabilities
from harden.workflows.examine import Scope, Subject, examine
from harden.workflows.narrator import Silent
from tests.attacks.nets import DIGITS, as_classifier, digits, trained_cnn

EPS = 0.15
Scores = Callable[[Tensor], Tensor]


def one_hot(scores: Tensor) -> Tensor:
    return torch.eye(scores.shape[1])[scores.argmax(dim=1)]


def best(scores: Tensor, count: int) -> Tensor:
    values, places = scores.topk(count, dim=1)
    return torch.zeros_like(scores).scatter(1, places, values)


def rounded(decimals: int) -> Scores:
    return lambda scores: scores.softmax(dim=1).round(decimals=decimals)


COARSE: dict[str, Scores] = {
    "one-hot": one_hot,
    "logarithm of one-hot": lambda scores: one_hot(scores).log(),
    "smoothed one-hot": lambda scores: 0.9 * one_hot(scores) + 0.01,
    "integers": lambda scores: one_hot(scores).long(),
    "ranks": lambda scores: scores.argsort(dim=1).argsort(dim=1).float(),
    "best one, rounded": lambda scores: best(rounded(2)(scores), 1),
    "saturated softmax": lambda scores: (1000 * scores).softmax(dim=1),
    "1 decimal": rounded(1),
    "2 decimals": rounded(2),
    "3 decimals": rounded(3),
    "logits in whole numbers": lambda scores: scores.round(),
    "constant": lambda scores: torch.zeros_like(scores),
}
GRADED: dict[str, Scores] = {
    "4 decimals": rounded(4),
    "5 decimals": rounded(5),
    "logits in steps of 0.1": lambda scores: scores.round(decimals=1),
    "logits in steps of 0.01": lambda scores: scores.round(decimals=2),
    "bfloat16": lambda scores: scores.bfloat16().float(),
    "best one": lambda scores: best(scores.softmax(dim=1), 1),
    "best two": lambda scores: best(scores.softmax(dim=1), 2),
}
HONEST: dict[str, Scores] = {
    "logits": lambda scores: scores,
    "probabilities": lambda scores: scores.softmax(dim=1),
    "a sure softmax": lambda scores: (3 * scores).softmax(dim=1),
    "tiny margins": lambda scores: 1e-4 * scores,
    "tiny margins far from zero": lambda scores: 5 + 1e-3 * scores,
    "nearly uniform probabilities": lambda scores: (1e-2 * scores).softmax(dim=1),
    "float16": lambda scores: scores.half().float(),
}


def box(shown: Scores, network: Scores | None = None) -> BlackBox:
    asked = network or trained_cnn()
    return BlackBox(
        Program("net", "function", lambda images: shown(asked(images)), "net"),
        normalisation=Normalisation("none", (0.0,), (1.0,)),
        classes=DIGITS,
        input_size=(1, 8, 8),
        probabilities=are_probabilities(shown(trained_cnn()(digits()[0][1500:1600])).float()),
    )


@pytest.fixture(scope="module")
def few() -> ImageSet:
    """Digits that the net was not trained on."""
    pixels, labels = digits()
    pixels, labels = pixels[1500:1600], labels[1500:1600]
    return ImageSet((255 * pixels).round().to(torch.uint8), labels, tuple(f"{i}.png" for i in range(len(labels))))


def square(shown: Scores, images: ImageSet) -> float:
    planned = (Planned(Square(eps=EPS, queries=400)),)
    return audit(box(shown), images, planned, model="m", dataset="d", exposures={}).worst_case().value


@pytest.fixture(scope="module")
def true_figure(few: ImageSet) -> float:
    found = square(HONEST["logits"], few)
    assert found < 0.6
    return found


@pytest.mark.parametrize("kind", COARSE)
def test_labels_in_whatever_dress_do_not_rank(few: ImageSet, kind: str) -> None:
    for eps in (0.02, EPS):
        assert not measure_ranking(box(COARSE[kind]), few, eps=eps).ranks


@pytest.mark.parametrize("kind", HONEST)
def test_honest_scores_rank(few: ImageSet, kind: str) -> None:
    for eps in (0.02, EPS, 0.3):
        assert measure_ranking(box(HONEST[kind]), few, eps=eps).ranks


@pytest.mark.parametrize("kind", GRADED)
def test_coarse_scores_that_rank_give_the_figure_of_the_true_ones(few: ImageSet, true_figure: float, kind: str) -> None:
    if measure_ranking(box(GRADED[kind]), few, eps=EPS).ranks:
        assert square(GRADED[kind], few) <= true_figure + 0.03


def examined(few: ImageSet, shown: Scores, *attacks: Planned) -> tuple[object, Silent]:
    subject = Subject("net", box(shown), few, {})
    return examine(subject, attacks, eps=EPS, scope=Scope(), dataset="d", seed=0, narrator=Silent())  # type: ignore[return-value]


def test_attacks_by_scores_are_not_run_on_labels_and_the_check_says_so(few: ImageSet) -> None:
    result = examined(few, one_hot, Planned(Square(eps=EPS, queries=60)))
    assert result.outcomes == ()
    assert not result.measured
    told = {check.name: check for check in result.checks}
    found = told["scores that rank the classes"]
    assert found.status is Status.FAIL
    assert found.concerns_figure
    assert "shows labels only" in found.finding
    assert told["accuracy at a large eps"].status is Status.SKIP


def test_an_honest_black_box_is_attacked_and_passes(few: ImageSet) -> None:
    result = examined(few, HONEST["probabilities"], Planned(Square(eps=EPS, queries=60)))
    assert [outcome.name for outcome in result.outcomes] == ["Square-60"]
    assert {check.name: check.status for check in result.checks}["scores that rank the classes"] is Status.PASS


def test_a_plan_with_gradients_is_not_probed(few: ImageSet) -> None:
    plan = (Planned(PGD(eps=EPS, iterations=2)), Planned(Square(eps=EPS, queries=5), member=True))
    result = audit(as_classifier(trained_cnn()), few, plan, model="m", dataset="d", exposures={})
    evidence = Evidence.gather(result, as_classifier(trained_cnn()), few)
    assert evidence.ranking is None
    assert CHECKS["scores that rank the classes"](evidence).status is Status.PASS


def test_a_finished_audit_by_scores_is_probed_with_the_rest(few: ImageSet) -> None:
    plan = (Planned(Square(eps=EPS, queries=5)),)
    for shown, status in ((one_hot, Status.FAIL), (HONEST["logits"], Status.PASS)):
        result = audit(box(shown), few, plan, model="m", dataset="d", exposures={})
        assert {c.name: c.status for c in believe(result, box(shown), few)}["scores that rank the classes"] is status


def test_the_network_is_asked_as_often_as_it_says(few: ImageSet) -> None:
    asked = []

    def network(images: Tensor) -> Tensor:
        asked.append(len(images))
        return trained_cnn()(images)

    measure_ranking(box(HONEST["logits"], network), few, eps=EPS)
    assert sum(asked) <= 41 * 100


def test_what_it_says_depends_on_how_much_ties() -> None:
    labels, coarse, honest = Ranking(98, 100, 0.97), Ranking(50, 100, 0.4), Ranking(0, 100, 0.0)
    assert labels.sentence().startswith("This model shows labels only:")
    assert coarse.sentence().startswith("This model shows labels only or little more")
    assert honest.sentence().startswith("The scores rank the classes")
    assert [found.ranks for found in (labels, coarse, honest)] == [False, False, True]
