"""Sets of images that are read when they are needed, in batches, so that memory does not grow with their number."""

import json
import math
import re
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Protocol, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from prescore.data.arrays import NEEDED, open_array
from prescore.data.guards import DataWarning, Notes, check_total, open_regular, reading, shown, some
from prescore.data.layout import channel_axis, check_layout, guessed_layout
from prescore.data.pictures import Kind, kind_of, open_pictures, read_pictures
from prescore.data.sizes import Frame, Look, Size, background_of
from prescore.data.tars import SUFFIX, holds_arrays
from prescore.errors import PrescoreError, is_whole

SLACK = 1e-5  # of the range: resizing and narrow types overshoot its ends by a rounding
MAX_COUNT = 2**24  # images in a file, whose header alone says it
OVERSHOOT = 0.5  # of the range: what samples of a model may exceed it by, where the range was not named
INDEX, OWN = "index.json", ("index.json", "settings.json")
MAX_INDEX = 2**26  # bytes of it
SHARD = re.compile(r"(\d{9,20})-(\d{9,20})\.(npz|tar)")  # of a folder that `prescore sample --shard-size` fills
Check = Callable[[tuple[int, ...]], object]


class Source(Protocol):
    """Where images come from."""

    @property
    def count(self) -> int:
        """N, how many there are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W) of all."""

    def batches(self, rows: Sequence[int], size: int, notes: Notes) -> Iterator[np.ndarray]:
        """The images of these rows, which increase, at most `size` at a time: uint8, or float32 in their range."""


