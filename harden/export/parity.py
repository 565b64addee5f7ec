"""Proving that an exported file gives the same answers as the model, on clean and on adversarial images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from harden.errors import ExportError
from harden.models.agreement import ROUNDING, differences, scale_of
from harden.models.classifier import Scorer

TOLERANCE = ROUNDING
"""Largest difference of any score that counts as agreement, as a share of the scores' scale (fp32 against fp32)."""
BATCH_SIZES = (1, 7, 64)


@dataclass(frozen=True)
class Parity:
    """How two scorers compare on one set of images.

    Attributes:
        images: how many were compared (each at every batch size).
        kind: what images they were.
        agreement: share with the same top-1 class, in [0, 1].
        undecided: images whose margin is below twice the tolerance; these may differ in top-1.
        disagreements: images that differ in top-1 although their margin is not that small.
        largest_difference: over all scores, as a share of their scale.
        tolerance: stated bound on it; None for a file of smaller numbers, whose scores differ in any case.
    """

    kind: str
    images: int
    agreement: float
    undecided: int
    disagreements: int
    largest_difference: float
    tolerance: float | None

    @property
    def holds(self) -> bool:
        """Whether the two agree as stated."""
        if self.tolerance is None:
            return math.isfinite(self.largest_difference)
        return self.disagreements == 0 and self.largest_difference <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary."""
        return {**asdict(self), "holds": self.holds}


@dataclass(frozen=True)
class Standing:
    """How much of the model's accuracy a file keeps on one set of images, or under one attack on the file itself.

    Attributes:
        kind: what they were ("clean", "adversarial", or the attack).
        images: how many.
        original: images that the model classifies correctly.
        exported: images that the file classifies correctly.
        max_drop: largest share of images that the file may lose.
    """

    kind: str
    images: int
    original: int
    exported: int
    max_drop: float

    @property
    def drop(self) -> float:
        """The share of images that the file loses, negative where it gains."""
        return (self.original - self.exported) / self.images

    @property
    def holds(self) -> bool:
        """Whether no more than that is lost; one image always may be."""
        return self.original - self.exported <= max(1, math.floor(self.max_drop * self.images + 1e-9))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary."""
        return {**asdict(self), "drop": round(self.drop, 6), "holds": self.holds}


def compare(
    original: Scorer, exported: Scorer, images: Tensor, *, kind: str, tolerance: float | None = TOLERANCE
) -> Parity:
    """Run both on `images` (N, C, H, W) float in [0, 1] at every batch size and compare.

    Args:
        original: the model.
        exported: the file in its runtime.
        images: on the CPU; N >= 1.
        kind: "clean" or "adversarial", for print.
        tolerance: bound on the difference of scores, as a share of their scale; None: none is asked for.
    """
    reference = torch.cat([original(chunk).detach().cpu().float() for chunk in torch.split(images, 64)])
    return compare_with(reference, exported, images, kind=kind, tolerance=tolerance)


def compare_with(
    reference: Tensor, exported: Scorer, images: Tensor, *, kind: str, tolerance: float | None = TOLERANCE
) -> Parity:
    """Run a file on `images` (N, C, H, W) float in [0, 1] at every batch size; compare with scores (N, K) float32.

    See `compare`.
    """
    top = reference.topk(2, dim=1)
    scale = scale_of(reference)
    decided = (top.values[:, 0] - top.values[:, 1]) >= 2 * (tolerance or 0.0) * scale
    largest, wrong, agree = 0.0, torch.zeros(len(images), dtype=torch.bool), torch.ones(len(images), dtype=torch.bool)
    for size in BATCH_SIZES:
        scores = torch.cat([exported(chunk).float() for chunk in torch.split(images, size)])
        largest = max(largest, float(differences(reference, scores).max()))
        same = scores.argmax(dim=1) == top.indices[:, 0]
        agree &= same
        wrong |= decided & ~same
    return Parity(
        kind=kind,
        images=len(images),
        agreement=float(agree.float().mean()),
        undecided=int((~decided).sum()),
        disagreements=int(wrong.sum()),
        largest_difference=largest / scale if scale > 0 else math.inf if largest > 0 else 0.0,
        tolerance=tolerance,
    )


def require(parities: Sequence[Parity], standings: Sequence[Standing], what: str, *, why: str | None = None) -> None:
    """Raise if anything does not hold.

    Args:
        parities, standings: what was found.
        what: the file, and its precision where that may be to blame.
        why: a sentence on where the difference arises.

    Raises:
        ExportError: with the figures of what failed.
    """
    figures = [
        f"{p.kind}: top-1 differs on {p.disagreements} of {p.images} images, largest score difference "
        f"{p.largest_difference:.2g} of the scores' scale "
        f"(tolerance {p.tolerance if p.tolerance is not None else math.inf:.2g})"
        for p in parities
        if not p.holds
    ]
    lost = [
        f"{s.kind}: {s.exported / s.images:.1%} of {s.images} images against {s.original / s.images:.1%} of the model "
        f"(it may lose {s.max_drop:.1%})"
        for s in standings
        if not s.holds
    ]
    if figures or lost:
        hint = "do not deploy this file; "
        hint += (
            "a wider --tolerance is only honest if the margins allow it"
            if figures
            else "take another --precision, or state with --max-drop how much accuracy it may lose"
        )
        raise ExportError(
            f"{what} does not agree with the model: {'; '.join((*figures, *lost))}" + (f"; {why}" if why else ""),
            hint=hint,
        )
