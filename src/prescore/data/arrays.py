"""Arrays in .npy, .npz and IDX files.

Nothing is unpickled. Name, type and shape are known before a value is read, so that what cannot be used is refused at
once, and of a large array only the wanted rows take memory.

The IDX format is that of MNIST, http://yann.lecun.com/exdb/mnist/.
"""

import gzip
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from prescore.data.guards import check_total, gibibytes, in_one_line, open_regular, read_exactly, shown, skip
from prescore.data.layout import check_layout
from prescore.data.pictures import is_picture
from prescore.data.tars import SUFFIX, Tar, open_tar
from prescore.errors import PrescoreError

KEYS = ("train", "images", "data", "samples", "arr_0")  # usual names of the images in an .npz, in order of preference
SAMPLES = {"images", "seeds", "settings"}  # the arrays of an .npz that `prescore sample` writes
LONGEST_TEXT = 2**22  # bytes of a text beside the samples
LAYOUT, LONGEST = "layout", 1024  # the array that names their axes, and bytes that it may have
IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
MAX_AXES = 8
NEEDED = "uint8, or floating point in [0, 1], is needed"


@dataclass(frozen=True)
class StoredArray:
    """An array whose values are still to be read.

    Attributes:
        name: for messages.
        shape, dtype, is_fortran: what the file says of it.
        file: stands at its first value.
        layout: of its axes (`prescore.data.layout`) where the file says it, else None.
        left_out: files that are passed over.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool
    file: IO[bytes]
    layout: str | None = None
    left_out: Sequence[str] = ()

    @property
    def size(self) -> int:
        """Bytes of all values."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, rows: Sequence[int] | None = None) -> np.ndarray:
        """The values, or those of some rows, which come in increasing order.

        Raises:
            PrescoreError: there is more than what was promised.
            EOFError: there is less.
        """
        if rows is None or self.is_fortran:
            values = np.frombuffer(read_exactly(self.file, self.size), self.dtype)
            if self.file.read(1):
                raise PrescoreError(f"{self.name}: damaged, longer than the {self.size} bytes that its header promises")
            values = values.reshape(self.shape, order="F" if self.is_fortran else "C")
            return values if rows is None else values[list(rows)]
        return next(self.chunks(rows, len(rows)))

    def chunks(self, rows: Sequence[int], size: int) -> Iterator[np.ndarray]:
        """The values of some rows, which come in increasing order, `size` rows at a time. Raises as `read`."""
        if self.is_fortran:
            values = self.read()
            yield from (values[list(rows[k : k + size])] for k in range(0, len(rows), size))
            return
        width, at = self.size // self.shape[0], 0
        for k in range(0, len(rows), size):
            chunk, content = rows[k : k + size], bytearray()
            for row in chunk:
                skip(self.file, (row - at) * width)
                content += read_exactly(self.file, width)
                at = row + 1
            yield np.frombuffer(content, self.dtype).reshape(len(chunk), *self.shape[1:])


class TarArray(StoredArray):
    """The .npy files of a tar as one array, sorted by name; values are read one sample at a time."""

    tar: Tar
    names: Sequence[str]
    said: str | None  # the layout of the first

    @classmethod
    def of(cls, tar: Tar) -> "TarArray":
        names = tar.names(".npy")
        if not names:
            raise PrescoreError(f"{tar.name}: no .npy files in it")
        if pictures := [name for name in tar.files if is_picture(name)]:
            raise PrescoreError(
                f"{tar.name}: holds pictures ({shown(pictures[0])}) beside .npy files ({shown(names[0])}); "
                "put them into tars of one kind"
            )
        if tar.again:
            raise PrescoreError(f"{tar.name}: {shown(tar.again[0])} is in it more than once")
        tar.check_single(names)
        with tar.open(names[0]) as file:
            first = npy_header(f"{tar.name}/{shown(names[0])}", file, tar.size(names[0]))
            layout = tar.known_of(names[0]).get("layout")
            known = None if layout is None else check_layout(layout)
            found = cls(tar.name, (len(names), *first.shape), first.dtype, False, file, known, tar.beside(names))
        vars(found).update(tar=tar, names=names, said=layout)
        return found

    def read(self, rows: Sequence[int] | None = None) -> np.ndarray:
        rows = range(self.shape[0]) if rows is None else rows
        check_total(self.name, len(rows) * math.prod(self.shape[1:]) * self.dtype.itemsize)
        return next(self.chunks(rows, len(rows)))

    def chunks(self, rows: Sequence[int], size: int) -> Iterator[np.ndarray]:
        for k in range(0, len(rows), size):
            yield np.stack([self._one(self.names[row]) for row in rows[k : k + size]])

    def _one(self, name: str) -> np.ndarray:
        where = f"{self.tar.name}/{shown(name)}"
        if (layout := self.tar.known_of(name).get("layout")) != self.said:
            raise PrescoreError(f"{where}: its layout is {layout!r}, that of the first of the tar {self.said!r}")
        with self.tar.open(name) as file:
            array = npy_header(where, file, self.tar.size(name), needed=NEEDED)
            if (array.shape, array.dtype) != (self.shape[1:], self.dtype):
                first = f"{self.dtype} {self.shape[1:]}"
                raise PrescoreError(f"{where}: {array.dtype} {array.shape}, the first of the tar is {first}")
            return array.read()