@dataclass(frozen=True)
class ImageSet:
    """Images that are still to be read.

    Attributes:
        sources: where they come from.
        rows: which of all these images belong to the set, increasing.
        said: what is to be said when they are read, one line each.
    """

    sources: Sequence[Source]
    rows: Sequence[int]
    said: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W). Of pictures in folders and zips the heads are read for it."""
        return (len(self.rows), *self.sources[0].shape[1:])

    def take(self, rows: Sequence[int]) -> "ImageSet":
        """Those at these places, increasing."""
        return replace(self, rows=[self.rows[k] for k in rows])

    def batches(self, size: int) -> Iterator[Tensor]:
        """All images in order, at most `size` at a time: uint8 as stored, or float32.

        Warns:
            DataWarning: as `load_images`, at the end.

        Raises:
            PrescoreError: as `load_images`.
        """
        notes = Notes()
        yield from self._batches(size, notes)
        for note in notes.lines():
            warnings.warn(note, DataWarning, stacklevel=2)

    def read(self, stacklevel: int = 2) -> Tensor:
        """All images as one tensor; `stacklevel` is that of its warnings.

        Warns, Raises: as `batches`; PrescoreError as well if they exceed 8 GiB, or half of this machine's memory.
        """
        notes = Notes()
        for source in self.sources:
            if isinstance(source, Arrays):
                check_total(source.name, len(self.rows) * math.prod(source.shape[1:]) * source.width)
        batches = list(self._batches(max(len(self.rows), 1), notes))
        for note in notes.lines():
            warnings.warn(note, DataWarning, stacklevel=stacklevel)
        return batches[0] if len(batches) == 1 else torch.cat(batches)

    def _batches(self, size: int, notes: Notes) -> Iterator[Tensor]:
        for text in self.said:
            notes.say(text)
        if len(self.sources) == 1:
            parts = [(self.sources[0], self.rows)]
        else:
            begins = [0, *accumulate(source.count for source in self.sources)]
            places = np.searchsorted(np.asarray(self.rows), begins)
            parts = [
                (source, [row - begin for row in self.rows[first:last]])
                for source, begin, (first, last) in zip(self.sources, begins, pairwise(places.tolist()), strict=False)
            ]
        for source, rows in parts:
            for images in source.batches(rows, size, notes) if len(rows) else ():
                yield torch.from_numpy(np.ascontiguousarray(images))


class ReadingOptions(TypedDict, total=False):
    """How images are read: the keyword arguments of `load_images` and `open_images`, each of which may be left out.

    Attributes:
        key: name of the array in an .npz. By default its only array, or the first of `arrays.KEYS` that it has.
        n: read at most this many, drawn without replacement and kept in order. Only these are read.
        seed: of that draw.
        pad: surround the images evenly, up to pad x pad pixels (32 for MNIST) or to (height, width).
        crop: cut this size out of the middle instead.
        fit: scale them until they just cover this size, and cut it out of the middle, instead.
        background: colour behind transparent pixels and around padded images, "white" or as CSS has it. By default
            transparent pixels are refused, and padding has the lowest value.
        layout: which axis of an array is which, if its shape does not tell: "NHWC", "NCL" (see
            `prescore.data.layout`). Then it may have any number of channels and of other axes.
        data_range: (lowest, highest) value of floats that are not in [0, 1], such as physical fields; these are
            returned in their own units. By default pictures, (N, C, H, W), have to be in [0, 1], and others may have
            any values.
        clip: clip floats that lie outside the range, as samples of a model may, instead of refusing them; where
            data_range is not given, only those outside by at most half of it.
        check: called with the shape (N, C, H, W) as soon as it is known, from a header or the first picture; what it
            raises ends the reading.
    """

    key: str | None
    n: int | None
    seed: int
    pad: Size | None
    crop: Size | None
    fit: Size | None
    background: str | None
    layout: str | None
    data_range: tuple[float, float] | None
    clip: bool
    check: Check | None


# Options of the command line that are not called as these arguments.
FLAGS: Mapping[str, str] = {"data_range": "--range"}


def flag_of(argument: str) -> str:
    """The option of the command line that stands for an argument of reading.

    >>> flag_of("data_range"), flag_of("pad")
    ('--range', '--pad')
    """
    return FLAGS.get(argument, f"--{argument}")


def open_images(paths: Sequence[str | Path], **how: Unpack[ReadingOptions]) -> ImageSet:
    """The images of one or more files and folders as one set, whose heads alone are read.

    Args and Raises: as `load_images`, for all paths alike; and PrescoreError if their images differ in shape.
    """
    for name in how.keys() - ReadingOptions.__annotations__.keys():
        raise TypeError(f"images are not read by an option {name!r}")
    key, n, layout, data_range = how.get("key"), how.get("n"), how.get("layout"), how.get("data_range")
    background, check, clip = how.get("background"), how.get("check"), how.get("clip", False)
    if n is not None and n < 1:
        raise PrescoreError(f"n: {n} images asked for; at least 1 is needed")
    low, high = (0.0, 1.0) if data_range is None else data_range
    if not -math.inf < low < high < math.inf:
        raise PrescoreError(f"data_range: {data_range} given; two finite numbers, the lower first, are needed")
    layout = None if layout is None else check_layout(layout)
    colour = None if background is None else background_of(background)
    look = Look(low, high, Frame.of(pad=how.get("pad"), crop=how.get("crop"), fit=how.get("fit")), colour)
    overshoot = SLACK if not clip else OVERSHOOT if data_range is None else math.inf
    sources: list[Source] = []
    said: list[str] = []
    for path in map(Path, paths):
        with reading(path):
            shards = shards_of(path)
            if key is not None and not shards and (is_collection(path) or path.suffix.lower() != ".npz"):
                raise PrescoreError(f"key: {key!r} given, but {shown(path)} is not an .npz file")
            own: list[Arrays | PictureFiles] = []
            for file in shards or [path]:
                with reading(file):
                    if shards and not file.stat().st_size:
                        raise PrescoreError(
                            f"{shown(file)}: is empty; the command that made the folder draws its samples again"
                        )
                    if is_collection(file):
                        own.append(PictureFiles(file, look, overshoot))
                    else:
                        own.append(_array(file, key, layout, look, overshoot, data_range is not None))
            sources += own
            said += _held_against_index(path, own) if shards else []
    count = sum(source.count for source in sources)
    rows = chosen(count, n, how.get("seed", 0))
    if check is not None:
        first = sources[0]
        event = first.first if isinstance(first, PictureFiles) else first.shape[1:]
        check((len(rows), *event))
    for source in sources[1:]:
        if source.shape[1:] != sources[0].shape[1:]:
            theirs, ours = (" x ".join(map(str, one.shape[1:])) for one in (source, sources[0]))
            names = [getattr(one, "name", "") for one in (source, sources[0])]
            raise PrescoreError(f"{names[0]}: images {theirs}, those of {names[1]} are {ours}; bring them to one size")
    return ImageSet(sources, rows, said)


def chosen(count: int, n: int | None, seed: int) -> Sequence[int]:
    """At most n of so many rows, drawn at random and in order; all by default."""
    if n is None or n >= count:
        return range(count)
    if not is_whole(seed) or not -(2**63) <= seed < 2**63:
        raise PrescoreError(f"seed: {seed!r} is not a whole number below 2**63")
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:n].sort().values.tolist()


def is_collection(path: Path) -> bool:
    """Whether it is a folder, or a zip or tar, of pictures. Raises OSError if it is not there."""
    is_tar = path.suffix.lower() == SUFFIX
    is_folder = stat.S_ISDIR(path.stat().st_mode)
    return is_folder or path.suffix.lower() == ".zip" or (is_tar and not holds_arrays(path))


def shards_of(folder: Path) -> list[Path]:
    """The shards in a folder, by their seeds; none where it is not one of shards.

    Raises:
        PrescoreError: two are for the same seeds.
        OSError: the folder cannot be read.
    """
    if not folder.is_dir():
        return []
    found = filter(None, (SHARD.fullmatch(file.name) for file in folder.iterdir()))
    shards = sorted(found, key=lambda match: (int(match[1]), match[0]))
    for one, other in pairwise(shards):
        if int(other[1]) <= int(one[2]):
            raise PrescoreError(
                f"{shown(folder)}: {one[0]} and {other[0]} are for the same seeds; keep one of them, or the other in "
                "another folder"
            )
    return [folder / match[0] for match in shards]


def _held_against_index(folder: Path, shards: Sequence["Arrays | PictureFiles"]) -> list[str]:
    """What is to be said of the shards that were found in a folder.

    Raises:
        PrescoreError: they are not those of the index, or it is none.
    """
    others = sorted(
        file.name
        for file in folder.iterdir()
        if not (SHARD.fullmatch(file.name) or file.name in OWN or file.name.startswith("."))
    )
    notes = [f"{shown(folder)}: left out, beside shards: {some(others)}"] if others else []
    file = folder / INDEX
    if not file.exists():
        return [*notes, f"{shown(folder)}: has no {INDEX}, so the run that fills it is not at its end"]
    with open_regular(file) as stream:
        content = json.loads(stream.read(MAX_INDEX))
    named = content.get("shards") if isinstance(content, dict) else None
    if not isinstance(named, dict):
        raise PrescoreError(f"{shown(file)}: not the index of a folder of shards; delete it")
    found = {shard.path.name: shard.count for shard in shards}
    for name in sorted(named.keys() | found.keys()):
        if named.get(name) != found.get(name):
            there = f"{found[name]} samples" if name in found else "not there"
            said = f"{named[name]} samples" if name in named else "nothing"
            raise PrescoreError(
                f"{shown(folder / name)}: {there}, and {INDEX} says {said}; the command that made the folder completes "
                "it"
            )
    return notes


@dataclass(frozen=True)
class Arrays:
    """One array of a file.

    Attributes:
        path, key: of it.  name: for messages.
        shape: (N, C, H, W) that its images get.
        axis: of its channels; None if there are none.
        width: bytes of a number, when it is read.
        look, overshoot: how they are brought into form.
        is_bounded: whether values that are no pictures have to lie in the range too.
        notes: what is to be said of it, one line each.
    """

    path: Path
    key: str | None
    name: str
    shape: tuple[int, ...]
    axis: int | None
    width: int
    look: Look
    overshoot: float
    is_bounded: bool
    notes: Sequence[str] = ()

    @property
    def count(self) -> int:
        return self.shape[0]

    def batches(self, rows: Sequence[int], size: int, notes: Notes) -> Iterator[np.ndarray]:
        with reading(self.path), open_array(self.path, self.key) as array:
            for note in self.notes:
                notes.say(note)
            whole = len(rows) == array.shape[0] <= size
            for values in [array.read()] if whole else array.chunks(rows, size):
                images = values[:, None] if self.axis is None else np.moveaxis(values, self.axis, 1)
                if images.ndim == 4 or self.is_bounded:
                    images = bounded(array.name, images, self.look, self.overshoot, notes)
                yield self.look.framed(array.name, _finite(array.name, images))


@dataclass(frozen=True)
class PictureFiles:
    """The pictures of a folder or zip.

    Attributes:
        path: of it.
        look, overshoot: how they are brought into form.
    """

    path: Path
    look: Look
    overshoot: float

    @cached_property
    def count(self) -> int:
        """How many there are. Raises PrescoreError if there is none."""
        with reading(self.path), open_pictures(self.path) as pictures:
            pictures.check()
            return len(pictures.names)

    @property
    def name(self) -> str:
        """For messages."""
        return shown(self.path)

    @cached_property
    def first(self) -> tuple[int, ...]:
        """(C, H, W) of the first picture alone."""
        with reading(self.path), open_pictures(self.path) as pictures:
            first = replace(pictures, left_out=[])
            return read_pictures(first, pictures.names[:1], self.look, Notes()).shape[1:]

    @cached_property
    def kind(self) -> Kind:
        """What all of them become together."""
        kind = Kind()
        with reading(self.path), open_pictures(self.path) as pictures:
            for name in pictures.names:
                where = f"{pictures.name}/{shown(name)}"
                with reading(where), pictures.open(name) as file:
                    kind |= kind_of(where, file, pictures.size(name))
        return kind

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        return (self.count, self.kind.channels, *self.first[1:])

    def batches(self, rows: Sequence[int], size: int, notes: Notes) -> Iterator[np.ndarray]:
        with reading(self.path), open_pictures(self.path) as pictures:
            if len(pictures.names) != self.count:
                raise PrescoreError(f"{self.name}: its files have changed since it was opened")
            whole = len(rows) <= size
            for k in range(0, len(rows), size):
                names = [pictures.names[row] for row in rows[k : k + size]]
                images = read_pictures(pictures, names, self.look, notes, None if whole else self.kind)
                if not whole and images.shape[2:] != self.first[1:]:
                    found, first = (f"{shape[-2]} x {shape[-1]}" for shape in (images.shape, self.first))
                    raise PrescoreError(
                        f"{self.name}: images of different sizes, {shown(pictures.names[0])} is {first} and "
                        f"{shown(names[0])} is {found} pixels; name one for all (pad, crop or fit; on the command line "
                        "--pad, --crop, --fit HEIGHTxWIDTH)"
                    )
                yield bounded(self.name, images, self.look, self.overshoot, notes)


def _array(path: Path, key: str | None, layout: str | None, look: Look, overshoot: float, is_bounded: bool) -> Arrays:
    """The array of a file; what cannot be used is refused before a value is read. Raises PrescoreError, OSError."""
    with reading(path), open_array(path, key) as array:
        if array.dtype != np.uint8 and array.dtype.kind != "f":
            raise PrescoreError(f"{array.name}: {array.dtype} values; {NEEDED}")
        layout = layout or array.layout
        known = layout or guessed_layout(array.name, array.shape, array.dtype == np.uint8)
        axis = channel_axis(array.name, array.shape, known)
        if 0 in array.shape:
            raise PrescoreError(f"{array.name}: no images in it, its shape is {array.shape}")
        if array.shape[0] > MAX_COUNT:
            raise PrescoreError(f"{array.name}: {array.shape[0]} images; at most {MAX_COUNT} can be read")
        others = np.delete(array.shape, [0, axis]).tolist() if axis is not None else []
        item = (1, *array.shape[1:]) if axis is None else (array.shape[axis], *others)
        width = 1 if array.dtype == np.uint8 else max(4, array.dtype.itemsize)
        notes = []
        if layout is None and known == "NHW" and array.dtype != np.uint8:
            said = f"shape {array.shape} is read as grey pictures; signals would be layout NCL or NLC"
            notes.append(f"{array.name}: {said}")
        if array.left_out:
            notes.append(f"{array.name}: left out, being of none of its samples: {some(array.left_out)}")
        shape = (array.shape[0], *look.shape(item))
        return Arrays(path, key, array.name, shape, axis, width, look, overshoot, is_bounded, notes)


def bounded(name: str, a: np.ndarray, look: Look, overshoot: float, notes: Notes) -> np.ndarray:
    """The values, uint8 as they are, others as float32 that lie in the range; what was clipped is added to the notes.

    Raises:
        PrescoreError: a value is not finite, or exceeds the range by more than `overshoot` of its width.
    """
    if a.dtype == np.uint8:
        return a
    a = _finite(name, a)
    least, most, low, high = float(a.min()), float(a.max()), look.low, look.high
    width = high - low
    if least < low - overshoot * width or most > high + overshoot * width:
        raise PrescoreError(
            f"{name}: values from {least:.4g} to {most:.4g}, outside [{low:g}, {high:g}]; scale them, store uint8, "
            "or name their range (data_range, on the command line --range LOW HIGH)"
        )
    slack = SLACK * width
    notes.seen(name, int(np.count_nonzero((a < low - slack) | (a > high + slack))), a, (low, high))
    x = np.ascontiguousarray(a, dtype=np.float32)
    return x.clip(low, high, out=x)


def _finite(name: str, a: np.ndarray) -> np.ndarray:
    """The values, uint8 as they are, others as float32. Raises PrescoreError if one is not finite."""
    if a.dtype == np.uint8:
        return a
    if not np.isfinite(a).all():
        raise PrescoreError(f"{name}: {np.count_nonzero(~np.isfinite(a))} values are NaN or infinite")
    return np.ascontiguousarray(a, dtype=np.float32)
