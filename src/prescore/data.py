"""Reading images from what people have: folders, zips, .npz, .npy and IDX files.

A data file is untrusted input. Nothing is unpickled, no size that a header claims is believed before the bytes are
there, and whatever is wrong is said in one line that names the file.

The IDX format is that of MNIST, http://yann.lecun.com/exdb/mnist/.
"""

import gzip
import io
import math
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from prescore.errors import PrescoreError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif")
KEYS = ("train", "images", "data", "samples", "arr_0")  # usual names of the images in an .npz, in order of preference
MAX_BYTES = 2**33  # of all that is read, uncompressed: a guard against forged files, far above what statistics need
CHUNK = 2**24
GREY, WIDE = ("1", "L", "LA", "La"), ("I", "F")  # Pillow's modes of one channel; the wide ones by their first letter
IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
NEEDED = "uint8, or floating point in [0, 1], is needed"

# What readers raise when a file is damaged; RuntimeError is zipfile's for an encrypted member.
DAMAGE = (OSError, EOFError, ValueError, SyntaxError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile)


def load_images(
    path: str | Path,
    *,
    key: str | None = None,
    n: int | None = None,
    seed: int = 0,
    pad: int | None = None,
    data_range: tuple[float, float] | None = None,
) -> Tensor:
    """Images as one tensor (N, C, H, W): uint8 as stored, or float32 in [0, 1].

    Args:
        path: a folder, searched recursively, or a zip of images (png, jpg, bmp, webp, tif, and the first frame of a
            gif; sorted by name; one channel if all are grey, else three); an .npz or .npy of shape (N, H, W),
            (N, H, W, C) or (N, C, H, W), C <= 4; or an IDX file, which may be gzipped.
        key: name of the array in an .npz. By default its only array, or the first of `KEYS` that it has.
        n: read at most this many, drawn without replacement and kept in order. Of a folder or a zip only these are
            opened.
        seed: of that draw.
        pad: surround the images evenly by the lowest value up to pad x pad pixels (32 for MNIST).
        data_range: (lowest, highest) value of floats that are not in [0, 1], such as physical fields; these are
            returned in their own units.

    Raises:
        PrescoreError: there is no such file or no image in it; a file is damaged; images differ in size; an array has
            the wrong name, type or shape; a value is not finite or out of range; or the whole exceeds 8 GiB.
    """
    if n is not None and n < 1:
        raise PrescoreError(f"n: {n} images asked for; at least 1 is needed")
    low, high = (0.0, 1.0) if data_range is None else data_range
    if not -math.inf < low < high < math.inf:
        raise PrescoreError(f"data_range: {data_range} given; two finite numbers, the lower first, are needed")
    path = Path(path)
    x = _as_tensor(path, _read(path, key, _Subset(n, seed)), low, high)
    return x if pad is None else _padded(path, x, pad, low)


@dataclass(frozen=True)
class _Subset:
    """Which items to keep: at most n, or all."""

    n: int | None
    seed: int

    def of(self, items: Any) -> Any:
        """The chosen ones of a list or along the first axis of an array."""
        if self.n is None or self.n >= len(items):
            return items
        chosen = torch.randperm(len(items), generator=torch.Generator().manual_seed(self.seed))[: self.n].sort().values
        return items[chosen.numpy()] if isinstance(items, np.ndarray) else [items[i] for i in chosen.tolist()]


def _read(path: Path, key: str | None, subset: _Subset) -> np.ndarray:
    """The chosen items as they are stored, channels first, whatever the kind of file."""
    kind = path.suffix.lower()
    if not path.exists():
        raise PrescoreError(f"{path}: no such file or folder")
    if key is not None and kind != ".npz":
        raise PrescoreError(f"key: {key!r} given, but {path} is not an .npz file")
    if path.is_dir():
        return _read_folder(path, subset)
    if kind == ".zip":
        return _read_zip(path, subset)
    if kind == ".npz":
        array = _read_npz(path, key)
    elif kind == ".npy":
        with reading(path), open(path, "rb") as file:
            array = read_npy(str(path), file, path.stat().st_size)
    else:
        array = _read_idx(path)
    return subset.of(_channels_first(str(path), array))