@contextmanager
def open_array(path: Path, key: str | None) -> Iterator[StoredArray]:
    """The array of an .npz, under this key or a usual one, of an .npy, of the .npy files of a tar, or of an IDX file.

    Raises:
        PrescoreError: it is none of these; there is no such array, or more than one and none of a usual name; its
            values are of another type; or what it says of its size is not so.
    """
    if path.suffix.lower() == SUFFIX:
        with open_tar(path) as tar:
            yield TarArray.of(tar)
        return
    with open_regular(path) as file:
        match path.suffix.lower():
            case ".npz":
                with zipfile.ZipFile(file) as archive, _open_npz(path, archive, key) as array:
                    yield array
            case ".npy":
                yield npy_header(shown(path), file, path.stat().st_size)
            case _:
                yield _idx_header(path, file)


def npy_header(name: str, file: IO[bytes], size: int, kinds: str = "fu", needed: str = NEEDED) -> StoredArray:
    """The array of an .npy stream of `size` bytes, from its header, which must agree with that.

    Args:
        name: for messages.
        file, size: the stream.
        kinds: of numpy's types, those that the array may have.
        needed: the same in words.

    Raises:
        PrescoreError: its values are of another type, or the header is damaged or does not agree with the size.
    """
    version = np.lib.format.read_magic(file)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in headers:
        raise PrescoreError(f"{name}: version {version} of the .npy format; 1.0 or 2.0 is needed")
    try:
        shape, is_fortran, dtype = headers[version](file)
    except Exception as error:  # it evaluates a Python literal, and lets through whatever a forged one raises
        raise PrescoreError(f"{name}: cannot be read, its header is damaged ({in_one_line(error)})") from None
    if dtype.kind not in kinds or dtype.hasobject:  # before anything of another type, or a pickle, is read
        raise PrescoreError(f"{name}: {shown(dtype)} values; {needed}")
    array = StoredArray(name, shape, dtype, is_fortran, file)
    _check_size(array, size - file.tell())
    return array


def read_npy(name: str, file: IO[bytes], size: int, kinds: str = "fu", needed: str = NEEDED) -> np.ndarray:
    """The array of an .npy stream. Arguments and errors as `npy_header`; EOFError if the stream ends before it."""
    return npy_header(name, file, size, kinds, needed).read()


def _check_size(array: StoredArray, there: int) -> None:
    if len(array.shape) > MAX_AXES or min(array.shape, default=0) < 0:
        raise PrescoreError(f"{array.name}: damaged, its header promises the shape {shown(array.shape)}")
    if array.size != there:
        promised = f"{array.size} bytes" if array.size < 2**60 else gibibytes(array.size)
        raise PrescoreError(f"{array.name}: damaged, its header promises {promised} and {there} are there")


@contextmanager
def _open_npz(path: Path, archive: zipfile.ZipFile, key: str | None) -> Iterator[StoredArray]:
    members = {m.filename.removesuffix(".npy"): m for m in archive.infolist() if m.filename.endswith(".npy")}
    chosen = _choose_key(shown(path), list(members), key)
    with archive.open(members[chosen]) as file:
        array = npy_header(f"{shown(path)}[{shown(chosen)}]", file, members[chosen].file_size)
        yield replace(array, layout=_stored_layout(path, archive, members, chosen, len(array.shape)))


def _stored_layout(
    path: Path, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], chosen: str, axes: int
) -> str | None:
    """The layout that stands beside the samples in a file of `prescore sample`; early ones have their channels last."""
    if LAYOUT not in members or chosen not in ("images", "samples"):
        is_ours = chosen == "images" and members.keys() >= SAMPLES
        return "N" + "DHW"[max(5 - axes, 0) :] + "C" if is_ours else None
    with archive.open(members[LAYOUT]) as file:
        name, size = f"{shown(path)}[{LAYOUT}]", members[LAYOUT].file_size
        header = npy_header(name, file, size, "U", "text is needed")
        if header.shape != () or size > LONGEST:
            raise PrescoreError(f"{name}: damaged, it is no layout of samples")
        return check_layout(header.read().item())


def read_text(path: Path, name: str) -> str:
    """The text that an .npz holds under a name.

    Raises:
        PrescoreError: there is none, or it is too long.
        OSError, BadZipFile: the file cannot be read.
    """
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        member = next((m for m in archive.infolist() if m.filename == f"{name}.npy"), None)
        if member is None:
            raise PrescoreError(f"{shown(path)}: no {name} in it")
        if member.file_size > LONGEST_TEXT:
            raise PrescoreError(f"{shown(path)}[{name}]: too long")
        with archive.open(member) as content:
            where = f"{shown(path)}[{name}]"
            header = npy_header(where, content, member.file_size, "U", "text is needed")
            return str(header.read().item()) if header.shape == () else ""


def _choose_key(name: str, keys: list[str], key: str | None) -> str:
    if key in keys:
        return str(key)
    if not keys:
        raise PrescoreError(f"{name}: no arrays in it")
    if key is not None:
        raise PrescoreError(f"{name}: no array {key!r}; it has {shown(', '.join(keys))}")
    usual = keys if len(keys) == 1 else [known for known in KEYS if known in keys]
    if not usual:
        raise PrescoreError(f"{name}: which array holds the images? name it (key, --key): {shown(', '.join(keys))}")
    return usual[0]


def _idx_header(path: Path, raw: IO[bytes]) -> StoredArray:
    name = shown(path)
    is_zipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    file: Any = gzip.GzipFile(fileobj=raw) if is_zipped else raw
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in IDX_TYPES:
        hint = "; for one picture, name the folder it is in" if is_picture(path.name) else ""
        raise PrescoreError(f"{name}: not a folder, .zip, .tar, .npz, .npy or IDX file{hint}")
    shape = struct.unpack(f">{magic[3]}I", file.read(4 * magic[3]))
    array = StoredArray(name, shape, np.dtype(IDX_TYPES[magic[2]]), False, file)
    _check_size(array, array.size if is_zipped else path.stat().st_size - file.tell())
    return array
