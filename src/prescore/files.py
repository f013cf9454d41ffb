"""Writing files so that a reader never sees half of one, and folders that one process has for itself.

A file is written under a temporary name beside its own, `.NAME.RANDOM.part`, and renamed when it is whole. Its writer
holds a lock on it, which the system takes away when the process ends: so what a killed one left is told from what
another one is writing.
"""

import glob
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from prescore.errors import PrescoreError


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write `content` to a temporary name beside `path`, then rename: the old file stays until the new is whole.

    A link stays a link, and what it points to is replaced. A device (/dev/null) or a pipe is written into.

    Raises:
        PrescoreError: the folder does not exist or cannot be written, the disk is full, or there is something at `path`
            that cannot be written.
    """
    with writing(path):
        if _is_stream(path):
            with open(path, "wb") as file:
                file.write(content)
        else:
            target = os.path.realpath(path)
            with _part(target, content) as part:
                os.replace(part, target)


def write_once(path: str | Path, content: bytes) -> bool:
    """As `write_atomically`, but never over a file: one of several processes writes. Returns whether it was this."""
    with writing(path), _part(path, content) as part:
        try:
            os.link(part, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            if os.path.lexists(path):
                return False
            os.replace(part, path)
        return True


def check_writable(path: str | Path) -> None:
    """Raise PrescoreError now if `path` could not be written later, after the work is done.

    What killed writers of this file left is removed.
    """
    with writing(path):
        if _is_stream(path):
            if not os.access(path, os.W_OK):
                raise PrescoreError(f"{path}: cannot be written (Permission denied)")
            return
        target = Path(os.path.realpath(path))
        if not target.parent.is_dir():
            raise PrescoreError(f"{path}: cannot be written (there is no folder {target.parent})")
        sweep(target.parent, glob.escape(target.name))
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", suffix=".part"):
            pass


def sweep(folder: str | Path, *names: str) -> None:
    """Remove what killed writers of files of these names, glob patterns, left half-written in a folder."""
    for name in names:
        for part in Path(folder).glob(f".{name}.*.part"):
            with suppress(OSError):  # another one is writing it, or it is gone
                if part.is_file():
                    with open(part, "rb") as file:
                        _lock(file.fileno(), wait=False)
                        part.unlink()


@contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Keeps other processes that ask for the folder out of it, until this one leaves it or ends.

    Raises:
        PrescoreError: another one has it.
    """
    with ExitStack() as stack:
        try:
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            _lock(handle, wait=False)
        except BlockingIOError:
            raise PrescoreError(f"{folder}: another run is at work in this folder; take another one") from None
        except OSError:  # a system where folders cannot be opened, or have no locks
            pass
        yield


@contextmanager
def in_turn(folder: str | Path) -> Iterator[None]:
    """One process at a time: waits until no other one is inside for this folder. Raises OSError if it is not there."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a system without locks
            _lock(handle, wait=True)
        yield
    finally:
        os.close(handle)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Says of what the system refuses that `path` cannot be written, as a PrescoreError."""
    try:
        yield
    except OSError as error:
        raise PrescoreError(f"{path}: cannot be written ({error.strerror or error})") from None


@contextmanager
def named_in_text(path: str | Path) -> Iterator[str]:
    """The name of a file for a library that takes no other than text: its own, or if that holds bytes that are no text
    the one that it has while it is open here. Raises OSError if it cannot be opened."""
    with open(path, "rb") as file:
        try:
            name = str(path)
            name.encode()
        except UnicodeEncodeError:
            name = f"/dev/fd/{file.fileno()}"
        yield name


def _is_stream(path: str | Path) -> bool:
    """Whether `path` is written into instead of being replaced.

    Raises:
        PrescoreError: it is neither that nor a file.
        OSError: it cannot be looked at.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    if stat.S_ISDIR(mode):
        raise PrescoreError(f"{path}: is a folder; name a file")
    if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        raise PrescoreError(f"{path}: is a {'disk' if stat.S_ISBLK(mode) else 'socket'}; name a file")
    return not stat.S_ISREG(mode)


@contextmanager
def _part(path: str | Path, content: bytes) -> Iterator[str]:
    """A whole file of another name beside `path`, which is gone afterwards. Raises OSError."""
    folder, name = os.path.split(path)
    handle, part = _new_part(folder or os.curdir, name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(part, 0o666 & ~_umask())
            yield part
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part)


def _new_part(folder: str, name: str) -> tuple[int, str]:
    """An open file and its path."""
    while True:
        handle, part = tempfile.mkstemp(dir=folder, prefix=f".{name}.", suffix=".part")
        with suppress(OSError):  # a file system without locks; there `sweep` removes nothing
            _lock(handle, wait=True)
        if os.path.exists(part):  # no `sweep` came between
            return handle, part
        os.close(handle)


def _lock(handle: int, *, wait: bool) -> None:
    """Locks an open file or folder until it is closed, or the process ends. Raises OSError if it cannot be had."""
    try:
        import fcntl
    except ImportError:  # where it is missing, open files cannot be removed anyway
        return
    fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _umask() -> int:
    # There is no way to read the mask without setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
