"""Common corruptions after Hendrycks and Dietterich (2019), in ten kinds of five severities, and a model's answers.

Their benchmark has one set of parameters for CIFAR's 32x32 pixels and one for ImageNet's 224x224. Images whose shorter
side is at most 64 pixels get the former, larger ones the latter. Radii of blur and grains of haze are in pixels: they
grow with the shorter side over 32 in the one case and over 224 in the other, but never fall below those for 32 pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from harden.attacks import frozen, judge
from harden.attacks.norms import normal_like
from harden.audit.corruptions import CorruptionOutcome
from harden.audit.runner import AuditProgress, batch_of
from harden.data.dataset import ImageSet
from harden.models.black_box import Audited
from harden.randomness import stream
from harden.stopping import ask
from harden.vision import import_torchvision

SMALL_SIDE = 64
"""Images up to this shorter side get the parameters of CIFAR-10-C."""
SEVERITIES = (1, 2, 3, 4, 5)

Five = tuple[float, float, float, float, float]


@dataclass(frozen=True)
class Corruption:
    """One way in which images go bad.

    Attributes:
        name: for print.
        words: what it does, with `{}` for its parameter.
        small: parameters at severities 1 to 5 for images whose shorter side is at most 64 pixels.
        large: those for larger ones.
        apply: (N, C, H, W) float in [0, 1], parameter and generator to images that may leave [0, 1].
        in_pixels: whether the parameter is a length in pixels, which grows with the image.
    """

    name: str
    words: str
    small: Five
    large: Five
    apply: Callable[[Tensor, float, torch.Generator], Tensor]
    in_pixels: bool = False

    def parameter(self, severity: int, size: tuple[int, int]) -> float:
        """Return the parameter at `severity` (1 to 5) for images of (height, width) pixels.

        Raises:
            ValueError: there is no such severity.
        """
        if severity not in SEVERITIES:
            raise ValueError(f"severities are 1 to 5, got {severity}")
        side = min(size)
        if side <= SMALL_SIDE:
            return self.small[severity - 1] * (max(1.0, side / 32) if self.in_pixels else 1.0)
        # A large parameter shrunk to an image of, say, 70 pixels would be milder than the small one.
        least = self.small[severity - 1] if self.in_pixels else -math.inf
        return max(least, self.large[severity - 1] * (side / 224 if self.in_pixels else 1.0))

    def definition(self, severity: int, size: tuple[int, int]) -> str:
        """Return what it does at `severity` to images of (height, width) pixels."""
        return self.words.format(f"{self.parameter(severity, size):.3g}")

    def __call__(self, images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
        """Return corrupted images, (N, C, H, W) float in [0, 1].

        Args:
            images: (N, C, H, W) float in [0, 1]; C is 1 or 3.
            severity: 1 to 5.
            generator: of what is random; the same one gives the same noise at every severity.
        """
        height, width = images.shape[2:]
        return self.apply(images, self.parameter(severity, (height, width)), generator).clamp(0, 1)


def _gaussian_noise(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    return images + deviation * normal_like(images, generator)


def _shot_noise(images: Tensor, photons: float, generator: torch.Generator) -> Tensor:
    return torch.poisson(images.to(generator.device) * photons, generator=generator).to(images.device) / photons


def _impulse_noise(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(images.shape, generator=generator, device=generator.device).to(images.device)
    salted = torch.where(drawn < share / 2, torch.ones_like(images), images)
    return torch.where(drawn > 1 - share / 2, torch.zeros_like(images), salted)


def _functional() -> Any:
    """Torchvision's functions of images; importing them takes a moment."""
    return import_torchvision().transforms.functional


