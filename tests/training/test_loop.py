"""The trainer on scikit-learn's digits: real network, real attacks, a few seconds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from harden.attacks import GradientAttack
from harden.data import ImageSet
from harden.defences import DEFENCES, Craft, Defence, DefenceContext, DefenceSettings, StepLoss
from harden.defences.sat import SAT
from harden.errors import Interrupted, TrainingError, UsageError
from harden.models.classifier import Classifier, Normalisation
from harden.models.origin import Origin
from harden.models.tap import Tap
from harden.training import evaluate, loop, selection
from harden.training.batches import parts_of
from harden.training.canary import Vitals
from harden.training.evaluate import predictions, source_accuracy, standing_after
from harden.training.freezing import resting_modules
from harden.training.history import EpochRecord, History
from harden.training.loop import Trained, Trainer, TrainingSettings

EPS = 0.1


class Ears:
    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.records: list[EpochRecord] = []
        self.notes: list[str] = []

    def step(self, done: int, total: int) -> None:
        self.steps.append((done, total))

    def epoch(self, record: EpochRecord, history: History) -> None:
        assert history.epochs[-1] is record
        self.records.append(record)

    def note(self, text: str) -> None:
        self.notes.append(text)


def digits(start: int, stop: int) -> ImageSet:
    data = load_digits()
    images = torch.tensor(data.images * 255 / 16).round().to(torch.uint8)[start:stop, None]
    return ImageSet(images, torch.tensor(data.target[start:stop]), tuple(f"d{i}" for i in range(start, stop)))


TRAIN, VAL = digits(0, 410), digits(1000, 1120)


def net() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(192, 32),
            nn.ReLU(),
            nn.Linear(32, 10),
        )
    return of_digits(module)


def of_digits(module: nn.Module) -> Classifier:
    """A network for gray images of 8 x 8 pixels."""
    return Classifier(
        module,
        normalisation=Normalisation("own", (0.3,), (0.38,)),
        classes=tuple("0123456789"),
        input_size=(1, 8, 8),
        origin=Origin("factory", "tests:net"),
    )


def settings(**changes: Any) -> TrainingSettings:
    base: dict[str, Any] = {
        "epochs": 3,
        "batch_size": 40,
        "lr": 5e-3,
        "eps": EPS,
        "source_attacks": ("fgsm",),
        "ema": 0.9,
    }
    return TrainingSettings(**{**base, **changes})


def trainer(method: str = "adv4adv", *, checkpoint: Path | None = None, **changes: Any) -> Trainer:
    options = {name: changes.pop(name) for name in ("stop_requested", "classifier", "defence") if name in changes}
    classifier = options.pop("classifier", None) or net()
    uses = method == "adv4adv"
    context = DefenceContext(10, 32 if uses else 0, torch.Generator().manual_seed(7))
    defence = options.pop("defence", None) or DEFENCES[method](context, DefenceSettings(beta=1.0, gamma=0.5))
    return Trainer(
        classifier=classifier,
        defence=defence,
        layer="7" if uses else None,
        train=changes.pop("train", TRAIN),
        val=changes.pop("val", VAL),
        settings=settings(**changes),
        checkpoint=checkpoint,
        observer=Ears(),
        **options,
    )


def figures(records: tuple[EpochRecord, ...]) -> list[tuple[Any, ...]]:
    return [(r.epoch, r.source_attacks, r.scalars, r.rolled_back, r.event) for r in records]


def same_state(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def after(steps: int) -> Callable[[], bool]:
    left = iter(range(steps))
    return lambda: next(left, None) is None


class Whole:
    """One uninterrupted run."""

    def __init__(self, method: str) -> None:
        self.trainer = trainer(method)
        self.trained: Trained = self.trainer.run()


@pytest.fixture(scope="module")
def whole() -> dict[str, Whole]:
    return {method: Whole(method) for method in ("adv4adv", "sat")}


# -- resuming --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "stops"), [("adv4adv", (0, 3)), ("adv4adv", (9, 10, 4)), ("sat", (16,))])
def test_stopped_and_resumed_is_the_uninterrupted_run(
    method: str, stops: tuple[int, ...], whole: dict[str, Whole], tmp_path: Path
) -> None:
    path, expected = tmp_path / "checkpoint.pt", whole[method]
    for number, steps in enumerate(stops):
        stopped = trainer(method, checkpoint=path, stop_requested=after(steps))
        with pytest.raises(Interrupted):
            stopped.run(resume=number > 0)
        torch.rand(100)  # whatever else the process draws must not matter
    again = trainer(method, checkpoint=path)
    trained = again.run(resume=True)
    assert same_state(again.classifier, expected.trainer.classifier)
    assert same_state(again.defence, expected.trainer.defence)
    assert figures(trained.history.epochs) == figures(expected.trained.history.epochs)
    assert trained.history.chosen_epoch == expected.trained.history.chosen_epoch
    assert trained.confirmation == expected.trained.confirmation


def test_killed_before_the_first_epoch_or_after_the_last(whole: dict[str, Whole], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    first = trainer("sat", checkpoint=path, stop_requested=lambda: 1 / 0 > 1)
    with pytest.raises(ZeroDivisionError):  # as a SIGKILL in the first step: nothing is saved any more
        first.run()
    again = trainer("sat", checkpoint=path)
    again.run(resume=True)
    assert same_state(again.classifier, whole["sat"].trainer.classifier)
    finished = trainer("sat", checkpoint=path)
    trained = finished.run(resume=True)
    assert same_state(finished.classifier, whole["sat"].trainer.classifier)
    assert trained.history.chosen_epoch == whole["sat"].trained.history.chosen_epoch
    assert finished.observer.steps == []  # type: ignore[attr-defined]


def test_a_kill_goes_back_to_the_last_periodic_checkpoint(
    whole: dict[str, Whole], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    calls = iter(range(14))

    def die() -> bool:
        if next(calls, None) is None:
            raise ZeroDivisionError
        return False

    with pytest.raises(ZeroDivisionError):
        trainer("adv4adv", checkpoint=path, stop_requested=die).run()
    again = trainer("adv4adv", checkpoint=path)
    again.run(resume=True)
    assert same_state(again.classifier, whole["adv4adv"].trainer.classifier)
    assert again.observer.steps[0][0] > 10  # type: ignore[attr-defined]


# -- what a run is -----------------------------------------------------------------------------------------------


def test_it_learns_and_says_what_it_did(whole: dict[str, Whole]) -> None:
    run = whole["adv4adv"]
    ears = run.trainer.observer
    assert isinstance(ears, Ears)
    assert ears.steps == [(i + 1, 30) for i in range(30)]
    assert [r.epoch for r in ears.records] == [1, 2, 3]
    last = ears.records[-1].scalars
    assert last["val_clean"] > 0.7
    assert last["val_robust"] > 0.3
    assert last["eps"] == EPS
    names = {"loss", "ce_clean", "ce_adv", "bce_feature", "bce_logit", "domain_accuracy_feature", "val_source"}
    assert names <= last.keys()
    assert last["loss"] == pytest.approx(sum(last[n] for n in ("ce_clean", "ce_adv", "bce_feature", "bce_logit")), 1e-4)
    assert run.trained.source_attacks == ("fgsm",)


def test_the_averaged_weights_are_shipped_in_eval_mode(whole: dict[str, Whole]) -> None:
    run = whole["sat"]
    chosen = next(c for c in run.trainer.selection.candidates if c["epoch"] == run.trained.history.chosen_epoch)
    shipped = run.trainer.classifier.state_dict()
    assert all(torch.equal(value, shipped[name]) for name, value in chosen["weights"].items())
    assert not any(m.training for m in run.trainer.classifier.modules())
    record = run.trained.history.epochs[chosen["epoch"] - 1]
    clean = predictions(run.trainer.classifier, VAL) == VAL.labels
    assert float(clean.float().mean()) == pytest.approx(record.scalars["val_clean"])


def test_the_global_generator_and_the_inputs_are_left_alone() -> None:
    images, labels = TRAIN.images.clone(), VAL.images.clone()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    run = trainer("adv4adv", epochs=1)
    run.run()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(TRAIN.images, images)
    assert torch.equal(VAL.images, labels)
    assert not any(m._forward_hooks for m in run.classifier.modules())


def test_the_seed_decides() -> None:
    runs = [trainer("sat", epochs=1, seed=seed) for seed in (3, 3, 4)]
    for run in runs:
        run.run()
    assert same_state(runs[0].classifier, runs[1].classifier)
    assert not same_state(runs[0].classifier, runs[2].classifier)


def test_selection_never_scores_a_training_image(monkeypatch: pytest.MonkeyPatch) -> None:
    scored: set[str] = set()

    def spy(function: Any) -> Any:
        def wrapped(classifier: Classifier, images: ImageSet, *rest: Any, **named: Any) -> Any:
            scored.update(images.files)
            return function(classifier, images, *rest, **named)

        return wrapped

    for module in (loop, selection):
        for function in (predictions, standing_after, source_accuracy):
            if hasattr(module, function.__name__):
                monkeypatch.setattr(module, function.__name__, spy(function))
    trainer("sat", epochs=1).run()
    assert scored == set(VAL.files)


def test_training_sees_no_validation_image_and_every_training_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    class Spy(SAT):
        def step_loss(
            self, tapped: Tap, clean: Tensor, labels: Tensor, craft: Craft, generator: torch.Generator
        ) -> StepLoss:
            seen.append(clean.clone())
            return super().step_loss(tapped, clean, labels, craft, generator)

    trainer("sat", defence=Spy(), epochs=1, train=digits(0, 400)).run()
    rows = sorted(map(bytes, (torch.cat(seen) * 255).round().to(torch.uint8).flatten(1).numpy()))
    assert rows == sorted(map(bytes, digits(0, 400).images.flatten(1).numpy()))


def test_training_without_adversarial_examples_selects_on_clean_accuracy() -> None:
    run = trainer("nt", source_attacks=())
    trained = run.run()
    assert trained.confirmation is None
    assert trained.source_attacks == ()
    assert all("val_robust" not in r.scalars for r in trained.history.epochs)
    best = max(r.scalars["val_clean"] for r in trained.history.epochs)
    assert trained.history.epochs[trained.history.chosen_epoch - 1].scalars["val_clean"] == best  # type: ignore[operator]


@pytest.mark.parametrize(
    ("method", "sources", "frozen", "passes"),
    [
        ("sat", ("fgsm",), False, 6),
        ("sat", ("fgsm",), True, 4),
        ("adv4adv", ("fgsm",), True, 5),
        ("adv4adv", ("fgsm", "nfgsm"), True, 2 * 3 + 4),
        ("sat", ("fgsm-ep",), True, 6),
    ],
)
def test_examples_come_from_the_clean_pass_where_training_sees_the_same_function(
    method: str, sources: tuple[str, ...], frozen: bool, passes: int
) -> None:
    classifier = net()
    if frozen:  # BatchNorm at rest, and no dropout
        classifier.module[5].p = 0.0  # type: ignore[union-attr]
    defence = None if len(sources) == 1 else two_domains()
    run = trainer(
        method,
        classifier=classifier,
        epochs=1,
        source_attacks=sources,
        freeze=("1.*",) if frozen else (),
        **({"defence": defence} if defence else {}),
    )
    trained = run.run()
    assert trained.history.epochs[0].passes == passes * 400


def deep(blocks: int = 3) -> Classifier:
    """Residual blocks without BatchNorm or dropout."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.Sequential(nn.Linear(64, 64), nn.Tanh())

        def forward(self, values: Tensor) -> Tensor:
            inside: Tensor = self.inside(values)
            return values + inside

    with torch.random.fork_rng():
        torch.manual_seed(0)
        inside = nn.Sequential(*(Block() for _ in range(blocks)))
        return of_digits(nn.Sequential(nn.Flatten(), inside, nn.Linear(64, 32), nn.Linear(32, 10)))


