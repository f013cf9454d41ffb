"""What every reader of data files shares: what is refused before it is read, and how damage is said."""

import lzma
import os
import stat
import struct
import tarfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from prescore.errors import PrescoreError

MAX_BYTES = 2**33  # of all that is kept, uncompressed: a guard against forged files, far above what statistics need
CHUNK = 2**24
NAMED = 5  # files that a warning names
SHOWN = 200  # characters of a name, or of another text out of a file, in a message

# What readers raise when a file is damaged; RuntimeError is zipfile's for an encrypted member.
DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    struct.error,
    tokenize.TokenError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
)


class DataWarning(UserWarning):
    """Something about data that are read all the same: what was left out, what was clipped."""


class Notes:
    """What is to be said of data when all of them are read, whatever the parts were that they were read in."""

    def __init__(self) -> None:
        self.texts: dict[str, None] = {}  # each once, in their order
        self.names: dict[str, list[str]] = {}
        self.values: dict[str, tuple[int, int, float, float, tuple[float, float]]] = {}

    def say(self, text: str) -> None:
        self.texts[text] = None

    def animated(self, name: str, pictures: list[str]) -> None:
        """Of these pictures only the first frame is read."""
        self.names[name] = [*self.names.get(name, []), *pictures]

    def seen(self, name: str, outside: int, a: np.ndarray, bounds: tuple[float, float]) -> None:
        """So many of these values lie outside the range, and are clipped."""
        count, total, least, most, _ = self.values.get(name, (0, 0, np.inf, -np.inf, bounds))
        least, most = min(least, float(a.min())), max(most, float(a.max()))
        self.values[name] = (count + outside, total + a.size, least, most, bounds)

    def lines(self) -> list[str]:
        """All of it, one line each."""
        lines = list(self.texts)
        lines += [f"{name}: only the first frame is read of {some(names)}" for name, names in self.names.items()]
        for name, (outside, total, least, most, (low, high)) in self.values.items():
            if outside:
                lines.append(
                    f"{name}: {outside} of {total} values lie outside [{low:g}, {high:g}], from {least:.4g} to "
                    f"{most:.4g}; they were clipped"
                )
        return lines


def some(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return shown(", ".join(names[:NAMED])) + more


@contextmanager
def reading(name: str | Path) -> Iterator[None]:
    """Turns what the readers of damaged files raise into one line that names the file."""
    try:
        yield
    except PrescoreError:
        raise
    except FileNotFoundError:
        raise PrescoreError(f"{shown(name)}: no such file or folder") from None
    except DAMAGE as error:
        raise PrescoreError(f"{shown(name)}: cannot be read ({in_one_line(error)})") from None


def shown(text: object) -> str:
    """A name in a message of one line: the characters that a terminal would act on are spelled, the middle of a long
    one is left out.

    >>> shown("a\\n.png")
    'a\\\\n.png'
    """
    word = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return word if len(word) <= SHOWN else f"{word[: SHOWN // 2]}...{word[-SHOWN // 2 :]}"


def in_one_line(error: Exception) -> str:
    """What an error of a reader says, or what it is called if it says nothing."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return shown(" ".join(text.split()))


def open_regular(path: Path) -> IO[bytes]:
    """A file opened for reading; opening a named pipe or a device could wait for ever, so these are refused.

    Raises:
        PrescoreError: it is neither a regular file nor a link to one.
        OSError: it cannot be opened.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise PrescoreError(f"{shown(path)}: not a regular file")
    return open(path, "rb")


def read_exactly(file: IO[bytes], length: int) -> bytearray:
    """`length` bytes, taking memory only for those that are there. Raises EOFError."""
    content = bytearray()
    while len(content) < length:
        piece = file.read(min(CHUNK, length - len(content)))
        if not piece:
            raise EOFError(f"{length} bytes promised, {len(content)} are there")
        content += piece
    return content


def skip(file: IO[bytes], length: int) -> None:
    """Passes over `length` bytes, a mebibyte at a time, since a compressed file has to be read for it."""
    while length > 0:
        file.seek(min(2**20, length), os.SEEK_CUR)
        length -= 2**20


def check_total(name: str, size: int) -> None:
    """Raise PrescoreError if data of `size` bytes are too much to keep: 8 GiB, or half of this machine's memory."""
    most = min(MAX_BYTES, memory() // 2)
    if size > most:
        raise PrescoreError(
            f"{name}: {gibibytes(size)} uncompressed, {gibibytes(most)} are allowed; take fewer images (n), or make "
            "them smaller (crop, fit; on the command line --n, --crop, --fit)"
        )


def gibibytes(size: int) -> str:
    return f"{min(size, 2**100) / 2**30:.3g} GiB"


def memory() -> int:
    """Bytes of this machine's memory, or what may be read at most where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2 * MAX_BYTES
