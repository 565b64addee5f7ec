"""Report objects with the shape of real ones, made without a model: what every test of the report starts from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from harden.access import Access
from harden.audit.believe import Check, Status
from harden.audit.corruptions import CorruptionOutcome
from harden.audit.curve import EpsCurve
from harden.audit.gallery import Exhibit
from harden.audit.gate import Gate, judge_gates
from harden.audit.representation import Domain, Representation
from harden.audit.result import AttackOutcome, AuditResult, Exposure
from harden.report.report import Report
from harden.training.history import EpochRecord, History

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

ATTACKS = (
    ("FGSM", "one step of 0.1 along the sign of the cross-entropy gradient, no random start", Exposure.UNSEEN, 0.55, 1),
    ("R+FGSM", "a random step of 0.05, then one gradient step of 0.05, cross-entropy", Exposure.TRAINING, 0.6, 1),
    ("PGD-20", "20 steps of 0.01 from a uniform random start, cross-entropy, 1 restart", Exposure.SELECTION, 0.92, 20),
    ("PGD-40", "40 steps of 0.01 from a uniform random start, cross-entropy, 1 restart", Exposure.UNSEEN, 0.95, 40),
    ("MIM-10", "10 momentum steps of 0.01 with decay 1.0 from the clean image", Exposure.UNSEEN, 0.85, 10),
    ("PGD-50 margin x3", "50 steps of 0.005 on the logit margin, 3 random restarts", Exposure.UNSEEN, 1.0, 150),
    ("Square-1000", "1,000 queries of random squares, margin loss, no gradient", Exposure.UNSEEN, 0.8, 1000),
)
"""Name, definition, exposure of a hardened model, strength, passes per image."""


def build_result(
    model: str = "small CNN, hardened",
    *,
    images: int = 1000,
    strength: float = 4.4,
    clean: float = 5.6,
    attacks: int = 7,
    defended: bool = True,
    classes: tuple[str, ...] = CLASSES,
    sampled_classes: int | None = None,
) -> AuditResult:
    """Return an audit: `clean` is the typical logit margin, `strength` what the full attack takes from it."""
    generator = np.random.default_rng(7)
    sampled = sampled_classes or len(classes)
    labels = generator.integers(0, sampled, images)
    ease = np.linspace(-1.2, 1.2, sampled)[labels]
    margins = (clean + ease + generator.normal(0, 2.2, images)).astype(np.float32)
    outcomes = []
    for name, definition, exposure, share, passes in ATTACKS[:attacks]:
        taken = strength * share * generator.uniform(0.9, 1.1, images) + generator.normal(0, 0.3, images)
        after = np.where(margins > 0, margins - taken, margins).astype(np.float32)
        outcomes.append(
            AttackOutcome(
                name=name,
                definition=f"{definition}; linf eps 0.1",
                norm="linf",
                eps=0.1,
                exposure=exposure if defended else Exposure.UNSEEN,
                predictions=np.where(after >= 0, labels, (labels + 1) % len(classes)),
                margins=after,
                distances=np.where(margins > 0, 0.1, 0).astype(np.float32),
                attacked=margins > 0,
                seconds=0.31 * passes,
                forwards=images * passes,
                backwards=0 if "Square" in name else images * passes,
                access=Access.SCORES if "Square" in name else Access.GRADIENTS,
                queries=np.where(margins > 0, passes + 1, 0),
                closest=np.where(
                    margins <= 0, 0, np.where(after < 0, 0.1 * np.minimum(1, margins / np.maximum(taken, 1e-6)), np.inf)
                ).astype(np.float32),
            )
        )
    return AuditResult(
        model=model,
        dataset="MNIST, test split",
        classes=classes,
        labels=labels,
        files=tuple(f"test/{k:05}.png" for k in range(images)),
        clean_predictions=np.where(margins >= 0, labels, (labels + 1) % len(classes)),
        clean_margins=margins,
        outcomes=tuple(outcomes),
        seed=7,
        machine="NVIDIA H200, torch 2.9.1",
        seconds=384.2,
    )


def build_incomplete(result: AuditResult, number: int = 3) -> AuditResult:
    """Return the audit with one attack that met only the images that all attacks before it left standing."""
    fallen = np.ones(len(result), dtype=bool)
    for outcome in result.outcomes[:number]:
        fallen &= result.survived(outcome)
    late = result.outcomes[number]
    changed = replace(
        late,
        attacked=fallen,
        predictions=np.where(fallen, late.predictions, result.clean_predictions),
        margins=np.where(fallen, late.margins, result.clean_margins),
    )
    return replace(result, outcomes=(*result.outcomes[:number], changed, *result.outcomes[number + 1 :]))


def build_history(epochs: int = 30, undone: int | None = 12) -> History:
    """Return a training in which epoch `undone` collapsed and was rolled back."""
    generator = np.random.default_rng(3)
    records = []
    for epoch in range(1, epochs + 1):
        rise = 1 - np.exp(-epoch / 6)
        fell = epoch == undone
        noise = generator.normal(0, 0.008, 6)
        records.append(
            EpochRecord(
                epoch=epoch,
                seconds=21.4,
                source_attacks=("R+FGSM",),
                scalars={
                    "loss": float(2.3 * (1 - rise) + 0.2),
                    "val_clean": float(min(0.995, 0.90 + 0.088 * rise + noise[0] / 4)),
                    "val_robust": float(0.70 * rise + noise[1] - (0.22 if fell else 0)),
                    "val_canary": float(0.66 * rise + noise[2] - (0.45 if fell else 0)),
                    "val_source": float(min(0.97, 0.80 * rise + noise[3] + (0.15 if fell else 0))),
                    "domain_accuracy_feature": float(0.53 + 0.36 * (1 - rise) + noise[4]),
                    "domain_accuracy_logit": float(0.51 + 0.24 * (1 - rise) + noise[5]),
                },
                rolled_back=fell,
                event="canary fell from 61.4 % to 11.0 %; went back to epoch 11 and halved the learning rate"
                if fell
                else "",
            )
        )
    return History(tuple(records), chosen_epoch=max(1, epochs - 3))


def build_curve(result: AuditResult) -> EpsCurve:
    """Return a curve that starts at the clean accuracy and is a little above the worst case at the audited eps."""
    clean, worst = result.clean_accuracy().count, result.worst_case().count
    radii = tuple(0.1 * m for m in (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4, 5))
    falls = max(0.05, (clean - worst) / clean) / 0.1
    standing = [round(clean * max(0.0, 1 - falls * eps**1.05)) for eps in radii]
    return EpsCurve("APGD margin, 20 steps, from the clean image", "linf", radii, tuple(standing), len(result))


def build_representation(
    result: AuditResult, *, images: int = 120, attacks: tuple[str, ...] = ("FGSM", "PGD-20", "MIM-10")
) -> Representation:
    """Return clusters on a circle that come apart a little more with each attack."""
    generator = np.random.default_rng(11)
    labels = np.arange(images) % len(result.classes)
    angle = 2 * np.pi * labels / len(result.classes)
    centres = 40 * np.stack((np.cos(angle), np.sin(angle)), axis=1)
    domains = []
    for nth, name in enumerate(("clean", *attacks)):
        points = (centres * (1 - 0.15 * nth) + generator.normal(0, 3 + 3 * nth, (images, 2))).astype(np.float32)
        accuracy = float("nan") if nth == 0 else 0.5 + 0.04 * nth
        domains.append(Domain(name, 0.4 - 0.15 * nth, accuracy, accuracy + 0.03, points))
    return Representation(500, labels, tuple(domains))


def build_gallery(
    classes: tuple[str, ...] = CLASSES, *, exhibits: int = 12, shape: tuple[int, int, int] = (28, 28, 1)
) -> tuple[Exhibit, ...]:
    """Return attacked images: a bright blob on black, and noise of eps 0.1."""
    generator = np.random.default_rng(5)
    height, width, channels = shape
    rows, columns = np.mgrid[:height, :width]
    found = []
    for nth in range(exhibits):
        far = np.hypot(rows / height - 0.35 - 0.03 * nth, columns / width - 0.5)
        clean = np.repeat((255 * np.exp(-30 * far**2))[..., None], channels, axis=2)
        moved = 25.5 * generator.choice([-1, 1], shape)
        true = nth % len(classes)
        found.append(
            Exhibit(
                file=f"test/{nth:05}.png",
                attack=ATTACKS[nth % len(ATTACKS)][0],
                norm="linf",
                true=true,
                before=true,
                after=(true + 1) % len(classes),
                distance=0.1,
                clean=clean.round().astype(np.uint8),
                adversarial=(clean + moved).clip(0, 255).round().astype(np.uint8),
                difference=(128 + 5 * moved).clip(0, 255).astype(np.uint8),
                amplified=5.0,
            )
        )
    return tuple(found)


CHECKS = (
    Check("black-box against white-box", Status.PASS, "Square leaves 71.2 %, PGD-40 leaves 66.9 %."),
    Check("accuracy at large eps", Status.WARN, "At eps 0.5 still 3.1 % are right.", "Run --attacks thorough."),
    Check("stochastic forward passes", Status.FAIL, "Two passes differ on 3 images.", "Put the model into eval mode."),
    Check("audited images seen in training", Status.SKIP, "The run's splits are not known."),
)


def build_shifts(result: AuditResult) -> tuple[AttackOutcome, ...]:
    """Return two attacks in l_2, of which the second met only what the first had left, and one in l_1."""
    strong = result.outcomes[-2]
    weak = result.outcomes[0]
    second = build_incomplete(replace(result, outcomes=(weak, strong)), number=1).outcomes[1]
    names = ("APGD CE wide", "FAB-T-50", "APGD CE wide")
    return tuple(
        replace(
            outcome,
            name=name,
            norm=norm,
            eps=eps,
            exposure=Exposure.UNSEEN,
            definition=f"100 steps; l_{norm[1]} eps {eps}",
        )
        for outcome, name, norm, eps in zip(
            (weak, second, strong), names, ("l2", "l2", "l1"), (0.81, 0.81, 9.8), strict=True
        )
    )


def build_corruptions(result: AuditResult) -> tuple[CorruptionOutcome, ...]:
    """Return four corruptions that take a little more of the margin with each severity."""
    generator = np.random.default_rng(13)
    found = []
    for nth, name in enumerate(("Gaussian noise", "defocus blur", "haze", "JPEG")):
        for severity in (1, 3, 5):
            taken = (0.2 + 0.35 * nth) * severity + generator.normal(0, 0.3, len(result))
            wrong = result.clean_margins - taken < 0
            predictions = np.where(wrong, (result.labels + 1) % len(result.classes), result.labels)
            found.append(CorruptionOutcome(name, severity, f"strength {severity}", predictions))
    return tuple(found)


def build_rich(result: AuditResult) -> AuditResult:
    """Return the audit with all that an audit may know beside its attacks."""
    return replace(
        result,
        curve=build_curve(result),
        representation=build_representation(result),
        gallery=build_gallery(result.classes),
        checks=CHECKS,
        shifts=build_shifts(result),
        corruptions=build_corruptions(result),
    )


def build_report(*, images: int = 1000) -> Report:
    """Return a report of a hardened model beside the one it came from, with everything there is to show."""
    before = build_result("small CNN, as trained", images=images, strength=16.0, clean=9.0, defended=False)
    after = build_rich(build_result(images=images, strength=4.4))
    return Report(
        title="small CNN on MNIST, hardened with adversarial domain training",
        results=(build_rich(before), after),
        gates=judge_gates(after, (Gate("robust", 0.99), Gate("clean", 0.5))),
        history=build_history(),
        facts=(
            ("Command", "harden fit --data mnist --model small-cnn --method adv4adv --eps 0.1 --seed 7"),
            ("Method", "Adv-4-Adv*, split after conv2, R+FGSM as source attack"),
            ("Selection", "best validation accuracy under PGD-20, averaged weights"),
            ("Versions", "harden 0.1.0, torch 2.9.1, Python 3.11.9"),
        ),
        caveats=(
            "The attacks are strong but not every attack: an adaptive attacker may do better than these 7.",
            "The baseline was not trained to resist anything, so any defence looks good beside it.",
        ),
    )


def build_plain(
    labels: list[int],
    clean: list[int],
    attacked: list[int],
    *,
    classes: tuple[str, ...] = ("circle", "square"),
    model: str = "model",
    attacks: tuple[str, ...] = ("PGD-20",),
) -> AuditResult:
    """Return an audit of these answers: to clean images, and (the same) to the examples of each attack."""
    true, answers, fooled = (np.array(values, dtype=np.int64) for values in (labels, clean, attacked))
    right = answers == true
    kept = np.where(right, fooled, answers)
    outcome = AttackOutcome(
        name="",
        definition="20 steps",
        norm="linf",
        eps=0.1,
        exposure=Exposure.UNSEEN,
        predictions=kept,
        margins=np.where(kept == true, 1, -1).astype(np.float32),
        distances=np.zeros(len(true), dtype=np.float32),
        attacked=right,
        seconds=1.0,
        forwards=20,
        backwards=20,
        access=Access.GRADIENTS,
        queries=np.ones(len(true), dtype=np.int64),
        closest=np.where(kept == true, np.inf, 0).astype(np.float32),
    )
    return AuditResult(
        model=model,
        dataset=f"shapes, {len(true)} test images",
        classes=classes,
        labels=true,
        files=tuple(f"{k}.png" for k in range(len(true))),
        clean_predictions=answers,
        clean_margins=np.where(right, 1, -1).astype(np.float32),
        outcomes=tuple(replace(outcome, name=name) for name in attacks),
        seed=0,
        machine="a processor",
        seconds=1.0,
    )


def build_right(clean: int, standing: int, *, images: int = 60, **named: object) -> AuditResult:
    """Return an audit of two classes in turn, in which the first `clean` images are right and of these the first
    `standing` withstand."""
    labels = [k % 2 for k in range(images)]
    return build_plain(
        labels,
        [label if k < clean else 1 - label for k, label in enumerate(labels)],
        [label if k < standing else 1 - label for k, label in enumerate(labels)],
        **named,  # type: ignore[arg-type]
    )
