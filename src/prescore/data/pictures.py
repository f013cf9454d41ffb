"""Pictures in folders and zips, decoded by Pillow, and those of more than 8 bits a channel by pyvips.

Pillow gives back 8 bits of what is deeper in most formats, without a word; so the depth is taken from the file, and
PNG and TIFF of 16 bits go to pyvips, while other formats of more than 8 bits are refused.
"""

import contextlib
import math
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from prescore.data.guards import DAMAGE, Notes, check_total, gibibytes, in_one_line, open_regular, reading, shown, some
from prescore.data.sizes import Look
from prescore.data.tars import SUFFIX, open_tar
from prescore.errors import PrescoreError

# The formats that Pillow decodes from the file alone, and their endings. Not EPS, for which it runs another program,
# and not those in which it cuts what it reads to 8 bits without saying so (DDS) or that hold measurements (FITS).
FORMATS = {
    "PNG": ".png .apng",
    "JPEG": ".jpg .jpeg .jpe .jfif",
    "MPO": ".mpo",
    "WEBP": ".webp",
    "AVIF": ".avif .avifs",
    "TIFF": ".tif .tiff",
    "JPEG2000": ".jp2 .j2k .j2c .jpc .jpf .jpx",
    "GIF": ".gif",
    "BMP": ".bmp",
    "DIB": ".dib",
    "PPM": ".ppm .pgm .pbm .pnm .pfm",
    "QOI": ".qoi",
    "TGA": ".tga .icb .vda .vst",
    "PCX": ".pcx",
    "SGI": ".sgi .rgb .rgba .bw",
    "SUN": ".ras",
    "PSD": ".psd",
    "ICO": ".ico",
    "XBM": ".xbm",
    "XPM": ".xpm",
    "MSP": ".msp",
}
SUFFIXES = tuple(" ".join(FORMATS.values()).split())
OWN = ("settings.json",)  # what `prescore sample` writes beside its pictures
MAX_FILE = 2**30  # bytes of one file
HEAD = 2**16  # bytes at its beginning, among which its depth stands
PLAIN = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "PPM")  # formats whose head says whether they are grey
GREY, WIDE = ("1", "L", "LA", "La"), ("I", "F")  # Pillow's modes of one channel; the wide ones by their first letter
FRAMES = ("PNG", "WEBP", "AVIF", "TIFF", "GIF")  # formats of several; other formats have previews, sizes, layers
DEEP = {"uchar": 255, "ushort": 65535, "float": 1}  # types of pyvips, and their full scale
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
TIFF_WIDTH, TIFF_HEIGHT, TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_PLANES, TIFF_EXTRA = 256, 257, 258, 262, 284, 338


def is_picture(name: str) -> bool:
    """By its ending; hidden files and what macOS adds to its zips are no pictures."""
    return name.lower().endswith(SUFFIXES) and not _is_hidden(name)


@dataclass(frozen=True)
class Pictures:
    """The pictures of a folder or zip.

    Attributes:
        name: of the folder or zip, for messages.
        names: of its pictures, sorted.
        left_out: the files that are no pictures which can be read.
        size: bytes of one, uncompressed.
        open: the content of one.
    """

    name: str
    names: list[str]
    left_out: list[str]
    size: Callable[[str], int]
    open: Callable[[str], IO[bytes]]

    def check(self) -> None:
        """Raise PrescoreError if there are none."""
        if not self.names:
            there = f"; there is {some(self.left_out)}" if self.left_out else ""
            raise PrescoreError(f"{self.name}: no images in it (png, jpg, webp, tif, ...){there}")


@contextmanager
def open_pictures(path: Path) -> Iterator[Pictures]:
    """What is in a folder, searched recursively and through links, or in a zip or tar.

    Raises:
        PrescoreError: a folder in it cannot be read.
        OSError, BadZipFile: it cannot be read itself.
    """
    if path.is_dir():
        names, left_out = _sorted_out(_files(path))

        def size(name: str) -> int:
            return (path / name).stat().st_size

        yield Pictures(shown(path), names, left_out, size, lambda name: open_regular(path / name))
        return
    if path.suffix.lower() == SUFFIX:
        with open_tar(path) as tar:
            names, left_out = _sorted_out(tar.files)
            tar.check_single(names)
            beside = set(tar.beside(names))
            left_out = [name for name in left_out if name in beside]  # others say something of a picture
            yield Pictures(shown(path), names, left_out + sorted(tar.again), tar.size, tar.open)
        return
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        files = [m for m in archive.infolist() if not m.is_dir()]
        members = {m.filename: m for m in files}  # the last one of a name, as when it is unpacked
        names, left_out = _sorted_out(members)
        left_out += sorted(m.filename for m in files if members[m.filename] is not m)
        yield Pictures(
            shown(path), names, left_out, lambda name: members[name].file_size, lambda name: archive.open(members[name])
        )


