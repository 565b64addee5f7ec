"""Networks whose robustness nobody should believe, each broken in one way, around a net that reads digits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.attacks.nets import trained_cnn


class Around(nn.Module):
    """A net with something done to its input or to its scores."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = net or trained_cnn()


class Rounding(Around):
    """Rounds its input to a few levels; the gradient is zero, as rounding has it, or passed straight through."""

    def __init__(self, levels: int, *, straight_through: bool) -> None:
        super().__init__()
        self.levels = levels - 1
        self.straight_through = straight_through

    def forward(self, images: Tensor) -> Tensor:
        rounded = (images * self.levels).round() / self.levels
        return self.net(images + (rounded - images).detach() if self.straight_through else rounded)


class _Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images):
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Misleading(Around):
    """Gradients that point the wrong way, everywhere or only off the 8-bit grid that clean images lie on."""

    def __init__(self, *, everywhere: bool = True) -> None:
        super().__init__()
        self.everywhere = everywhere

    def forward(self, images: Tensor) -> Tensor:
        reversed_ = _Backwards.apply(images)
        if not self.everywhere:
            levels = images.detach() * 255
            clean = ((levels - levels.round()).abs() < 1e-3).flatten(1).all(dim=1).view(-1, 1, 1, 1)
            reversed_ = torch.where(clean, images, reversed_)
        return self.net(reversed_)


class Hot(Around):
    """Scores times a factor: the softmax is 0 or 1 in float32, and the cross-entropy has no gradient."""

    def __init__(self, factor: float = 1e3, net: nn.Module | None = None) -> None:
        super().__init__(net)
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        return self.factor * self.net(images)


class Squashed(Around):
    """A saturated sigmoid on the scores, and then a large factor."""

    def forward(self, images: Tensor) -> Tensor:
        return 1e3 * torch.sigmoid(20 * self.net(images))


class Noisy(Around):
    """Noise on the scores, in eval mode too."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        scores = self.net(images)
        return scores + self.size * torch.randn_like(scores)


class Probabilities(Around):
    """A softmax at the end."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).softmax(dim=1)


class Sigmoids(Around):
    """A sigmoid for each class at the end."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).sigmoid()


class Sociable(Around):
    """Scores that are normalised over the batch."""

    def forward(self, images: Tensor) -> Tensor:
        scores = self.net(images)
        return scores - scores.mean(dim=0)


class Rooted(Around):
    """A root whose slope at 0 is infinite: 0 times infinity in the gradient."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images) + 0 * images.sqrt().flatten(1).sum(dim=1, keepdim=True)


class Renamed(Around):
    """Classes in another order."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.order = order

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)[:, self.order]


class Inverted(Around):
    """Sees the negative of the image: a normalisation that is wrong."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(5 - 20 * images)


class Uneven(Around):
    """Scores that are a hundred million times larger on bright images."""

    def forward(self, images: Tensor) -> Tensor:
        bright = images.detach().mean(dim=(1, 2, 3), keepdim=True).flatten(1) > 0.33
        return self.net(images) * torch.where(bright, 1e8, 1.0)


class Silent(Around):
    """Never predicts its last class."""

    def forward(self, images: Tensor) -> Tensor:
        scores = self.net(images)
        return torch.cat([scores[:, :-1], scores[:, -1:] - 1e3], dim=1)
