"""Models that answer and show nothing else: the `Scorer` that a black-box audit asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from harden.errors import ModelError, UserCodeError
from harden.models.classifier import Classifier, Normalisation, require_outputs
from harden.models.normalisations import apply
from harden.models.output_subset import OutputSubset
from harden.models.outputs import Readings, scores_of
from harden.models.trial import GRAY, RGB
from harden.models.user_code import user_code

_LEAST = torch.finfo(torch.float32).tiny
"""Stands for a probability of 0, whose logarithm would be infinite."""


@dataclass(frozen=True, eq=False)
class Program:
    """Something finished that maps images to scores, as a file or the user's code brings it.

    Attributes:
        name: for print.
        kind: "ONNX", "TorchScript" or "function".
        score: images (N, C, H, W) float32 as the program wants them to its raw answer, on the CPU; see `scores_of` for
            where the scores (N, K) may be in it.
        identity: changes with the file or the code; for telling two black boxes apart.
        channels: of the images, where the program says; else None.
        size: (height, width), where the program says; else None.
        unit_range: whether it takes images in [0, 1] by agreement, so that no normalisation is to be found.
        classes: names in the order of its outputs, where the program says; else None.
        any_size: whether it takes images of other sizes than `size`, too.
        wanted: number of classes of the data, where it may give scores of another number beside.
    """

    name: str
    kind: str
    score: Callable[[Tensor], object]
    identity: str
    channels: int | None = None
    size: tuple[int, int] | None = None
    unit_range: bool = False
    classes: tuple[str, ...] | None = None
    any_size: bool = False
    wanted: int | None = None
    _readings: Readings = field(default_factory=dict)

    def ask(self, images: Tensor) -> Tensor:
        """Return the answer to images (N, C, H, W) as float32 (N, K), checked.

        Raises:
            ModelError: the program fails, or answers with something other than one row of scores for each image.
        """
        try:
            # A copy, since what the user brings may change what it is given.
            with user_code(f"asking {self.name} about {len(images)} images"), torch.no_grad():
                answer = self.score(images.clone())
                scores = scores_of(answer, images=len(images), classes=self.wanted, readings=self._readings)
        except UserCodeError as error:
            if error.ended or self.kind == "function":
                raise
            raise UserCodeError(
                f"{self.name} cannot take images of shape {'x'.join(map(str, images.shape[1:]))}: {error.reason}",
                reason=error.reason,
                hint="give the size that it was made for (--image-size), or data of such images",
            ) from error.__cause__
        except ModelError as error:
            raise ModelError(f"{self.name}: {error.message}", hint=error.hint) from error
        return scores.detach().to("cpu", torch.float32)


class BlackBox:
    """A `Scorer` that gives no gradients: images (N, C, H, W) float in [0, 1] in, scores (N, K) float32 out.

    Scores that are probabilities are given as their logarithms: what attacks climb is then the difference of two
    logits, which is still there where the probabilities themselves have rounded to 0 and 1. The prediction is the same.
    A value that is not a number, which some input may provoke, is left in the answer: an attack counts it as fooled.

    Args:
        program: what answers.
        normalisation: applied to the images before it; none where the program takes images in [0, 1].
        classes: K class names in the order of the scores.
        input_size: (C, H, W) of one image.
        probabilities: whether the program's scores are probabilities.
        subset: which of the program's outputs the scores are; None: all of them.

    Attributes:
        name, kind: of the program, for print.
        identity: changes with everything that decides the scores.
        device: the CPU.
    """

    def __init__(
        self,
        program: Program,
        *,
        normalisation: Normalisation,
        classes: tuple[str, ...],
        input_size: tuple[int, int, int],
        probabilities: bool,
        subset: OutputSubset | None = None,
    ) -> None:
        self._program = program
        self.normalisation = normalisation
        self.classes = classes
        self.input_size = input_size
        self.probabilities = probabilities
        self.subset = subset
        self.name = program.name
        self.kind = program.kind
        chosen = f"/{subset}" if subset is not None else ""
        self.identity = f"{program.identity}/{normalisation}/{classes}/{input_size}/{probabilities}{chosen}"
        self.device = torch.device("cpu")

    def __call__(self, images: Tensor, /) -> Tensor:
        """Return scores (N, K) of images (N, C, H, W) float in [0, 1].

        Raises:
            ModelError: the program fails, or gives another number of scores than there are classes.
        """
        if len(images) == 0:
            return torch.zeros(0, len(self.classes))
        with torch.no_grad():
            scores = self._program.ask(apply(self.normalisation, images.detach().to(self.device, torch.float32)))
        require_outputs(scores, self.subset.outputs if self.subset is not None else len(self.classes))
        scores = logarithms(scores) if self.probabilities else scores
        return scores if self.subset is None else self.subset.of(scores)


Audited = Classifier | BlackBox
"""What an audit can be of."""


class Questions(nn.Module):
    """A program as a module without parameters, for what looks at modules without asking for gradients.

    Args:
        program: what answers.
        probabilities: whether its scores are probabilities, and their logarithms are wanted.
    """

    def __init__(self, program: Program, *, probabilities: bool) -> None:
        super().__init__()
        self._program = program
        self._probabilities = probabilities

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (N, K) of images (N, C, H, W) as the program wants them."""
        scores = self._program.ask(images)
        return logarithms(scores) if self._probabilities else scores


def logarithms(probabilities: Tensor) -> Tensor:
    """Return the logarithms of `probabilities` (N, K), finite where one is 0."""
    return probabilities.clamp_min(_LEAST).log()


def taken_channels(program: Program, preferred: int, size: tuple[int, int]) -> int:
    """Return how many channels the images of the program must have: what it says, or what a trial finds.

    Args:
        program: the one.
        preferred: channels of the images at hand; tried first.
        size: (height, width) in pixels.

    Raises:
        ModelError: it takes neither gray nor RGB images of that size.
    """
    if program.channels is not None:
        return program.channels
    refusal: ModelError | None = None
    for channels in (preferred, GRAY if preferred == RGB else RGB):
        try:
            program.ask(torch.zeros(2, channels, *size))
        except ModelError as error:
            refusal = refusal or error
        else:
            return channels
    assert refusal is not None
    raise refusal
