"""Flags that several commands share, and how their texts become values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from harden.cli import completion

if TYPE_CHECKING:
    from harden.data import Reading
    from harden.workflows.prepare import ModelSpec

MODEL_HELP = (
    "A weights file or pickled module, timm:NAME, torchvision:NAME, local-dir:FOLDER, hf-hub:ORG/NAME, "
    "file.py:callable, or a run folder."
)
DATA_HELP = (
    "A folder of images, DIR/CLASS/* or DIR/{train,val,test}/CLASS/*; a .csv, .tsv or .parquet of paths and labels; an "
    ".npz of arrays; webdataset:DIR; hf:NAME; torchvision:svhn; sklearn:digits."
)

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
        help="The model's output for each class of the data, in the data's order: 3,0,1,2. The model may know more "
        "classes: 207,281,515.",
        rich_help_panel="Model",
    ),
]
IgnoreOtherClasses = Annotated[
    bool,
    typer.Option(
        "--ignore-other-classes",
        help="Leave out the model's outputs that --class-map does not name. Otherwise an answer of one of them is "
        "wrong, and attacks may aim at it.",
        rich_help_panel="Model",
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
        help="Height and width in pixels; what the model's config.json says, or the images' own where all share one, "
        "else 224.",
        rich_help_panel="Data",
    ),
]
ClassOrder = Annotated[
    str | None,
    typer.Option(
        help="In which order the data's classes are counted: lexicographic, natural (class2 before class10), or a file "
        "with one class name per line. \\[lexicographic; numbers by size; a data set's own]",
        rich_help_panel="Data",
    ),
]
GrayBits = Annotated[
    int | None,
    typer.Option(
        help="How many bits images with more than 8 bits of gray use, so that the right value is white: 12 for most "
        "medical ones (up to 4095), 16 for the whole range. Without it they are refused.",
        rich_help_panel="Data",
    ),
]
BlackBox = Annotated[
    bool,
    typer.Option(
        "--black-box",
        help="MODEL is a function that returns scores: file.py:function gets a numpy array (N, C, H, W) float32 in "
        "[0, 1] and returns (N, classes). Runs that code. ONNX and TorchScript files need no flag.",
        rich_help_panel="Model",
    ),
]
Surrogates = Annotated[
    list[str] | None,
    typer.Option(
        "--surrogate",
        help="Craft examples on this model and try them on MODEL; 'auto' trains a network of another family once on "
        "images that are not audited. Repeatable.",
        rich_help_panel="Audit",
    ),
]
Pretrain = Annotated[
    int | None,
    typer.Option(
        help="Epochs of clean training first; 10 for a network without weights, at least 100 steps for a new last "
        "layer.",
        rich_help_panel="Model",
    ),
]
ReplaceHead = Annotated[
    bool,
    typer.Option(
        "--replace-head",
        help="Put a new last layer on MODEL, for the classes of the data, and train that alone first (--pretrain).",
        rich_help_panel="Model",
    ),
]
Eps = Annotated[
    str | None,
    typer.Option(
        help="l_inf radius on the [0, 1] scale, as 8/255 or 0.03. [0.1 for gray images up to 32 px, else 4/255]",
        rich_help_panel="Method",
    ),
]
Static = Annotated[
    list[str] | None,
    typer.Option(
        help="For eat: a model to craft on besides. Repeatable. \\[two are trained and kept]", rich_help_panel="Method"
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="auto, cpu or cuda.", autocompletion=completion.devices, rich_help_panel="Run"),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and the result.", rich_help_panel="Run")]
Json = Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.", rich_help_panel="Run")]


Number = TypeVar("Number", int, float)


def numbers(text: str | None, flag: str, kind: type[Number]) -> tuple[Number, ...] | None:
    """Return the numbers in "0.1,0.2,0.3", or None for None.

    Raises:
        UsageError: something in it is no such number.
    """
    from harden.errors import UsageError

    if text is None:
        return None
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        what, example = ("integers", "3,0,1,2") if kind is int else ("numbers", "0.485,0.456,0.406")
        raise UsageError(f"{flag} {text!r} is no list of {what}", hint=f"write {flag} {example}") from None


def within(value: int | None, flag: str, key: str) -> int | None:
    """Return `value`, if a recipe may say that of `key`.

    Raises:
        UsageError: it lies outside the range.
    """
    from harden.errors import UsageError
    from harden.recipe import RANGES

    low, high = RANGES[key]
    if value is not None and not low <= value <= high:
        raise UsageError(f"{flag} {value} lies outside [{low:g}, {high:g}]", hint=f"give {flag} a number from there")
    return value


def model_flags(
    model: str | None,
    data: str | None,
    *,
    arch: str | None,
    trust_pickle: bool,
    class_map: str | None,
    ignore_other_classes: bool,
    mean: str | None,
    std: str | None,
    image_size: int | None,
    class_order: str | None,
    gray_bits: int | None,
    pretrain: int | None,
) -> dict[str, Any]:
    """Return these flags as keys of a recipe, None for those that were not given.

    Raises:
        UsageError: a list of numbers is none.
    """
    return {
        "model": model,
        "data": data,
        "arch": arch,
        "trust_pickle": trust_pickle or None,
        "class_map": numbers(class_map, "--class-map", int),
        "ignore_other_classes": ignore_other_classes or None,
        "mean": numbers(mean, "--mean", float),
        "std": numbers(std, "--std", float),
        "image_size": image_size,
        "class_order": class_order,
        "gray_bits": gray_bits,
        "pretrain": pretrain,
    }


def model_spec(
    model: str,
    *,
    arch: str | None,
    trust_pickle: bool,
    class_map: str | None,
    ignore_other_classes: bool,
    mean: str | None,
    std: str | None,
    image_size: int | None,
) -> ModelSpec:
    """Return the model that these flags describe.

    Raises:
        UsageError: a list of numbers is none, or an image size is impossible.
    """
    from harden.workflows.prepare import ModelSpec

    return ModelSpec(
        model=model,
        arch=arch,
        trust_pickle=trust_pickle,
        class_map=numbers(class_map, "--class-map", int),
        ignore_other_classes=ignore_other_classes,
        mean=numbers(mean, "--mean", float),
        std=numbers(std, "--std", float),
        image_size=within(image_size, "--image-size", "image_size"),
    )


def reading(class_order: str | None, gray_bits: int | None) -> Reading:
    """Return how data are read, as these flags say.

    Raises:
        UsageError: the class order is none, or the bits cannot be.
    """
    from harden.data import Reading
    from harden.data.reading import read_class_order

    return Reading(
        class_order=read_class_order(class_order) if class_order is not None else None,
        gray_bits=within(gray_bits, "--gray-bits", "gray_bits"),
    )
