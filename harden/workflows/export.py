"""`harden export`: files to deploy, each proven equal to the model before the command succeeds."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harden.attacks import frozen
from harden.data import Entry
from harden.errors import ExportError, UsageError
from harden.export import EXPORTERS, PRECISIONS
from harden.export.any_size import take_any_size
from harden.export.card import CARD
from harden.export.manifest import MANIFEST, Manifest, read_manifest, sha256_of
from harden.export.parity import Parity, Standing, compare
from harden.export.reduced import save_fp16, save_int8
from harden.export.runtime import OnnxScorer
from harden.export.sample import SAMPLE, save_sample
from harden.export.timm_layout import timm_keys
from harden.export.to_onnx import OLDEST_OPSET, OPSET, save_onnx
from harden.export.to_safetensors import load_weights, save_weights
from harden.files import cannot_write
from harden.models.classifier import Classifier
from harden.models.fingerprint import fingerprint
from harden.models.state_dict import load_into
from harden.models.user_code import copied
from harden.registry import lookup
from harden.workflows.ending import require_exportable
from harden.workflows.export_description import (
    ARCHITECTURE,
    CONFIG,
    describe_export,
    keep_code,
    refuse_foreign,
    write_config,
)
from harden.workflows.export_subject import ExportSettings, ExportSubject, open_subject
from harden.workflows.first_checks import check_first
from harden.workflows.model_card import write_card
from harden.workflows.narrator import Narrator
from harden.workflows.prepare import as_run
from harden.workflows.prove import Evidence, Proof, effort_for, gather, prove, require_proof, tell

CALIBRATION_IMAGES = 128
_MODELS = (EXPORTERS["safetensors"], *PRECISIONS.values())


@dataclass(frozen=True)
class Exported:
    """One exported file, and how it compares with the model.

    Attributes:
        format: key of `EXPORTERS`.
        precision: key of `PRECISIONS`; "fp32" for safetensors, which holds the weights as they are.
        path: the file.
        parities: its scores beside the model's.
        standings: its accuracy beside the model's.
    """

    format: str
    precision: str
    path: Path
    parities: tuple[Parity, ...]
    standings: tuple[Standing, ...] = ()


def export(settings: ExportSettings, *, out: Path | None, narrator: Narrator) -> tuple[Exported, ...]:
    """Write the files, prove that each gives the model's answers, and put them into one folder with what belongs to it.

    If one of them does not, none is put there, and that one is set aside (`.rejected`).

    Raises:
        ExportError: a file cannot be written or does not agree.
        HardenError: anything else that the user can repair.
    """
    for name in settings.formats:
        lookup(EXPORTERS, name, kind="export format")
    for name in settings.precisions:
        lookup(PRECISIONS, name, kind="precision")
    if "onnx" not in settings.formats and set(settings.precisions) - {"fp32"}:
        raise UsageError("--precision is of ONNX files, and none is asked for", hint="add --to onnx")
    if "onnx" not in settings.formats and settings.any_size:
        raise UsageError("--any-size is of ONNX files, and none is asked for", hint="add --to onnx")
    if not 0 <= settings.max_drop < 1:
        raise UsageError(f"--max-drop {settings.max_drop} is no share of images", hint="give a number such as 0.02")
    if not (settings.tolerance >= 0 and math.isfinite(settings.tolerance)):
        raise UsageError(
            f"--tolerance must be a share of the scores' scale, 0 or more, got {settings.tolerance}",
            hint="give a number such as 0.0001",
        )
    if settings.opset < OLDEST_OPSET:
        raise UsageError(
            f"--opset must be {OLDEST_OPSET} or later, got {settings.opset}", hint=f"leave it out, or --opset {OPSET}"
        )
    check_first(models=(settings.spec.model,), arch=settings.spec.arch)
    run = as_run(settings.spec.model)
    if run is not None:
        require_exportable(run, anyway=settings.anyway, narrator=narrator)
    folder = out or (run.path / "export" if run else Path(f"{Path(settings.spec.model).stem.replace(':', '-')}-export"))
    refuse_foreign(folder, (CARD, CONFIG, ARCHITECTURE, SAMPLE), _MODELS)
    subject = open_subject(run, settings, narrator)
    classifier = subject.classifier.eval()
    weights = fingerprint(classifier)
    effort = effort_for(classifier, settings.samples)
    chosen = subject.images.sample(subject.entries, effort.images, 0, "parity")
    images = subject.images.decode(chosen, narrator, "images for the comparison")
    metadata = describe_export(classifier, run, any_size=settings.any_size)
    with _unproven(folder) as unproven:
        narrator.heading("The model itself")
        evidence = gather(classifier, images, subject.eps, effort, narrator)
        narrator.note(
            f"compared on {len(images)} images, and under Square ({effort.queries} queries) on {len(evidence.sample)}"
        )
        narrator.note(
            "top-1: of as many images the file says the same as the model; off by: largest difference of any score; "
            "model, file: images right"
        )
        results, counts = [], {}
        for kind, precision in _wanted(settings):
            path = unproven / (EXPORTERS[kind] if kind == "safetensors" else PRECISIONS[precision])
            narrator.heading(f"Export to {kind}" + (f", {precision}" if kind == "onnx" else ""))
            if kind == "safetensors":
                save_weights(classifier.module.state_dict(), path, describe_export(classifier, run))
                proof = _prove_safetensors(classifier, path, evidence, settings.tolerance)
            else:
                calibration = _calibration(subject, chosen, narrator) if precision == "int8" else None
                _write_onnx(classifier, unproven, precision, metadata, settings, calibration)
                scorer = OnnxScorer(path)
                narrator.note(f"onnxruntime runs it on {', '.join(scorer.providers)}")
                proof = prove(
                    classifier,
                    scorer,
                    evidence,
                    tolerance=settings.tolerance if precision == "fp32" else None,
                    max_drop=settings.max_drop,
                    narrator=narrator,
                    name=path.name,
                    any_size=settings.any_size,
                )
                counts[path.name] = proof.counts
            tell(proof, narrator)
            try:
                require_proof(proof, path.name, precision, _of_one_size(unproven, settings), evidence)
            except ExportError:
                path.rename(folder / f"{path.name}.rejected")
                raise
            narrator.note(f"{path.name} ({path.stat().st_size / 1e6:.2f} MB)")
            results.append(Exported(kind, precision, folder / path.name, proof.parities, proof.standings))
        save_sample(evidence.sample, unproven / SAMPLE)
        new = {item.path.name for item in results}
        stated = Manifest(
            weights=weights,
            files={},
            audit={"eps": subject.eps, "queries": effort.queries, "seed": 0},
            any_size=settings.any_size,
            tolerance=settings.tolerance,
            max_drop=settings.max_drop,
        )
        kept = _kept(folder, stated, sha256_of(unproven / SAMPLE), new, narrator)
        standing = {**kept.standing, **counts, "model": evidence.standing}
        layout = timm_keys(classifier)
        config = write_config(unproven, classifier, metadata, layout)
        code = keep_code(unproven, classifier, run)
        card = write_card(
            unproven,
            classifier,
            run,
            metadata,
            sorted({*kept.files, *new}),
            standing,
            evidence.sample,
            subject.data,
            name=(run.path if run else folder).resolve().name,
            for_timm=layout is not None,
        )
        others = (path.relative_to(unproven).as_posix() for path in (config, card, *code))
        made = {name: sha256_of(unproven / name) for name in (*new, SAMPLE, *others)}
        replace(stated, files=dict(sorted({**kept.files, **made}.items())), standing=standing).write(unproven)
        _place([*made, MANIFEST], unproven, folder)
    return tuple(results)


def _place(names: Sequence[str], unproven: Path, folder: Path) -> None:
    """Move what an export consists of into its folder. All of it is written by then, so no full disk cuts it in two.

    Raises:
        WriteError: `folder` cannot be written.
    """
    try:
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (unproven / name).replace(folder / name)
    except OSError as error:
        raise cannot_write(folder, error.strerror or type(error).__name__) from error


def _wanted(settings: ExportSettings) -> tuple[tuple[str, str], ...]:
    """Return (format, precision) of every file, each once and in the order of the formats."""
    return tuple(
        (name, precision)
        for name in dict.fromkeys(settings.formats)
        for precision in (dict.fromkeys(settings.precisions) if name == "onnx" else ("fp32",))
    )


@contextmanager
def _unproven(folder: Path) -> Iterator[Path]:
    """Give a folder for an export that is not proven yet, and remove it in the end; till then `folder` stays as it is.

    Raises:
        WriteError: `folder` cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=".unproven-", dir=folder))
    except OSError as error:
        raise cannot_write(folder, error.strerror or type(error).__name__) from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            folder.rmdir()  # where nothing came of it


