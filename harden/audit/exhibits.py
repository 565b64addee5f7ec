"""Collecting images for the gallery while an audit runs: a few, of many classes and from every attack."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harden.attacks import Attack, Examples, run_attack
from harden.audit.gallery import Exhibit, Pixels
from harden.audit.result import AuditResult
from harden.data import ImageSet
from harden.distributed import Processes
from harden.models.black_box import Audited
from harden.randomness import stream

LIMIT = 12
"""Images in the gallery."""
LARGEST = 96
"""Height and width in pixels up to which an image is shown as it is; larger ones are made smaller."""

_MIDDLE = 128 / 255
_ROOM = 0.4  # a difference drawn from black to white would hide the pattern behind its contrast
_FACTORS = (1, 2, 3, 5, 10, 20, 30, 50, 100)


@dataclass(frozen=True, eq=False)
class _Found:
    """A fooled image; `rank` is (distance as a share of eps, row), and the smaller the better."""

    rank: tuple[float, int]
    exhibit: Exhibit


class Gallery:
    """A witness of an audit (`harden.audit.runner.Witness`) that remembers fooled images worth a look.

    Of each attack and true class it keeps the image with the smallest perturbation, in steps of a hundredth of eps, and
    the first among equals; of each attack the `limit` best of these. What it keeps does not depend on the batches, and
    is scaled down at once, so it needs little memory.

    Args:
        images: of the audit, in its order.
        limit: exhibits in the end.
    """

    def __init__(self, images: ImageSet, *, limit: int = LIMIT) -> None:
        self._images = images
        self._limit = limit
        self._found: dict[str, dict[int, _Found]] = {}

    def __call__(self, attack: Attack, rows: Tensor, batch: Tensor, examples: Examples) -> None:
        """See what an attack made of the images at `rows` (n,), `batch` (n, C, H, W) float in [0, 1]."""
        best = self._found.setdefault(attack.identity, {})
        distances = attack.norm.of(examples.images - batch).cpu()
        labels = self._images.labels.cpu()[rows.cpu()]
        for index in torch.nonzero(examples.margins.cpu() < 0).squeeze(1).tolist():
            row, true, distance = int(rows[index]), int(labels[index]), float(distances[index])
            rank = (round(distance / attack.eps, 2) if attack.eps else 0.0, row)
            if true in best:
                if rank >= best[true].rank:
                    continue
            elif len(best) >= self._limit:
                worst = max(best, key=lambda label: best[label].rank)
                if rank >= best[worst].rank:
                    continue
                del best[worst]
            best[true] = _Found(
                rank,
                exhibit_of(
                    batch[index].cpu(),
                    examples.images[index].cpu(),
                    file=self._images.files[row] if self._images.files else "",
                    attack=attack,
                    true=true,
                    after=int(examples.predictions[index]),
                ),
            )

    def unite(self, attack: Attack, processes: Processes) -> None:
        """Keep of an attack that is over what is best among all that the processes have seen of it."""
        if processes.size == 1:
            return
        seen = self._found.setdefault(attack.identity, {})
        ranks = json.dumps([(label, *found.rank) for label, found in seen.items()]).encode()
        best: dict[int, tuple[float, int]] = {}
        for told in processes.gather(ranks):
            for label, distance, row in json.loads(told):
                best[label] = min(best.get(label, (distance, row)), (distance, row))
        chosen = sorted(best.items(), key=lambda entry: entry[1])[: self._limit]
        # A row is in one process only, so each image is shown by the one that has it.
        shown = [(label, rank, seen[label].exhibit.to_json()) for label, rank in chosen if _is(seen.get(label), rank)]
        self._found[attack.identity] = {
            label: _Found((distance, row), Exhibit.from_json(exhibit))
            for told in processes.gather(json.dumps(shown).encode())
            for label, (distance, row), exhibit in json.loads(told)
        }

    def revisit(
        self, classifier: Audited, result: AuditResult, attacks: Sequence[Attack], *, seed: int = 0, repeats: int = 1
    ) -> None:
        """Repeat attacks whose examples it has not seen, because their outcomes were kept by an earlier audit.

        Each is repeated on at most `limit` images that it fooled then, the first of each class.

        Args:
            classifier, result: the model and its audit.
            attacks: of the audit.
            seed: of everything random.
            repeats: forward passes that one answer is the mean of, for a model that answers at random.
        """
        for attack in attacks:
            outcome = next((o for o in result.outcomes if o.identity == attack.identity), None)
            if outcome is None or attack.identity in self._found:
                continue
            fooled = np.flatnonzero(outcome.attacked & (outcome.predictions != result.labels))
            _, first = np.unique(result.labels[fooled], return_index=True)
            rows = torch.from_numpy(np.sort(fooled[first])[: self._limit])
            if len(rows) == 0:
                continue
            batch, labels = self._images.batch(rows)
            batch = batch.to(classifier.device)
            generator = stream(seed, "gallery", attack.name)
            labels = labels.to(classifier.device)
            self(
                attack, rows, batch, run_attack(attack, classifier, batch, labels, generator=generator, repeats=repeats)
            )

    def exhibits(self) -> tuple[Exhibit, ...]:
        """Return the exhibits: the attacks take turns, each with an image and a class shown least often so far."""
        chosen: list[_Found] = []
        left = {name: list(best.values()) for name, best in self._found.items()}
        while len(chosen) < self._limit and any(left.values()):
            for pool in left.values():
                if not pool or len(chosen) >= self._limit:
                    continue
                best = min(pool, key=lambda found: (*_seen(found, chosen), *found.rank))
                pool.remove(best)
                chosen.append(best)
        return tuple(found.exhibit for found in sorted(chosen, key=lambda found: (found.exhibit.true, found.rank[1])))


def exhibit_of(
    clean: Tensor, adversarial: Tensor, *, file: str, attack: Attack, true: int, after: int, before: int | None = None
) -> Exhibit:
    """Return an exhibit of an attacked image.

    Args:
        clean, adversarial: (C, H, W) float in [0, 1], C is 1 or 3, on the CPU.
        file: name of the image, or empty.
        attack: what made the example.
        true, before, after: class indices: the label, the prediction when clean (None: the label) and under attack.
    """
    moved = adversarial - clean
    reach = float(moved.abs().max())
    factor = max((factor for factor in _FACTORS if factor * reach <= _ROOM), default=1)
    return Exhibit(
        file=file,
        attack=attack.name,
        norm=attack.norm.value,
        true=true,
        before=true if before is None else before,
        after=after,
        distance=float(attack.norm.of(moved[None])[0]),
        clean=_shown(clean, "area"),
        adversarial=_shown(adversarial, "area"),
        # Averaging would cancel a perturbation that alternates from pixel to pixel.
        difference=_shown(moved * factor + _MIDDLE, "nearest-exact"),
        amplified=float(factor),
    )


def _shown(image: Tensor, resize: str) -> Pixels:
    """Return (H, W, C) uint8 of `image` (C, H, W), made smaller if it is larger than what is shown."""
    height, width = image.shape[1:]
    scale = LARGEST / max(height, width)
    if scale < 1:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        image = F.interpolate(image[None], size=size, mode=resize)[0]
    pixels: Pixels = image.mul(255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return pixels


def _is(found: _Found | None, rank: tuple[float, int]) -> bool:
    return found is not None and found.rank == rank


def _seen(found: _Found, chosen: Sequence[_Found]) -> tuple[int, int]:
    """Return how often the image, and how often its class, is among those chosen."""
    image = sum(other.rank[1] == found.rank[1] for other in chosen)
    return image, sum(other.exhibit.true == found.exhibit.true for other in chosen)
