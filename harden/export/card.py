"""The model card: README.md of an export, with the block of metadata that Hugging Face reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

CARD = "README.md"


@dataclass(frozen=True)
class Figure:
    """One accuracy.

    Attributes:
        name: of the attack, or what else it is the accuracy on.
        remark: what the model has to do with the attack; empty for none.
        value, low, high: in [0, 1], with its 95 % interval.
        images: how many.
    """

    name: str
    remark: str
    value: float
    low: float
    high: float
    images: int

    def cell(self) -> str:
        """Return it in percent with its interval."""
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class Card:
    """What a model card says.

    Attributes:
        name: of the model.
        library: what loads the weights by their config.json, as Hugging Face calls it.
        dataset: name of the data.
        summary: sentences on what the model is.
        training: (label, value) pairs on what was trained on what, and how.
        headline: a sentence on the accuracy under the strongest attack.
        figures: the strongest attack first, clean accuracy last.
        limits: sentences on what the model does not protect against.
        files: rows of (file, what it is, what was found of it).
        loading: lines of code for a person.
        reproduce: lines to type.
    """

    name: str
    library: str
    dataset: str
    summary: tuple[str, ...]
    training: tuple[tuple[str, str], ...]
    headline: str
    figures: tuple[Figure, ...]
    limits: tuple[str, ...]
    files: tuple[tuple[str, str, str], ...]
    loading: tuple[str, ...]
    reproduce: tuple[str, ...]

    def markdown(self) -> str:
        """Return the whole document."""
        parts = [
            self._metadata(),
            f"# {self.name}",
            *self.summary,
            "## Accuracy under attack",
            self.headline,
            _table(
                ("", "", "accuracy [95 % interval]", "images"),
                [(f.name, f.remark, f.cell(), f"{f.images:,}") for f in self.figures],
            ),
            "## What it does not protect against",
            "\n".join(f"- {sentence}" for sentence in self.limits),
            "## Training",
            _table(("", ""), self.training),
            "## Files",
            _table(("file", "what", "of the images in sample.safetensors right"), self.files),
            "## Use",
            _code("python", self.loading),
            "## Reproduce",
            _code("", self.reproduce),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _metadata(self) -> str:
        """Return the YAML block. Strings are written as in JSON, which YAML reads as they are."""
        lines = [
            "---",
            f"library_name: {self.library}",
            "pipeline_tag: image-classification",
            "tags:",
            *(f"- {tag}" for tag in ("image-classification", "adversarial-robustness", "onnx", "harden")),
        ]
        if self.figures:
            lines += [
                "model-index:",
                f"- name: {_quoted(self.name)}",
                "  results:",
                "  - task:",
                "      type: image-classification",
                "    dataset:",
                f"      name: {_quoted(self.dataset)}",
                f"      type: {_quoted(self.dataset)}",
                "    metrics:",
            ]
            for figure in self.figures:
                lines += [
                    "    - type: accuracy",
                    f"      value: {figure.value:.6g}",
                    f"      name: {_quoted(f'accuracy, {figure.name}')}",
                ]
        return "\n".join([*lines, "---"])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _code(language: str, lines: Sequence[str]) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _quoted(text: str) -> str:
    return json.dumps(text)
