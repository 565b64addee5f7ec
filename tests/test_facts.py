"""Facts travel as fields: no code reads back a sentence that a person is meant to read."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import harden

PROSE = {"event", "definition", "finding", "remedy", "hint", "message", "dataset", "reason", "caveats", "title", "told"}
"""Attributes whose values are words for a person."""
READING = {"split", "rsplit", "partition", "rpartition", "startswith", "endswith", "removeprefix", "removesuffix"}
READING |= {"find", "index", "match", "fullmatch", "search", "findall", "sub"}


def is_prose(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Attribute) and part.attr in PROSE for part in ast.walk(node))


def reads_prose(node: ast.AST) -> bool:
    """Whether an expression takes decisions by the text of an attribute of `PROSE`."""
    if isinstance(node, ast.Compare) and any(isinstance(op, (ast.In, ast.NotIn)) for op in node.ops):
        # One word in a sentence; whether a sentence was said before, in a collection of them, is no reading.
        container = node.comparators[-1]
        return isinstance(container, ast.Attribute) and container.attr in PROSE
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in READING:
        return is_prose(node.func.value) or any(is_prose(argument) for argument in node.args)
    return False


@pytest.mark.parametrize(
    ("code", "reads"),
    [
        ("'overfitting' in epoch.event", True),
        ("Collapse.NONE.value not in record.event", True),
        ("re.match('PGD', outcome.definition)", True),
        ("error.hint.startswith('--')", True),
        ("check.remedy not in advised", False),
        ("error.hint is not None", False),
        ("print(error.message)", False),
    ],
)
def test_the_rule_itself(code: str, reads: bool) -> None:
    assert any(reads_prose(node) for node in ast.walk(ast.parse(code))) is reads


def test_no_module_reads_our_own_sentences() -> None:
    found = []
    for path in sorted(Path(harden.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if reads_prose(node):
                found.append(f"{path.name}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)}")
    assert found == []
