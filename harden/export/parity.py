"""Proving that an exported file gives the same answers as the model, on clean and on adversarial images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from harden.errors import ExportError
from harden.models.classifier import Scorer

TOLERANCE = 1e-4
"""Largest difference of any score that counts as agreement (fp32 against fp32; scores are logits)."""
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
        largest_difference: over all scores.
        tolerance: stated bound on it.
    """

    kind: str
    images: int
    agreement: float
    undecided: int
    disagreements: int
    largest_difference: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the two agree as stated."""
        return self.disagreements == 0 and self.largest_difference <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary."""
        return {**asdict(self), "holds": self.holds}


def compare(original: Scorer, exported: Scorer, images: Tensor, *, kind: str, tolerance: float = TOLERANCE) -> Parity:
    """Run both on `images` (N, C, H, W) float in [0, 1] at every batch size and compare.

    Args:
        original: the model.
        exported: the file in its runtime.
        images: on the CPU; N >= 1.
        kind: "clean" or "adversarial", for print.
        tolerance: bound on the difference of scores.
    """
    reference = torch.cat([original(chunk).detach().cpu().float() for chunk in torch.split(images, 64)])
    top = reference.topk(2, dim=1)
    decided = (top.values[:, 0] - top.values[:, 1]) >= 2 * tolerance
    largest, wrong, agree = 0.0, torch.zeros(len(images), dtype=torch.bool), torch.ones(len(images), dtype=torch.bool)
    for size in BATCH_SIZES:
        scores = torch.cat([exported(chunk).float() for chunk in torch.split(images, size)])
        difference = (scores - reference).abs()
        # A score that is not a number compares false with every bound, so it has to count as an infinite difference.
        largest = max(largest, float(torch.nan_to_num(difference, nan=float("inf")).max()))
        same = scores.argmax(dim=1) == top.indices[:, 0]
        agree &= same
        wrong |= decided & ~same
    return Parity(
        kind=kind,
        images=len(images),
        agreement=float(agree.float().mean()),
        undecided=int((~decided).sum()),
        disagreements=int(wrong.sum()),
        largest_difference=largest,
        tolerance=tolerance,
    )


def require(parities: tuple[Parity, ...], what: str) -> None:
    """Raise if any comparison does not hold.

    Raises:
        ExportError: with the figures of the ones that failed.
    """
    failed = [p for p in parities if not p.holds]
    if failed:
        figures = "; ".join(
            f"{p.kind}: top-1 differs on {p.disagreements} of {p.images} images, largest score difference "
            f"{p.largest_difference:.2g} (tolerance {p.tolerance:.2g})"
            for p in failed
        )
        raise ExportError(
            f"{what} does not agree with the model: {figures}",
            hint="do not deploy this file; a wider --tolerance is only honest if the margins allow it",
        )
