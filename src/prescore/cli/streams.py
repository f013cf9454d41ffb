"""What a command says, where standard output or error may be full, closed, or read by nobody."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO


class Steady:
    """A stream that takes what cannot be written as well, so that the work goes on.

    Attributes:
        error: the first reason why something could not be written, if there was one; what follows is dropped.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Characters that the encoding lacks, as those of undecodable names, are written as escapes."""
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            encoding = self.stream.encoding
            return self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _lose(self, error: OSError) -> None:
        """From here on nowhere: what is still in buffers is not written at exit either."""
        self.error = self.error or error
        with suppress(OSError):
            handle = os.open(os.devnull, os.O_WRONLY)
            os.dup2(handle, self.stream.fileno())
            os.close(handle)


@contextmanager
def steady_streams() -> Iterator[Steady]:
    """Standard output and error are `Steady`, and there; yields the first."""
    with ExitStack() as stack:
        _fill_descriptors()
        output, errors = Steady(_opened(sys.stdout, 1)), Steady(_opened(sys.stderr, 2))
        stack.enter_context(redirect_stdout(output))
        stack.enter_context(redirect_stderr(errors))
        yield output
        output.flush()
        errors.flush()


def _opened(stream: TextIO | None, number: int) -> TextIO:
    """The stream; one that can only fail where it was closed from the start."""
    return open(number, "w", closefd=False) if stream is None else stream


def _fill_descriptors() -> None:
    """A file that is opened later must not get the number of a closed stream, and with it what is meant for that.

    What is opened instead is for reading: writing to it fails, as it does to a closed stream.
    """
    while (handle := os.open(os.devnull, os.O_RDONLY)) <= 2:
        pass
    os.close(handle)
