"""`harden compare`: methods trained at an equal budget, audited on the same test images, and a verdict in words."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from harden import __version__
from harden.attacks import attack_names
from harden.audit.result import ImageOrigin
from harden.data import ImageSet, SplitPlan, name_of
from harden.defences import STATIC_DEFENCES
from harden.durations import duration
from harden.errors import Interrupted, OccupiedError, RunFolderError, TrainingError, UsageError
from harden.files import write_whole
from harden.models.classifier import Classifier
from harden.models.factory import is_reference
from harden.report import comparison_page, comparison_text, document
from harden.report.comparison import Comparison, Trial
from harden.report.figures import counted
from harden.workflows.audit import audit_subjects, write_reports
from harden.workflows.defaults import default_sources, passes_per_image
from harden.workflows.devices import choose_device
from harden.workflows.encounters import Encounters
from harden.workflows.ending import with_ending
from harden.workflows.examine import Scope, Subject
from harden.workflows.first_checks import check_first
from harden.workflows.fit import fit, resume
from harden.workflows.job import StopRequested, check_fit, choose_splits, open_source, spec_of
from harden.workflows.narrator import Narrator
from harden.workflows.plan import epochs_within
from harden.workflows.prepare import images_for
from harden.workflows.run_files import read_run_file
from harden.workflows.run_folder import RunFolder
from harden.workflows.settings import DEFAULT_EPOCHS, FitSettings
from harden.workflows.surrogate_training import Surrogate
from harden.workflows.surrogates import AUTO, open_surrogates, transfer_attacks
from harden.workflows.variants import Variant

ATTACKS = ("paper", "standard")
"""Where nobody names any: the paper's columns, and an ensemble as strong as AutoAttack for the worst case."""
REPRESENTED = ("fgsm", "rfgsm", "pgd-20", "pgd-40", "mim")
"""The paper's Table 2 and Figure 3."""
ASKED = "asked.json"
"""File that says what a comparison was asked for."""


ReadSettings = Callable[[RunFolder], FitSettings]
"""Reads the settings of a run that goes on from its recipe."""


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """What `harden compare` is asked for.

    Attributes:
        common: the settings that all variants share; its method, source attack and seed are ignored.
        variants: what is compared.
        settings: of each variant, in the same order, as if it were fitted alone.
        seeds: of the trainings.
        passes: passes over networks for each training image, forward and backward, that every variant may take; None:
            equal epochs or, with a budget, equal time.
        attacks: of the audit; none: `ATTACKS`.
        samples: test images to audit, stratified; None: all.
        surrogates: models to craft black-box examples on; "auto" trains one.
    """

    common: FitSettings
    variants: tuple[Variant, ...]
    settings: tuple[FitSettings, ...]
    seeds: tuple[int, ...]
    passes: float | None = None
    attacks: tuple[str, ...] = ATTACKS
    samples: int | None = None
    surrogates: tuple[str, ...] = (AUTO,)

    @property
    def shared_seed(self) -> int:
        """The seed of what all trials share: splits, audited images and surrogates."""
        return self.seeds[0]


def compare(
    settings: CompareSettings,
    *,
    out: Path | None,
    narrator: Narrator,
    stop_requested: StopRequested,
    command: str,
    read_settings: ReadSettings,
) -> tuple[Comparison, Path]:
    """Train every variant with every seed, audit them, and compare. What is already done in the folder stays done.

    Args:
        settings: what to do.
        out: the folder; None: one under `comparisons/`, named after what is asked for, so that the same command goes
            on where it was.
        narrator: hears what happens.
        stop_requested: asked after every training step, and often in audits.
        command: what the user typed, for the record.
        read_settings: see `ReadSettings`.

    Raises:
        HardenError: anything the user can repair.
        Interrupted: a stop was requested; the same command goes on.
    """
    for name in settings.attacks:
        attack_names([name])
    check_first(models=[name for name in settings.surrogates if name != AUTO])
    for alone in settings.settings:
        check_fit(alone)
    asked = _asked(settings)
    folder = _folder(settings, asked, out)
    trials, failed = [], []
    splits = _splits(settings, folder, narrator)
    audit = _Audit(settings, splits, narrator, stop_requested)
    for seed, (variant, alone) in product(settings.seeds, zip(settings.variants, settings.settings, strict=True)):
        run = RunFolder(folder / variant.folder / f"seed-{seed}")
        try:
            if not (run.path / "report.json").exists():
                seeded = replace(alone, seed=seed)
                _train(run, seeded, settings, variant, splits, narrator, stop_requested, command, read_settings)
                audit.of(run, variant, seed, command)
        except (Interrupted, KeyboardInterrupt):
            raise Interrupted("stopped", hint=f"the same command with --out {folder} goes on where it was") from None
        except (TrainingError, UsageError) as error:
            # What fails for one method may work for the others: all collapsed, or too small a budget.
            failed.append((error, f"{variant.name}, seed {seed}, is left out: {error.message}"))
            narrator.warn(failed[-1][1])
            continue
        report = read_run_file(run.path / "report.json", document.read)
        assert report.history is not None
        sources = read_settings(run).source_attack or ()
        trials.append(Trial(variant.name, variant.method, sources, seed, report.subject, report.history))
        narrator.note(f"{variant.name}, seed {seed}: {report.subject.worst_case().value:.1%} in the worst case")
    if not trials:
        raise failed[-1][0]
    found = Comparison(
        title=f"{name_of(settings.common.data)}: {counted(len(settings.variants), 'method')} compared",
        basis=_basis(settings),
        trials=tuple(trials),
        facts=_facts(settings, trials, command),
        caveats=(*(words for _, words in failed), *caveats_of(settings)),
    )
    write_whole(folder / "comparison.html", comparison_page.dumps(found))
    write_whole(folder / "comparison.md", comparison_text.dumps(found))
    write_whole(folder / "comparison.json", document.strict(found.to_json()))
    narrator.note(f"comparison: {folder / 'comparison.html'}")
    return found, folder


