"""Files of `torch.save`, read as data.

There are two layouts: a zip archive with the pickle `data.pkl` and one member for each storage, and the older one, five
pickles (magic number, version, machine, content, keys) and then the storages. Both are read by torch's weights-only
reader, which calls only what is in a list of its own. That list is long, and with some of it a file of a few bytes
takes all memory (`bytearray(10**12)`); hence every name in the pickles is compared first with the few that weights and
optimisers need.

Sources: https://docs.python.org/3/library/pickletools.html; https://docs.pytorch.org/docs/stable/notes/serialization.html.
"""

import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from prescore.checkpoints.arguments import shorten
from prescore.errors import PrescoreError

# The magic number, as `torch.save` pickles it, with which the older layout begins.
OLD_LAYOUT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
OLD_PICKLES = 5
HEAD_BYTES = 2**20
KINDS = ("Half", "BFloat16", "Float", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
NAMES = frozenset(
    {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "torch Size",
        "torch device",
        *(f"{module} {kind}Storage" for module in ("torch", "torch.cuda") for kind in KINDS),
    }
)


def head(path: Path) -> bytes:
    """The first megabyte of the pickle in a file of `torch.save`; nothing if it is not one. Never raises."""
    try:
        with open(path, "rb") as file:
            start = file.read(HEAD_BYTES)
        if start.startswith(OLD_LAYOUT):
            return start
        with zipfile.ZipFile(path) as archive, archive.open(_pickle_member(archive)) as file:
            return file.read(HEAD_BYTES)
    except Exception:  # what is not a file of torch.save may end in an error of any kind
        return b""


def load_torch(path: Path) -> Any:
    """What `torch.save` wrote, its tensors on the CPU.

    Raises:
        PrescoreError: the file cannot be read, is damaged, or holds more than tensors, containers and plain values.
    """
    try:
        for name in _names(path):
            if name not in NAMES:
                shown = shorten(name.replace(" ", "."))
                raise PrescoreError(f"its pickle names {shown}, which no weights need; refused, not run")
        return torch.load(path, map_location="cpu", weights_only=True)
    except PrescoreError:
        raise
    except OSError as error:
        raise PrescoreError(f"cannot be read ({error.strerror or 'damaged'})") from None
    except Exception as error:  # a damaged file may end in an error of any kind
        reason = f"{type(error).__name__}: {shorten(' '.join(str(error).split()))}"
        raise PrescoreError(f"not a file of torch.save, damaged, or truncated ({reason})") from None


def check_tensors(what: str, tensors: object) -> dict[str, Tensor]:
    """A mapping of names to plain tensors, each stored in full.

    Raises:
        PrescoreError: `what` is something else.
    """
    if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors):
        raise PrescoreError(f"{what} is not a mapping of names to tensors")
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or value.device.type != "cpu" or value.layout != torch.strided:
            raise PrescoreError(f"{what}: {shorten(name)} is not a plain tensor")
        # A view can claim any shape over a few numbers; a copy of it would take the memory.
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise PrescoreError(f"{what}: {shorten(name)} is not stored in full")
    return {name: value.detach() for name, value in tensors.items()}


def checked_levels(sigmas: Tensor) -> Tensor:
    """The noise levels of a file, in float64.

    Raises:
        PrescoreError: they are not positive, finite and decreasing.
    """
    levels = sigmas.double()
    if not (levels.isfinite().all() and (levels > 0).all() and (levels.diff() < 0).all()):
        raise PrescoreError("the noise levels 'sigmas' are not positive numbers that decrease")
    return levels


def _names(path: Path) -> Iterator[str]:
    """Every "module name" in the pickles of a file."""
    with open(path, "rb") as file:
        if file.read(len(OLD_LAYOUT)) == OLD_LAYOUT:
            file.seek(0)
            for _ in range(OLD_PICKLES):
                yield from _names_in(file)
            return
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise PrescoreError("its contents are larger than itself; torch.save does not compress")
        if (damaged := archive.testzip()) is not None:  # torch reads numbers without looking at their check sums
            raise PrescoreError(f"damaged: the check sum of its member {shorten(damaged)} is wrong")
        with archive.open(_pickle_member(archive)) as file:
            yield from _names_in(file)


def _names_in(stream: IO[bytes]) -> Iterator[str]:
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "GLOBAL":
            yield str(argument)
        elif opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            raise PrescoreError(f"its pickle uses {opcode.name}, which torch.save does not; refused, not run")


def _pickle_member(archive: zipfile.ZipFile) -> str:
    members = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(members) != 1:
        raise PrescoreError(f"a zip archive with {len(members)} members data.pkl, not a file of torch.save")
    return members[0]