def _files(path: Path) -> Iterator[str]:
    """Names below a folder. A folder that is reached again, through a link, is given as a name that ends in a slash."""

    def fail(error: OSError) -> None:
        raise PrescoreError(f"{shown(error.filename)}: cannot be read ({error.strerror})")

    seen = set()
    for folder, folders, files in os.walk(path, onerror=fail, followlinks=True):
        status, place = os.stat(folder), Path(folder).relative_to(path)
        if (status.st_dev, status.st_ino) in seen:
            folders[:] = []
            yield f"{place.as_posix()}/"
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        yield from ((place / name).as_posix() for name in files)


def _sorted_out(files: Any) -> tuple[list[str], list[str]]:
    """The names of pictures and of what was left out, each sorted; what is hidden is in neither."""
    names = sorted(name for name in files if not _is_hidden(name))
    others = [name for name in names if not is_picture(name) and name.rpartition("/")[2] not in OWN]
    return [name for name in names if is_picture(name)], others


def _is_hidden(name: str) -> bool:
    parts = name.split("/")
    return parts[0] == "__MACOSX" or any(part.startswith(".") and part not in (".", "..") for part in parts)


@dataclass(frozen=True)
class Kind:
    """What several pictures become together.

    Attributes:
        channels: 1 if all are grey, else 3.
        dtype: uint8, or float32 if one has more than 8 bits.
    """

    channels: int = 1
    dtype: str = "uint8"

    def __or__(self, other: "Kind") -> "Kind":
        deep = "float32" in (self.dtype, other.dtype)
        return Kind(max(self.channels, other.channels), "float32" if deep else "uint8")


def read_pictures(
    pictures: Pictures,
    names: Sequence[str],
    look: Look,
    notes: Notes,
    kind: Kind | None = None,
) -> np.ndarray:
    """Pictures as one array (N, C, H, W), C = 1 if all are grey, else 3; what was left out is added to the notes.

    The array is uint8, or float32 in the units of `look` if one of them has more than 8 bits; `kind` says it of all
    pictures, where these are not all.

    Raises:
        PrescoreError: one cannot be read, has transparent pixels and there is no background, or is of another size.
    """
    images: list[np.ndarray] = []
    animated: list[str] = []
    for name in names:
        where = f"{pictures.name}/{shown(name)}"
        with reading(where), pictures.open(name) as file:
            image, has_more = _decode(where, file, pictures.size(name), look)
            image = look.framed(where, image)
        animated += [name] if has_more else []
        if not images:
            check_total(pictures.name, len(names) * image.nbytes)
        elif image.shape[1:] != images[0].shape[1:]:
            sizes = (f"{shown(n)} is {a.shape[1]} x {a.shape[2]}" for n, a in ((names[0], images[0]), (name, image)))
            raise PrescoreError(
                f"{pictures.name}: images of different sizes, {' and '.join(sizes)} pixels; name one for all (pad, "
                "crop or fit; on the command line --pad, --crop, --fit HEIGHTxWIDTH)"
            )
        images.append(image)
    if left := len(pictures.left_out):
        all_of = f"{left} of {left + len(pictures.names)} files left out (in no format that is read, or there twice)"
        notes.say(f"{pictures.name}: {all_of}: {some(pictures.left_out)}")
    if animated:
        notes.animated(pictures.name, animated)
    return _stacked(pictures.name, images, look, kind or Kind())