def _as_tensor(path: Path, a: np.ndarray, low: float, high: float) -> Tensor:
    """The tensor of an array whose values are right, or a PrescoreError that says which are not."""
    if 0 in a.shape:
        raise PrescoreError(f"{path}: no images in it, its shape is {a.shape}")
    if a.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(a))
    if a.dtype.kind != "f":
        raise PrescoreError(f"{path}: {a.dtype} values; {NEEDED}")
    if not np.isfinite(a).all():
        raise PrescoreError(f"{path}: {np.count_nonzero(~np.isfinite(a))} values are NaN or infinite")
    least, most = float(a.min()), float(a.max())
    slack = 1e-5 * (high - low)  # resizing and narrow types overshoot the ends by a rounding
    if least < low - slack or most > high + slack:
        raise PrescoreError(
            f"{path}: values from {least:.4g} to {most:.4g}, outside [{low:g}, {high:g}]; scale them, store uint8, "
            "or name their range (data_range, on the command line --range LOW HIGH)"
        )
    return torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)).clamp_(low, high)


def _channels_first(path: str, a: np.ndarray) -> np.ndarray:
    """(N, C, H, W) from an array with its channels last, first, or without any."""
    if a.ndim == 3 and a.shape[-1] > 4:
        return a[:, None]
    for counts in ((1, 3), (1, 2, 3, 4)) if a.ndim == 4 else ():
        first, last = a.shape[1] in counts, a.shape[3] in counts
        if first != last:
            return a if first else np.moveaxis(a, 3, 1)
    raise PrescoreError(
        f"{path}: shape {a.shape}; (N, H, W), (N, H, W, C) or (N, C, H, W) with C from 1 to 4 is needed"
    )


def _padded(path: Path, x: Tensor, pad: int, low: float) -> Tensor:
    H, W = x.shape[-2:]
    if pad < max(H, W):
        raise PrescoreError(f"pad: {pad} is less than the {W} x {H} pixels of the images in {path}")
    left, top = (pad - W) // 2, (pad - H) // 2
    sides = (left, pad - W - left, top, pad - H - top)
    return torch.nn.functional.pad(x, sides, value=low if x.is_floating_point() else 0)


def _read_folder(path: Path, subset: _Subset) -> np.ndarray:
    names = []
    for folder, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [(Path(folder) / name).relative_to(path).as_posix() for name in files if _is_image(name)]

    def read(name: str) -> IO[bytes]:
        return open(path / name, "rb")

    return _stack(path, subset.of(sorted(names)), read)


def _read_zip(path: Path, subset: _Subset) -> np.ndarray:
    with reading(path), zipfile.ZipFile(path) as archive:
        members = {m.filename: m for m in archive.infolist() if _is_image(m.filename)}
        names = subset.of(sorted(members))
        _check_total(path, sum(members[name].file_size for name in names))

        def read(name: str) -> IO[bytes]:
            with archive.open(members[name]) as file:
                return io.BytesIO(_read_exactly(file, members[name].file_size))

        return _stack(path, names, read)


def _is_image(name: str) -> bool:
    """By its suffix; hidden files and what macOS adds to its zips are not images."""
    parts = name.split("/")
    return name.lower().endswith(SUFFIXES) and not parts[-1].startswith(".") and parts[0] != "__MACOSX"


def _stack(path: Path, names: list[str], read: Callable[[str], IO[bytes]]) -> np.ndarray:
    """Images of equal size as one array (N, C, H, W)."""
    if not names:
        raise PrescoreError(f"{path}: no images in it ({', '.join(s[1:] for s in SUFFIXES)})")
    images: list[np.ndarray] = []
    for name in names:
        with reading(f"{path}/{name}"), read(name) as file:
            image = _decode(f"{path}/{name}", file)
        images.append(image)
        if image.shape[:2] != images[0].shape[:2]:
            sizes = [f"{found} is {a.shape[1]} x {a.shape[0]}" for found, a in ((names[0], images[0]), (name, image))]
            raise PrescoreError(f"{path}: images of different sizes, {' and '.join(sizes)} pixels; resize them first")
        _check_total(path, len(names) * image.nbytes)
    if any(image.ndim == 3 for image in images):
        images = [np.stack([image] * 3, axis=-1) if image.ndim == 2 else image for image in images]
        return np.moveaxis(np.stack(images), 3, 1)
    return np.stack(images)[:, None]