def _gaussian_blur(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    reach = min(math.ceil(4 * deviation), min(images.shape[2:]) - 1)
    blurred: Tensor = _functional().gaussian_blur(images, [2 * reach + 1] * 2, [deviation] * 2)
    return blurred


def _defocus_blur(images: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    reach = min(math.ceil(radius), min(images.shape[2:]) - 1)
    # A pixel at the rim of the disk counts with the share of it that lies inside, measured at 15 x 15 places.
    fine = torch.linspace(-reach - 0.5, reach + 0.5, 15 * (2 * reach + 1) * 2 + 1, device=images.device)[1::2]
    inside = (fine[:, None].square() + fine.square() <= radius**2).to(images.dtype)
    disk = F.avg_pool2d(inside[None, None], 15)
    channels = images.shape[1]
    kernel = (disk / disk.sum()).expand(channels, 1, -1, -1)
    return F.conv2d(F.pad(images, [reach] * 4, mode="reflect"), kernel, groups=channels)


def _haze(images: Tensor, thickness: float, generator: torch.Generator) -> Tensor:
    """Clouds of four octaves, each half as strong and half as coarse as the one before, thickest where they are 1."""
    count, _, height, width = images.shape
    clouds = images.new_zeros(count, 1, height, width)
    for octave in range(4):
        grid = torch.rand(
            (count, 1, 2 ** (octave + 1) + 1, 2 ** (octave + 1) + 1), generator=generator, device=generator.device
        )
        smooth = F.interpolate(grid.to(images), (height, width), mode="bilinear", align_corners=True)
        clouds += smooth / 2**octave
    low, high = clouds.amin(dim=(2, 3), keepdim=True), clouds.amax(dim=(2, 3), keepdim=True)
    brightest = images.amax(dim=(1, 2, 3), keepdim=True)
    hazy = images + thickness * (clouds - low) / (high - low).clamp_min(1e-6)
    return hazy * brightest / (brightest + thickness)


def _brightness(images: Tensor, added: float, generator: torch.Generator) -> Tensor:
    return images + added


def _contrast(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    flatter: Tensor = _functional().adjust_contrast(images, share)
    return flatter


def _pixelate(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    height, width = images.shape[2:]
    coarse = max(1, int(width * share)), max(1, int(height * share))
    planes = images.cpu().float().reshape(-1, height, width).numpy()
    boxes = [
        Image.fromarray(plane).resize(coarse, Image.Resampling.BOX).resize((width, height), Image.Resampling.BOX)
        for plane in planes
    ]
    return torch.from_numpy(np.stack([np.asarray(box) for box in boxes])).view(images.shape).to(images)


def _jpeg(images: Tensor, quality: float, generator: torch.Generator) -> Tensor:
    pixels = images.cpu().mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    gray = images.shape[1] == 1
    coded = []
    for one in pixels:
        file = io.BytesIO()
        Image.fromarray(one[..., 0] if gray else one).save(file, "JPEG", quality=round(quality))
        coded.append(np.asarray(Image.open(file)).reshape(one.shape))
    return torch.from_numpy(np.stack(coded)).permute(0, 3, 1, 2).to(images) / 255


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian-noise": Corruption(
        "Gaussian noise",
        "N(0, {}) added to every value",
        small=(0.04, 0.06, 0.08, 0.09, 0.10),
        large=(0.08, 0.12, 0.18, 0.26, 0.38),
        apply=_gaussian_noise,
    ),
    "shot-noise": Corruption(
        "shot noise",
        "Poisson noise of {} photons at full brightness",
        small=(500, 250, 100, 75, 50),
        large=(60, 25, 12, 5, 3),
        apply=_shot_noise,
    ),
    "impulse-noise": Corruption(
        "impulse noise",
        "a share of {} of the values set to 0 or 1",
        small=(0.01, 0.02, 0.03, 0.05, 0.07),
        large=(0.03, 0.06, 0.09, 0.17, 0.27),
        apply=_impulse_noise,
    ),
    "gaussian-blur": Corruption(
        "Gaussian blur",
        "a Gaussian of {} pixels",
        small=(0.4, 0.6, 0.7, 0.8, 1.0),
        large=(1, 2, 3, 4, 6),
        apply=_gaussian_blur,
        in_pixels=True,
    ),
    "defocus-blur": Corruption(
        "defocus blur",
        "a disk of radius {} pixels",
        small=(0.7, 0.9, 1.1, 1.3, 1.6),
        large=(3, 4, 6, 8, 10),
        apply=_defocus_blur,
        in_pixels=True,
    ),
    "haze": Corruption(
        "haze",
        "clouds of brightness up to {} added, and the range of the image kept",
        small=(0.2, 0.5, 0.75, 1.0, 1.5),
        large=(1.5, 2.0, 2.5, 2.75, 3.0),
        apply=_haze,
    ),
    "brightness": Corruption(
        "brightness",
        "{} added to every value",
        small=(0.05, 0.1, 0.15, 0.2, 0.3),
        large=(0.1, 0.2, 0.3, 0.4, 0.5),
        apply=_brightness,
    ),
    "contrast": Corruption(
        "contrast",
        "distances to the mean gray times {}",
        small=(0.75, 0.5, 0.4, 0.3, 0.15),
        large=(0.4, 0.3, 0.2, 0.1, 0.05),
        apply=_contrast,
    ),
    "pixelate": Corruption(
        "pixelate",
        "shrunk to {} of its size and back",
        small=(0.95, 0.9, 0.85, 0.75, 0.65),
        large=(0.6, 0.5, 0.4, 0.3, 0.25),
        apply=_pixelate,
    ),
    "jpeg": Corruption(
        "JPEG",
        "quality {}",
        small=(80, 65, 58, 50, 40),
        large=(25, 18, 15, 10, 7),
        apply=_jpeg,
    ),
}
"""The corruptions of an audit, by name. Differences from Hendrycks and Dietterich: brightness is added to every value
and not to that of HSV, contrast keeps the mean gray and not the mean of each channel, haze is a sum of smooth octaves
and not a plasma fractal (and has 2.75 at severity 4, where theirs differs in its grain alone), and the small defocus
radii are those of whole disks, for theirs are blurred points."""


def corrupted_outcomes(
    classifier: Audited,
    images: ImageSet,
    *,
    severities: tuple[int, ...] = (1, 3, 5),
    seed: int = 0,
    progress: AuditProgress | None = None,
) -> tuple[CorruptionOutcome, ...]:
    """Return what a model makes of every image under every corruption, severity by severity.

    Args:
        classifier: a network, in eval mode while asked and restored after, or a black box.
        images: N images.
        severities: of 1 to 5.
        seed: of the noise, which is the same at every severity.
        progress: called with ("corruptions", passes done, passes in all); may raise to stop.

    Raises:
        ValueError: there is no such severity.
    """
    height, width = classifier.input_size[1:]
    chunks = torch.split(torch.arange(len(images)), batch_of(classifier.input_size))
    done, total = 0, len(CORRUPTIONS) * len(severities) * len(images)
    outcomes = []
    with frozen(classifier) if isinstance(classifier, nn.Module) else nullcontext(), torch.no_grad():
        for key, corruption in CORRUPTIONS.items():
            for severity in severities:
                definition = corruption.definition(severity, (height, width))
                guesses = []
                for number, chunk in enumerate(chunks):
                    ask()
                    pixels, labels = images.batch(chunk)
                    corrupted = corruption(pixels, severity, stream(seed, "corruption", key, number))
                    scores = classifier(corrupted.to(classifier.device)).cpu()
                    guesses.append(judge(scores, labels.cpu())[0])
                    done += len(chunk)
                    if progress is not None:
                        progress("corruptions", done, total)
                outcomes.append(CorruptionOutcome(corruption.name, severity, definition, torch.cat(guesses).numpy()))
    return tuple(outcomes)
