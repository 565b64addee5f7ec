"""HTML and SVG elements that are escaped by construction: plain strings are text, only `Html` is markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Html(str):
    """Markup that is already escaped; Jinja's autoescape takes it as it is (the `__html__` protocol)."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


def text(content: str) -> Html:
    """Escape a string, quotes included; control characters become the replacement character."""
    return content if isinstance(content, Html) else Html(html.escape(_UNPRINTABLE.sub("\ufffd", content), quote=True))


def element(name: str, attributes: Mapping[str, str | int | float] | None = None, *children: str) -> Html:
    """Return one element; attribute values and all children that are not `Html` are escaped."""
    written = "".join(f' {key}="{text(_value(value))}"' for key, value in (attributes or {}).items())
    return Html(f"<{name}{written}>{joined(children)}</{name}>")


def joined(parts: Iterable[str]) -> Html:
    """Return the parts one after the other, each escaped unless it is `Html`."""
    return Html("".join(text(part) for part in parts))


def share(value: float) -> str:
    """Return a share in [0, 1] as an SVG length relative to the width of the drawing."""
    return f"{100 * value:.2f}%"


def _value(value: str | int | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