def _decode(name: str, file: IO[bytes]) -> np.ndarray:
    """One image, (H, W) if it is grey, else (H, W, 3), uint8."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise PrescoreError(f"{name}: reading images needs Pillow; pip install 'prescore[cli]'") from None
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file) as image:
                image.load()
                _check_pixels(name, image)
                return np.array(image.convert("L" if image.mode in GREY else "RGB"))
        except UnidentifiedImageError:
            raise PrescoreError(f"{name}: not an image, or damaged") from None
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise PrescoreError(f"{name}: more than {Image.MAX_IMAGE_PIXELS} pixels") from None


def _check_pixels(name: str, image: Any) -> None:
    """Refuse what would be lost in 8 bits a channel."""
    if image.mode.startswith(WIDE):
        raise PrescoreError(f"{name}: pixels of more than 8 bits ({image.mode}); store the images as .npz")
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        raise PrescoreError(f"{name}: has transparent pixels; put it on a background first")


def _read_npz(path: Path, key: str | None) -> np.ndarray:
    with reading(path), zipfile.ZipFile(path) as archive:
        members = {m.filename.removesuffix(".npy"): m for m in archive.infolist() if m.filename.endswith(".npy")}
        member = members[_choose_key(path, list(members), key)]
        with archive.open(member) as file:
            return read_npy(f"{path}[{member.filename.removesuffix('.npy')}]", file, member.file_size)


def _choose_key(path: Path, names: list[str], key: str | None) -> str:
    if key in names:
        return str(key)
    if not names:
        raise PrescoreError(f"{path}: no arrays in it")
    if key is not None:
        raise PrescoreError(f"{path}: no array {key!r}; it has {', '.join(names)}")
    usual = names if len(names) == 1 else [name for name in KEYS if name in names]
    if not usual:
        raise PrescoreError(f"{path}: which array holds the images? name it (key, --key): {', '.join(names)}")
    return usual[0]


def read_npy(name: str, file: IO[bytes], size: int, kinds: str = "fu", needed: str = NEEDED) -> np.ndarray:
    """The array of an .npy stream of `size` bytes; what its header says must agree with that.

    Args:
        name: for messages.
        file, size: the stream.
        kinds: of numpy's types, those that the array may have.
        needed: the same in words.

    Raises:
        PrescoreError: its values are of another type, or the header does not agree with the size.
    """
    version = np.lib.format.read_magic(file)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in headers:
        raise PrescoreError(f"{name}: version {version} of the .npy format; 1.0 or 2.0 is needed")
    shape, is_fortran, dtype = headers[version](file)
    if dtype.kind not in kinds or dtype.hasobject:  # before anything of another type, or a pickle, is read
        raise PrescoreError(f"{name}: {dtype} values; {needed}")
    length, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if length != there:
        raise PrescoreError(f"{name}: damaged, its header promises {length} bytes and {there} are there")
    _check_total(Path(name), length)
    values = np.frombuffer(_read_exactly(file, length), dtype)
    return values.reshape(shape, order="F" if is_fortran else "C")


def _read_idx(path: Path) -> np.ndarray:
    with reading(path), open(path, "rb") as raw:
        is_zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file: Any = gzip.GzipFile(fileobj=raw) if is_zipped else raw
        magic = file.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in IDX_TYPES:
            hint = "; for one image, name the folder it is in" if _is_image(path.name) else ""
            raise PrescoreError(f"{path}: not a folder, .zip, .npz, .npy or IDX file{hint}")
        shape = struct.unpack(f">{magic[3]}I", file.read(4 * magic[3]))
        dtype = np.dtype(IDX_TYPES[magic[2]])
        length = math.prod(shape) * dtype.itemsize
        _check_total(path, length)
        values = np.frombuffer(_read_exactly(file, length), dtype).reshape(shape)
        if file.read(1):
            raise PrescoreError(f"{path}: damaged, longer than the {length} bytes that its header promises")
        return values


def _read_exactly(file: IO[bytes], length: int) -> bytearray:
    """`length` bytes, taking memory only for those that are there."""
    content = bytearray()
    while len(content) < length:
        piece = file.read(min(CHUNK, length - len(content)))
        if not piece:
            raise EOFError(f"{length} bytes promised, {len(content)} are there")
        content += piece
    return content


def _check_total(path: Path, size: int) -> None:
    if size > MAX_BYTES:
        raise PrescoreError(f"{path}: {size / 2**30:.1f} GiB uncompressed, {MAX_BYTES / 2**30:g} are allowed; use less")


@contextmanager
def reading(name: str | Path) -> Iterator[None]:
    """Turns what the readers of damaged files raise into one line that names the file."""
    try:
        yield
    except PrescoreError:
        raise
    except FileNotFoundError:
        raise PrescoreError(f"{name}: no such file") from None
    except DAMAGE as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise PrescoreError(f"{name}: cannot be read ({reason})") from None
