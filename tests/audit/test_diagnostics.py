"""Every check trips on a model built for it, and none on a sound one."""

from __future__ import annotations

import copy
import functools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harden.attacks import APGD, FGSM, PGD, Norm, Objective, Planned, Square
from harden.audit.believe import Check, Status
from harden.audit.checks.evidence import PROBED, Evidence
from harden.audit.curve import EpsCurve
from harden.audit.diagnostics import CHECKS, believe, randomness
from harden.audit.metrics import wilson
from harden.audit.result import AuditResult
from harden.audit.runner import audit
from harden.data import ImageSet
from harden.models.black_box import BlackBox, Program
from harden.models.classifier import Basis, Conflict, Doubt, Normalisation
from tests.attacks.nets import DIGITS, Counting, as_classifier, cnn, digits, trained_cnn
from tests.audit.broken import (
    Hot,
    Inverted,
    Misleading,
    Noisy,
    Probabilities,
    Renamed,
    Rooted,
    Rounding,
    Sigmoids,
    Silent,
    Sociable,
    Uneven,
)

EPS = 0.1
NOISE_EPS = 0.35
KNOWN = Normalisation("given", (0.0,), (1.0,), basis=Basis.GIVEN)
"""A normalisation that is known, as the nets of these tests have it."""
PASS, WARN, FAIL, SKIP = Status.PASS, Status.WARN, Status.FAIL, Status.SKIP

FGSM_, PGD_ = Planned(FGSM(eps=EPS)), Planned(PGD(eps=EPS, iterations=20))
MARGIN = Planned(APGD(eps=EPS, iterations=10, raises=Objective.MARGIN), member=True)
SQUARE = Planned(Square(eps=EPS, queries=80), member=True)
WHITE = (FGSM_, PGD_)
ALL = (FGSM_, PGD_, MARGIN, SQUARE)


def image_set(start: int, count: int) -> ImageSet:
    pixels, labels = digits()
    rows = slice(start, start + count)
    return ImageSet((255 * pixels[rows]).round().to(torch.uint8), labels[rows], tuple(f"{i}.png" for i in range(count)))


@pytest.fixture(scope="module")
def few() -> ImageSet:
    """Digits that the net was not trained on."""
    return image_set(1500, 150)


@functools.cache
def robust_cnn() -> nn.Sequential:
    """A few epochs of training on one random step and one of FGSM."""
    images, labels = digits()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = cnn()
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(6):
            for rows in torch.randperm(1500).split(100):
                clean = images[rows]
                points = (clean + EPS * (2 * torch.rand_like(clean) - 1)).requires_grad_(True)
                (gradient,) = torch.autograd.grad(F.cross_entropy(net(points), labels[rows]), points)
                moved = (points.detach() + EPS * gradient.sign()).clamp(clean - EPS, clean + EPS).clamp(0, 1)
                optimizer.zero_grad()
                F.cross_entropy(net(moved), labels[rows]).backward()
                optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return net.eval()


@functools.cache
def run(module: nn.Module, images: ImageSet, attacks: tuple[Planned, ...], **kwargs: int) -> AuditResult:
    names = {"model": "net", "dataset": "digits", "exposures": {}}
    return audit(as_classifier(module), images, attacks, **names, **kwargs)


def check(name: str, module: nn.Module, images: ImageSet, attacks: tuple[Planned, ...], *, repeats: int = 1) -> Check:
    result = run(module, images, attacks, repeats=repeats)
    return CHECKS[name](Evidence.gather(result, as_classifier(module), images, copies=(), repeats=repeats))


@pytest.mark.parametrize("module", [trained_cnn, robust_cnn])
def test_a_sound_model_passes_every_check(module):
    images = image_set(500, 1000)
    result = run(module(), images, ALL)
    assert 0.2 < result.worst_case().value < 0.9
    found = believe(result, as_classifier(module(), normalisation=KNOWN), images, copies=[])
    assert [c.name for c in found] == list(CHECKS)
    assert {c.name: c.status for c in found if c.status is not PASS} == {}
    assert all(c.remedy == "" and c.finding.endswith(".") for c in found)


MISLEADING, HALFWAY = Misleading(), Misleading(everywhere=False)
ROUNDING, THROUGH = Rounding(4, straight_through=False), Rounding(4, straight_through=True)
HOT = Hot()

