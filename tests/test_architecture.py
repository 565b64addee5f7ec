"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "harden").rglob("*.py"))
NAMES = [file.relative_to(ROOT).as_posix() for file in FILES]
every_file = pytest.mark.parametrize("file", FILES, ids=NAMES)

LONG: dict[str, str] = {
    "harden/training/loop.py": "its state goes through all of it; parts, sums, snapshots and selection are apart",
}
"""Files of more than 400 lines, and why."""

HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "sklearn",
    "scipy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pydantic",
    "pyarrow",
    "datasets",
)


def test_imports_go_downward_only():
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout


def test_the_command_line_starts_without_heavy_imports():
    command = (
        f"import sys; from harden.cli.app import program; program(); print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def _without_docstring(node: ast.AST, path: str) -> list[str]:
    missing = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            name = f"{path}.{child.name}"
            if ast.get_docstring(child) is None:
                missing.append(name)
            if isinstance(child, ast.ClassDef):
                missing += _without_docstring(child, name)
    return missing


@every_file
def test_everything_public_has_a_docstring(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module says nothing of itself"
    assert _without_docstring(tree, file.stem) == []


def test_no_file_is_long_without_a_reason():
    lengths = {name: len(f.read_text(encoding="utf-8").splitlines()) for f, name in zip(FILES, NAMES, strict=True)}
    long = {name: lines for name, lines in lengths.items() if lines > 400}
    assert long.keys() == LONG.keys(), f"split these or give a reason, and give none for others: {long}"


@every_file
def test_nothing_is_left_to_do_without_an_issue(file):
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line):
            assert re.search(r"#\d+|/issues/\d+", line), f"{file.name}:{number}: {line.strip()}"


@every_file
def test_nothing_reseeds_or_prints_outside_its_place(file):
    """The library returns data and draws from generators; only the loop seeds, for dropout, inside fork_rng."""
    name = file.relative_to(ROOT).as_posix()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    if not name.startswith("harden/cli/"):
        assert "print" not in called
    seeding = called & {"torch.manual_seed", "torch.cuda.manual_seed", "torch.seed", "random.seed", "np.random.seed"}
    if seeding:
        source = file.read_text(encoding="utf-8")
        assert "fork_rng" in source, f"{name} seeds the global generator"


@every_file
def test_names_that_say_nothing_are_not_used(file):
    assert file.stem not in {"utils", "util", "common", "helpers", "helper", "misc", "manager"}