@pytest.mark.parametrize("sources", [("fgsm",), ("nfgsm",), ("fgsm-ep",)])
@pytest.mark.parametrize("method", ["sat", "adv4adv"])
@pytest.mark.parametrize("changes", [{"accumulate": 3}, {"recompute": True}, {"accumulate": 2, "recompute": True}])
def test_steps_that_save_memory_are_the_same_steps(
    changes: dict[str, Any], method: str, sources: tuple[str, ...]
) -> None:
    """One step of forty images, in parts of 13, 13 and 14: each draws as in the whole batch, and weighs as much."""
    found = []
    for more in ({}, changes):
        context = DefenceContext(10, 32, torch.Generator().manual_seed(7))
        defence = DEFENCES[method](context, DefenceSettings(beta=1.0, gamma=0.5))
        options = {"epochs": 1, "source_attacks": sources, "augment": "shift", "eps_ramp": 0.0, **more}
        run = trainer("sat", defence=defence, classifier=deep(), train=digits(0, 40), **options)
        run.layer = "2" if method == "adv4adv" else None
        found.append((run, run.run()))
    (plain, expected), (saving, trained) = found
    for ours, theirs in zip(gradients_of(saving), gradients_of(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    (one,), (other,) = trained.history.epochs, expected.history.epochs
    assert one.passes == other.passes > 0
    assert one.scalars["loss"] == pytest.approx(other.scalars["loss"], rel=1e-5)


def gradients_of(run: Trainer) -> list[Tensor]:
    return [p.grad for module in (run.classifier, run.defence) for p in module.parameters() if p.grad is not None]


def test_no_part_of_a_batch_is_smaller_than_batchnorm_can_bear() -> None:
    assert parts_of(slice(3, 10), 3) == (slice(3, 5), slice(5, 7), slice(7, 10))
    assert parts_of(slice(0, 5), 100) == (slice(0, 2), slice(2, 5))
    assert parts_of(slice(0, 1), 4) == (slice(0, 1),)
    assert parts_of(slice(6, 10), 2, smallest=3) == (slice(6, 10),)
    assert parts_of(slice(0, 5), 2, smallest=4) == (slice(0, 2), slice(2, 5))


def two_domains() -> Defence:
    context = DefenceContext(10, 32, torch.Generator().manual_seed(7), sources=2)
    return DEFENCES["adv4adv"](context, DefenceSettings(beta=1.0, gamma=0.5))


# -- the number of epochs -------------------------------------------------------------------------------------------


def test_the_number_of_epochs_is_asked_for_again_until_near_the_end() -> None:
    asked: list[int] = []

    def replan(done: int, seconds: float) -> int:
        assert seconds > 0
        asked.append(done)
        return {1: 20, 15: 12}.get(done, 20)

    run = trainer("nt", source_attacks=(), epochs=3)
    run.replan = replan
    trained = run.run()
    assert asked == [1, 5, 10, 15]
    assert len(trained.history.epochs) == 15  # twelve would have been enough, but fifteen were done


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_the_parts_of_a_pass_are_its_shuffled_images_each_once(parts: int) -> None:
    run = trainer("nt", source_attacks=(), epoch_parts=parts, batch_size=8)
    size = run.batches.steps * run.batches.size
    first, second = ([run.batches.order(epoch)[:size] for epoch in range(p * parts, (p + 1) * parts)] for p in (0, 1))
    whole = trainer("nt", source_attacks=(), batch_size=8).batches.order(0)
    assert torch.equal(torch.cat(first), whole[: parts * size])
    assert len(set(torch.cat(first).tolist())) == parts * size
    assert not torch.equal(torch.cat(first), torch.cat(second))


# -- freezing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patterns", [("0", "1"), ("0.*", "1.weight", "1.b*")])
def test_frozen_parameters_and_their_statistics_keep_their_bits(patterns: tuple[str, ...]) -> None:
    classifier = net()
    before = {name: value.clone() for name, value in classifier.module.state_dict().items()}
    run = trainer("sat", classifier=classifier, freeze=patterns, epochs=2, weight_decay=0.1)
    run.run()
    changed = {n for n, value in classifier.module.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {"6.weight", "6.bias", "8.weight", "8.bias"}


def test_what_rests_is_each_frozen_leaf_and_never_a_container_that_trains_inside() -> None:
    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1))
            self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False), nn.Dropout())
            self.stem = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False))

    module = Token()
    module.token.requires_grad_(False)
    assert resting_modules(module) == ()
    module.stem.requires_grad_(False)
    assert set(resting_modules(module)) == {module.stem[0], module.stem[1]}
    module.body[0].requires_grad_(False)
    assert set(resting_modules(module)) == {*module.stem, *module.body}


