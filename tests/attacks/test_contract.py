"""What every entry of ATTACKS and CRAFTERS must keep to, whatever it computes."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from harden.access import Access
from harden.attacks import (
    ATTACKS,
    CRAFTERS,
    FGSM,
    GRADIENT_ATTACKS,
    MIM,
    NFGSM,
    PGD,
    PRESETS,
    RFGSM,
    Attack,
    Norm,
    Passes,
    attack_names,
    craft,
    frozen,
    run_attack,
)
from harden.errors import DataError, ModelError, UsageError

from .nets import cnn, gen, modal


def few_steps(make):
    """The attack with a small budget: the contract is about every step, not about how many there are."""

    def made(eps):
        attack = make(eps)
        budgets = {"queries": 60, "iterations": 7, "screening": 3}
        small = {name: min(v, getattr(attack, name)) for name, v in budgets.items() if hasattr(attack, name)}
        return dataclasses.replace(attack, **small)

    return made


STEPPING = {
    **{f"attack:{name}": make for name, make in GRADIENT_ATTACKS.items()},
    **{f"crafter:{name}": make for name, make in CRAFTERS.items()},
}
EVERYTHING = {**{f"attack:{name}": make for name, make in ATTACKS.items()}, **STEPPING}
everything = pytest.mark.parametrize("make", EVERYTHING.values(), ids=EVERYTHING.keys())
every = pytest.mark.parametrize("make", STEPPING.values(), ids=STEPPING.keys())
every_attack = pytest.mark.parametrize("make", list(map(few_steps, ATTACKS.values())), ids=ATTACKS.keys())


def batch(n=5, c=3, h=6, w=6, classes=4, seed=1):
    g = gen(seed)
    return torch.rand(n, c, h, w, generator=g), torch.randint(classes, (n,), generator=g)


@everything
def test_is_a_frozen_dataclass_that_takes_keywords_only(make):
    attack = make(0.1)
    assert dataclasses.is_dataclass(attack)
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.eps = 0.2
    with pytest.raises(TypeError):
        type(attack)(0.1)
    assert all(p.kind is not p.VAR_KEYWORD for p in inspect.signature(type(attack)).parameters.values())


@everything
@pytest.mark.parametrize("eps", [8 / 255, 0.1])
def test_definition_states_norm_and_eps(make, eps):
    attack = make(eps)
    assert attack.eps == eps
    assert f"l_inf eps {eps:.6g}" in attack.definition
    assert attack.name
    assert attack.passes > 0
    for name, word in (("iterations", "steps"), ("queries", "queries"), ("tries", "restarts")):
        if getattr(attack, name, 1) > 1:
            assert f"{getattr(attack, name)} {word}" in attack.definition


def test_names_and_definitions_tell_the_attacks_apart():
    attacks = [make(0.1) for make in ATTACKS.values()]
    assert len({a.name for a in attacks}) == len(attacks)
    assert len({a.definition for a in attacks}) == len(attacks)


def test_every_attack_of_the_audit_stays_in_its_ball_and_only_nfgsm_does_not():
    assert all(make(0.1).stays_in_ball for make in GRADIENT_ATTACKS.values())
    assert [name for name, make in CRAFTERS.items() if not make(0.1).stays_in_ball] == ["nfgsm"]


@pytest.mark.parametrize("eps", [-0.1, 1.5, float("nan"), 8.0])
@everything
def test_an_eps_off_the_scale_is_refused(make, eps):
    with pytest.raises(ValueError, match=r"\[0, 1\] scale"):
        make(eps)


@every
@settings(max_examples=12, deadline=None)
@given(
    eps=st.floats(0.0, 1.0),
    n=st.integers(1, 4),
    c=st.sampled_from([1, 3]),
    h=st.integers(3, 7),
    w=st.integers(3, 7),
    seed=st.integers(0, 2**31),
)
def test_crafted_examples_stay_in_the_ball_and_in_0_1(make, eps, n, c, h, w, seed):
    attack = make(eps)
    images, labels = batch(n, c, h, w, seed=seed)
    images = images.mul(1.4).sub(0.2).clamp(0, 1)  # many pixels at the very ends
    examples = craft(attack, modal(seed % 7, channels=c), images, labels, generator=gen(seed))
    assert examples.shape == images.shape
    assert examples.dtype == images.dtype
    assert not examples.requires_grad
    assert examples.min() >= 0
    assert examples.max() <= 1
    radius = eps if attack.stays_in_ball else 3 * eps
    assert (examples - images).abs().max() <= radius + 1e-6


@every_attack
@settings(max_examples=12, deadline=None)
@given(eps=st.floats(0.0, 1.0), n=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_kept_examples_stay_in_the_ball_and_are_what_is_said_of_them(make, eps, n, seed):
    images, labels = batch(n, seed=seed)
    model = modal(seed % 7)
    found = run_attack(make(eps), model, images, labels, generator=gen(seed))
    assert (found.images - images).abs().max() <= eps + 1e-6
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    with frozen(model), torch.no_grad():
        scores = model(found.images)
    rivals = scores.clone()
    rivals[torch.arange(n), labels] = -torch.inf
    torch.testing.assert_close(found.margins, scores[torch.arange(n), labels] - rivals.amax(1), atol=1e-5, rtol=1e-4)
    assert torch.equal(found.margins < 0, found.predictions != labels)


def test_nfgsm_does_leave_the_ball_but_not_0_1():
    images, labels = batch(8)
    examples = craft(NFGSM(eps=0.1), modal(), images, labels, generator=gen())
    assert (examples - images).abs().max() > 0.2
    assert examples.min() >= 0
    assert examples.max() <= 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Escaping(Attack):
    """Asks about one point, which lies `shift` beside the clean image."""

    norms = tuple(Norm)
    name = definition = "escaping"
    passes = 1

    shift: float

    def pursue(self, oracle, generator):
        rows = oracle.standing()
        oracle.ask(oracle.ball.clean[rows] + self.shift, rows)


@pytest.mark.parametrize(
    ("norm", "eps", "shift", "start"),
    [
        (Norm.LINF, 0.1, 0.101, 0.5),
        (Norm.LINF, 0.1, -0.101, 0.5),
        (Norm.L2, 0.1, 0.1001 / 12**0.5, 0.5),
        (Norm.L1, 0.1, 0.1001 / 12, 0.5),
        (Norm.LINF, 0.1, -0.05, 0.04),
        (Norm.LINF, 0.1, 0.05, 0.96),
    ],
)
def test_an_attack_that_leaves_its_ball_or_0_1_is_caught(norm, eps, shift, start):
    def scores(images):
        return torch.stack([torch.full((len(images),), 0.1), torch.zeros(len(images))], dim=1)

    def run(shift):
        attack = Escaping(eps=eps, norm=norm, shift=shift)
        images = torch.full((2, 3, 2, 2), start)
        return run_attack(attack, scores, images, torch.zeros(2, dtype=torch.int64), generator=gen())

    with pytest.raises(RuntimeError, match="left its ball"):
        run(shift)
    assert run(0.7 * shift if start == 0.5 else 0.0).margins.amin() > 0


def test_run_attack_refuses_a_crafter_that_leaves_the_ball():
    images, labels = batch()
    with pytest.raises(ValueError, match="leaves the eps-ball"):
        run_attack(NFGSM(eps=0.1), modal(), images, labels, generator=gen())


def _snapshot(model):
    return (
        {name: m.training for name, m in model.named_modules()},
        {name: p.requires_grad for name, p in model.named_parameters()},
        {name: value.clone() for name, value in model.state_dict().items()},
    )


def _assert_untouched(model, before):
    modes, flags, state = _snapshot(model)
    assert modes == before[0]
    assert flags == before[1]
    assert all(torch.equal(state[k], before[2][k]) for k in state)
    assert all(p.grad is None for p in model.parameters())


def _through_craft(attack, model, images, labels):
    craft(attack, model, images, labels, generator=gen())


def _through_run_attack(attack, model, images, labels):
    run_attack(attack, model, images, labels, generator=gen())


@pytest.mark.parametrize(
    ("way", "make"),
    [(_through_craft, make) for make in STEPPING.values()]
    + [(_through_run_attack, few_steps(make)) for make in ATTACKS.values()],
)
def test_the_model_the_images_and_the_global_rng_are_left_as_they_were(make, way):
    attack = make(0.2)
    model = modal()
    images, labels = batch()
    kept_images, kept_labels = images.clone(), labels.clone()
    before, rng = _snapshot(model), torch.get_rng_state()
    assert len(set(before[0].values())) == 2  # modes do differ between modules
    assert len(set(before[1].values())) == 2  # and flags between parameters
    way(attack, model, images, labels)
    _assert_untouched(model, before)
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(images, kept_images)
    assert torch.equal(labels, kept_labels)
    assert images.grad is None


@pytest.mark.parametrize("way", [_through_craft, _through_run_attack])
def test_the_model_is_left_as_it_was_after_an_error_inside_it(way):
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("inside")

    model = modal()
    model.head = nn.Sequential(model.head, Fails())
    before = _snapshot(model)
    with pytest.raises(RuntimeError, match="inside"):
        way(FGSM(eps=0.1), model, *batch())
    _assert_untouched(model, before)


def test_gradients_gathered_before_are_kept():
    model = modal()
    images, labels = batch()
    model(images).sum().backward()
    before = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    craft(PGD(eps=0.1, iterations=2), model, images, labels, generator=gen())
    after = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)


@pytest.mark.parametrize("way", [_through_craft, _through_run_attack])
def test_dropout_is_off_while_attacking(way):
    seen = []
    model = modal()
    model.drop.register_forward_hook(lambda m, i, o: seen.append(m.training))
    way(PGD(eps=0.1, iterations=2), model, *batch())
    assert seen
    assert not any(seen)


@every
def test_works_where_the_caller_has_switched_gradients_off(make):
    images, labels = batch()
    model = modal()
    with torch.no_grad():
        off = craft(make(0.2), model, images, labels, generator=gen(3))
    assert torch.equal(off, craft(make(0.2), model, images, labels, generator=gen(3)))


@every
def test_the_same_generator_gives_the_same_examples_and_another_seed_other_noise(make):
    attack, model = make(0.2), modal()
    images, labels = batch()

    def run(seed):
        return craft(attack, model, images, labels, generator=gen(seed))

    assert torch.equal(run(5), run(5))
    starts_at_random = not torch.equal(attack.begin(images, gen(1))[0], images)
    if starts_at_random:
        assert not torch.equal(attack.begin(images, gen(1))[0], attack.begin(images, gen(2))[0])
    else:
        assert torch.equal(run(5), run(6))


@every_attack
def test_run_attack_is_repeatable(make):
    images, labels = batch()
    model = modal()
    one, two = (run_attack(make(0.05), model, images, labels, generator=gen(9)) for _ in range(2))
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.margins, two.margins)
    assert torch.equal(one.predictions, two.predictions)


@pytest.mark.parametrize("spoil", [-0.01, 1.01, 255.0, float("nan"), float("inf")])
def test_images_outside_0_1_are_refused(spoil):
    images, labels = batch()
    images[2, 1, 3, 3] = spoil
    with pytest.raises(DataError, match="in \\[0, 1\\]"):
        run_attack(FGSM(eps=0.1), modal(), images, labels, generator=gen())


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 6, 6, dtype=torch.uint8), torch.zeros(2, 3, 6)])
def test_images_of_the_wrong_kind_are_refused(images):
    with pytest.raises(DataError, match="float in"):
        run_attack(FGSM(eps=0.1), modal(), images, torch.zeros(2, dtype=torch.int64), generator=gen())


@every_attack
def test_an_empty_batch_is_no_error(make):
    passes = Passes()
    found = run_attack(
        make(0.1),
        modal(),
        torch.zeros(0, 3, 6, 6),
        torch.zeros(0, dtype=torch.int64),
        generator=gen(),
        passes=passes,
    )
    assert found.images.shape == (0, 3, 6, 6)
    assert (passes.forwards, passes.backwards) == (0, 0)


@every_attack
def test_eps_zero_moves_nothing(make):
    images, labels = batch()
    assert torch.equal(run_attack(make(0.0), modal(), images, labels, generator=gen()).images, images)


@pytest.mark.parametrize(
    "arguments",
    [
        {"iterations": 0},
        {"iterations": 5, "tries": 0},
        {"iterations": 5, "relative_step": 0.0},
        {"iterations": 5, "tries": 2},  # without a random start it would repeat itself
    ],
)
def test_pgd_refuses_what_cannot_work(arguments):
    with pytest.raises(ValueError, match=r"PGD|restarts"):
        PGD(eps=0.1, **arguments)


def test_presets_name_attacks_and_unknown_names_are_refused():
    assert all(name in ATTACKS for preset in PRESETS.values() for name in (*preset.every, *preset.ensemble))
    every = (("fgsm", False), ("pgd-20", False), ("mim", False))
    assert attack_names(["fast", "mim", "fgsm"]) == (*every, ("apgd-t", True))
    assert ("apgd-t", False) in attack_names(["fast", "apgd-t"])  # named itself: on every image
    assert ("square", True) in attack_names(["standard"])
    with pytest.raises(UsageError, match=r"pgd-21.*did you mean 'pgd-2"):
        attack_names(["fast", "pgd-21"])


def test_the_table_holds_the_conventions_of_the_paper():
    assert ATTACKS["pgd-20"](0.1) == PGD(eps=0.1, iterations=20, relative_step=0.1, random_start=False)
    assert ATTACKS["pgd-40"](0.1) == PGD(eps=0.1, iterations=40, relative_step=0.1, random_start=False)
    assert ATTACKS["mim"](0.1) == MIM(eps=0.1, iterations=10, relative_step=0.2, decay=1.0)
    assert RFGSM(eps=0.1).alpha == 0.05
    assert CRAFTERS["nfgsm"](0.1) == NFGSM(eps=0.1, noise=2.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_attack
def test_a_model_that_answers_in_half_precision_can_be_attacked(make, dtype):
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = cnn(3, 4)

        def forward(self, images):
            return self.inner(images).to(dtype)

    images, labels = batch(4, 3, 8, 8)
    found = run_attack(make(0.1), Half(), images, labels, generator=gen())
    assert found.margins.dtype == torch.float32
    assert torch.equal(found.margins < 0, found.predictions != labels)


@pytest.mark.parametrize("make", [few_steps(make) for make in ATTACKS.values() if make(0.1).access is Access.GRADIENTS])
def test_scores_without_a_gradient_are_an_error_that_names_the_way_out(make):
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = cnn(3, 4)

        def forward(self, images):
            return self.inner(images).detach()

    net, (images, _) = Detached(), batch(4, 3, 8, 8)
    with pytest.raises(ModelError, match="no gradient") as caught:
        run_attack(make(0.1), net, images, net(images).argmax(1), generator=gen())
    assert "square-5000" in caught.value.hint
