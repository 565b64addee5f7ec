"""Surrogates: networks that an attacker would craft on who cannot see the model, and the attacks that do so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from harden.access import OTHER
from harden.attacks import APGD, FGSM, MIM, PGD, RFGSM, Attack, Norm, Objective, Planned, Transfer, frozen
from harden.data import Entry, ImageSet, SplitPlan, to_look_at
from harden.errors import DataError, ModelError, PreflightError
from harden.models.black_box import Audited
from harden.models.classifier import Classifier
from harden.models.layout import lay_out
from harden.models.surrogate import Fitted, static_pair
from harden.stopping import ask
from harden.workflows.narrator import Narrator
from harden.workflows.prepare import Images, ModelSpec, as_run, open_model
from harden.workflows.surrogate_training import MOST_HELD_OUT, Surrogate, trained_surrogate, training_pool

AUTO = "auto"
BATCH = 100
FEWEST_LEAD = 0.1
"""Share of the way from chance to 100 % below which a surrogate knows too little to craft on."""


def open_surrogates(
    names: Sequence[str],
    *,
    spec: ModelSpec,
    subject: Audited,
    images: Images,
    plan: SplitPlan | None,
    audited: Sequence[Entry],
    seed: int,
    device: torch.device,
    narrator: Narrator,
    stop_requested: Callable[[], bool] = lambda: False,
    flag: str = "--surrogate",
) -> tuple[Surrogate, ...]:
    """Open every model of `--surrogate`; "auto" is a network of another family, trained on what is not audited.

    Args:
        names: models as the user may name any, or "auto".
        spec: the audited model as typed: its `arch`, `class_map` and `trust_pickle` go for surrogates that need them.
        subject: the audited model.
        images: how the subject's images are decoded.
        plan: the splits of the subject's run; None without one.
        audited: what the audit attacks; nothing is trained on these.
        seed: of the training.
        device: where the surrogates go.
        narrator: hears what happens.
        stop_requested: asked after every training step.
        flag: what the models were named with.

    Raises:
        HardenError: a model cannot be opened, or there is nothing to train one on.
        Interrupted: a stop was requested.
    """
    found = []
    for name in dict.fromkeys(names):
        if name == AUTO:
            pool, which = training_pool(images, plan, audited)
            narrator.note(f"the surrogate is trained on {which}")
            found.append(
                trained_surrogate(
                    subject, images, pool, seed=seed, device=device, narrator=narrator, stop_requested=stop_requested
                )
            )
        else:
            pool = _labelled(images, plan)
            found.append(_opened(name, spec, subject, images, pool, device=device, narrator=narrator, flag=flag))
        narrator.note(f"{flag.removeprefix('--')} {found[-1].name}: {found[-1].accuracy:.1%} of clean images right")
        chance = 1 / len(subject.classes)
        if found[-1].accuracy - chance < FEWEST_LEAD * (1 - chance):
            narrator.warn(
                f"{flag} {found[-1].name} is near chance ({chance:.1%}), so examples that are crafted on it say little"
            )
    return tuple(found)


# -- transfer attacks --------------------------------------------------------------------------------------------------


def transfer_attacks(
    surrogates: Sequence[Surrogate], *, eps: float, norm: Norm = Norm.LINF, paper: bool = False, member: bool = False
) -> list[Planned]:
    """Return the attacks that craft on all of the surrogates.

    Args:
        surrogates: none give no attacks.
        eps: radius on the [0, 1] scale.
        norm: of the radius.
        paper: the black-box columns of the paper's Table 1 (FGSM, PGD-20, R+FGSM and MIM), which are l_inf and each
            on every image. Otherwise MIM (where the norm is l_inf), whose examples transfer well, and APGD on the
            margin, which leaves the surrogate furthest behind.
        member: whether they attack only images that still stand; the paper's do not.
    """
    if not surrogates:
        return []
    inner: list[Attack] = [APGD(eps=eps, norm=norm, raises=Objective.MARGIN)]
    if paper:
        inner = [FGSM(eps=eps), PGD(eps=eps, iterations=20), RFGSM(eps=eps), MIM(eps=eps)]
    elif norm is Norm.LINF:
        inner.insert(0, MIM(eps=eps))
    networks = tuple(surrogate.network for surrogate in surrogates)
    names = tuple(surrogate.name for surrogate in surrogates)
    return [
        Planned(
            Transfer(eps=eps, norm=attack.norm, inner=attack, surrogates=networks, names=names),
            member=member and not paper,
        )
        for attack in inner
    ]


# -- models that the user names ----------------------------------------------------------------------------------------


def _labelled(images: Images, plan: SplitPlan | None) -> tuple[Entry, ...]:
    return plan.val if plan is not None else to_look_at(images.source)


def _opened(
    name: str,
    spec: ModelSpec,
    subject: Audited,
    images: Images,
    entries: Sequence[Entry],
    *,
    device: torch.device,
    narrator: Narrator,
    flag: str,
) -> Surrogate:
    run = as_run(name)
    if run is not None:
        classifier, printed = run.load_classifier(), run.path.name
    else:
        classifier, printed = _load(name, spec, subject, images, entries, narrator, flag), Path(name).name
    lay_out(classifier.to(device))
    unknown = (set(subject.classes) ^ set(classifier.classes)) - {OTHER}
    if unknown:
        raise DataError(
            f"{flag} {name} knows other classes than the model ({', '.join(sorted(unknown)[:3])})",
            hint="name a model for the same data" + (", or --surrogate auto" if flag == "--surrogate" else ""),
        )
    order = tuple(classifier.classes.index(label) for label in subject.classes if label in classifier.classes)
    network = Fitted(classifier, size=subject.input_size, order=order).to(device).eval()
    if network.converted:
        sizes = ("x".join(map(str, size)) for size in (subject.input_size, classifier.input_size))
        printed += f" (images converted, {' to '.join(sizes)})"
    sample = images.decode(images.sample(entries, MOST_HELD_OUT, 0, "surrogate"), narrator, "images for the surrogate")
    return Surrogate(printed, network, _accuracy(network, sample, device))


def _load(
    name: str,
    spec: ModelSpec,
    subject: Audited,
    images: Images,
    entries: Sequence[Entry],
    narrator: Narrator,
    flag: str,
) -> Classifier:
    """Open a model that is no run: by itself, or else with what was said about the audited one."""
    height, width = subject.input_size[1:]
    alone = ModelSpec(model=name, trust_pickle=spec.trust_pickle, image_size=height if height == width else None)
    attempts = [alone]
    if spec.arch is not None or spec.class_map is not None:
        others = spec.ignore_other_classes
        attempts.append(replace(alone, arch=spec.arch, class_map=spec.class_map, ignore_other_classes=others))
    for attempt in attempts:
        try:
            return open_model(attempt, images.source, entries, narrator)[0]
        except ModelError as error:
            refusal = error
    kind = PreflightError if isinstance(refusal, PreflightError) else ModelError
    raise kind(f"{flag} {name}: {refusal.message}", hint=refusal.hint) from refusal


def _accuracy(network: nn.Module, images: ImageSet, device: torch.device) -> float:
    right = 0
    with frozen(network), torch.no_grad():
        for start in range(0, len(images), BATCH):
            ask()
            pixels, labels = images.batch(slice(start, start + BATCH))
            right += int((network(pixels.to(device)).argmax(dim=1).cpu() == labels).sum())
    return right / len(images)


# -- EAT's static models -----------------------------------------------------------------------------------------------


def open_statics(
    names: Sequence[str],
    *,
    spec: ModelSpec,
    subject: Audited,
    images: Images,
    plan: SplitPlan,
    seed: int,
    device: torch.device,
    narrator: Narrator,
    stop_requested: Callable[[], bool] = lambda: False,
) -> tuple[nn.Module, ...]:
    """Open the models of `--static`, or train the two of `static_pair` on the training images, or take these from the
    cache.

    Args:
        names: models as the user may name any; none: the two.
        spec, subject, images, seed, device, narrator, stop_requested: see `open_surrogates`.
        plan: the splits of the run; only its training images are trained on.

    Raises:
        HardenError: a model cannot be opened.
        Interrupted: a stop was requested.
    """
    if names:
        found = open_surrogates(
            names,
            spec=spec,
            subject=subject,
            images=images,
            plan=plan,
            audited=(),
            seed=seed,
            device=device,
            narrator=narrator,
            stop_requested=stop_requested,
            flag="--static",
        )
    else:
        pair = static_pair(subject.input_size)
        found = tuple(
            trained_surrogate(
                subject,
                images,
                plan.train,
                seed=seed,
                device=device,
                narrator=narrator,
                stop_requested=stop_requested,
                architecture=architecture,
            )
            for architecture in pair
        )
        for static in found:
            narrator.note(f"static {static.name}: {static.accuracy:.1%} of clean images right")
    return tuple(static.network for static in found)
