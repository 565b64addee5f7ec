"""A folder for a new run: where it may be, and what is written into it before training begins."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from harden.errors import OccupiedError, RunFolderError
from harden.files import write_with
from harden.models.classifier import Classifier
from harden.models.pickled import save_skeleton
from harden.workflows.run_folder import RunFolder


def unused(base: Path) -> Path:
    """Return `base`, or the first of BASE-2, BASE-3, ... that does not exist yet."""
    path, number = base, 2
    while path.exists():
        path, number = base.with_name(f"{base.name}-{number}"), number + 1
    return path


def require_free(out: Path | None) -> None:
    """Return if a run may be written to the folder `out`; None is one that is chosen to be free.

    Raises:
        OccupiedError: it exists and is not empty.
    """
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OccupiedError(
            f"{out} exists already and is not empty",
            hint=f"choose another --out, or continue that run with: harden fit --resume {out}",
        )


def new_run(wanted: Path | None, *, name: str) -> RunFolder:
    """Create a folder for a run: the one asked for, or `runs/NAME`, numbered where that exists.

    Raises:
        RunFolderError: the folder asked for exists and is not empty, or cannot be created.
    """
    if wanted is None:
        path = unused(Path("runs") / re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-."))
    else:
        require_free(wanted)
        path = wanted
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / "architecture").mkdir(exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot create {path}: {error.strerror}", hint="choose another --out") from error
    return RunFolder(path)


def keep_architecture(run: RunFolder, classifier: Classifier) -> None:
    """Keep what builds the network beside its weights: a pickled module's structure, or a copy of a factory's file.

    The copy is for whoever gets the folder: nothing runs it unless the user names it with `--arch`.
    """
    origin = classifier.origin
    if origin.kind == "pickled":
        save_skeleton(classifier.module, run.skeleton / Path(origin.reference).name)
    elif origin.kind == "factory" and ".py:" in origin.reference:
        source = Path(origin.reference.rsplit(":", 1)[0])
        if source.is_file():
            write_with(run.skeleton / source.name, lambda temporary: shutil.copyfile(source, temporary))
