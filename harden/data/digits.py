"""scikit-learn's handwritten digits (1797 gray images of 8x8 pixels), which need no download: demo and tests."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
from PIL import Image

from harden.data.dataset import Entry, Probe
from harden.data.indexed import IndexedSource
from harden.errors import UsageError
from harden.registry import did_you_mean

SIZE = (8, 8)


def open_digits(name: str) -> IndexedSource:
    """Load the data set `name` of scikit-learn; "digits" is the only one of images.

    Every image is under "all", named digit-00000, digit-00001, ... in scikit-learn's order; its 0..16 are scaled to
    0..255.

    Raises:
        UsageError: another name.
    """
    if name != "digits":
        raise UsageError(
            f"unknown scikit-learn data set {name!r}{did_you_mean(name, ['digits'])}", hint="known: sklearn:digits"
        )
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return IndexedSource(
        location="sklearn:digits",
        classes=tuple("0123456789"),
        listings={"all": tuple(Entry(f"digit-{n:05d}", int(label)) for n, label in enumerate(digits.target))},
        picture=lambda split, number: Image.fromarray(pixels[number]),
        version=f"scikit-learn {version('scikit-learn')}",
        known=Probe(channels=1, size=SIZE, uniform=True),
    )
