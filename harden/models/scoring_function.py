"""Functions of the user's own that return scores: a web service, another framework, an ensemble, anything."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from harden.errors import ModelError
from harden.models.black_box import Program
from harden.models.factory import find_callable
from harden.models.user_code import user_code

_CALLED_WITH = "it is called with a numpy array (N, C, H, W) float32 in [0, 1]"


def open_function(reference: str, *, classes: int | None = None) -> Program:
    """Return the function that `path/file.py:function` or `pkg.mod:function` names; this runs that code.

    It is called with images as a numpy array (N, C, H, W) float32 in [0, 1], a copy that it may change, and returns
    scores (N, K) as a numpy array, a tensor or nested lists, alone or in a dictionary or tuple. Whatever normalisation
    it needs is its own business.

    Args:
        reference: the function.
        classes: number of classes of the data, if it is known.

    Raises:
        ModelError: there is no such function, or importing it fails.
    """
    function, path, digest = find_callable(reference)
    name = f"{path.name}:{reference.rpartition(':')[2]}"

    def score(images: Tensor) -> object:
        with user_code(f"calling {name}", hint=_CALLED_WITH, file=path):
            answer = function(np.array(images.numpy(), dtype=np.float32, order="C"))
            try:
                return _as_tensors(answer)
            except (TypeError, ValueError) as error:
                raise ModelError(
                    f"{name} returned {type(answer).__name__}, not scores of shape (N, classes)",
                    hint="return a numpy array or a tensor with one row of class scores for each image",
                ) from error

    return Program(name, "function", score, f"{reference}/{digest}", unit_range=True, wanted=classes)


def _as_tensors(answer: object) -> object:
    """Return an answer with tensors for arrays, numbers and nested lists, in the dictionary or tuple they came in."""
    if isinstance(answer, Tensor):
        return answer
    if isinstance(answer, Mapping):
        return {str(key): _as_tensors(value) for key, value in answer.items()}
    if isinstance(answer, tuple) and any(isinstance(part, (np.ndarray, Tensor)) for part in answer):
        return tuple(_as_tensors(part) for part in answer)
    if isinstance(answer, np.ndarray) and np.iscomplexobj(answer):
        return torch.from_numpy(answer)
    return torch.from_numpy(np.array(answer, dtype=np.float32))