def test_freezing_nothing_or_everything_is_an_error() -> None:
    with pytest.raises(UsageError, match="matches no parameter"):
        trainer("sat", freeze=("layer9.*",))
    with pytest.raises(UsageError, match="nothing to train"):
        trainer("sat", freeze=("*",))


# -- collapse ------------------------------------------------------------------------------------------------------


def collapsing(monkeypatch: pytest.MonkeyPatch, at: set[int], vitals: Vitals) -> None:
    """Let the canary report `vitals` at these epochs (counted from 1); everything else is real."""
    honest = Trainer._vitals

    def measure(self: Trainer, loss: float) -> Vitals:
        return vitals if self.epoch + 1 in at else honest(self, loss)

    monkeypatch.setattr(Trainer, "_vitals", measure)


OVERFIT = Vitals(clean=0.95, source=0.99, canary=0.0, loss=0.1)


def test_a_collapse_rolls_back_and_switches_to_nfgsm(monkeypatch: pytest.MonkeyPatch) -> None:
    collapsing(monkeypatch, {2}, OVERFIT)
    snapshots: list[dict[str, Tensor]] = []
    honest = Trainer._finish_epoch

    def keep(self: Trainer) -> None:
        honest(self)
        snapshots.append(copy.deepcopy(self.classifier.state_dict()))

    monkeypatch.setattr(Trainer, "_finish_epoch", keep)
    run = trainer("sat", epochs=4)
    trained = run.run()
    records = trained.history.epochs
    assert [r.rolled_back for r in records] == [False, True, False, False]
    assert [r.sources for r in records] == ["fgsm", "fgsm", "nfgsm", "fgsm"]  # a cure of a tenth, at least one
    assert "N-FGSM examples for 1 epoch" in records[1].event
    assert any("epoch 3 training goes on from fgsm" in note for note in run.observer.notes)  # type: ignore[attr-defined]
    assert "catastrophic" in records[1].event
    assert trained.source_attacks == ("fgsm", "nfgsm")
    assert all(torch.equal(value, snapshots[1][name]) for name, value in snapshots[0].items())
    assert any("N-FGSM" in note for note in run.observer.notes)  # type: ignore[attr-defined]
    assert trained.history.chosen_epoch in {1, 3, 4}
    assert run.strength == 1.0