TRIPS = [
    ("black-box against white-box", MISLEADING, (*WHITE, SQUARE), FAIL),
    ("black-box against white-box", ROUNDING, (*WHITE, SQUARE), FAIL),
    ("iterative against single-step", HALFWAY, WHITE, FAIL),
    ("PGD against the worst case", HOT, (*WHITE, MARGIN), FAIL),
    ("a second attack against the worst case", HOT, WHITE, FAIL),
    ("random noise against the worst case", MISLEADING, (Planned(PGD(eps=NOISE_EPS, iterations=10)),), FAIL),
    ("progress of the gradient attacks", ROUNDING, WHITE, FAIL),
    ("strength with more steps", HALFWAY, WHITE, FAIL),
    ("strength with more steps", ROUNDING, WHITE, WARN),
    ("accuracy at a large eps", MISLEADING, WHITE, FAIL),
    ("size of the input gradients", ROUNDING, WHITE, FAIL),
    ("size of the input gradients", Rooted(), (), FAIL),
    ("size of the input gradients", Uneven(), (), WARN),
    ("gradients against finite differences", MISLEADING, WHITE, FAIL),
    ("gradients against finite differences", THROUGH, WHITE, FAIL),
    ("gradients against finite differences", ROUNDING, WHITE, FAIL),
    ("scores under tiny changes", Rounding(256, straight_through=True), WHITE, WARN),
    ("cross-entropy where the model is sure", HOT, WHITE, FAIL),
    ("logits, not probabilities", Probabilities(), (), FAIL),
    ("logits, not probabilities", Sigmoids(), (), WARN),
    ("same answer twice", Noisy(0.5), (), FAIL),
    ("answer independent of the batch", Sociable(), (), FAIL),
    ("labels and order of the classes", Renamed([0, 1, 2, 3, 4, 5, 6, 7, 9, 8]), (), FAIL),
    ("labels and order of the classes", Inverted(), (), FAIL),
    ("labels and order of the classes", Silent(), (), WARN),
    ("number of images", trained_cnn(), (), WARN),
]


@pytest.mark.parametrize(("name", "module", "attacks", "status"), TRIPS, ids=lambda x: type(x).__name__[:12])
def test_a_broken_model_trips_the_check_made_for_it(few, name, module, attacks, status):
    found = check(name, module, few, attacks)
    assert (found.name, found.status) == (name, status), found.finding
    assert found.remedy
    # The same check has nothing against the sound net in the same audit.
    sound = check(name, trained_cnn(), few, attacks)
    assert sound.status is PASS or name == "number of images", sound.finding


def test_every_check_can_trip():
    elsewhere = {"audited images in training", "normalisation", "scores that rank the classes"}
    assert {name for name, *_ in TRIPS} | elsewhere == set(CHECKS)


CIFAR = Normalisation("CIFAR-10", (0.49,), (0.25,), basis=Basis.FOUND)


@pytest.mark.parametrize(
    ("used", "status"),
    [
        (CIFAR, PASS),
        (replace(CIFAR, basis=Basis.GIVEN), PASS),
        (replace(CIFAR, basis=Basis.STATED), PASS),
        (replace(CIFAR, basis=Basis.INSIDE), PASS),
        (replace(CIFAR, basis=Basis.TRAINED), PASS),
        (replace(CIFAR, basis=None), SKIP),
        (replace(CIFAR, doubt=Doubt(Conflict.TIED, (Normalisation("other", (0.49,), (0.229,)),))), FAIL),
        (replace(CIFAR, doubt=Doubt(Conflict.TIED, (Normalisation("other", (0.6,), (0.25,)),))), FAIL),
        (replace(CIFAR, doubt=Doubt(Conflict.ACCURACY_AGAINST_LOSS, (replace(CIFAR, flip_channels=True),))), WARN),
    ],
)
def test_a_doubt_about_the_normalisation_fails_where_eps_would_mean_something_else(few, used, status):
    read = Normalisation.from_json(json.loads(json.dumps(used.to_json())))
    assert read == used
    result = run(trained_cnn(), few, ())
    evidence = Evidence.gather(result, as_classifier(trained_cnn(), normalisation=read), few, copies=())
    found = CHECKS["normalisation"](evidence)
    assert (found.name, found.status) == ("normalisation", status)
    assert (found.remedy == "") == (status is PASS)
    if used.doubt is not None:
        assert "--mean 0.49 --std 0.25" in found.remedy
        assert all(rival.name in found.finding for rival in used.doubt.rivals)


