"""Walking through the folders of an image folder: which files are images, and a count of what is passed over."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from harden.data.names import is_visible
from harden.data.passed_over import PassedOver, Why, reason_for
from harden.data.pictures import SUFFIXES, is_picture
from harden.errors import DataError
from harden.stopping import ask


class Scan:
    """Lists the images below folders of `root`, and remembers every file that is none of them.

    Args:
        root: absolute; what is listed and counted is relative to it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._passed: list[tuple[Why, str, str]] = []

    @property
    def passed_over(self) -> PassedOver:
        """What was passed over so far."""
        return PassedOver.of(self._passed)

    def images(self, folder: Path) -> list[str]:
        """Return the relative POSIX paths of the images below `folder`, at any depth, sorted.

        A file without an image's suffix counts if it has none at all and begins like an image. A link back to a folder
        above is not followed. Broken links are listed: decoding then reports them as unreadable.
        """
        return sorted(self._walk(folder, lambda folder, name: [f"{folder}/{name}"]))

    def count_outside(self, folder: Path, known: Collection[Path]) -> None:
        """Count the files directly in `folder`, and below those of its folders that are not `known`."""

        def outside(folder: str, name: str) -> list[str]:
            self._passed.append((Why.OUTSIDE, folder, _suffix(name)))
            return []

        for _ in self._walk(folder, outside, skipped=known):
            pass

    def _walk(
        self,
        folder: Path,
        found: Callable[[str, str], list[str]],
        *,
        above: frozenset[str] = frozenset(),
        skipped: Collection[Path] = (),
    ) -> Iterator[str]:
        """Yield what `found` returns for the folder and the name of each image; count all other files."""
        here = os.path.realpath(folder)
        if here in above:
            return
        relative = folder.relative_to(self.root).as_posix()
        with scan(folder) as items:
            for item in items:
                ask()
                if not is_visible(item.name):
                    self._count_hidden(item, relative)
                elif _is_folder(item):
                    if Path(item.path) not in skipped:
                        yield from self._walk(Path(item.path), found, above=above | {here}, skipped=skipped)
                elif _is_image(item):
                    yield from found(relative, item.name)
                else:
                    suffix = _suffix(item.name)
                    self._passed.append((reason_for(suffix), relative, suffix))

    def _count_hidden(self, item: os.DirEntry[str], folder: str) -> None:
        if not item.is_dir(follow_symlinks=False):
            self._passed.append((Why.HIDDEN, folder, _suffix(item.name)))
            return
        inside = item.name if folder == "." else f"{folder}/{item.name}"
        for _, _, names in os.walk(item.path):  # what cannot be listed is left out: nobody asks for it
            self._passed.extend((Why.HIDDEN, inside, _suffix(name)) for name in names)


def subfolders(folder: Path) -> list[Path]:
    """Return the visible folders directly in `folder`, sorted by name.

    Raises:
        DataError: it cannot be listed.
    """
    with scan(folder) as items:
        return sorted(Path(item.path) for item in items if _is_folder(item) and is_visible(item.name))


def scan(folder: Path) -> os._ScandirIterator[str]:
    """Return the items of a folder.

    Raises:
        DataError: it cannot be listed.
    """
    try:
        return os.scandir(folder)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"the folder {folder} cannot be listed: {reason}", hint="check its permissions") from error


def _is_image(item: os.DirEntry[str]) -> bool:
    suffix = _suffix(item.name)
    if suffix:
        return suffix in SUFFIXES and (item.is_symlink() or item.is_file())
    return is_picture(Path(item.path))


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
