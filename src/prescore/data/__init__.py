"""Reading images from what people have: folders, zips, tars, .npz, .npy and IDX files, and shards of samples.

A data file is untrusted input. Nothing is unpickled, no size that a header claims is believed before the bytes are
there, and whatever is wrong is said in one line that names the file. What is read is what was stored: pictures are
turned as they say, their depth is kept, and what is left out, clipped or cut off is named by a `DataWarning`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from prescore.data.arrays import read_npy
from prescore.data.guards import DataWarning, open_regular, reading, shown
from prescore.data.pictures import open_pictures
from prescore.data.sets import ImageSet, chosen, is_collection, open_images
from prescore.data.sizes import Size

__all__ = [
    "DataWarning",
    "ImageSet",
    "left_out",
    "load_images",
    "open_images",
    "open_regular",
    "read_npy",
    "reading",
    "shown",
    "subset",
]


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
        path: a folder, searched recursively and through links, or a zip or tar of pictures in any format of
            `prescore.data.pictures.FORMATS` (sorted by name; turned as their EXIF says; one channel if all are grey,
            else three; the first frame of several; what is hidden is ignored). Those of more than 8 bits a channel, PNG
            and TIFF, become floats: 16 bits in [0, 1], floating point as it is. Or an .npz or .npy of pictures
            (N, H, W), (N, H, W, C) or (N, C, H, W), C <= 4, of vectors (N, d), of fields (N, C, D, H, W), C <= 4, or of
            what `layout` says; or a tar of such .npy; or what `prescore sample` writes, be it a folder of shards; or an
            IDX file, gzipped or not.
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
    options: dict[str, Any] = {
        "key": key,
        "n": n,
        "seed": seed,
        "layout": layout,
        "data_range": data_range,
        "clip": clip,
    }
    options |= {"pad": pad, "crop": crop, "fit": fit, "background": background, "check": check}
    return open_images([path], **options).read(stacklevel=3)


def subset(count: int, n: int | None, seed: int) -> list[int]:
    """Which of so many images `load_images` reads, in order."""
    return list(chosen(count, n, seed))


def left_out(path: str | Path) -> list[str]:
    """The names of the files in a folder or zip that `load_images` passes over, being in no format that it reads.

    What is hidden is not among them, nor the settings that `prescore sample` writes. What is there twice is: a name
    in a zip, or a folder that is reached again through a link, with a slash at its end.

    Raises:
        PrescoreError: there is no such folder or file, or it cannot be read.
    """
    path = Path(path)
    with reading(path):
        if not is_collection(path):
            return []
        with open_pictures(path) as pictures:
            return pictures.left_out