def _stacked(name: str, images: list[np.ndarray], look: Look, kind: Kind) -> np.ndarray:
    """The images, each of which is let go as soon as it is copied."""
    channels = max(kind.channels, *(len(image) for image in images))
    dtype = np.result_type(kind.dtype, *{image.dtype for image in images})
    check_total(name, len(images) * channels * images[0][0].size * dtype.itemsize)
    stacked = np.empty((len(images), channels, *images[0].shape[1:]), dtype)
    while images:
        image = images.pop()
        stacked[len(images)] = image if image.dtype == dtype else look.in_units(image / 255)
    return stacked


def _decode(name: str, file: IO[bytes], size: int, look: Look) -> tuple[np.ndarray, bool]:
    """The first frame of a picture, (C, H, W), C = 1 or 3, uint8 or float32 in the units of `look`; and whether it has
    more frames."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise PrescoreError(f"{name}: reading images needs Pillow; pip install '.[cli]' in the clone") from None
    _check_size(name, size)
    Image.init()
    head = file.read(HEAD)
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if head.startswith(TIFF_MAGIC) and _is_deep_tiff(name, file, size):
                return _decode_deep(name, "tiff", file, 1, look)
            with Image.open(file, formats=[known for known in FORMATS if known in Image.OPEN]) as image:
                has_more = image.format in FRAMES and getattr(image, "is_animated", False)
                is_deep = _bits(image, head) > 8
                if is_deep and image.format != "PNG":
                    raise PrescoreError(f"{name}: more than 8 bits a channel; store it as PNG or TIFF, or as .npz")
                orientation = _orientation(image)
                if is_deep:
                    _check_size(name, size, image.width * image.height)
                    return _decode_deep(name, "png", file, orientation, look)[0], has_more
                return _channels_first(_pixels(name, image, look), orientation), has_more
    except PrescoreError:
        raise
    except UnidentifiedImageError:
        raise PrescoreError(f"{name}: not an image, or damaged") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise PrescoreError(f"{name}: more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except Exception as error:  # whatever a decoder does with a damaged file
        raise PrescoreError(f"{name}: cannot be read ({in_one_line(error)})") from None


def kind_of(name: str, file: IO[bytes], size: int) -> Kind:
    """What a picture alone becomes, from its head where that tells, else from its pixels. Raises PrescoreError."""
    from PIL import Image, UnidentifiedImageError

    head = file.read(HEAD)
    file.seek(0)
    is_deep_png = head[12:16] == b"IHDR" and len(head) > 24 and head[24] > 8
    if not head.startswith(TIFF_MAGIC) and not is_deep_png:
        with contextlib.suppress(UnidentifiedImageError, *DAMAGE), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # decoding will say what is wrong
            with Image.open(file, formats=PLAIN) as image:
                return Kind(1 if image.mode in GREY else 3)
    file.seek(0)
    pixels, _ = _decode(name, file, size, Look(background=(0, 0, 0)))
    return Kind(len(pixels), "uint8" if pixels.dtype == np.uint8 else "float32")


def _check_size(name: str, size: int, pixels: int | None = None) -> None:
    """Raise PrescoreError if a file is too large, or too large for so many pixels, to be read as a whole."""
    most = MAX_FILE if pixels is None else min(MAX_FILE, 2**26 + 64 * pixels)
    if size > most:
        raise PrescoreError(f"{name}: {gibibytes(size)} for one picture; {gibibytes(most)} are allowed")


def _bits(image: Any, head: bytes) -> int:
    """How many bits the file has for a channel, which Pillow may cut to 8."""
    if image.format == "PNG":
        return head[24]  # in its IHDR
    if image.format == "SGI":
        return 8 * head[3]
    if image.format == "JPEG2000":
        return (head[head.index(b"\xff\x4f\xff\x51") + 42] & 0x7F) + 1  # in the marker segment SIZ
    if image.format == "AVIF":
        flags = head[head.index(b"av1C") + 6]
        return 8 + 2 * bool(flags & 0x40) + 2 * bool(flags & 0x20)
    how = [tile.args for tile in image.tile]
    if image.format == "PPM" and any(isinstance(args, tuple) and args[1] > 255 for args in how):
        return 16
    return 16 if image.mode.startswith(WIDE) or ";16" in str(how) else 8


def _orientation(image: Any) -> int:
    """How the picture has to be turned, 1 to 8, as EXIF counts; 1 if the tag is missing or damaged."""
    image.load()  # some formats have it at their end, and TIFF is turned by it
    with contextlib.suppress(Exception):
        return int(image.getexif().get(0x0112, 1))
    return 1


def _channels_first(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(C, H, W) of pixels (H, W, C), turned."""
    if 5 <= orientation <= 8:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(np.moveaxis(pixels, 2, 0))


