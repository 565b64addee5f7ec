"""`harden export`: files to deploy, each proven equal to the model before the command succeeds."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harden import __version__
from harden.attacks import ATTACKS, frozen, run_attack
from harden.data import AS_IT_IS, ImageSet, Reading, open_data
from harden.errors import ExportError, UsageError
from harden.export import EXPORTERS
from harden.export.parity import TOLERANCE, Parity, compare, require
from harden.export.runtime import OnnxScorer
from harden.export.to_onnx import OPSET, save_onnx
from harden.export.to_safetensors import load_weights, save_weights
from harden.files import write_whole
from harden.models.classifier import Classifier
from harden.models.state_dict import load_into
from harden.randomness import stream
from harden.registry import lookup
from harden.workflows.narrator import Narrator
from harden.workflows.prepare import ModelSpec, as_run, default_eps, images_for, open_model
from harden.workflows.run_folder import RunFolder, describe, reading_for, refuse_stated

PARITY_IMAGES = 256


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What `harden export` is asked for.

    Attributes:
        spec: the model.
        formats: keys of `EXPORTERS`.
        data: images to prove agreement on; None: the run's validation images.
        reading: how they are read; what it leaves open is as in the run.
        opset: of the ONNX file.
        tolerance: largest difference of any score that counts as agreement.
    """

    spec: ModelSpec
    formats: tuple[str, ...]
    data: str | None = None
    reading: Reading = AS_IT_IS
    opset: int = OPSET
    tolerance: float = TOLERANCE


@dataclass(frozen=True)
class Exported:
    """One exported file, and how it compares with the model."""

    format: str
    path: Path
    parities: tuple[Parity, ...]


def export(settings: ExportSettings, *, out: Path | None, narrator: Narrator) -> tuple[Exported, ...]:
    """Write the files, then prove that each gives the model's answers; one that does not is set aside (`.rejected`).

    Raises:
        ExportError: a file cannot be written or does not agree.
        HardenError: anything else that the user can repair.
    """
    for name in settings.formats:
        lookup(EXPORTERS, name, kind="export format")
    run = as_run(settings.spec.model)
    classifier, images, eps = _from_run(run, settings, narrator) if run else _from_model(settings, narrator)
    classifier.eval()
    folder = out or (run.path / "export" if run else Path(f"{Path(settings.spec.model).stem.replace(':', '-')}-export"))
    metadata = _metadata(classifier, run)
    sets = _parity_images(classifier, images, eps)
    results = []
    for name in dict.fromkeys(settings.formats):
        path = folder / EXPORTERS[name]
        unproven = folder / f"unproven-{path.name}"  # what is at `path` already stays until the new file is proven
        narrator.heading(f"Export to {name}")
        if name == "safetensors":
            save_weights(classifier.module.state_dict(), unproven, metadata)
            parities = _prove_safetensors(classifier, unproven, sets)
        else:
            save_onnx(classifier, unproven, metadata, opset=settings.opset)
            scorer = OnnxScorer(unproven)
            narrator.note(f"onnxruntime runs it on {', '.join(scorer.providers)}")
            parities = _prove(classifier, scorer, sets, settings.tolerance)
        narrator.table(
            ("images", "top-1 agreement", "largest difference", "tolerance"),
            [
                (f"{p.images} {p.kind}", f"{p.agreement:.2%}", f"{p.largest_difference:.2g}", f"{p.tolerance:.2g}")
                for p in parities
            ],
        )
        try:
            require(parities, path.name)
        except ExportError:
            unproven.rename(path.with_name(path.name + ".rejected"))
            raise
        unproven.replace(path)
        narrator.note(f"{path} ({path.stat().st_size / 1e6:.2f} MB)")
        results.append(Exported(name, path, parities))
    write_whole(folder / "config.json", json.dumps(metadata, indent=1) + "\n")
    return tuple(results)


def _from_run(
    run: RunFolder | None, settings: ExportSettings, narrator: Narrator
) -> tuple[Classifier, ImageSet, float]:
    assert run is not None
    refuse_stated(run, settings.spec, settings.reading)
    classifier = run.load_classifier(arch=settings.spec.arch)
    training = run.read_config().get("training", {})
    reading = reading_for(run, settings.reading, other_data=settings.data is not None)
    source = open_data(settings.data or training["data"], reading)
    images = images_for(classifier, source)
    splits = run.splits_under(source.classes) if settings.data is None else None
    entries = splits.val if splits is not None else _some(source.listings)
    chosen = images.sample(entries, PARITY_IMAGES, 0, "parity")
    return classifier, images.decode(chosen, narrator, "images for the comparison"), float(training["eps"])


def _from_model(settings: ExportSettings, narrator: Narrator) -> tuple[Classifier, ImageSet, float]:
    if settings.data is None:
        raise UsageError(
            "which images? A model's export is proven on images, and its normalisation is found on them",
            hint="give --data DIR; only a finished run folder knows its own",
        )
    source = open_data(settings.data, settings.reading)
    classifier, images = open_model(settings.spec, source, _some(source.listings), narrator)
    chosen = images.sample(_some(source.listings), PARITY_IMAGES, 0, "parity")
    return classifier, images.decode(chosen, narrator, "images for the comparison"), default_eps(classifier.input_size)


def _some(listings: Any) -> Any:
    return listings.get("val") or listings.get("train") or next(iter(listings.values()))


def _parity_images(classifier: Classifier, images: ImageSet, eps: float) -> tuple[tuple[str, Tensor], ...]:
    """The images as they are, and PGD-10 examples of them crafted on the model."""
    clean, labels = images.batch(slice(None))
    attack = ATTACKS["pgd-10"](eps)
    examples = run_attack(attack, classifier, clean, labels, generator=stream(0, "parity"), drop_fooled=False)
    return ("clean", clean), ("adversarial", examples.images)


def _prove(
    classifier: Classifier, scorer: Any, sets: Sequence[tuple[str, Tensor]], tolerance: float
) -> tuple[Parity, ...]:
    with frozen(classifier), torch.no_grad():
        return tuple(compare(classifier, scorer, images, kind=kind, tolerance=tolerance) for kind, images in sets)


def _prove_safetensors(classifier: Classifier, path: Path, sets: Sequence[tuple[str, Tensor]]) -> tuple[Parity, ...]:
    """Load the file into another copy of the network, whose own weights are wiped first."""
    other = copy.deepcopy(classifier)
    with torch.no_grad():
        for value in other.module.state_dict().values():
            value.zero_()
    load_into(other.module, load_weights(path))
    with frozen(other), torch.no_grad():
        return _prove(classifier, other, sets, TOLERANCE)


def _metadata(classifier: Classifier, run: RunFolder | None) -> dict[str, Any]:
    """What another team needs to know to serve the file. Nothing here depends on where or when it was made."""
    described = describe(classifier)
    training = run.read_config().get("training", {}) if run else {}
    kept = ("method", "source_attacks", "norm", "eps", "split")
    return {
        "harden": __version__,
        "classes": described["classes"],
        "input": {"name": "images", "size": described["input_size"], "dtype": "float32", "range": [0, 1]},
        "normalisation": {
            **described["normalisation"],
            "where": "inside the ONNX file; to be applied before the safetensors weights' own network",
        },
        "training": {key: training[key] for key in kept if key in training},
    }
