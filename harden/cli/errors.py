"""The one table from an error to its exit code."""

from __future__ import annotations

from harden import errors

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_GATE = 3
EXIT_UNSAFE = 4
EXIT_EXPORT = 5
EXIT_INTERRUPTED = 130

_CODES: tuple[tuple[type[errors.HardenError], int], ...] = (
    (errors.UsageError, EXIT_USAGE),
    (errors.UnsafeInputError, EXIT_UNSAFE),
    (errors.GateError, EXIT_GATE),
    (errors.ExportError, EXIT_EXPORT),
    (errors.Interrupted, EXIT_INTERRUPTED),
)


def exit_code(error: errors.HardenError) -> int:
    """Return the exit code that README documents for this error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), EXIT_FAILURE)