def test_a_switch_survives_a_resume(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    collapsing(monkeypatch, {2}, OVERFIT)
    expected = trainer("sat", epochs=4)
    expected.run()
    path = tmp_path / "checkpoint.pt"
    for steps in (15, 8):
        with pytest.raises(Interrupted):
            trainer("sat", epochs=4, checkpoint=path, stop_requested=after(steps)).run(resume=path.exists())
    again = trainer("sat", epochs=4, checkpoint=path)
    trained = again.run(resume=True)
    assert trained.source_attacks == ("fgsm", "nfgsm")
    assert same_state(again.classifier, expected.classifier)


def test_overfitting_again_after_the_cure_stays_with_nfgsm(monkeypatch: pytest.MonkeyPatch) -> None:
    collapsing(monkeypatch, {2, 4}, OVERFIT)
    trained = trainer("sat", epochs=6).run()
    assert [r.sources for r in trained.history.epochs] == ["fgsm", "fgsm", "nfgsm", "fgsm", "nfgsm", "nfgsm"]
    assert [r.rolled_back for r in trained.history.epochs] == [False, True, False, True, False, False]
    assert trained.source_attacks == ("fgsm", "nfgsm")


def test_the_gap_is_of_the_same_source_attack_while_another_one_crafts(monkeypatch: pytest.MonkeyPatch) -> None:
    """N-FGSM examples lie outside the ball and are harder: their gap to PGD-10 is no measure for that of FGSM."""
    collapsing(monkeypatch, {2}, OVERFIT)
    crafted: list[str] = []
    honest = evaluate.source_accuracy

    def heard(classifier: Classifier, images: ImageSet, attack: GradientAttack, **options: Any) -> float:
        crafted.append(attack.name)
        return honest(classifier, images, attack, **options)

    monkeypatch.setattr(evaluate, "source_accuracy", heard)
    records = trainer("sat", epochs=4).run().history.epochs
    assert [r.sources for r in records] == ["fgsm", "fgsm", "nfgsm", "fgsm"]
    assert crafted == ["FGSM"] * 3  # the second epoch is the made-up one


def test_a_second_collapse_softens_and_too_many_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    collapsing(monkeypatch, {2, 3, 4, 5}, OVERFIT)
    run = trainer("adv4adv", epochs=8)
    trained = run.run()
    assert len(trained.history.epochs) == 5
    assert [r.rolled_back for r in trained.history.epochs] == [False, True, True, True, True]
    assert run.strength == 0.25
    assert run.defence.reversal == pytest.approx(0.25)  # type: ignore[union-attr]
    assert trained.history.chosen_epoch == 1


def test_stop_ends_with_the_best_epoch_and_keep_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    collapsing(monkeypatch, {2}, OVERFIT)
    stopped = trainer("sat", epochs=4, on_collapse="stop").run()
    assert [r.rolled_back for r in stopped.history.epochs] == [False, True]
    assert stopped.history.chosen_epoch == 1
    assert "stopped" in stopped.history.epochs[1].event
    kept = trainer("sat", epochs=3, on_collapse="keep").run()
    assert [r.rolled_back for r in kept.history.epochs] == [False, False, False]
    assert "keep" in kept.history.epochs[1].event
    assert kept.source_attacks == ("fgsm",)


class BreaksOnce(SAT):
    """SAT whose loss is not a number at one step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.steps, self.strengths = at, 0, set[float]()

    def set_progress(self, progress: float, strength: float = 1.0) -> None:
        self.strengths.add(strength)

    def step_loss(self, *arguments: Any) -> StepLoss:
        result, self.steps = super().step_loss(*arguments), self.steps + 1
        return StepLoss(result.loss * float("nan"), result.scalars) if self.steps == self.at else result


def test_a_loss_that_is_not_a_number_rolls_back_and_halves_the_rate() -> None:
    defence = BreaksOnce(14)
    run = trainer("sat", epochs=4, defence=defence)
    trained = run.run()
    assert [r.rolled_back for r in trained.history.epochs] == [False, True, False, False]
    assert "non-finite" in trained.history.epochs[1].event
    assert run.strength == 0.5
    assert defence.strengths == {1.0, 0.5}
    assert trained.source_attacks == ("fgsm",)
    assert all(bool(value.isfinite().all()) for value in run.classifier.state_dict().values())
    assert trained.history.epochs[2].scalars["lr"] == pytest.approx(5e-3 * 0.5 * 0.5)


def test_a_broken_first_epoch_goes_back_to_the_start() -> None:
    run = trainer("sat", epochs=3, defence=BreaksOnce(3))
    trained = run.run()
    assert [r.rolled_back for r in trained.history.epochs] == [True, False, False]
    assert all(bool(value.isfinite().all()) for value in run.classifier.state_dict().values())


class AlwaysBroken(SAT):
    """SAT whose loss is never a number."""

    def step_loss(self, *arguments: Any) -> StepLoss:
        result = super().step_loss(*arguments)
        return StepLoss(result.loss * float("nan"), result.scalars)


@pytest.mark.parametrize("on_collapse", ["switch", "stop", "keep"])
def test_training_that_never_works_is_an_error_with_a_hint(on_collapse: str) -> None:
    with pytest.raises(TrainingError) as caught:
        trainer("sat", epochs=2, defence=AlwaysBroken(), on_collapse=on_collapse).run()
    assert "--lr" in (caught.value.hint or "")


# -- edges ----------------------------------------------------------------------------------------------------


def test_a_small_set_is_one_batch() -> None:
    run = trainer("sat", train=digits(0, 30), batch_size=64, epochs=1)
    assert (run.batches.size, run.batches.steps) == (30, 1)
    run.run()


def test_timing_changes_nothing_that_matters() -> None:
    defence: Defence = SAT()
    run = trainer("sat", defence=defence)
    state = torch.get_rng_state()
    seconds, passes = run.time_steps(3, 10.0)
    assert 0 < seconds < 5
    assert passes == 6
    assert torch.equal(torch.get_rng_state(), state)


class Cramped(nn.Module):
    """Runs out of memory for more images than fit, as a GPU would."""

    def __init__(self, fit: int) -> None:
        super().__init__()
        self.inside, self.fit = net().module, fit
        self.trained: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.fit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if self.training:
            self.trained.append(len(images))
        scores: Tensor = self.inside(images)
        return scores


def cramped(fit: int, *, checkpoint: Path | None = None) -> tuple[Trainer, Ears, Cramped]:
    module = Cramped(fit)
    classifier = net()
    classifier.module = module
    made = trainer("sat", checkpoint=checkpoint, classifier=classifier, batch_size=64)
    ears = Ears()
    made.observer = ears
    return made, ears, module


def test_where_memory_runs_out_batches_are_halved_and_every_image_is_trained_on(tmp_path: Path) -> None:
    made, ears, module = cramped(64, checkpoint=tmp_path / "checkpoint.pt")
    trained = made.run()
    assert ears.notes[0] == "memory ran out; training goes on with 32 images a step"
    # 32 clean images and as many adversarial ones; the layouts and the modes were tried with two before.
    assert module.trained[3:] == [64] * 12 * len(trained.history.epochs)
    assert ears.steps[-1] == (12 * len(trained.history.epochs),) * 2
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["batch_size"] == 32
    assert all(0 < record.scalars["loss"] < 10 for record in ears.records)


def test_memory_that_runs_out_in_the_middle_of_an_epoch_neither_skips_nor_repeats_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    made, ears, module = cramped(10_000)
    batch = type(made.train).batch

    def noted(images: ImageSet, rows: Any) -> tuple[Tensor, Tensor]:
        if images is made.train:
            seen.extend(rows.tolist())
            if len(seen) == 3 * 64:
                module.fit = 64
        return batch(images, rows)

    monkeypatch.setattr(type(made.train), "batch", noted)
    made.epochs = 1
    made.run()
    assert "memory ran out; training goes on with 32 images a step" in ears.notes
    refused = seen[2 * 64 : 3 * 64]  # asked for once more, in two parts
    assert seen[3 * 64 : 4 * 64] == refused
    kept = seen[: 2 * 64] + seen[3 * 64 :]
    assert len(kept) == len(set(kept)) == 6 * 64


def test_too_little_memory_for_two_images_is_an_error_with_a_hint() -> None:
    made, _, _ = cramped(3)
    made.selection.begin = lambda classifier: None  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="memory ran out in a step of 2 images") as caught:
        made.run()
    assert "--device" in str(caught.value.hint)
