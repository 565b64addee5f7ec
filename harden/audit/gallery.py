"""Images to look at: clean, adversarial, and their difference, amplified."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Exhibit:
    """One attacked image.

    Attributes:
        file: name of the image, or empty.
        attack: name of the attack whose example this is.
        norm: that the distance is in: "linf", "l2" or "l1".
        true, before, after: class indices: the label, the prediction when clean and the prediction under attack.
        distance: norm of the perturbation on the [0, 1] scale, at the image's own size.
        clean, adversarial: (H, W, C) uint8, rounded for display only; C is 1 or 3.
        difference: (H, W, C) uint8: the perturbation times `amplified` around mid-gray 128.
        amplified: factor of the difference.
    """

    file: str
    attack: str
    norm: str
    true: int
    before: int
    after: int
    distance: float
    clean: Pixels
    adversarial: Pixels
    difference: Pixels
    amplified: float

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary, pixels in base64; `from_json` reads it."""
        return {
            "file": self.file,
            "attack": self.attack,
            "norm": self.norm,
            "true": self.true,
            "before": self.before,
            "after": self.after,
            "distance": self.distance,
            "shape": list(self.clean.shape),
            "clean": _packed(self.clean),
            "adversarial": _packed(self.adversarial),
            "difference": _packed(self.difference),
            "amplified": self.amplified,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Exhibit:
        """Read what `to_json` wrote."""
        shape = tuple(data["shape"])
        return cls(
            data["file"],
            data["attack"],
            data["norm"],
            data["true"],
            data["before"],
            data["after"],
            data["distance"],
            _unpacked(data["clean"], shape),
            _unpacked(data["adversarial"], shape),
            _unpacked(data["difference"], shape),
            data["amplified"],
        )


def _packed(pixels: Pixels) -> str:
    return base64.b64encode(np.ascontiguousarray(pixels).tobytes()).decode("ascii")


def _unpacked(text: str, shape: tuple[int, ...]) -> Pixels:
    return np.frombuffer(base64.b64decode(text), dtype=np.uint8).reshape(shape)
