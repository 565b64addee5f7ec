"""Finding the files that a table names, also where it was written on another system than the one that reads it."""

from __future__ import annotations

import os

from harden.data.names import composed


class Finder:
    """Turns paths as a table spells them into paths relative to its folder: no file has two names.

    A path that is not there as it is spelled may have been written by Windows, with backslashes, or in another of
    Unicode's forms (NFC, NFD) than the names on this disk. Where no file fits, the path stays as it is.

    Args:
        root: the folder that paths are relative to.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._listed: dict[str, dict[str, str]] = {}

    def __call__(self, path: str) -> str:
        """Return the path relative to the root if it lies below it, else an absolute one; with slashes."""
        whole = self._whole(path)
        if not (path.isascii() and "\\" not in path) and not _is_there(whole):
            whole = self._respelled(self._whole(path.replace("\\", "/")), whole)
        return whole.removeprefix(os.path.join(self._root, "")).replace(os.sep, "/")

    def _whole(self, path: str) -> str:
        return os.path.normpath(os.path.join(self._root, path))

    def _respelled(self, path: str, otherwise: str) -> str:
        """Return the file whose path equals `path` in NFC, or what else to return where there is none."""
        found = os.sep
        for name in path.split(os.sep)[1:]:
            step = os.path.join(found, name)
            found = step if _is_there(step) else os.path.join(found, self._names(found).get(composed(name), name))
        return found if _is_there(found) or "\\" in otherwise else otherwise

    def _names(self, folder: str) -> dict[str, str]:
        """Return the names in a folder by their form NFC; none where it cannot be listed."""
        if folder not in self._listed:
            try:
                self._listed[folder] = {composed(name): name for name in os.listdir(folder)}
            except (OSError, ValueError):
                self._listed[folder] = {}
        return self._listed[folder]


def _is_there(path: str) -> bool:
    return "\0" not in path and os.path.lexists(path)
