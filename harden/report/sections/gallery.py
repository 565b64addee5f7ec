"""Images to look at: clean, the perturbation, and what fools the model."""

from __future__ import annotations

import base64
import io

from harden.audit.gallery import Exhibit, Pixels
from harden.report.figures import radius
from harden.report.markup import Html, element, joined, text
from harden.report.report import Report
from harden.report.section import Section


def gallery(report: Report) -> Section | None:
    """Return the exhibits of the subject, or None without any."""
    subject = report.subject
    if not subject.gallery:
        return None
    figures = (_figure(exhibit, subject.classes) for exhibit in subject.gallery)
    note = (
        f"Images that fooled {subject.model}, chosen for variety of classes and attacks. Left: as it is. Middle: the "
        "perturbation around gray, amplified as stated. Right: as attacked. Pixels are rounded to 256 levels."
    )
    parts = (element("p", {"class": "lead"}, note), element("div", {"class": "gallery"}, *figures))
    return Section("What fools it", joined(parts))


def _figure(exhibit: Exhibit, classes: tuple[str, ...]) -> Html:
    true, before, after = (_name(classes, index) for index in (exhibit.true, exhibit.before, exhibit.after))
    pictures = (
        _image(exhibit.clean, f"clean image of {true}"),
        _image(exhibit.difference, f"perturbation, {exhibit.amplified:g} times amplified"),
        _image(exhibit.adversarial, f"attacked image, taken for {after}"),
    )
    turned = [
        element("span", None, before),
        element("span", {"class": "turned", "aria-label": "becomes"}, " → "),
        element("span", {"class": "fooled"}, after),
    ]
    label = [] if exhibit.true == exhibit.before else [element("span", {"class": "detail"}, f"label: {true}")]
    size = f"{exhibit.norm} {radius(float(f'{exhibit.distance:.3g}'))}"
    made = element("span", {"class": "detail"}, f"{exhibit.attack}, {size}; difference ×\u00a0{exhibit.amplified:g}")
    file = [element("span", {"class": "detail file"}, exhibit.file)] if exhibit.file else []
    caption = element("figcaption", None, element("span", {"class": "turn"}, *turned), *label, made, *file)
    return element("figure", None, element("div", {"class": "triple"}, *pictures), caption)


def _image(pixels: Pixels, words: str) -> Html:
    height, width = pixels.shape[:2]
    source = f"data:image/png;base64,{_png(pixels)}"
    # An <img> has no end tag, so it is not an `element`.
    return Html(f'<img src="{source}" width="{width}" height="{height}" alt="{text(words)}">')


def _png(pixels: Pixels) -> str:
    """Return pixels (H, W, C) as a PNG in base64."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _name(classes: tuple[str, ...], index: int) -> str:
    return classes[index] if 0 <= index < len(classes) else str(index)
