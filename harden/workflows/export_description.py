"""What an export says of its model: the metadata in every file, config.json, and what builds the network again.

Nothing here depends on where or when the export was made, and nothing names a folder of the machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harden import __version__
from harden.data import SplitPlan
from harden.errors import ExportError, OccupiedError
from harden.export.any_size import HOW
from harden.export.manifest import read_manifest
from harden.files import write_whole, write_with
from harden.models.classifier import Classifier
from harden.models.origin import Origin
from harden.workflows.new_run import keep_architecture
from harden.workflows.run_folder import RunFolder, classifier_from, describe, is_run

CONFIG = "config.json"
ARCHITECTURE = "architecture"
_KEPT = ("method", "source_attacks", "norm", "eps", "split")


def describe_export(classifier: Classifier, run: RunFolder | None, *, any_size: bool = False) -> dict[str, Any]:
    """Return what another team needs to know to serve the file, as JSON values.

    Args:
        classifier: the model.
        run: where it was trained; None for a model from elsewhere, of whose training nothing is known.
        any_size: whether ONNX files take images of any size.
    """
    described = describe(classifier)
    training = run.read_config().get("training", {}) if run else {}
    known: dict[str, Any] = {"training": {key: training[key] for key in _KEPT if key in training}}
    if run is not None:
        known["recipe_sha256"] = hashlib.sha256(run.recipe.read_bytes()).hexdigest()
        known["data"] = _fingerprint(run.read_splits())
    return {
        "harden": __version__,
        "classes": described["classes"],
        "input": {
            "name": "images",
            "size": described["input_size"],
            "dtype": "float32",
            "range": [0, 1],
            **({"any_size": HOW} if any_size else {}),
        },
        "normalisation": {
            **described["normalisation"],
            "where": "inside the ONNX files; to be applied before the safetensors weights' own network",
        },
        **known,
    }


def _fingerprint(splits: SplitPlan) -> dict[str, Any]:
    """Return how many images each split has, and a hash of the names and labels of all of them."""
    named = {"train": splits.train, "val": splits.val, "test": splits.test}
    lines = (f"{split}\t{entry.label}\t{entry.file}\n" for split, entries in named.items() for entry in entries)
    digest = hashlib.sha256("".join(lines).encode("utf-8", errors="surrogateescape")).hexdigest()
    return {"images": {split: len(entries) for split, entries in named.items()}, "names_and_labels_sha256": digest}


def refuse_foreign(folder: Path, names: Sequence[str], models: Sequence[str]) -> None:
    """Refuse to write over what is not of an export: a project's README.md, a run's config.json, somebody's weights.

    Args:
        folder: where the export is to go; may not be there yet.
        names: files of an export that are called as others' may be.
        models: its model files, which may be too.

    Raises:
        OccupiedError: one of them is there, and nothing says that it is of an export.
    """
    with contextlib.suppress(ExportError):
        read_manifest(folder)
        return
    there = [name for name in (*names, *models) if (folder / name).exists()]
    if CONFIG in there and is_run(folder):
        raise OccupiedError(f"{folder} is a run folder", hint="name a folder of its own with --out")
    if CONFIG in there:
        with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
            if "harden" in json.loads((folder / CONFIG).read_text(encoding="utf-8")):
                there = [
                    name for name in there if name != CONFIG and name not in models
                ]  # of a version without manifests
    if there:
        raise OccupiedError(
            f"{folder} holds {', '.join(there)}, which no export by this program put there",
            hint="name a folder of its own with --out",
        )


def write_config(
    folder: Path, classifier: Classifier, metadata: Mapping[str, Any], layout: Mapping[str, Any] | None
) -> Path:
    """Write config.json: the metadata, how to build the network again, and what timm reads (`timm_keys`) where it can.

    Raises:
        RunFolderError: it cannot be written.
    """
    document = {**metadata, "origin": _portable(classifier.origin).to_json(), **(layout or {})}
    return write_whole(folder / CONFIG, json.dumps(document, indent=1) + "\n")


def read_config(folder: Path) -> dict[str, Any]:
    """Return what config.json of an export says.

    Raises:
        ExportError: it is missing, damaged, or another program's.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        Origin.from_json(config["origin"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ExportError(f"{path} is missing or damaged", hint="export the model again") from error
    return dict(config)


def rebuild_exported(folder: Path, config: Mapping[str, Any], *, arch: str | None) -> Classifier:
    """Return the classifier that an export describes, without its weights.

    Args:
        folder: of the export.
        config: its config.json.
        arch: code that builds the network, where the folder's own copy may not be run.

    Raises:
        HardenError: the network cannot be built, or must not be; another kind of error for a damaged config.
    """
    described = {**config, "input_size": config["input"]["size"]}
    normalisation = {key: value for key, value in config["normalisation"].items() if key != "where"}
    return classifier_from({**described, "normalisation": normalisation}, folder / ARCHITECTURE, arch=arch)


def keep_code(folder: Path, classifier: Classifier, run: RunFolder | None) -> tuple[Path, ...]:
    """Keep beside the weights what builds the network: a pickled module's structure, or a copy of a factory's file.

    Args:
        folder: of the export.
        classifier: the model.
        run: where it was trained; may hold a copy of code that is no longer where it was.

    Returns:
        The files, none for a network of a library.

    Raises:
        RunFolderError: they cannot be written.
    """
    origin, target = classifier.origin, folder / ARCHITECTURE
    if origin.kind not in ("pickled", "factory"):
        return ()
    target.mkdir(exist_ok=True)
    keep_architecture(RunFolder(folder), classifier)
    name = Path(origin.reference.rpartition(":")[0] or origin.reference).name
    copied = run.skeleton / name if run is not None else None
    if not (target / name).exists() and copied is not None and copied.is_file():
        write_with(target / name, lambda temporary: shutil.copyfile(copied, temporary))
    return (target / name,) if (target / name).is_file() else ()


def _portable(origin: Origin) -> Origin:
    """Return `origin` without the folders of this machine."""
    reference = origin.reference
    if origin.kind == "factory" and ".py:" in reference:
        file, _, function = reference.rpartition(":")
        reference = f"{ARCHITECTURE}/{Path(file).name}:{function}"
    weights = without_folders(origin.weights) if origin.weights is not None else None
    return replace(origin, reference=reference, weights=weights)


def without_folders(word: str) -> str:
    """Return an argument of a command with its paths reduced to their last part: they tell of somebody's machine.

    What names a model or data set of a library or a hub (`timm:NAME`, `hf-hub:ORG/NAME`), and a fraction, stay.
    """
    flag, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    typed = re.match(r"[A-Za-z][A-Za-z0-9_+-]+:", value)  # two letters at least: C:\images is a path
    scheme = typed[0] if typed is not None else ""
    path, mark, columns = value[len(scheme) :].partition("?")
    if scheme == "torchvision:":
        path = path.partition("@")[0]  # the folder that it is downloaded to
    of_hub = scheme == "hf-hub:" or (scheme == "hf:" and re.fullmatch(r"\w[\w.-]*/[\w.-]+", path))
    if not of_hub and not re.fullmatch(r"[\d.]+/[\d.]+", path):
        path = re.split(r"[/\\]", path.rstrip("/\\"))[-1] if path else path
    return flag + equals + scheme + path + mark + re.sub(r"[^=&]*[/\\]", "", columns)