def _write_onnx(
    classifier: Classifier,
    folder: Path,
    precision: str,
    metadata: dict[str, Any],
    settings: ExportSettings,
    calibration: Tensor | None,
) -> None:
    """Write the file of this precision, and the one of 32-bit floats that it is made from where it is not there yet."""
    of_one_size = _of_one_size(folder, settings)
    full, path = of_one_size / PRECISIONS["fp32"], of_one_size / PRECISIONS[precision]
    described = {**metadata, "precision": precision}
    if not full.exists():
        save_onnx(classifier, full, {**metadata, "precision": "fp32"}, opset=settings.opset)
    if precision == "fp16":
        save_fp16(full, path, described)
    elif calibration is not None:
        described["calibrated_on"] = len(calibration)
        save_int8(full, path, described, calibration)
    if settings.any_size:
        take_any_size(path, folder / path.name, described)


def _of_one_size(folder: Path, settings: ExportSettings) -> Path:
    """Return where files for images of the network's own size are made: inside, where those in `folder` take any."""
    return folder / "of-one-size" if settings.any_size else folder


def _calibration(subject: ExportSubject, chosen: Sequence[Entry], narrator: Narrator) -> Tensor:
    """Return images to find the ranges of activations on: others than those of the proof, where there are any."""
    left = set(chosen)
    others = [entry for entry in subject.entries if entry not in left] or subject.entries
    entries = subject.images.sample(others, CALIBRATION_IMAGES, 0, "calibration")
    images, _ = subject.images.decode(entries, narrator, "images for the calibration").batch(slice(None))
    return images


