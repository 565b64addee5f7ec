"""Choosing an epoch: a multi-step attack ranks them on held-out images, a stronger one decides among the best."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from harden.attacks import GRADIENT_ATTACKS, PGD, GradientAttack
from harden.chance import agreement
from harden.data.dataset import ImageSet
from harden.distributed import ALONE, Processes
from harden.models.classifier import Classifier
from harden.training.evaluate import predictions, share, standing_after
from harden.training.sharding import kept

SELECTION_ATTACK = "pgd-20"
CONFIRMATION_ATTACK = "pgd-50-margin"
"""Tried once per image: restarts cost three times as much and hardly change which epoch is the best."""
_WITHIN, _BEYOND, _AT_CHANCE = 1.0, 0.0, -1.0
"""First part of an epoch's rank: within the allowed loss of clean accuracy, beyond it, or clean accuracy at chance."""
CANDIDATES = 3
"""How many of the best epochs the stronger attack chooses among."""


@dataclass(frozen=True, eq=False)
class Choice:
    """The chosen epoch.

    Attributes:
        epoch: counted from 1.
        weights: state dict of the averaged classifier.
        confirmation: share of the held-out images that withstand both attacks; None where selection was on clean
            accuracy.
        within_drop: whether it keeps to the allowed loss of clean accuracy.
    """

    epoch: int
    weights: dict[str, Tensor]
    confirmation: float | None
    within_drop: bool


class Selection:
    """Ranks epochs and keeps the weights of the best.

    Args:
        val: held-out images, never trained on.
        eps: radius of the attacks; None selects on clean accuracy.
        max_clean_drop: largest loss of clean accuracy, against the start, that is accepted; None: any.
        seed: of random starts.
        processes: each measures its part of the images.
    """

    def __init__(
        self,
        val: ImageSet,
        *,
        eps: float | None,
        max_clean_drop: float | None,
        seed: int,
        processes: Processes = ALONE,
    ) -> None:
        self.val = val
        self.eps = eps
        self.max_clean_drop = max_clean_drop
        self.seed = seed
        self.processes = processes
        self.clean_at_start = 0.0
        self.candidates: list[dict[str, Any]] = []

    def begin(self, classifier: Classifier) -> None:
        """Remember the clean accuracy that training starts from."""
        self.clean_at_start = share(predictions(classifier, self.val, self.processes) == self.val.labels)

    def consider(self, epoch: int, averaged: Classifier) -> dict[str, float]:
        """Measure an epoch's averaged weights, keep them if they are among the best, and return the measurements."""
        answers = predictions(averaged, self.val, self.processes)
        standing = answers == self.val.labels
        score = share(standing)
        measured = {"val_clean": score}
        if self.eps is not None:
            standing = self._standing(averaged, GRADIENT_ATTACKS[SELECTION_ATTACK](self.eps), standing)
            score = measured["val_robust"] = share(standing)
        drop = self.clean_at_start - measured["val_clean"]
        within = self.max_clean_drop is None or drop <= self.max_clean_drop
        # Epochs within the allowed clean drop come first; where none is, the smallest drop wins.
        rank = [_WITHIN, score] if within else [_BEYOND, -drop]
        if not agreement(self.val.labels.tolist(), answers.tolist()).exceeds_chance(0):
            rank = [_AT_CHANCE, score]  # an answer that is always the same withstands everything
        weights = kept(averaged.state_dict())
        self.candidates.append({"epoch": epoch, "rank": rank, "weights": weights, "standing": standing})
        self.candidates.sort(key=lambda candidate: (candidate["rank"], candidate["epoch"]), reverse=True)
        del self.candidates[CANDIDATES:]
        return measured

    def choose(self, averaged: Classifier) -> Choice | None:
        """Return the best candidate under the stronger attack, or None if there is no candidate.

        Args:
            averaged: a classifier to load the candidates into; left with the last one's weights.
        """
        if not self.candidates:
            return None
        chosen, confirmation = self.candidates[0], None
        if self.eps is not None:
            best = (-math.inf, -math.inf)
            for candidate in self.candidates:
                averaged.load_state_dict(candidate["weights"])
                standing = self._standing(averaged, confirmation_attack(self.eps), candidate["standing"])
                score = (candidate["rank"][0], share(standing))
                if score > best:
                    best, chosen, confirmation = score, candidate, score[1]
        return Choice(chosen["epoch"], chosen["weights"], confirmation, chosen["rank"][0] != _BEYOND)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {"clean_at_start": self.clean_at_start, "candidates": self.candidates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.clean_at_start, self.candidates = state["clean_at_start"], state["candidates"]

    def _standing(self, classifier: Classifier, attack: GradientAttack, standing: Tensor) -> Tensor:
        return standing_after(classifier, self.val, attack, standing=standing, seed=self.seed, processes=self.processes)


def confirmation_attack(eps: float) -> GradientAttack:
    """Return the attack that decides among the best epochs, at eps on the [0, 1] scale."""
    attack = GRADIENT_ATTACKS[CONFIRMATION_ATTACK](eps)
    assert isinstance(attack, PGD)
    return replace(attack, tries=1)
