"""Standard output and standard error that may be closed, full, or read by a program that has ended.

What cannot be written is dropped, so that the work goes on and its files are written; the failure is remembered for
those who need to know (see `failure_of`).
"""

from __future__ import annotations

import io
import os
import sys
from typing import IO, Any, TextIO


class _Sink(io.RawIOBase):
    """Writes to a file descriptor until that fails, and drops everything from then on.

    Attributes:
        failure: why a write failed; None while all have succeeded.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__()
        self.failure: OSError | None = None
        self.name = name
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.failure is None:
            try:
                return os.write(self._descriptor, data)
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes


def guard_streams() -> None:
    """Let nothing that this program prints raise, whatever has become of the standard streams.

    A stream that was closed gets its descriptor back, which the next file to be opened would get otherwise: what is
    printed would end in that file. Writing to it still fails, as to a closed one.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free, which is this one
    sys.stdout = _guarded(sys.stdout, 1, "<stdout>")
    sys.stderr = _guarded(sys.stderr, 2, "<stderr>")


def failure_of(stream: IO[str]) -> OSError | None:
    """Return why something that was printed to a guarded stream could not be written; None where all was."""
    stream.flush()
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, _Sink) else None


def write_directly(text: str) -> None:
    """Write to standard error past buffers and locks, as a signal handler must; drop what cannot be written."""
    try:
        os.write(2, text.encode())
    except OSError:
        return


def _guarded(stream: TextIO | None, descriptor: int, name: str) -> TextIO:
    """Return a stream that writes where `stream` does, in its encoding and with its buffering."""
    if stream is not None and not (isinstance(stream, io.TextIOWrapper) and stream.fileno() == descriptor):
        return stream  # not the process's own, such as that of a test
    encoding, errors, by_line = "utf-8", "backslashreplace", descriptor == 2
    if stream is not None:
        stream.flush()
        encoding, errors = stream.encoding, stream.errors or "strict"
        by_line = stream.line_buffering or stream.write_through
    sink = io.BufferedWriter(_Sink(descriptor, name))
    return io.TextIOWrapper(sink, encoding=encoding, errors=errors, line_buffering=by_line)
