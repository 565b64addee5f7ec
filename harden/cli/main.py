"""What runs when somebody types `harden`: as little as what was typed needs."""

from __future__ import annotations

import os
import sys

from harden.cli.errors import EXIT_INTERRUPTED
from harden.cli.overview import COMMANDS, show_overview
from harden.cli.streams import guard_streams, write_directly

COMPLETES = "_HARDEN_COMPLETE"
"""The variable in which a shell asks what to offer."""


def main() -> None:
    """Run the command line."""
    # Threads that wait by spinning slow a run three to five times where anything else uses the processor; waiting
    # passively costs little where nothing does. It has to be said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    guard_streams()
    words = sys.argv[1:]
    if words == ["--help"]:
        show_overview()
        return
    try:
        from harden.cli.app import program

        named = next((word for word in words if not word.startswith("-")), None)
        program(*[named] if named in COMMANDS and COMPLETES not in os.environ else [])()
    except KeyboardInterrupt:
        write_directly("error: stopped\n")
        _end_at_once()
    except SystemExit as ended:
        if ended.code == EXIT_INTERRUPTED:
            _end_at_once()
        raise


def _end_at_once() -> None:
    """End the process without taking torch down in order, for which a user who pressed Ctrl-C would wait seconds."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_INTERRUPTED)
