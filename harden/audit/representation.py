"""What attacks do to a model's logits: whether classes stay apart, and attacked images can be told from clean ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harden.audit.metrics import rounded


@dataclass(frozen=True, eq=False)
class Domain:
    """The logits of the same images, clean or under one attack.

    Attributes:
        name: "clean", or the attack's name.
        silhouette: mean silhouette coefficient of the logits with the true classes as clusters, in [-1, 1]
            (Rousseeuw, 1987; the paper's Table 2); NaN where it is not defined (fewer than two classes).
        domain_accuracy: held-out accuracy in [0, 1] of a linear classifier that tells these logits from the clean ones;
            0.5 is chance; NaN for the clean domain itself.
        class_domain_accuracy: the same where the classifier knows which logit is that of the true class, as the paper's
            class-wise discriminators do; NaN for the clean domain itself.
        points: (n, 2) float32, the t-SNE embedding of the logits, all domains embedded together.
    """

    name: str
    silhouette: float
    domain_accuracy: float
    class_domain_accuracy: float
    points: NDArray[np.float32]

    @property
    def a_distance(self) -> float:
        """Proxy A-distance to the clean domain, 2 (1 - 2 error), in [0, 2] (Ben-David et al., 2010)."""
        return float(2 * (1 - 2 * min(0.5, 1 - self.domain_accuracy)))


@dataclass(frozen=True, eq=False)
class Representation:
    """The domains side by side.

    Attributes:
        images: how many images the figures are over, those that are wrong when clean included.
        labels: (n,) true classes of the embedded images, which may be fewer.
        domains: clean first, then one per attack.
    """

    images: int
    labels: NDArray[np.int64]
    domains: tuple[Domain, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary; `from_json` reads it. What is not a number is null."""
        return {
            "images": self.images,
            "labels": self.labels.tolist(),
            "domains": [
                {
                    "name": d.name,
                    "silhouette": _finite(d.silhouette),
                    "domain_accuracy": _finite(d.domain_accuracy),
                    "class_domain_accuracy": _finite(d.class_domain_accuracy),
                    "points": rounded(d.points.reshape(-1)),
                }
                for d in self.domains
            ],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Representation:
        """Read what `to_json` wrote."""
        return cls(
            data["images"],
            np.array(data["labels"], dtype=np.int64),
            tuple(
                Domain(
                    d["name"],
                    _number(d["silhouette"]),
                    _number(d["domain_accuracy"]),
                    _number(d["class_domain_accuracy"]),
                    np.array(d["points"], dtype=np.float32).reshape(-1, 2),
                )
                for d in data["domains"]
            ),
        )


def _finite(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value
