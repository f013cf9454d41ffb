"""Reading images from what people have: folders, zips, .npz, .npy and IDX files.

A data file is untrusted input. Nothing is unpickled, no size that a header claims is believed before the bytes are
there, and whatever is wrong is said in one line that names the file. What is read is what was stored: pictures are
turned as they say, their depth is kept, and what is left out, clipped or cut off is named by a `DataWarning`.
"""

import math
import stat
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from prescore.data.arrays import NEEDED, StoredArray, open_array, read_npy
from prescore.data.guards import DataWarning, check_total, open_regular, reading, shown
from prescore.data.layout import channel_axis, check_layout, guessed_layout
from prescore.data.pictures import open_pictures, read_pictures
from prescore.data.sizes import Frame, Look, Size, background_of
from prescore.errors import PrescoreError

__all__ = ["DataWarning", "left_out", "load_images", "open_regular", "read_npy", "reading", "shown", "subset"]

Item = TypeVar("Item")
SLACK = 1e-5  # of the range: resizing and narrow types overshoot its ends by a rounding
MAX_COUNT = 2**24  # images in a file, whose header alone says it
OVERSHOOT = 0.5  # of the range: what samples of a model may exceed it by, where the range was not named


def load_images(
    path: str | Path,
    *,
    key: str | None = None,
    n: int | None = None,
    seed: int = 0,
    pad: Size | None = None,
    crop: Size | None = None,
    fit: Size | None = None,
    background: str | None = None,
    layout: str | None = None,
    data_range: tuple[float, float] | None = None,
    clip: bool = False,
    check: Callable[[tuple[int, ...]], object] | None = None,
) -> Tensor:
    """Images, or other samples, as one tensor (N, C, H, W) or (N, *event): uint8 as stored, or float32.

    Args:
        path: a folder, searched recursively and through links, or a zip of pictures in any format of
            `prescore.data.pictures.FORMATS` (sorted by name; turned as their EXIF says; one channel if all are grey,
            else three; the first frame of several; what is hidden is ignored). Those of more than 8 bits a channel, PNG
            and TIFF, become floats: 16 bits in [0, 1], floating point as it is. Or an .npz or .npy of pictures
            (N, H, W), (N, H, W, C) or (N, C, H, W), C <= 4, of vectors (N, d), of fields (N, C, D, H, W), C <= 4, or of
            what `layout` says; or what `prescore sample` writes; or an IDX file, gzipped or not.
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

    Warns:
        DataWarning: files were left out (see `left_out`), frames after the first, or values clipped.

    Raises:
        PrescoreError: there is no such file or no image in it; a file is damaged or not a regular one; images differ in
            size; an array has the wrong name, type or shape; a value is not finite or out of range; or the whole
            exceeds 8 GiB, or half of this machine's memory.
    """
    if n is not None and n < 1:
        raise PrescoreError(f"n: {n} images asked for; at least 1 is needed")
    low, high = (0.0, 1.0) if data_range is None else data_range
    if not -math.inf < low < high < math.inf:
        raise PrescoreError(f"data_range: {data_range} given; two finite numbers, the lower first, are needed")
    layout = None if layout is None else check_layout(layout)
    colour = None if background is None else background_of(background)
    look = Look(low, high, Frame.of(pad=pad, crop=crop, fit=fit), colour)
    overshoot = SLACK if not clip else OVERSHOOT if data_range is None else math.inf
    path, subset, notes = Path(path), _Subset(n, seed), list[str]()
    with reading(path):
        is_collection = _is_collection(path)
        if key is not None and (is_collection or path.suffix.lower() != ".npz"):
            raise PrescoreError(f"key: {key!r} given, but {shown(path)} is not an .npz file")
        if is_collection:
            with open_pictures(path) as pictures:
                pictures.check()
                images = read_pictures(pictures, subset.of(pictures.names), look, check, notes)
            images = _in_range(shown(path), images, look, overshoot, notes)
        else:
            with open_array(path, key) as array:
                images = _read_array(array, subset, layout or array.layout, look, check, notes)
            if images.ndim == 4 or data_range is not None:
                images = _in_range(array.name, images, look, overshoot, notes)
            images = look.framed(array.name, _finite(array.name, images))
    for note in notes:
        warnings.warn(note, DataWarning, stacklevel=2)
    return torch.from_numpy(np.ascontiguousarray(images))


