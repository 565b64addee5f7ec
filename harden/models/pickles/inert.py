"""A pickle as data: torch's weights-only reader, with a stand-in for every class and function that the file names.

torch's reader calls each class that it is told to accept with arguments from the file, and fills each instance with
the state from the file. Stand-ins have no behaviour: they keep the name, the arguments and the state. Tensors are
read by torch, and containers by its reader.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.serialization import safe_globals


class Named(type):
    """The class of stand-ins. A stand-in is a class, since torch's reader makes instances of classes alone.

    Attributes:
        named: the dotted name in the file.
    """

    named: str

    def __call__(cls, *arguments: object) -> Instance:
        """Return a record of the call; torch's reader gets here if the file calls the name."""
        made: Instance = cls.__new__(cls, *arguments)  # type: ignore[call-overload]
        made.called = True
        return made


class Instance(metaclass=Named):
    """An object that the file describes. It has no attributes of the file's choice, so nothing can be shadowed.

    Attributes:
        arguments: what the file passes to the class or function.
        called: whether the file calls the class or function, rather than making an instance without calling it.
        state: what the file fills the instance with; None if nothing.
    """

    __slots__ = ("arguments", "called", "state")
    named = ""
    arguments: tuple[object, ...]
    called: bool
    state: object

    def __new__(cls, *arguments: object) -> Instance:
        """Keep the arguments."""
        made = object.__new__(cls)
        made.arguments, made.called, made.state = arguments, False, None
        return made

    def __setstate__(self, state: object) -> None:
        """Keep the state."""
        self.state = state


def read_inert(path: Path, names: Iterable[str]) -> object:
    """Return what is in a file of torch.save, with instances of stand-ins in place of objects of the classes `names`.

    Raises:
        pickle.UnpicklingError: the file names anything that is neither one of `names` nor known to torch's reader.
        Exception: it is damaged; torch has no one type for that.
    """
    stand_ins = [
        (Named(name.rpartition(".")[2], (Instance,), {"__slots__": (), "named": name}), name) for name in names
    ]
    with safe_globals(list[Any](stand_ins)), warnings.catch_warnings(), path.open("rb") as file:
        warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
        # An open file, because torch.load takes a path that ends in .safetensors for what its name says.
        return torch.load(file, map_location="cpu", weights_only=True)
