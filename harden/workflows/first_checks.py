"""What can be told of a command before anything is opened: that its model, folders and device are there to be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harden.attacks import attack_names
from harden.errors import MissingModelError
from harden.models import timm_folder
from harden.models.factory import LIBRARIES, is_reference
from harden.registry import did_you_mean
from harden.workflows.devices import choose_device
from harden.workflows.run_folder import is_run

LISTED_RUNS = 8


def check_first(
    *,
    models: Sequence[str] = (),
    arch: str | None = None,
    device: str = "auto",
    attacks: Sequence[str] = (),
) -> None:
    """Refuse what can be refused at once, so that nobody waits for data to be listed first.

    Args:
        models: as the user typed them.
        arch: code or the name of a network.
        device: as for `choose_device`.
        attacks: names of presets and attacks.

    Raises:
        UsageError: naming the first of them that cannot be used.
    """
    attack_names(attacks)
    choose_device(device)
    for model in models:
        require_model(model)
    if arch is not None:
        _require_code(arch, "--arch")


def require_model(spec: str) -> None:
    """Return if `spec` names a file, a run folder, a folder of timm's, or something that is not on this disk.

    Raises:
        MissingModelError: it names nothing; the hint lists the run folders that are there.
    """
    path = Path(spec).expanduser()
    if path.is_file() or is_run(path) or spec.startswith(timm_folder.HUB) or spec.partition(":")[0] in LIBRARIES:
        return
    if spec.startswith(timm_folder.LOCAL):
        path = Path(spec.removeprefix(timm_folder.LOCAL)).expanduser()
        if not path.is_dir():
            raise MissingModelError(f"there is no folder {path}", hint="local-dir: takes a folder as timm saves it")
        return
    if path.is_dir():
        if (path / timm_folder.CONFIG).is_file():
            return
        raise MissingModelError(
            f"{spec} is a folder, but no run folder: it has no config.json and recipe.toml", hint=what_there_is(path)
        )
    if is_reference(spec) and not path.exists():
        _require_code(spec, "the model")
        return
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    what = "model file" if path.suffix else "run folder or model file"
    raise MissingModelError(f"no {what} {spec}{did_you_mean(path.name, siblings)}", hint=what_there_is(path))


def runs_beside(path: Path) -> tuple[Path, ...]:
    """Return the run folders in the folder of `path`, or else those in runs/, the newest first."""
    for folder in (path.parent, Path("runs")):
        found = [entry for entry in folder.iterdir() if is_run(entry)] if folder.is_dir() else []
        if found:
            return tuple(sorted(found, key=lambda run: run.stat().st_mtime, reverse=True))
    return ()


def _require_code(spec: str, what: str) -> None:
    code = Path(spec.rpartition(":")[0]).expanduser()
    if is_reference(spec) and code.suffix == ".py" and not code.is_file():
        siblings = [entry.name for entry in code.parent.iterdir()] if code.parent.is_dir() else []
        raise MissingModelError(
            f"{what} {spec} names a file that does not exist: {code}{did_you_mean(code.name, siblings)}",
            hint="give it as path/file.py:callable",
        )


def what_there_is(path: Path) -> str:
    """Return the hint for what is not at `path`: the run folders there are, or else what a model is."""
    runs = [str(run) for run in runs_beside(path)]
    if not runs:
        return (
            "a model is a file, a run folder, timm:NAME, torchvision:NAME, local-dir:FOLDER, hf-hub:ORG/NAME or "
            "path/file.py:callable"
        )
    more = f" and {len(runs) - LISTED_RUNS} more" if len(runs) > LISTED_RUNS else ""
    return f"the run folders there are: {', '.join(runs[:LISTED_RUNS])}{more}"
