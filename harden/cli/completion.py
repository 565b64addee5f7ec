"""What the shell offers after a flag that takes a name.

The names are the keys of the program's tables. They are read from the tables' source: to import a table is to import
torch, for which nobody waits after a key press.
"""

from __future__ import annotations

from collections.abc import Iterable


def table_names(module: str, table: str) -> tuple[str, ...]:
    """Return the keys of a literal dictionary, or the members of a tuple, in the order of the source. Runs nothing.

    Args:
        module: where the table stands, as it is imported.
        table: its name. Where it takes in other tables of the module (`**OTHER`), their keys are among its own.
    """
    import ast
    import importlib.util
    from pathlib import Path

    spec = importlib.util.find_spec(module)
    try:
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8")) if spec is not None and spec.origin else None
    except (OSError, ValueError, SyntaxError):  # an install without sources has no completion
        tree = None
    values: dict[str, ast.expr] = {}
    for statement in tree.body if tree is not None else ():
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        value = getattr(statement, "value", None)
        for target in targets:
            if isinstance(target, ast.Name) and isinstance(value, ast.expr):
                values[target.id] = value

    def names(node: ast.expr | None) -> Iterable[str]:
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                yield from names(key if key is not None else value)
        elif isinstance(node, ast.Tuple):
            for member in node.elts:
                yield from names(member)
        elif isinstance(node, ast.Name):
            yield from names(values.get(node.id))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value

    return tuple(dict.fromkeys(names(values.get(table))))


def methods(incomplete: str) -> list[str]:
    """Return the methods that begin so."""
    return _beginning(incomplete, table_names("harden.defences", "DEFENCES"))


def variants(incomplete: str) -> list[str]:
    """Return what a list of methods may go on with, each with another source attack (`sat@nfgsm`) or without."""
    if "@" in incomplete.rpartition(",")[2]:
        return _going_on(incomplete, table_names("harden.attacks", "CRAFTERS"), after="@+")
    return _going_on(incomplete, table_names("harden.defences", "DEFENCES"), after=",")


def source_attacks(incomplete: str) -> list[str]:
    """Return the source attacks that begin so."""
    return _beginning(incomplete, table_names("harden.attacks", "CRAFTERS"))


def attacks(incomplete: str) -> list[str]:
    """Return what a list of presets and attacks may go on with."""
    names = (*table_names("harden.attacks", "PRESETS"), *table_names("harden.attacks", "ATTACKS"))
    return _going_on(incomplete, names, after=",")


def augmentations(incomplete: str) -> list[str]:
    """Return the augmentations that begin so."""
    return _beginning(incomplete, table_names("harden.training.augment", "AUGMENTATIONS"))


def trackers(incomplete: str) -> list[str]:
    """Return the trackers that begin so."""
    return _beginning(incomplete, table_names("harden.workflows.tracking", "TRACKERS"))


def formats(incomplete: str) -> list[str]:
    """Return the formats of export that begin so."""
    return _beginning(incomplete, table_names("harden.export", "EXPORTERS"))


def precisions(incomplete: str) -> list[str]:
    """Return the precisions of export that begin so."""
    return _beginning(incomplete, table_names("harden.export", "PRECISIONS"))


def training_precisions(incomplete: str) -> list[str]:
    """Return the precisions of training that begin so."""
    return _beginning(incomplete, table_names("harden.training.settings", "TRAINING_PRECISIONS"))


def devices(incomplete: str) -> list[str]:
    """Return the devices that begin so."""
    return _beginning(incomplete, table_names("harden.workflows.devices", "DEVICES"))


def recipes(incomplete: str) -> list[str]:
    """Return the recipes that ship with the program and begin so; where none does, the shell offers files."""
    from harden.folders import recipe_folder

    return _beginning(incomplete, sorted(path.stem for path in recipe_folder().glob("*.toml")))


def _beginning(start: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(start)]


def _going_on(incomplete: str, names: Iterable[str], *, after: str) -> list[str]:
    """Return `incomplete` with what follows the last of the characters `after` completed to each name that fits."""
    begins = max(incomplete.rfind(character) for character in after) + 1
    typed, start = incomplete[:begins], incomplete[begins:]
    return [typed + name for name in _beginning(start, names)]