def caveats_of(settings: CompareSettings) -> list[str]:
    """Return what must be said of any comparison that was set up like this one."""
    found = []
    if len(settings.seeds) == 1:
        found.append(
            "One seed: intervals are over images alone and know nothing of what another seed would change (--seeds 3)."
        )
    if not settings.common.epochs and settings.common.budget is None and settings.passes is None:
        found.append(f"Nobody said how long to train: {DEFAULT_EPOCHS} epochs each.")
    if settings.passes is not None and any("fgsm" in (default_sources(each) or ()) for each in settings.settings):
        found.append(
            "Passes are planned with crafting apart. From FGSM a network without BatchNorm and dropout gives its "
            "examples in the pass that trains it, and takes fewer: the row of passes counts what there was."
        )
    if any(v.method in STATIC_DEFENCES for v in settings.variants) and not settings.common.static:
        found.append("The passes of EAT leave out those that trained its static networks.")
    return found


# -- training ----------------------------------------------------------------------------------------------------------


def _train(
    run: RunFolder,
    alone: FitSettings,
    settings: CompareSettings,
    variant: Variant,
    splits: SplitPlan,
    narrator: Narrator,
    stop_requested: StopRequested,
    command: str,
    read_settings: ReadSettings,
) -> None:
    """Train one variant with one seed, or go on with it; nothing where its weights are there."""
    if run.weights.exists():
        return
    narrator.heading(f"{variant.name}, seed {alone.seed}")
    if run.checkpoint.exists() or run.pretraining.exists():
        resume(
            run,
            replace(read_settings(run), trust_pickle=alone.trust_pickle),
            narrator=narrator,
            stop_requested=stop_requested,
            command=command,
            arch=_arch(alone),
            audit=False,
        )
        return
    shutil.rmtree(run.path, ignore_errors=True)  # a run that was killed before its first checkpoint
    if settings.passes is not None:
        cost = passes_per_image(alone)
        epochs, parts = epochs_within(settings.passes, cost, alone.epoch_parts)
        share = f" (each 1/{parts} of the training images)" if parts > 1 else ""
        narrator.note(f"{counted(epochs, 'epoch')}{share}, at {cost} passes for an image of a whole one")
        alone = replace(alone, epochs=epochs, epoch_parts=parts)
    fit(
        alone,
        out=run.path,
        dry_run=False,
        narrator=narrator,
        stop_requested=stop_requested,
        command=command,
        audit=False,
        splits=splits,
    )


def _arch(settings: FitSettings) -> str | None:
    """Return the code that the user named to build the network, with --arch or as the model itself."""
    return settings.arch or (settings.model if is_reference(settings.model) else None)


def _splits(settings: CompareSettings, folder: Path, narrator: Narrator) -> SplitPlan:
    """Return what all trials train, select and test on; drawn once and kept in the comparison's folder.

    With splits of its own, a seed would train on what another is tested on; drawn anew after the data changed, a trial
    that goes on would be tested on what it was trained on.

    Raises:
        RunFolderError: files of it are gone.
    """
    kept = RunFolder(folder)
    source = open_source(settings.common)
    if not kept.splits.exists():
        plan = choose_splits(replace(settings.common, seed=settings.shared_seed), source, narrator)
        kept.write_splits(plan, source)
        return plan
    plan = kept.read_splits()
    there = {entry for entries in source.listings.values() for entry in entries}
    gone = [entry.file for entry in (*plan.train, *plan.val, *plan.test) if entry not in there]
    if gone:
        raise RunFolderError(
            f"{folder} was begun with images that are not in {settings.common.data} any more ({gone[0]} and "
            f"{len(gone) - 1} others)",
            hint="bring them back, or compare anew with another --out",
        )
    return plan


# -- auditing ----------------------------------------------------------------------------------------------------------


