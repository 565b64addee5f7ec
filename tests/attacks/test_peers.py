"""The attacks against independent ones with equal parameters: torchattacks, the official AutoAttack, ART, foolbox.

The official code is on PyPI as `pyautoattack`. Of these only torchattacks is a dependency of development: without the
others (`pip install '.[peers]'`), their tests are left out.
"""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torchattacks

from harden.attacks import APGD, FAB, FGSM, MIM, PGD, Norm, Objective, Square, craft, run_attack

from .nets import gen, held_out, trained_cnn

COUNT = 120
NOISE = 4
"""Images of 120 that a verdict may differ by: random starts differ, and few images lie at the very boundary."""
RADII = {Norm.LINF: 0.12, Norm.L2: 0.6, Norm.L1: 1.5}
THEIRS = {Norm.LINF: "Linf", Norm.L2: "L2", Norm.L1: "L1"}
norms = pytest.mark.parametrize("norm", list(RADII))


@pytest.fixture(scope="module")
def batch(net):
    return held_out(COUNT)


def standing(attack, batch, seed=0):
    return int((run_attack(attack, trained_cnn(), *batch, generator=gen(seed)).margins >= 0).sum())


def withstood(adversarial, batch):
    with torch.no_grad():
        return int((trained_cnn()(adversarial).argmax(1) == batch[1]).sum())


def perturbed(peer, batch):
    """What a peer makes of the batch; it seeds the global generator and warns of zero gradients."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return withstood(peer.perturb(batch[0].clone(), batch[1].clone()), batch)


@norms
@pytest.mark.parametrize("objective", [Objective.CROSS_ENTROPY, Objective.DLR])
def test_apgd_is_as_strong_as_the_official_one(norm, objective, batch):
    official = pytest.importorskip("pyautoattack.autopgd_base")
    peer = official.APGDAttack(
        trained_cnn(),
        norm=THEIRS[norm],
        eps=RADII[norm],
        n_iter=20,
        loss="ce" if objective is Objective.CROSS_ENTROPY else "dlr",
        device="cpu",
    )
    ours = standing(APGD(norm=norm, eps=RADII[norm], iterations=20, raises=objective), batch)
    assert abs(ours - perturbed(peer, batch)) <= NOISE
    assert 20 < ours < 100  # neither all nor none: the radius tells attacks apart


def test_apgd_through_wider_balls_is_as_strong_as_the_official_one(batch):
    official = pytest.importorskip("pyautoattack.autopgd_base")
    eps = RADII[Norm.L1]
    peer = official.APGDAttack(trained_cnn(), norm="L1", eps=eps, n_iter=30, device="cpu", use_largereps=True)
    assert standing(APGD(norm=Norm.L1, eps=eps, iterations=30, wide=True), batch) <= perturbed(peer, batch) + NOISE


@norms
def test_targeted_apgd_is_as_strong_as_the_official_one(norm, batch):
    official = pytest.importorskip("pyautoattack.autopgd_base")
    settings = {"norm": THEIRS[norm], "eps": RADII[norm], "n_iter": 10, "n_target_classes": 4, "device": "cpu"}
    peer = official.APGDAttack_targeted(trained_cnn(), **settings)
    ours = APGD(norm=norm, eps=RADII[norm], iterations=10, raises=Objective.DLR, targets=4, finalists=4)
    assert abs(standing(ours, batch) - perturbed(peer, batch)) <= NOISE


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_apgd_is_as_strong_as_that_of_torchattacks(norm, batch):
    peer = torchattacks.APGD(trained_cnn(), norm=THEIRS[norm], eps=RADII[norm], steps=20, seed=0)
    with torch.random.fork_rng():
        theirs = withstood(peer(*batch), batch)
    assert abs(standing(APGD(norm=norm, eps=RADII[norm], iterations=20), batch) - theirs) <= NOISE


@norms
def test_fab_finds_perturbations_as_small_as_the_official_one(norm, batch):
    """Both start at the clean image and draw nothing at random, so image for image the distances agree."""
    official = pytest.importorskip("pyautoattack.fab_pt")
    images, labels = batch
    peer = official.FABAttack_PT(
        trained_cnn(), norm=THEIRS[norm], eps=0.0, n_iter=15, targeted=True, device="cpu", n_target_classes=3
    )
    theirs = torch.full((COUNT,), torch.inf)
    for peer.target_class in range(2, 5):
        adversarial = peer.attack_single_run(images.clone(), labels.clone(), is_targeted=True)
        with torch.no_grad():
            fooled = trained_cnn()(adversarial).argmax(1) != labels
        theirs = torch.where(fooled, theirs.minimum(norm.of(adversarial - images)), theirs)
    attack = FAB(eps=0.0, norm=norm, iterations=15, targets=3, finalists=3)
    ours = run_attack(attack, trained_cnn(), images, labels, generator=gen()).closest
    assert ours.isfinite().all()
    assert ours.median() <= 1.01 * theirs.median()
    assert (ours > 1.05 * theirs).float().mean() <= 0.03


def test_fab_finds_perturbations_as_small_as_that_of_torchattacks(batch):
    """torchattacks' FAB keeps only what lies within eps, here large enough for all."""
    images, labels = batch
    peer = torchattacks.FAB(
        trained_cnn(), norm="Linf", eps=0.5, steps=15, n_restarts=1, multi_targeted=True, n_classes=10, seed=0
    )
    with torch.random.fork_rng():
        adversarial = peer(images, labels)
    assert withstood(adversarial, batch) == 0
    theirs = Norm.LINF.of(adversarial - images)
    attack = FAB(eps=0.0, iterations=15, targets=9, finalists=9)
    ours = run_attack(attack, trained_cnn(), images, labels, generator=gen()).closest
    assert ours.median() <= 1.01 * theirs.median()


