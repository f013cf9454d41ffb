"""Writing files so that a reader never sees half of one."""

import contextlib
import os
import tempfile
from pathlib import Path

from prescore.errors import PrescoreError


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write `content` to a temporary name beside `path`, then rename: the old file stays until the new is whole.

    Raises:
        PrescoreError: the folder does not exist or cannot be written, or the disk is full.
    """
    path = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise PrescoreError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise PrescoreError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def check_writable(path: str | Path) -> None:
    """Raise PrescoreError now if `path` could not be written later, after the work is done."""
    path = Path(path)
    if path.is_dir():
        raise PrescoreError(f"{path}: is a folder; name a file")
    if not path.parent.is_dir():
        raise PrescoreError(f"{path}: cannot be written (there is no folder {path.parent})")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".part"):
            pass
    except OSError as error:
        raise PrescoreError(f"{path}: cannot be written ({error.strerror})") from None


def _umask() -> int:
    # There is no way to read the mask without setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