def subset(count: int, n: int | None, seed: int) -> list[int]:
    """Which of so many images `load_images` reads, in order."""
    return list(_Subset(n, seed).of(range(count)))


def left_out(path: str | Path) -> list[str]:
    """The names of the files in a folder or zip that `load_images` passes over, being in no format that it reads.

    What is hidden is not among them, nor the settings that `prescore sample` writes. What is there twice is: a name
    in a zip, or a folder that is reached again through a link, with a slash at its end.

    Raises:
        PrescoreError: there is no such folder or file, or it cannot be read.
    """
    path = Path(path)
    with reading(path):
        if not _is_collection(path):
            return []
        with open_pictures(path) as pictures:
            return pictures.left_out


def _is_collection(path: Path) -> bool:
    """Whether it is a folder or a zip of pictures. Raises OSError if it is not there."""
    return stat.S_ISDIR(path.stat().st_mode) or path.suffix.lower() == ".zip"


@dataclass(frozen=True)
class _Subset:
    """Which items to keep: at most n, or all."""

    n: int | None
    seed: int

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """The chosen ones, in order."""
        if self.n is None or self.n >= len(items):
            return items
        chosen = torch.randperm(len(items), generator=torch.Generator().manual_seed(self.seed))[: self.n].sort().values
        return [items[i] for i in chosen.tolist()]


def _read_array(
    array: StoredArray,
    subset: _Subset,
    layout: str | None,
    look: Look,
    check: Callable[[tuple[int, ...]], object] | None,
    notes: list[str],
) -> np.ndarray:
    """The chosen items as they are stored, channels first; what cannot be used is refused before a value is read."""
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise PrescoreError(f"{array.name}: {array.dtype} values; {NEEDED}")
    known = layout or guessed_layout(array.name, array.shape, array.dtype == np.uint8)
    axis = channel_axis(array.name, array.shape, known)
    if 0 in array.shape:
        raise PrescoreError(f"{array.name}: no images in it, its shape is {array.shape}")
    if array.shape[0] > MAX_COUNT:
        raise PrescoreError(f"{array.name}: {array.shape[0]} images; at most {MAX_COUNT} can be read")
    if layout is None and known == "NHW" and array.dtype != np.uint8:
        notes.append(f"{array.name}: shape {array.shape} is read as grey pictures; signals would be layout NCL or NLC")
    rows = subset.of(range(array.shape[0]))
    item = (1, *array.shape[1:]) if axis is None else (array.shape[axis], *np.delete(array.shape, [0, axis]).tolist())
    width = 1 if array.dtype == np.uint8 else max(4, array.dtype.itemsize)
    check_total(array.name, len(rows) * math.prod(item) * width)
    shape = (len(rows), *look.shape(item))
    if check is not None:
        check(shape)
    values = array.read(None if len(rows) == array.shape[0] else rows)
    return values[:, None] if axis is None else np.moveaxis(values, axis, 1)


def _in_range(name: str, a: np.ndarray, look: Look, overshoot: float, notes: list[str]) -> np.ndarray:
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
    if outside := np.count_nonzero((a < low - slack) | (a > high + slack)):
        notes.append(
            f"{name}: {outside} of {a.size} values lie outside [{low:g}, {high:g}], from {least:.4g} to {most:.4g}; "
            "they were clipped"
        )
    x = np.ascontiguousarray(a, dtype=np.float32)
    return x.clip(low, high, out=x)


def _finite(name: str, a: np.ndarray) -> np.ndarray:
    """The values, uint8 as they are, others as float32. Raises PrescoreError if one is not finite."""
    if a.dtype == np.uint8:
        return a
    if not np.isfinite(a).all():
        raise PrescoreError(f"{name}: {np.count_nonzero(~np.isfinite(a))} values are NaN or infinite")
    return np.ascontiguousarray(a, dtype=np.float32)
