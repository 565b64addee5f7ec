"""Flags that several commands share, and how their texts become values."""

from __future__ import annotations

from typing import Annotated

import typer

MODEL_HELP = "A weights file or pickled module, timm:NAME, torchvision:NAME, file.py:callable, or a run folder."
DATA_HELP = "A folder of images, DIR/CLASS/* or DIR/{train,val,test}/CLASS/*; or sklearn:digits."

Arch = Annotated[
    str | None,
    typer.Option(
        help="What builds the network that a weights file belongs to: file.py:callable, pkg.mod:callable, timm:NAME. "
        "Runs that code.",
        rich_help_panel="Model",
    ),
]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        help="Unpickle whatever the file asks for. This RUNS CODE of whoever made the file.",
        rich_help_panel="Model",
    ),
]
ClassMap = Annotated[
    str | None,
    typer.Option(
        help="The model's output for each class of the data, in the data's order: 3,0,1,2.", rich_help_panel="Model"
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        help="Normalisation mean per channel on the [0, 1] scale; found by the preflight otherwise.",
        rich_help_panel="Model",
    ),
]
Std = Annotated[
    str | None, typer.Option(help="Normalisation std per channel on the [0, 1] scale.", rich_help_panel="Model")
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        help="Height and width in pixels; the images' own where all share one, else 224.", rich_help_panel="Data"
    ),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.", rich_help_panel="Run")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and the result.", rich_help_panel="Run")]
Json = Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.", rich_help_panel="Run")]


def numbers(text: str | None, flag: str) -> tuple[float, ...] | None:
    """Return the numbers in "0.1,0.2,0.3".

    Raises:
        UsageError: something in it is no number.
    """
    from harden.errors import UsageError

    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{flag} {text!r} is no list of numbers", hint=f"write {flag} 0.485,0.456,0.406") from None


def integers(text: str | None, flag: str) -> tuple[int, ...] | None:
    """Return the integers in "3,0,1,2".

    Raises:
        UsageError: something in it is no integer.
    """
    from harden.errors import UsageError

    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{flag} {text!r} is no list of integers", hint=f"write {flag} 3,0,1,2") from None