def _kept(folder: Path, stated: Manifest, sample: str, new: set[str], narrator: Narrator) -> Manifest:
    """Return what still holds of an earlier export into the same folder: files of the same model and sample.

    They were held to what that export was asked for, and there is one manifest for all, so that has to be the same too.

    Args:
        folder: of the export.
        stated: what its manifest is to say, but for files and what was found of them.
        sample: SHA-256 of the images that it is proven on.
        new: files that were just written.
        narrator: hears of files that are left out.
    """
    others = {*_MODELS} - new
    there = sorted(name for name in others if (folder / name).is_file())
    if not there:
        return stated
    try:
        earlier = read_manifest(folder)
    except ExportError:
        earlier = stated
    asked = replace(earlier, files={}, standing={})
    same = asked == stated and earlier.files.get(SAMPLE) == sample
    files = {
        name: earlier.files[name]
        for name in there
        if same and name in earlier.files and earlier.files[name] == sha256_of(folder / name)
    }
    left = [name for name in there if name not in files]
    if left:
        narrator.warn(
            f"{folder} also holds {', '.join(left)} of another export, which nothing here vouches for: export it "
            "again, or delete it"
        )
    return replace(stated, files=files, standing={k: v for k, v in earlier.standing.items() if k in files})


def _prove_safetensors(classifier: Classifier, path: Path, evidence: Evidence, tolerance: float) -> Proof:
    """Load the file into another copy of the network, whose own weights are wiped first, and compare the scores.

    Square is left out: the file holds the very weights, and the runtime is the one that the model was audited in.
    """
    other = copied(classifier)
    with torch.no_grad():
        for value in other.module.state_dict().values():
            value.zero_()
    load_into(other.module, load_weights(path))
    with frozen(classifier), frozen(other), torch.no_grad():
        parities = tuple(
            compare(classifier, other, images, kind=kind, tolerance=tolerance) for kind, images in evidence.sets()
        )
    return Proof(parities, (), {})
