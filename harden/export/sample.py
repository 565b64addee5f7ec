"""A few labelled images with the model's own scores, kept beside the files so that they can be tried again anywhere.

Everything is a tensor in one safetensors file: bytes that depend on nothing but the content, and nothing to unpickle.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harden.errors import ExportError
from harden.files import write_with
from harden.models.classifier import Scorer
from harden.tensors import as_float_images

SAMPLE = "sample.safetensors"
_STEPS = 127
"""A perturbation is kept as a whole number of eps / 127, so that one byte holds it and it cannot leave the ball."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Images, adversarial perturbations of them, and what the model answered.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        perturbations: (N, C, H, W) int8, in units of eps / 127.
        eps: l_inf radius on the [0, 1] scale.
        clean_scores, adversarial_scores: (N, K) float32, of the model before export.
    """

    images: Tensor
    labels: Tensor
    perturbations: Tensor
    eps: float
    clean_scores: Tensor
    adversarial_scores: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def clean(self) -> Tensor:
        """Return the images (N, C, H, W) float32 in [0, 1]."""
        return as_float_images(self.images)

    def adversarial(self) -> Tensor:
        """Return the images with their perturbations, (N, C, H, W) float32 in [0, 1] and in the eps-ball."""
        return _perturbed(self.clean(), self.perturbations, self.eps)

    def sets(self) -> tuple[tuple[str, Tensor], ...]:
        """Return both kinds of images with their names."""
        return ("clean", self.clean()), ("adversarial", self.adversarial())


def take_sample(model: Scorer, images: Tensor, labels: Tensor, adversarial: Tensor, eps: float) -> Sample:
    """Return a sample with the scores of `model`.

    Args:
        model: images float in [0, 1] to scores (N, K).
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        adversarial: (N, C, H, W) float in [0, 1], examples of these images in the l_inf ball of radius `eps`.
        eps: on the [0, 1] scale.
    """
    clean = as_float_images(images)
    units = (adversarial - clean) * (_STEPS / eps) if eps > 0 else torch.zeros_like(clean)
    perturbations = units.round().clamp(-_STEPS, _STEPS).to(torch.int8)
    with torch.no_grad():
        scores = [model(batch).detach().cpu().float() for batch in (clean, _perturbed(clean, perturbations, eps))]
    return Sample(images, labels, perturbations, eps, *scores)


def save_sample(sample: Sample, path: Path) -> None:
    """Write `sample` to `path` whole or not at all.

    Raises:
        RunFolderError: the file cannot be written.
    """
    from safetensors.torch import save_file

    tensors = {name: value.contiguous() for name, value in vars(sample).items() if isinstance(value, Tensor)}
    described = {"harden": json.dumps({"eps": sample.eps})}
    write_with(path, lambda temporary: save_file(tensors, temporary, metadata=described))


def load_sample(path: Path) -> Sample:
    """Return what `save_sample` wrote.

    Raises:
        ExportError: the file is missing, damaged, or something else.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, "pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
            eps = float(json.loads(file.metadata()["harden"])["eps"])
        sample = Sample(eps=eps, **tensors)
        _check(sample)
    except Exception as error:  # safetensors' own errors, and everything that a stranger's file can lead to
        raise ExportError(
            f"{path} is damaged ({type(error).__name__}: {str(error)[:200]})", hint="export the model again"
        ) from error
    return sample


def _check(sample: Sample) -> None:
    count, *_ = shape = sample.images.shape
    scores = {sample.clean_scores.shape, sample.adversarial_scores.shape}
    fits = (
        sample.images.dtype == torch.uint8
        and sample.perturbations.dtype == torch.int8
        and sample.labels.dtype == torch.int64
        and len(shape) == 4
        and count > 0
        and sample.perturbations.shape == shape
        and sample.labels.shape == (count,)
        and len(scores) == 1
        and len(next(iter(scores))) == 2
        and len(sample.clean_scores) == count
        and 0 <= int(sample.labels.min()) <= int(sample.labels.max()) < sample.clean_scores.shape[1]
        and 0 <= sample.eps <= 1
    )
    if not fits:
        raise ValueError("its tensors do not belong together")


def _perturbed(clean: Tensor, perturbations: Tensor, eps: float) -> Tensor:
    return (clean + perturbations.float() * (eps / _STEPS)).clamp(0, 1)