def test_findings_have_the_figures(few):
    result = run(MISLEADING, few, (*WHITE, SQUARE))
    found = CHECKS["black-box against white-box"](Evidence.gather(result, as_classifier(MISLEADING), few))
    beaten = int((result.survived(result.outcomes[1]) & ~result.standing()).sum())
    assert f"{beaten} of 150 images" in found.finding
    assert f"Square-80 {beaten}" in found.finding


def test_images_that_fell_to_a_black_box_first_are_not_held_against_gradients_that_never_had_them(few):
    first = Planned(Square(eps=EPS, queries=80))
    found = check("black-box against white-box", HOT, few, (first, FGSM_, MARGIN))
    assert found.status is WARN
    assert "before every gradient attack had them" in found.finding
    assert "come last" in found.remedy
    late = check("black-box against white-box", MISLEADING, few, (first, PGD_))
    assert late.status is FAIL


def test_where_one_step_fools_nearly_everything_nothing_is_compared(few):
    strong = (Planned(FGSM(eps=0.5)), Planned(PGD(eps=0.001, iterations=5)))
    assert run(trained_cnn(), few, strong).robust_accuracy(run(trained_cnn(), few, strong).outcomes[0]).value < 0.02
    found = check("iterative against single-step", trained_cnn(), few, strong)
    assert found.status is PASS
    assert "nothing to compare" in found.finding


def test_a_blind_cross_entropy_is_no_harm_where_an_attack_on_the_margin_was_run(few):
    found = check("cross-entropy where the model is sure", HOT, few, (*WHITE, MARGIN))
    assert found.status is PASS
    assert "do without the cross-entropy" in found.finding
    gradients = check("size of the input gradients", HOT, few, WHITE)
    assert gradients.status is PASS


def test_the_curve_is_used_where_it_goes_far_enough(few):
    result = run(trained_cnn(), few, WHITE)

    def large(*standing: int, eps: float) -> Check:
        curve = EpsCurve("APGD", "linf", (0.0, 0.1, eps), standing, 150)
        evidence = Evidence.gather(replace(result, curve=curve), as_classifier(trained_cnn()), few)
        return CHECKS["accuracy at a large eps"](evidence)

    assert large(149, 80, 60, eps=0.5).status is FAIL
    assert large(149, 80, 15, eps=0.5).status is WARN
    assert large(149, 80, 0, eps=0.3).status is PASS
    # Too short a curve says nothing: the check attacks for itself.
    short = large(149, 80, 60, eps=0.3)
    assert short.status is PASS
    assert "APGD" in short.finding


def test_logarithms_of_probabilities_are_logits(few):
    class Logarithms(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return trained_cnn()(images).log_softmax(dim=1)

    assert check("logits, not probabilities", Logarithms(), few, ()).status is PASS


def test_randomness_says_how_many_repeats_it_takes(few):
    sound = randomness(as_classifier(trained_cnn()), few)
    assert (sound.spread, sound.changed, sound.repeats, sound.random) == (0.0, 0.0, 1, False)
    rounding = randomness(as_classifier(Noisy(1e-5)), few)
    assert rounding.spread > 0
    assert not rounding.random
    little, much = (randomness(as_classifier(Noisy(size)), few) for size in (0.3, 5.0))
    # Noise of size s on each of two scores, over a margin that is typically about 9.
    assert 0.3 * 2**0.5 / 14 < little.spread < 0.3 * 2**0.5 / 5
    assert little.repeats == 10
    assert much.repeats == 40
    assert much.changed > little.changed


def test_a_random_model_that_the_audit_averaged_is_a_warning(few):
    found = check("same answer twice", Noisy(0.5), few, (), repeats=10)
    assert found.status is WARN
    assert "mean of 10 passes" in found.finding
    for name in ("gradients against finite differences", "scores under tiny changes"):
        assert check(name, Noisy(0.5), few, ()).status is SKIP


def test_swapped_classes_are_named_and_a_wrong_normalisation_is_not_called_a_swap(few):
    swapped = check("labels and order of the classes", Renamed([0, 1, 2, 3, 4, 5, 6, 7, 9, 8]), few, ())
    assert "8 means 9" in swapped.finding
    assert "--class-map" in swapped.remedy
    inverted = check("labels and order of the classes", Inverted(), few, ())
    assert "no better than chance" in inverted.finding
    assert "--mean" in inverted.remedy
    silent = check("labels and order of the classes", Silent(), few, ())
    assert "9" in silent.finding


def test_a_weak_model_on_many_classes_does_not_look_renamed(few):
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), 5)
    right = generator.random(500) < 0.2
    guesses = np.where(right, labels, generator.integers(0, 100, 500))
    result = replace(
        run(trained_cnn(), few, ()),
        classes=tuple(map(str, range(100))),
        labels=labels,
        clean_predictions=guesses,
        files=(),
    )
    evidence = replace(Evidence.gather(run(trained_cnn(), few, ()), as_classifier(trained_cnn()), few), result=result)
    assert CHECKS["labels and order of the classes"](evidence).status is PASS