def _pixels(name: str, image: Any, look: Look) -> np.ndarray:
    """Of a decoded picture of 8 bits, (H, W, C), C = 1 or 3."""
    is_grey = image.mode in GREY
    if image.has_transparency_data:
        pixels = np.array(image.convert("RGBA"))
        return _opaque(name, pixels[..., [0, 3]] if is_grey else pixels, 255, look)
    pixels = np.array(image.convert("L" if is_grey else "RGB"))
    return pixels[..., None] if is_grey else pixels


def _opaque(name: str, pixels: np.ndarray, most: int, look: Look) -> np.ndarray:
    """Pixels whose last channel is their opacity, `most` where nothing shines through, in front of the background."""
    colour, opacity = pixels[..., :-1], pixels[..., -1:]
    if (opacity == most).all():
        return colour
    if look.background is None:
        raise PrescoreError(
            f"{name}: has transparent pixels; name the colour behind them (background, on the command line "
            "--background white)"
        )
    behind = np.array(look.background) / 255
    if np.ptp(behind) == 0:  # grey stays grey
        behind = behind[:1]
    share = opacity / most
    return np.rint(share * colour + (1 - share) * behind * most).astype(pixels.dtype)


def _is_deep_tiff(name: str, file: IO[bytes], size: int) -> bool:
    """Whether a TIFF is one for pyvips: of more than 8 bits, or grey with opacity, which Pillow takes for another."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    head = file.read(8)
    tags = ImageFileDirectory_v2(head + file.read(8) if head[2] == 43 or head[3] == 43 else head)
    file.seek(tags.next)
    tags.load(file)
    file.seek(0)
    _check_size(name, size, tags[TIFF_WIDTH] * tags[TIFF_HEIGHT])
    bits = max(tags.get(TIFF_BITS, (1,)))
    has_opacity = tags.get(TIFF_PHOTOMETRIC, 1) <= 1 and TIFF_EXTRA in tags
    if has_opacity and tags.get(TIFF_PLANES, 1) == 2:  # pyvips mixes their rows
        raise PrescoreError(f"{name}: grey and opacity in separate planes cannot be read; store them pixel by pixel")
    if bits > 8 and bits not in (16, 32):
        raise PrescoreError(f"{name}: {bits} bits a channel cannot be read; store 8, 16, or floating point of 32")
    return bits > 8 or has_opacity


def _decode_deep(name: str, kind: str, file: IO[bytes], orientation: int, look: Look) -> tuple[np.ndarray, bool]:
    """A "png" or "tiff" as pyvips decodes it; as `_decode`. Floating-point pixels are in the units of `look`."""
    try:
        import pyvips
    except (ImportError, OSError):
        raise PrescoreError(
            f"{name}: more than 8 bits a channel need pyvips; pip install '.[cli]' in the clone"
        ) from None
    from PIL import Image

    pyvips.cache_set_max(0)  # or the last hundred files stay in memory
    file.seek(0)
    image = getattr(pyvips.Image, f"{kind}load_buffer")(file.read(), fail_on="error")
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise Image.DecompressionBombError
    known = {name for name in ("orientation", "n-pages") if image.get_typeof(name)}
    if kind == "tiff" and "orientation" in known:
        orientation = image.get("orientation")
    has_more = "n-pages" in known and image.get("n-pages") > 1
    has_opacity = image.bands in (2, 4)
    if image.format not in DEEP or image.interpretation == "cmyk" or image.bands > 4:
        raise PrescoreError(f"{name}: {image.bands} channels of {image.format} ({image.interpretation}) cannot be read")
    pixels, most = image.numpy().reshape(image.height, image.width, image.bands), DEEP[image.format]
    if has_opacity:
        pixels = _opaque(name, pixels, most, look)
    if image.format == "ushort":
        pixels = look.in_units(pixels / most)
    return _channels_first(pixels, orientation), has_more
