"""Files of `torch.save`, read as data.

There are two layouts: a zip archive with the pickle `data.pkl` and one member for each storage, and the older one, five
pickles (magic number, version, machine, content, keys) and then the storages. Both are read by torch's weights-only
reader, which calls only what is in a list of its own. That list is long, and with some of it a file of a few bytes
takes all memory (`bytearray(10**12)`); hence every name in the pickles is compared first with the few that weights and
optimisers need, and what is made is counted, since a byte of a pickle can stand for hundreds in memory.

Sources: https://docs.python.org/3/library/pickletools.html; https://docs.pytorch.org/docs/stable/notes/serialization.html.
"""

import io
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from prescore.checkpoints.arguments import shorten
from prescore.errors import PrescoreError

# The magic number, as `torch.save` pickles it, with which the older layout begins.
OLD_LAYOUT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
OLD_PICKLES = 5
HEAD_BYTES = 2**20
# Most instructions and calls in all pickles of a file. A weight takes 35 and 2, a large checkpoint with the moments of
# its optimiser 150,000 and 10,000.
MAX_STEPS, MAX_CALLS = 1_000_000, 100_000
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
        _check_instructions(path)
        return _without_attributes(torch.load(path, map_location="cpu", weights_only=True))
    except PrescoreError:
        raise
    except OSError as error:
        raise PrescoreError(f"cannot be read ({error.strerror or 'damaged'})") from None
    except Exception as error:  # a damaged file may end in an error of any kind
        reason = f"{type(error).__name__}: {shorten(' '.join(str(error).split()))}"
        raise PrescoreError(f"not a file of torch.save, damaged, or truncated ({reason})") from None


def _check_instructions(path: Path) -> None:
    """Raise PrescoreError if a pickle of the file names what no weights need, or makes too much."""
    calls = 0
    for step, (instruction, argument) in enumerate(_instructions(path)):
        calls += instruction == "REDUCE"
        if step >= MAX_STEPS or calls > MAX_CALLS:
            raise PrescoreError(f"its pickle has more than {MAX_STEPS} instructions or {MAX_CALLS} calls")
        if instruction == "GLOBAL" and argument not in NAMES:
            shown = shorten(str(argument).replace(" ", "."))
            raise PrescoreError(f"its pickle names {shown}, which no weights need; refused, not run")
        if instruction in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            raise PrescoreError(f"its pickle uses {instruction}, which torch.save does not; refused, not run")


def _instructions(path: Path) -> Iterator[tuple[str, object]]:
    """Name and argument of every instruction in the pickles of a file."""
    with open(path, "rb") as file:
        if file.read(len(OLD_LAYOUT)) == OLD_LAYOUT:
            file.seek(0)
            for _ in range(OLD_PICKLES):
                yield from _instructions_in(file)
            return
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise PrescoreError("its contents are larger than itself; torch.save does not compress")
        if (damaged := archive.testzip()) is not None:  # torch reads numbers without looking at their check sums
            raise PrescoreError(f"damaged: the check sum of its member {shorten(damaged)} is wrong")
        yield from _instructions_in(io.BytesIO(archive.read(_pickle_member(archive))))


def _instructions_in(stream: IO[bytes]) -> Iterator[tuple[str, object]]:
    return ((opcode.name, argument) for opcode, argument, _ in pickletools.genops(stream))


def _without_attributes(content: Any) -> Any:
    """The content of a file, whose mappings have the attributes of their class alone.

    A pickle can give an `OrderedDict` others, by which torch keeps versions of modules, and a file its own `items`.
    """
    seen: set[int] = set()
    found = [content]
    while found:
        value = found.pop()
        if not isinstance(value, (dict, list, tuple)) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, OrderedDict):
            value.__dict__.clear()
        found.extend(value.values() if isinstance(value, dict) else value)
    return content


def _pickle_member(archive: zipfile.ZipFile) -> str:
    members = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(members) != 1:
        raise PrescoreError(f"a zip archive with {len(members)} members data.pkl, not a file of torch.save")
    return members[0]
