"""From an error to the exit code, and from what the system refuses to an error of ours."""

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


def refused_by_system(error: BaseException) -> errors.HardenError | None:
    """Return what to say of a file that the system lets nobody read or write; None for other errors."""
    if not isinstance(error, OSError) or error.filename is None or error.strerror is None:
        return None
    name = ascii(str(error.filename))[1:-1]
    return errors.HardenError(
        f"{name if len(name) <= 200 else f'{name[:100]}...{name[-100:]}'} cannot be read or written: "
        f"{error.strerror.lower()}",
        hint="check the path, its permissions, and the space on the disk",
    )


def exit_code(error: errors.HardenError) -> int:
    """Return the exit code that README documents for this error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), EXIT_FAILURE)