@pytest.mark.parametrize(("copies", "status"), [(None, SKIP), (0, PASS), (2, WARN), (4, FAIL)])
def test_copies_in_training(few, copies, status):
    pairs = None if copies is None else [(f"train/{i}.png", f"{i}.png") for i in range(copies)]
    result = run(trained_cnn(), few, ())
    evidence = Evidence.gather(result, as_classifier(trained_cnn()), few, copies=pairs and tuple(pairs))
    evidence = replace(evidence, copies=None if pairs is None else tuple(pairs))
    found = CHECKS["audited images in training"](evidence)
    assert found.status is status
    if copies:
        assert f"{copies} of 150" in found.finding
        assert "0.png = train/0.png" in found.finding


def test_few_images_and_missing_classes():
    def told(images: ImageSet) -> Check:
        result = run(trained_cnn(), images, ())
        return CHECKS["number of images"](Evidence.gather(result, as_classifier(trained_cnn()), images))

    assert told(image_set(1500, 60)).status is WARN
    everyone = image_set(0, 1797)
    assert told(everyone).status is PASS
    some = everyone.subset(torch.nonzero(everyone.labels != 7).squeeze(1))
    assert told(some).status is WARN
    assert "No image of 7" in told(some).finding


def test_the_width_of_the_interval_is_judged_not_the_number_of_images():
    base = run(trained_cnn(), image_set(1500, 60), ())

    def told(total: int, standing: int) -> Check:
        labels = np.zeros(total, dtype=np.int64)
        result = replace(base, classes=("a",), labels=labels, clean_predictions=np.arange(total) // standing)
        return CHECKS["number of images"](Evidence(result, None, None, None, None))

    found = {(total, standing): told(total, standing) for total in (60, 100, 400, 3000) for standing in (total, 45)}
    widths = {}
    for pair, check in found.items():
        interval = wilson(pair[1], pair[0])
        widths[pair] = interval.high - interval.low
        assert f"{50 * widths[pair]:.1f} points either way" in check.finding
        assert check.status in (PASS, WARN)
        assert not check.concerns_figure
    assert found[60, 60].status is PASS
    assert found[100, 45].status is WARN
    widest = max(widths[pair] for pair in found if found[pair].status is PASS)
    assert widest < min(widths[pair] for pair in found if found[pair].status is WARN)


@pytest.mark.parametrize("module", [trained_cnn, robust_cnn])
@pytest.mark.parametrize("eps", [0.02, 0.005, 0.0005])
def test_one_step_is_enough_in_a_small_ball(module, eps):
    images = image_set(500, 1000)
    plan = (Planned(FGSM(eps=eps)), Planned(PGD(eps=eps, iterations=20)))
    result = run(module(), images, plan)
    found = believe(result, as_classifier(module()), images, copies=[])
    assert {c.name: c.finding for c in found if c.status in (WARN, FAIL)} == {}


def test_as_many_fooled_is_no_doubt_where_the_margins_fall_as_far():
    total = 200
    base = run(trained_cnn(), image_set(1500, 60), (FGSM_, PGD_))
    margins = np.full(total, 4.0, dtype=np.float32)
    fooled = np.arange(total) < 60

    def told(many: float) -> Check:
        outcomes = tuple(
            replace(
                outcome,
                predictions=np.where(fooled, 1, 0),
                margins=np.where(fooled, -1, 4 - fall).astype(np.float32),
                attacked=np.ones(total, dtype=bool),
                backwards=steps * total,
            )
            for outcome, fall, steps in zip(base.outcomes, (2.0, many), (1, 20), strict=True)
        )
        labels = np.zeros(total, dtype=np.int64)
        result = replace(base, labels=labels, clean_predictions=labels, clean_margins=margins, outcomes=outcomes)
        return CHECKS["iterative against single-step"](Evidence(result, None, None, None, None))

    assert told(2.5).status is PASS
    assert told(2.0).status is PASS
    assert told(1.99).status is PASS
    masked = told(1.0)
    assert masked.status is WARN
    assert "50.0 % of what one step does" in masked.finding


@pytest.mark.parametrize("factor", [1e-3, 1e3])
@pytest.mark.parametrize(
    "module",
    [trained_cnn(), robust_cnn(), MISLEADING, HALFWAY, ROUNDING, THROUGH, Rounding(256, straight_through=True)],
    ids=lambda module: type(module).__name__,
)
def test_the_scale_of_the_scores_changes_no_verdict(few, module, factor):
    def scaled(result: AuditResult) -> AuditResult:
        outcomes = tuple(replace(o, margins=(factor * o.margins).astype(np.float32)) for o in result.outcomes)
        return replace(result, outcomes=outcomes, clean_margins=(factor * result.clean_margins).astype(np.float32))

    result = run(module, few, ALL)
    before = {c.name: c.status for c in believe(result, as_classifier(module), few, copies=[])}
    larger = as_classifier(Hot(factor, module))
    assert {c.name: c.status for c in believe(scaled(result), larger, few, copies=[])} == before


def test_small_positive_logits_are_not_taken_for_sigmoids(few):
    class Positive(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return trained_cnn()(images).relu()

    for factor in (1.0, 1e-3):
        assert check("logits, not probabilities", Hot(factor, Positive()), few, ()).status is PASS


def test_an_audit_without_attacks_is_checked_as_far_as_it_goes(few):
    found = believe(run(trained_cnn(), few, ()), as_classifier(trained_cnn()), few)
    told = {c.name: c.status for c in found}
    assert told["black-box against white-box"] is SKIP
    assert told["strength with more steps"] is SKIP
    assert told["size of the input gradients"] is PASS
    assert told["accuracy at a large eps"] is PASS
    assert all(c.remedy for c in found if c.status in (WARN, FAIL))


def test_a_black_box_is_never_asked_for_gradients(few):
    program = Program("net", "function", lambda images: trained_cnn()(images), "net")
    plain = Normalisation("none", (0.0,), (1.0,))
    box = BlackBox(program, normalisation=plain, classes=DIGITS, input_size=(1, 8, 8), probabilities=False)
    result = audit(box, few, (Planned(Square(eps=EPS, queries=200)),), model="box", dataset="digits", exposures={})
    told = {c.name: c.status for c in believe(result, box, few)}
    assert {FAIL} & set(told.values()) == set()
    assert told["size of the input gradients"] is SKIP
    assert told["black-box against white-box"] is SKIP
    assert told["accuracy at a large eps"] is PASS
    assert told["scores under tiny changes"] is PASS
    assert randomness(box, few).repeats == 1


@pytest.mark.parametrize(("norm", "eps"), [(Norm.L2, 0.6), (Norm.L1, 2.0)])
def test_other_norms_are_probed_in_their_own_ball(few, norm, eps):
    attack = APGD(eps=eps, norm=norm, iterations=20)
    result = run(trained_cnn(), few, (Planned(attack),))
    assert 0.1 < result.worst_case().value < 0.9
    found = believe(result, as_classifier(trained_cnn()), few)
    assert [c.name for c in found if c.status in (WARN, FAIL)] == ["number of images"]


def test_probes_take_no_more_passes_than_they_say(few):
    result = run(trained_cnn(), few, WHITE)
    counting = Counting(trained_cnn())
    believe(result, as_classifier(counting), few)
    # Of the 270 passes that are promised for each image, 110 are backward.
    assert 100 * PROBED < counting.images <= 160 * PROBED


def test_modes_and_flags_come_back_and_the_same_audit_gives_the_same_checks(few):
    classifier = as_classifier(copy.deepcopy(trained_cnn()))
    result = run(trained_cnn(), few, WHITE)
    classifier.train()
    flags = [p.requires_grad for p in classifier.parameters()]
    first = believe(result, classifier, few, seed=3)
    assert classifier.training
    assert classifier.module.training
    assert [p.requires_grad for p in classifier.parameters()] == flags
    assert all(p.grad is None for p in classifier.parameters())
    assert believe(result, classifier, few, seed=3) == first


def test_progress_can_stop_it_and_other_images_are_refused(few):
    result = run(trained_cnn(), few, ())

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        believe(result, as_classifier(trained_cnn()), few, progress=stop)
    with pytest.raises(ValueError, match="not of these images"):
        believe(result, as_classifier(trained_cnn()), image_set(0, 150))
