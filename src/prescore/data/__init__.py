"""Reading images from what people have: folders, zips, tars, .npz, .npy and IDX files, and shards of samples.

A data file is untrusted input. Nothing is unpickled, no size that a header claims is believed before the bytes are
there, and whatever is wrong is said in one line that names the file. What is read is what was stored: pictures are
turned as they say, their depth is kept, and what is left out, clipped or cut off is named by a `DataWarning`.
"""

from pathlib import Path
from typing import Unpack

from torch import Tensor

from prescore.data.arrays import read_npy
from prescore.data.guards import DataWarning, open_regular, reading, shown
from prescore.data.pictures import open_pictures
from prescore.data.sets import ImageSet, ReadingOptions, chosen, is_collection, open_images

__all__ = [
    "DataWarning",
    "ImageSet",
    "ReadingOptions",
    "left_out",
    "load_images",
    "open_images",
    "open_regular",
    "read_npy",
    "reading",
    "shown",
    "subset",
]


def load_images(path: str | Path, **how: Unpack[ReadingOptions]) -> Tensor:
    """Images, or other samples, as one tensor (N, C, H, W) or (N, *event): uint8 as stored, or float32.

    Args:
        path: a folder, searched recursively and through links, or a zip or tar of pictures in any format of
            `prescore.data.pictures.FORMATS` (sorted by name; turned as their EXIF says; one channel if all are grey,
            else three; the first frame of several; what is hidden is ignored). Those of more than 8 bits a channel, PNG
            and TIFF, become floats: 16 bits in [0, 1], floating point as it is. Or an .npz or .npy of pictures
            (N, H, W), (N, H, W, C) or (N, C, H, W), C <= 4, of vectors (N, d), of fields (N, C, D, H, W), C <= 4, or of
            what `layout` says; or a tar of such .npy; or what `prescore sample` writes, be it a folder of shards; or an
            IDX file, gzipped or not.
        how: as `ReadingOptions` has it, `load_images(path, n=200, pad=32)`.

    Warns:
        DataWarning: files were left out (see `left_out`), frames after the first, or values clipped.

    Raises:
        PrescoreError: there is no such file or no image in it; a file is damaged or not a regular one; images differ in
            size; an array has the wrong name, type or shape; a value is not finite or out of range; or the whole
            exceeds 8 GiB, or half of this machine's memory.
    """
    return open_images([path], **how).read(stacklevel=3)


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