@pytest.mark.parametrize(("norm", "eps"), [(Norm.LINF, 0.12), (Norm.L2, 0.8), (Norm.L1, 4.0)])
def test_square_is_as_strong_as_the_official_one_at_equal_queries(norm, eps, batch):
    """Ours draws signs for every image, not once for the batch, and reaches the last row and column."""
    official = pytest.importorskip("pyautoattack.square")
    queries = 250
    settings = {"norm": THEIRS[norm], "eps": eps, "n_queries": queries, "resc_schedule": True, "device": "cpu"}
    theirs = [perturbed(official.SquareAttack(trained_cnn(), seed=seed, **settings), batch) for seed in range(2)]
    ours = [standing(Square(eps=eps, norm=norm, queries=queries), batch, seed) for seed in range(2)]
    assert sum(ours) <= sum(theirs) + 2 * NOISE


def test_square_is_as_strong_as_that_of_torchattacks_at_equal_queries(batch):
    peer = torchattacks.Square(trained_cnn(), norm="Linf", eps=0.12, n_queries=300, seed=0)
    with torch.random.fork_rng():
        theirs = withstood(peer(*batch), batch)
    assert standing(Square(eps=0.12, queries=300), batch) <= theirs + NOISE


@pytest.mark.parametrize("classes", [3, 4, 10])
def test_the_ratio_is_the_official_one(classes):
    official = pytest.importorskip("pyautoattack.autopgd_base")
    scores = torch.randn(50, classes, generator=gen())
    labels = torch.randint(classes, (50,), generator=gen(1))
    targets = (labels + torch.randint(1, classes, (50,), generator=gen(2))) % classes
    peer = official.APGDAttack_targeted(None, eps=0.1, device="cpu")
    torch.testing.assert_close(Objective.DLR.of(scores, labels), peer.dlr_loss(scores, labels))
    if classes > 3:
        peer.y_target = targets
        torch.testing.assert_close(Objective.DLR.of(scores, labels, targets), peer.dlr_loss_targeted(scores, labels))


# -- ART and foolbox: the same steps, image for image ------------------------------------------------------------------


EPS = 0.1
STEPS = [
    pytest.param(FGSM(eps=EPS), "fgsm", id="FGSM"),
    pytest.param(PGD(eps=EPS, iterations=20), "pgd", id="PGD-20"),
    pytest.param(MIM(eps=EPS), "mim", id="MIM"),
]


def frozen_copy():
    """A network of its own: these libraries switch modes and flags and do not put them back."""
    return copy.deepcopy(trained_cnn())


def same_pixels(ours, theirs):
    """All but one pixel of a thousand, where the gradient is zero but for rounding."""
    return float((ours - theirs).abs().gt(1e-5).float().mean()) <= 1e-3


@pytest.mark.parametrize(("attack", "kind"), STEPS)
def test_steps_are_those_of_art(attack, kind, batch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evasion = pytest.importorskip("art.attacks.evasion")
        from art.estimators.classification import PyTorchClassifier

        model = PyTorchClassifier(
            frozen_copy(),
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=(1, 8, 8),
            nb_classes=10,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        peer = {
            "fgsm": lambda: evasion.FastGradientMethod(model, eps=EPS, batch_size=COUNT),
            "pgd": lambda: evasion.ProjectedGradientDescent(
                model, eps=EPS, eps_step=EPS / 10, max_iter=20, batch_size=COUNT, verbose=False
            ),
            "mim": lambda: evasion.MomentumIterativeMethod(
                model, eps=EPS, eps_step=EPS / 5, max_iter=10, decay=1.0, batch_size=COUNT, verbose=False
            ),
        }[kind]()
        theirs = torch.from_numpy(peer.generate(x=batch[0].numpy(), y=batch[1].numpy()))
    assert same_pixels(craft(attack, trained_cnn(), *batch, generator=gen()), theirs)


@pytest.mark.parametrize(("attack", "kind"), STEPS[:2])
def test_steps_are_those_of_foolbox(attack, kind, batch):
    """Its momentum attack accumulates signs, which is another attack."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        foolbox = pytest.importorskip("foolbox")
        model = foolbox.PyTorchModel(frozen_copy().eval(), bounds=(0, 1), device="cpu")
        peer = {
            "fgsm": lambda: foolbox.attacks.LinfFastGradientAttack(random_start=False),
            "pgd": lambda: foolbox.attacks.LinfPGD(rel_stepsize=0.1, steps=20, random_start=False),
        }[kind]()
        _, theirs, _ = peer(model, *batch, epsilons=EPS)
    assert same_pixels(craft(attack, trained_cnn(), *batch, generator=gen()), theirs)
