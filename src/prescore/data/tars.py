"""Tars in the layout of WebDataset: one sample is the files of one name, up to its first dot.

    000000003.png     a sample, or 000000003.npy, an array
    000000003.json    what is known of it, such as its seed

Nothing is unpacked: content is read in place, from regular files only. Links, devices, sparse files and names that
lead out of the archive are refused, and every size is that of bytes which are there: the tar is not compressed.

The layout: https://github.com/webdataset/webdataset.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from prescore.data.guards import open_regular, read_exactly, shown
from prescore.errors import PrescoreError

SUFFIX = ".tar"
MOST_FILES = 2**24
LONGEST_JSON = 2**22  # bytes of what is known of a sample
SETTINGS = "prescore.settings"  # in the head of a tar that `prescore sample` writes


class Tar:
    """An open tar.

    Attributes:
        name: for messages.
        files: its regular files, by name; of two that have one name the last, as when it is unpacked.
        again: the names of others of the same name.
        head: what its global header says.
    """

    def __init__(self, name: str, archive: tarfile.TarFile) -> None:
        self.name, self.archive = name, archive
        self.files: dict[str, tarfile.TarInfo] = {}
        self.again: list[str] = []
        for count, member in enumerate(archive):
            if count >= MOST_FILES:
                raise PrescoreError(f"{name}: more than {MOST_FILES} files; take several tars")
            if member.isdir():
                continue
            place = PurePosixPath(member.name)
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                raise PrescoreError(f"{name}: {shown(member.name)} is no regular file; links and the like are not read")
            if place.is_absolute() or ".." in place.parts:
                raise PrescoreError(f"{name}: {shown(member.name)} leads out of the archive")
            if member.name in self.files:
                self.again.append(member.name)
            self.files[member.name] = member
        # tarfile takes a damaged header in the middle for the end, which is a block of zeros.
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise PrescoreError(f"{name}: cannot be read (damaged, or cut off, after {len(self.files)} files)")
        self.head = dict(archive.pax_headers)

    def open(self, name: str) -> IO[bytes]:
        found = self.archive.extractfile(self.files[name])
        assert found is not None  # it is a regular file
        return found

    def size(self, name: str) -> int:
        return self.files[name].size

    def names(self, ending: str) -> list[str]:
        """Of the files with this ending, sorted."""
        return sorted(name for name in self.files if name.lower().endswith(ending))

    def check_single(self, names: Sequence[str]) -> None:
        """Raise PrescoreError if two of these files belong to one sample, which would count twice."""
        by_key: dict[str, str] = {}
        for name in names:
            if (other := by_key.setdefault(key_of(name), name)) != name:
                raise PrescoreError(
                    f"{self.name}: {shown(other)} and {shown(name)} are of one sample, which is to have one picture or "
                    "array; leave one kind out"
                )

    def beside(self, names: Sequence[str]) -> list[str]:
        """The files that belong to no sample of these, sorted."""
        keys = {key_of(name) for name in names}
        return sorted(name for name in self.files if key_of(name) not in keys)

    def known_of(self, name: str) -> dict[str, Any]:
        """What the JSON beside a file says; nothing if there is none. Raises PrescoreError, ValueError."""
        beside = f"{key_of(name)}.json"
        if beside not in self.files:
            return {}
        if self.size(beside) > LONGEST_JSON:
            raise PrescoreError(f"{self.name}/{shown(beside)}: too long")
        with self.open(beside) as file:
            found = json.loads(bytes(read_exactly(file, self.size(beside))))
        if not isinstance(found, dict):
            raise PrescoreError(f"{self.name}/{shown(beside)}: no JSON object")
        return found


@contextmanager
def open_tar(path: Path) -> Iterator[Tar]:
    """A tar. Raises PrescoreError if something in it is refused; OSError, TarError if it cannot be read."""
    with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        yield Tar(shown(path), archive)


def key_of(name: str) -> str:
    """What the files of a sample have in common: the path up to the first dot of the name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def holds_arrays(path: Path) -> bool:
    """Whether the samples of a tar are .npy files. Raises as `open_tar`."""
    with open_tar(path) as tar:
        return bool(tar.names(".npy"))


def tar_of(files: Sequence[tuple[str, bytes]], head: dict[str, str]) -> bytes:
    """The content of a tar of these files, the same for the same files.

    Args:
        files: names and contents.
        head: of the global header, which readers of samples pass over.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers=head) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