class _Audit:
    """Audits finished runs on the same images and with the same surrogates."""

    def __init__(
        self, settings: CompareSettings, splits: SplitPlan, narrator: Narrator, stop_requested: StopRequested
    ) -> None:
        self._settings = settings
        self._splits = splits
        self._narrator = narrator
        self._stop_requested = stop_requested
        self._source = open_source(settings.common)
        self._prepared: tuple[ImageSet, tuple[Surrogate, ...]] | None = None

    def of(self, run: RunFolder, variant: Variant, seed: int, command: str) -> None:
        """Audit a run whose weights are there, and write its report."""
        settings, narrator = self._settings, self._narrator
        classifier = run.load_classifier(arch=_arch(settings.common)).to(choose_device(settings.common.device))
        test, surrogates = self._prepare(classifier)
        config = run.read_training()
        eps = float(config["eps"])
        narrator.heading(f"Audit of {variant.name}, seed {seed}")
        report = audit_subjects(
            [Subject(variant.name, classifier, test, Encounters.from_json(config).exposures(eps))],
            eps=eps,
            attacks=settings.attacks,
            dataset=f"{counted(len(test), 'test image')} of {settings.common.data}",
            origin=ImageOrigin(settings.common.data, "test", len(self._splits.test)),
            seed=settings.shared_seed,
            narrator=narrator,
            title=f"{variant.name}, seed {seed}",
            scope=replace(Scope.of(settings.attacks), curve=False, represented=REPRESENTED),
            kept_in=run.audit_progress,
            history=run.read_history(),
            facts=(("command", command), ("training seed", str(seed)), ("harden", __version__)),
            transfers=transfer_attacks(surrogates, eps=eps, paper=True),
            stop_requested=self._stop_requested,
        )
        write_reports(with_ending(run, report), run.path, narrator)
        shutil.rmtree(run.audit_progress, ignore_errors=True)

    def _prepare(self, classifier: Classifier) -> tuple[ImageSet, tuple[Surrogate, ...]]:
        """Return the test images and the surrogates, made once: every run has the same splits and the same format."""
        if self._prepared is None:
            settings = self._settings
            images = images_for(classifier, self._source)
            entries = images.sample(self._splits.test, settings.samples, settings.shared_seed, "audit")
            test = images.decode(entries, self._narrator, "test images")
            surrogates = open_surrogates(
                settings.surrogates,
                spec=spec_of(settings.common),
                subject=classifier,
                images=images,
                plan=self._splits,
                audited=entries,
                seed=settings.shared_seed,
                device=classifier.device,
                narrator=self._narrator,
                stop_requested=self._stop_requested,
            )
            self._prepared = test, surrogates
        return self._prepared


# -- the folder --------------------------------------------------------------------------------------------------------


def _asked(settings: CompareSettings) -> dict[str, Any]:
    """Return what a comparison is asked for, as its folder keeps it."""
    asked = asdict(replace(settings, variants=(), settings=()))
    asked["methods"] = [variant.spec for variant in settings.variants]
    document: dict[str, Any] = json.loads(json.dumps(asked))
    return document


def _folder(settings: CompareSettings, asked: dict[str, Any], out: Path | None) -> Path:
    """Return the folder, made and marked with what was asked for; one that was asked for the same is gone on with.

    Raises:
        RunFolderError: it holds another comparison, or something else.
    """
    if out is None:
        digest = hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=4).hexdigest()
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name_of(settings.common.data)).strip("-.")
        out = Path("comparisons") / f"{stem}-{digest}"
    marker = out / ASKED
    if marker.exists():
        try:
            kept = json.loads(marker.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunFolderError(
                f"{marker} is damaged ({type(error).__name__})", hint="choose another --out"
            ) from error
        different = sorted(key for key in {*kept, *asked} if kept.get(key) != asked.get(key))
        # More seeds or methods may be added to what is there; whatever else differs would be another comparison.
        if set(different) - {"methods", "seeds"}:
            raise RunFolderError(
                f"{out} holds a comparison that was asked for otherwise ({', '.join(different)})",
                hint="choose another --out, or ask for the same",
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OccupiedError(f"{out} exists already and is no comparison", hint="choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot create {out}: {error.strerror}", hint="choose another --out") from error
    write_whole(marker, json.dumps(asked, indent=1) + "\n")
    return out


# -- words -------------------------------------------------------------------------------------------------------------


def _basis(settings: CompareSettings) -> str:
    if settings.passes is not None:
        return f"{settings.passes:g} passes for each training image"
    if settings.common.budget is not None and settings.common.epochs is None:
        return f"{duration(settings.common.budget)} of training each"
    return f"{counted(settings.common.epochs or DEFAULT_EPOCHS, 'epoch')} each"


def _facts(settings: CompareSettings, trials: Sequence[Trial], command: str) -> tuple[tuple[str, str], ...]:
    common = settings.common
    sources = dict.fromkeys((trial.variant, " + ".join(trial.sources) or "none") for trial in trials)
    return (
        ("command", command),
        ("equal", _basis(settings)),
        ("source attacks", "; ".join(f"{variant}: {source}" for variant, source in sources)),
        ("seeds", ", ".join(map(str, settings.seeds))),
        ("attacks", ", ".join(settings.attacks)),
        ("model", common.model),
        ("harden", __version__),
    )
