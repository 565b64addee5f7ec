"""Keeping finished attacks of a long audit, so that an interrupted one goes on where it was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from harden.attacks import Attack, Transfer
from harden.audit.result import AttackOutcome
from harden.data.dataset import ImageSet
from harden.files import write_whole
from harden.models.black_box import BlackBox
from harden.models.fingerprint import fingerprint


class Keeping:
    """One file for each finished attack, named by everything that its outcome depends on.

    Args:
        folder: made when the first outcome is kept.
        model: what is audited; its weights, or what identifies a black box, are part of the name.
        name: of the model.
        images: what it is audited on.
        seed: of the audit.
    """

    def __init__(self, folder: Path, *, model: object, name: str, images: ImageSet, seed: int) -> None:
        self._folder = folder
        self._subject = identity_of(model, name=name, images=images, seed=seed)

    def find(self, attack: Attack, attacked: Tensor, repeats: int) -> AttackOutcome | None:
        """Return what an attack came to earlier on exactly these images of this model, or None."""
        path = self._path(attack, attacked, repeats)
        try:
            return AttackOutcome.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None  # not there, or cut off or written by another version: attack again

    def keep(self, attack: Attack, attacked: Tensor, repeats: int, outcome: AttackOutcome) -> None:
        """Write an outcome down, whole or not at all.

        Raises:
            WriteError: the file cannot be written.
        """
        write_whole(self._path(attack, attacked, repeats), json.dumps(outcome.to_json()))

    def _path(self, attack: Attack, attacked: Tensor, repeats: int) -> Path:
        digest = hashlib.blake2b(digest_size=16)
        digest.update(f"{self._subject}/{attack.name}/{attack.identity}/{repeats}".encode())
        digest.update(np.packbits(attacked.numpy()).tobytes())
        for surrogate in attack.surrogates if isinstance(attack, Transfer) else ():
            digest.update(fingerprint(surrogate).encode())
        return self._folder / f"{digest.hexdigest()}.json"


def identity_of(model: object, *, name: str, images: ImageSet, seed: int) -> str:
    """Return a text that changes with the weights of a model (or what identifies a black box), its images and the seed.

    Args:
        model, name, images, seed: see `Keeping`.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{name}/{seed}/{images.images.shape}".encode())
    digest.update(images.images.contiguous().numpy().tobytes())
    digest.update(images.labels.cpu().numpy().tobytes())
    if isinstance(model, BlackBox):
        digest.update(model.identity.encode())
    if isinstance(model, nn.Module):
        digest.update(fingerprint(model).encode())
    return digest.hexdigest()
