"""What an attack may know of a model."""

from __future__ import annotations

from enum import StrEnum


class Access(StrEnum):
    """What an attack may know of the model."""

    GRADIENTS = "white-box"
    SCORES = "black-box, scores"
    TRANSFER = "black-box, transfer"

    @property
    def black_box(self) -> bool:
        """Whether the attack works without the model's gradients."""
        return self is not Access.GRADIENTS

    @property
    def climbs_scores(self) -> bool:
        """Whether the attack follows the scores, so that it finds nothing on a model that shows labels only."""
        return self is Access.SCORES


OTHER = "(another class)"
"""Name of the score that stands for all classes that a model knows and the data does not have."""
