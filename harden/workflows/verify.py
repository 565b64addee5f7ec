"""`harden verify`: an export tried again, months later or on another machine, from its own folder alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harden.attacks import frozen
from harden.errors import ExportError, HardenError, UnsafeInputError
from harden.export import EXPORTERS, PRECISIONS
from harden.export.any_size import OTHER_SIZE, of_other_sizes
from harden.export.manifest import MANIFEST, Manifest, read_manifest
from harden.export.parity import TOLERANCE, Parity, Standing, compare_with
from harden.export.runtime import OnnxScorer
from harden.export.sample import SAMPLE, Sample, load_sample
from harden.export.to_safetensors import load_weights
from harden.models.classifier import Classifier, Scorer
from harden.models.state_dict import load_into
from harden.workflows.export_description import read_config, rebuild_exported
from harden.workflows.narrator import Narrator
from harden.workflows.prove import SQUARE, WHITE_BOX, craft_white_box, under_square

_WEIGHTS = EXPORTERS["safetensors"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        file: which file.
        what: what was looked at.
        found: in words.
        holds: whether it is as it was.
    """

    file: str
    what: str
    found: str
    holds: bool

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary."""
        return dict(vars(self))


def verify(folder: Path, *, arch: str | None, narrator: Narrator) -> tuple[Finding, ...]:
    """Hold an export against what it said of itself: hashes, scores, and accuracy under attack.

    A file that has changed is still tried: whether it matters is the next question.

    Args:
        folder: what `harden export` wrote.
        arch: code that builds the network, to try the weights too where the folder's own copy may not be run.
        narrator: hears what happens.

    Raises:
        ExportError: the folder is no export, or what is needed to try it is damaged.
        HardenError: `arch` cannot be used.
    """
    manifest = read_manifest(folder)
    narrator.heading("Hashes")
    changed = dict(manifest.changed(folder))
    findings = [
        Finding(name, "SHA-256", changed.get(name, "as it was"), name not in changed)
        for name in manifest.files
        if name != SAMPLE or (folder / SAMPLE).exists()
    ]
    _tell(findings, narrator, by="file")
    if not (folder / SAMPLE).exists():
        narrator.warn(
            f"{folder} has no {SAMPLE}: without images neither scores nor accuracy can be tried, only the hashes"
        )
        return tuple(findings)
    sample = load_sample(folder / SAMPLE)
    for precision, name in PRECISIONS.items():
        if name in manifest.standing and (folder / name).is_file():
            narrator.heading(f"{name} in onnxruntime")
            tried = _try_program(folder / name, precision, manifest, sample, narrator)
            _tell(tried, narrator)
            findings += tried
    if _WEIGHTS in manifest.files and (folder / _WEIGHTS).is_file():
        narrator.heading(f"{_WEIGHTS} in torch")
        tried = _try_weights(folder, manifest, sample, arch, narrator)
        if tried:
            _tell(tried, narrator)
        findings += tried
    return tuple(findings)


def require_findings(findings: tuple[Finding, ...], folder: Path) -> None:
    """Raise if anything is not as it was.

    Raises:
        ExportError: naming it.
    """
    wrong = [f"{finding.file}, {finding.what}: {finding.found}" for finding in findings if not finding.holds]
    if wrong:
        raise ExportError(
            f"{folder} is not what was exported: {'; '.join(wrong)}",
            hint=f"do not deploy it; get the folder again, or export the model again ({MANIFEST} says what it was)",
        )


def _try_program(path: Path, precision: str, manifest: Manifest, sample: Sample, narrator: Narrator) -> list[Finding]:
    try:
        scorer = OnnxScorer(path)
        narrator.note(f"onnxruntime runs it on {', '.join(scorer.providers)}")
        parities = _parities(scorer, sample, manifest.tolerance if precision == "fp32" else None)
        counts = {kind: _right(scorer, images, sample) for kind, images in sample.sets()}
        if OTHER_SIZE in manifest.standing[path.name]:
            counts[OTHER_SIZE] = _right(scorer, of_other_sizes(sample.clean())["wide"], sample)
        queries = int(manifest.audit["queries"])
        counts[SQUARE] = under_square(scorer, sample, queries, narrator, f"{path.name} under Square")
    except HardenError as error:
        return [Finding(path.name, "scores", error.message, False)]
    except Exception as error:  # a changed file can make onnxruntime raise whatever it likes
        return [Finding(path.name, "scores", f"it fails: {type(error).__name__}", False)]
    return [
        *_of_scores(path.name, parities),
        *_of_counts(path.name, counts, manifest.standing[path.name], manifest, sample),
    ]


def _try_weights(
    folder: Path, manifest: Manifest, sample: Sample, arch: str | None, narrator: Narrator
) -> list[Finding]:
    try:
        classifier = _with_weights(folder, arch)
        with frozen(classifier):
            parities = _parities(classifier, sample, max(manifest.tolerance, TOLERANCE))
        examples = craft_white_box(classifier, sample.clean(), sample.labels, sample.eps, narrator)
        with frozen(classifier):
            counts = {WHITE_BOX: _right(classifier, examples, sample)}
    except UnsafeInputError as error:
        narrator.note(f"not tried: {error.message}. {error.hint or ''}")
        return []
    except HardenError as error:
        if arch is not None:
            raise
        return [Finding(_WEIGHTS, "scores", error.message, False)]
    except Exception as error:  # what a damaged config, or another model's sample, can lead to
        return [Finding(_WEIGHTS, "scores", f"they cannot be tried: {type(error).__name__}", False)]
    known = manifest.standing.get("model", {})
    return [*_of_scores(_WEIGHTS, parities), *_of_counts(_WEIGHTS, counts, known, manifest, sample)]


def _with_weights(folder: Path, arch: str | None) -> Classifier:
    classifier = rebuild_exported(folder, read_config(folder), arch=arch)
    load_into(classifier.module, load_weights(folder / _WEIGHTS))
    return classifier.eval()


def _parities(model: Scorer, sample: Sample, tolerance: float | None) -> list[Parity]:
    """Compare with the scores that the model gave before it was exported."""
    known = (sample.clean_scores, sample.adversarial_scores)
    with torch.no_grad():
        return [
            compare_with(scores, model, images, kind=kind, tolerance=tolerance)
            for (kind, images), scores in zip(sample.sets(), known, strict=True)
        ]


def _of_scores(name: str, parities: list[Parity]) -> list[Finding]:
    findings = []
    for parity in parities:
        limit = f" (tolerance {parity.tolerance:.2g})" if parity.tolerance is not None else ""
        apart = f"{parity.largest_difference:.2g} of the scale{limit}"
        said = f"same top-1 on {parity.agreement:.1%}, largest difference {apart}"
        findings.append(Finding(name, f"scores, {parity.kind}", said, parity.holds))
    return findings


def _of_counts(
    name: str, counts: dict[str, int], known: Mapping[str, int], manifest: Manifest, sample: Sample
) -> list[Finding]:
    findings = []
    for kind, count in counts.items():
        if kind not in known:
            findings.append(Finding(name, f"accuracy, {kind}", f"{MANIFEST} does not say what it was", False))
            continue
        standing = Standing(kind, len(sample), known[kind], count, manifest.max_drop)
        said = f"{count} of {len(sample)} images right, {standing.original} when it was exported"
        findings.append(Finding(name, f"accuracy, {kind}", said, standing.holds))
    return findings


def _right(model: Scorer, images: torch.Tensor, sample: Sample) -> int:
    with torch.no_grad():
        return int((model(images).argmax(dim=1).cpu() == sample.labels).sum())


def _tell(findings: list[Finding], narrator: Narrator, *, by: str = "what") -> None:
    """Say what was found, each by its file or by what was looked at."""
    rows = [("ok" if f.holds else "NO", f.file if by == "file" else f.what, f.found) for f in findings]
    narrator.table(("", by, "found"), rows)
