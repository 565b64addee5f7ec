"""Where this program keeps things: what it cached, what it remembers, and the recipes that ship with it.

Nothing heavy is imported here, so that shell completion and `harden doctor` can ask.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """Return the folder for everything this program caches: $HARDEN_CACHE, or the user's cache folder."""
    override = os.environ.get("HARDEN_CACHE")
    if override:
        return Path(override).expanduser()
    import platformdirs  # where it is missing, `harden doctor` still has to say so

    return Path(platformdirs.user_cache_dir("harden"))


def state_root() -> Path:
    """Return the folder for what this program remembers of its user: $HARDEN_STATE, or the user's state folder."""
    override = os.environ.get("HARDEN_STATE")
    if override:
        return Path(override)
    import platformdirs

    return Path(platformdirs.user_state_dir("harden"))


def recipe_folder() -> Path:
    """Return the folder of the recipes that ship with the program (inside the wheel, or beside a checkout)."""
    package = Path(__file__).parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"
