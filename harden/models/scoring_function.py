"""Functions of the user's own that return scores: a web service, another framework, an ensemble, anything."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from harden.errors import ModelError
from harden.models.black_box import Program
from harden.models.factory import find_callable, user_code


def open_function(reference: str) -> Program:
    """Return the function that `path/file.py:function` or `pkg.mod:function` names; this runs that code.

    It is called with images as a numpy array (N, C, H, W) float32 in [0, 1], a copy that it may change, and returns
    scores (N, K) as a numpy array, a tensor or nested lists. Whatever normalisation it needs is its own business.

    Raises:
        ModelError: there is no such function, or importing it fails.
    """
    function, path, digest = find_callable(reference)
    name = f"{path.name}:{reference.rpartition(':')[2]}"

    def score(images: Tensor) -> Tensor:
        with user_code(path, f"calling {name}", hint="it is called with a numpy array (N, C, H, W) float32 in [0, 1]"):
            answer = function(np.array(images.numpy(), dtype=np.float32, order="C"))
        if isinstance(answer, Tensor):
            return answer
        try:
            return torch.from_numpy(np.array(answer, dtype=np.float32))
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"{name} returned {type(answer).__name__}, not scores of shape (N, classes)",
                hint="return a numpy array or a tensor with one row of class scores for each image",
            ) from error

    return Program(name, "function", score, f"{reference}/{digest}", unit_range=True)
