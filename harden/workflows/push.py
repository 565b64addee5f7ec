"""`harden push`: an export to a repository on the Hugging Face hub. Nothing else ever uploads anything."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harden.errors import ExportError, HardenError, UsageError
from harden.export.manifest import MANIFEST, read_manifest
from harden.export.sample import SAMPLE
from harden.models.loaded import one_line
from harden.workflows.narrator import Narrator


@dataclass(frozen=True, kw_only=True)
class PushSettings:
    """What `harden push` is asked for.

    Attributes:
        folder: what `harden export` wrote.
        repository: ORG/NAME.
        public: make a new repository public, or upload into one that is; it is private otherwise.
        with_images: upload the sample too, which holds images of the user's data.
    """

    folder: Path
    repository: str
    public: bool = False
    with_images: bool = False


def push(settings: PushSettings, *, narrator: Narrator) -> str:
    """Upload the files of an export, once their hashes are those that it was exported with; return the address.

    Raises:
        UsageError: huggingface_hub is not installed, the name is none of a repository, or it is public unasked.
        ExportError: the folder is no export, or has changed.
        HardenError: the hub refuses.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", settings.repository):
        raise UsageError(
            f"{settings.repository!r} names no repository of the Hugging Face hub", hint="write it as ORG/NAME"
        )
    manifest = read_manifest(settings.folder)
    left = set() if settings.with_images else {SAMPLE}
    wrong = [
        f"{name} {what}"
        for name, what in manifest.changed(settings.folder)
        if name not in left or (settings.folder / name).exists()  # a folder that was got from the hub has no sample
    ]
    if wrong:
        raise ExportError(
            f"{settings.folder} is not what was exported: {'; '.join(wrong)}",
            hint=f"look at it with: harden verify {settings.folder}",
        )
    files = [*sorted(set(manifest.files) - left), MANIFEST]
    if left & set(manifest.files):
        narrator.note(f"{SAMPLE} stays here: it holds images of your data (--with-images uploads it)")
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UsageError(
            "uploading needs huggingface_hub", hint="pip install 'harden-classifier[hub]', or huggingface_hub alone"
        ) from error
    api = HfApi()
    try:
        made = api.create_repo(settings.repository, private=not settings.public, exist_ok=True)
        # One that was there keeps its visibility, whatever was asked for.
        if not settings.public and not api.repo_info(settings.repository).private:
            raise UsageError(
                f"{settings.repository} is there already, and is public",
                hint="--public uploads into it all the same; otherwise make it private on the hub, or name another",
            )
        narrator.note(f"uploading {', '.join(files)}")
        api.upload_folder(
            repo_id=settings.repository,
            folder_path=settings.folder,
            allow_patterns=files,
            commit_message="harden export",
        )
    except UsageError:
        raise
    except Exception as error:  # the hub's client raises a dozen unrelated types
        raise HardenError(
            f"{settings.repository} cannot be written: {one_line(error)}",
            hint="log in with `hf auth login` (a token that may write), and check the name and the connection",
        ) from error
    return str(made)
