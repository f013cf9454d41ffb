"""Samples in files: which file or folder a path stands for."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from prescore.data.layout import PICTURES, stored_layout
from prescore.errors import PrescoreError
from prescore.images import check_picture
from prescore.limits import check_size
from prescore.output.files import Arrays, Folder, Grid, Numbers, Output, Settings
from prescore.output.shards import Shards

FOREIGN = (
    ".jpg",
    ".jpeg",
    ".gif",
    ".bmp",
    ".webp",
    ".tif",
    ".tiff",
    ".npy",
    ".pt",
    ".zip",
    ".tar",
    ".safetensors",
    ".mat",
)

__all__ = ["Output", "open_output"]


def open_output(
    path: Path,
    seeds: Sequence[int],
    settings: Settings,
    event_shape: tuple[int, ...],
    *,
    as_numbers: bool = False,
    shard_size: int | None = None,
    shard_format: str | None = None,
) -> Output:
    """The output that a path stands for: .png a grid, .npz arrays, anything else a folder, of PNGs or of shards.

    Args:
        seeds: different ones.
        event_shape: of one sample.
        as_numbers: keep the numbers as they are, which only an .npz and shards can; of samples that are no pictures
            they do it always.
        shard_size: seeds for which each shard of a folder is.
        shard_format: npz, or webdataset, in `prescore.output.shards.KINDS`.

    Raises:
        PrescoreError: it cannot be written, holds samples of other settings, or cannot hold samples of that shape; or
            a file is named for more samples than memory holds.
    """
    if str(path) in ("", "."):
        raise PrescoreError("out: no name given; NAME.png, NAME.npz or a folder is needed")
    kind, is_folder = path.suffix.lower(), os.path.isdir(path)
    is_picture = stored_layout(event_shape) == PICTURES
    is_folder = is_folder or kind not in (".png", ".npz", *FOREIGN)
    if shard_format is not None and shard_size is None:
        raise PrescoreError("shard_format: does nothing without shard_size")
    if shard_size is not None:
        if not is_folder:
            raise PrescoreError(f"shard_size: {path} is one file; name a folder")
        return Shards(path, seeds, settings, shard_size, as_numbers or not is_picture, shard_format or "npz")
    if as_numbers and (kind != ".npz" or is_folder):
        raise PrescoreError(f"--float: {path} holds bytes; name an .npz file, or a folder with --shard-size")
    if is_folder:
        check_picture(event_shape)
        return Folder(path, seeds, settings)
    if kind in FOREIGN:
        raise PrescoreError(f"{path}: {kind} files are not written; name a .png (a grid), an .npz (arrays) or a folder")
    check_size("n", len(seeds), 2 * (4 if as_numbers else 1) * math.prod(event_shape))
    if kind == ".npz":
        as_numbers = as_numbers or not is_picture
        return (Numbers if as_numbers else Arrays)(path, seeds, settings)
    check_picture(event_shape)
    return Grid(path, seeds, settings)
