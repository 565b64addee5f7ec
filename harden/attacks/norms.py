"""The norms of threat models: distances, balls cut to [0, 1], random starts and steepest directions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from harden.tensors import per_sample

_TINY = 1e-12
_HALVINGS = 40
_PIECES = 12


class Norm(StrEnum):
    """A norm of perturbations, on the [0, 1] scale of pixels."""

    LINF = "linf"
    L2 = "l2"
    L1 = "l1"

    def of(self, difference: Tensor) -> Tensor:
        """Return the norm of each sample of `difference` (N, ...), shape (N,)."""
        if difference.numel() == 0:
            return difference.new_zeros(len(difference))
        flat = difference.flatten(1)
        if self is Norm.LINF:
            return flat.abs().amax(dim=1)
        norms: Tensor = torch.linalg.vector_norm(flat, ord=2 if self is Norm.L2 else 1, dim=1)
        return norms

    @property
    def written(self) -> str:
        """As definitions write it: "l_inf"."""
        return f"l_{self.value[1:]}"


@dataclass(frozen=True, eq=False)
class Ball:
    """The ball of radius eps around clean images, cut to [0, 1].

    Attributes:
        norm: of the radius.
        eps: radius on the [0, 1] scale.
        clean: (N, C, H, W) centres.
        low, high: (N, C, H, W) bounds of each pixel; for l_2 and l_1 those of the image alone.
    """

    norm: Norm
    eps: float
    clean: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, clean: Tensor, eps: float, norm: Norm = Norm.LINF) -> Ball:
        """The ball of radius `eps` ([0, 1] scale) around `clean` (N, C, H, W) in [0, 1]."""
        reach = min(eps, 1.0)
        return cls(norm, eps, clean, (clean - reach).clamp_(min=0.0), (clean + reach).clamp_(max=1.0))

    def project(self, points: Tensor) -> Tensor:
        """Return the nearest points of the ball, in the sense of l_2 whatever the norm of the radius."""
        inside = torch.clamp(points, self.low, self.high)
        if self.norm is Norm.LINF:
            return inside
        return self._project_l2(points, inside) if self.norm is Norm.L2 else self._project_l1(points, inside)

    def _project_l2(self, points: Tensor, inside: Tensor) -> Tensor:
        """Shrink the way there until what the box leaves of it fits: min(shrink * |way|, room), pixel by pixel.

        The squared norm of that is piecewise quadratic in the shrinking; it is met from below, a few exact pieces at
        a time.
        """
        outside = self.norm.of(inside - self.clean) > self.eps
        if not bool(outside.any()):
            return inside
        wish, room = self._wish_and_room(points, outside)
        sizes = wish.abs()
        shrink = self.eps / self.norm.of(wish)
        for _ in range(_PIECES):
            full = per_sample(shrink, sizes) * sizes >= room
            spent = torch.where(full, room, 0.0).square().flatten(1).sum(dim=1)
            free = torch.where(full, 0.0, sizes).square().flatten(1).sum(dim=1)
            longer = ((self.eps**2 - spent).clamp_min(0) / free.clamp_min(_TINY)).sqrt()
            if bool((longer <= shrink * (1 + 1e-6)).all()):
                break
            shrink = torch.maximum(shrink, longer).clamp_max(1.0)
        moved = (per_sample(shrink, sizes) * sizes).minimum(room) * wish.sign()
        result = inside.clone()
        result[outside] = self.clean[outside] + moved
        return result

    def _project_l1(self, points: Tensor, inside: Tensor) -> Tensor:
        """Soft-threshold by the least amount that fits; what the box cuts off is not spent (Croce and Hein, 2021)."""
        outside = self.norm.of(inside - self.clean) > self.eps
        if not bool(outside.any()):
            return inside
        wish, room = self._wish_and_room(points, outside)
        sizes = wish.abs()
        low, high = sizes.new_zeros(len(sizes)), sizes.flatten(1).amax(dim=1)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            spent = (sizes - per_sample(middle, sizes)).clamp_min_(0).minimum(room).flatten(1).sum(dim=1)
            low = torch.where(spent > self.eps, middle, low)
            high = torch.where(spent > self.eps, high, middle)
        moved = (sizes - per_sample(high, sizes)).clamp_min_(0).minimum(room) * wish.sign()
        result = inside.clone()
        result[outside] = self.clean[outside] + moved
        return result

    def _wish_and_room(self, points: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
        """Return the way from the centres to `points`, and how far the box lets each pixel go along it."""
        clean = self.clean[outside]
        wish = points[outside] - clean
        return wish, torch.where(wish > 0, self.high[outside] - clean, clean - self.low[outside])

    def at(self, keep: Tensor) -> Ball:
        """The ball of the images that `keep` (indices or mask) selects."""
        return Ball(self.norm, self.eps, self.clean[keep], self.low[keep], self.high[keep])

    def start(self, generator: torch.Generator) -> Tensor:
        """Return a random point that touches the sphere before it is cut to [0, 1], one for each image.

        l_inf: uniform noise, scaled to its largest entry; l_2: a normal direction; l_1: normal noise, projected.
        """
        if self.norm is Norm.LINF:
            noise = uniform_like(self.clean, 1.0, generator)
        else:
            noise = normal_like(self.clean, generator)
        if self.norm is not Norm.L1:
            noise = self.eps * noise / per_sample(self.norm.of(noise).clamp_min(_TINY), noise)
        return self.project(self.clean + noise)


def steepest(norm: Norm, gradient: Tensor) -> Tensor:
    """Return the direction of unit `norm` (l_inf, l_2) along which `gradient` (N, C, H, W) rises most; 0 where it is 0.

    For l_1 see `sparse_ascent`: one pixel alone is the steepest, and a poor step.
    """
    if norm is Norm.LINF:
        return gradient.sign()
    if norm is Norm.L2:
        # Scaled first, for the squares of the tiny gradients of a saturated loss underflow.
        largest = Norm.LINF.of(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)
        scaled = gradient / per_sample(largest, gradient)
        return scaled / per_sample(norm.of(scaled).clamp_min(_TINY), scaled)
    raise ValueError("the steepest l_1 step moves one pixel; use sparse_ascent")


def sparse_ascent(gradient: Tensor, share: Tensor) -> Tensor:
    """Return the signs of the largest entries of `gradient`, scaled to an l_1 norm of 1.

    Args:
        gradient: (N, C, H, W).
        share: (N,) share of the entries of each image that move, in (0, 1]; at least one does.
    """
    sizes = gradient.abs().flatten(1)
    entries = sizes.shape[1]
    count = (share * entries).long().clamp(1, entries)
    threshold = sizes.sort(dim=1, descending=True).values.gather(1, (count - 1)[:, None])
    moves = gradient.sign() * (sizes >= threshold).view_as(gradient)
    return moves / per_sample(moves.abs().flatten(1).sum(dim=1).clamp_min(1.0), moves)


def uniform_like(images: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Uniform noise in [-radius, radius], shaped like `images`.

    Drawn on the generator's device and moved, so that the same generator gives the same noise on every device.
    """
    noise = torch.rand(images.shape, generator=generator, device=generator.device, dtype=images.dtype)
    return noise.mul_(2 * radius).sub_(radius).to(images.device)


def normal_like(images: Tensor, generator: torch.Generator) -> Tensor:
    """N(0, I), shaped like `images`; drawn as `uniform_like` is."""
    return torch.randn(images.shape, generator=generator, device=generator.device, dtype=images.dtype).to(images.device)


def sign_noise_like(images: Tensor, generator: torch.Generator) -> Tensor:
    """sign(N(0, I)), shaped like `images`; drawn as `uniform_like` is."""
    return normal_like(images, generator).sign_()
