"""Writing images: one PNG a sample, a grid of them, or arrays. Every file appears whole or not at all."""

import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.files import write_atomically

GAP, BACKGROUND = 2, 255  # pixels between the images of a grid, and their value


def to_uint8(x: Tensor, data_range: tuple[float, float] | None = (0.0, 1.0)) -> Tensor:
    """x clipped to data_range = (low, high), which becomes 0..255, rounded. Any shape; the result is on the CPU.

    Where no range is known, None, it is that of the values in x.

    >>> to_uint8(torch.tensor([-2.0, -1.0, 0.0, 1.0]), (-1.0, 1.0)).tolist()
    [0, 0, 128, 255]
    """
    low, high = data_range or (x.min().item(), x.max().item())
    unit = (x.detach().cpu().double() - low) / ((high - low) or 1.0)
    return (unit.clamp(0, 1) * 255 + 0.5).floor().to(torch.uint8)


def check_picture(event_shape: tuple[int, ...]) -> None:
    """Raise PrescoreError unless samples of this shape can be drawn as pictures: (1, H, W) or (3, H, W)."""
    if not is_picture(event_shape):
        raise PrescoreError(f"samples of shape {event_shape} are not grey or RGB pictures; write an .npz file instead")


def is_picture(event_shape: tuple[int, ...]) -> bool:
    """Whether samples of this shape can be drawn as pictures: (1, H, W) or (3, H, W)."""
    return len(event_shape) == 3 and event_shape[0] in (1, 3)


def grid(images: Tensor, columns: int | None = None) -> Tensor:
    """One image (C, H', W') of uint8 images (N, C, H, W), row by row; by default as square as N allows."""
    N, C, H, W = images.shape
    columns = math.ceil(math.sqrt(N)) if columns is None else columns
    rows = -(-N // columns)
    sheet = torch.full((C, rows * (H + GAP) - GAP, columns * (W + GAP) - GAP), BACKGROUND, dtype=torch.uint8)
    for k, image in enumerate(images):
        top, left = k // columns * (H + GAP), k % columns * (W + GAP)
        sheet[:, top : top + H, left : left + W] = image
    return sheet


def as_png(image: Tensor) -> bytes:
    """One uint8 image (C, H, W), C = 1 or 3, as the content of a PNG file.

    Raises:
        PrescoreError: the image is not of that shape, or Pillow is missing.
    """
    check_picture(tuple(image.shape))
    try:
        from PIL import Image
    except ImportError:
        raise PrescoreError("writing images needs Pillow; pip install '.[cli]' in the clone") from None
    pixels = image.movedim(0, -1).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def save_png(path: str | Path, image: Tensor) -> None:
    """Write one image as `as_png` makes it. Raises as that, or PrescoreError if the path cannot be written."""
    write_atomically(path, as_png(image))


def save_grid(path: str | Path, images: Tensor, columns: int | None = None) -> None:
    """Write uint8 images (N, C, H, W) as one PNG; see `grid`. Raises as `save_png`."""
    check_picture(tuple(images.shape[1:]))
    save_png(path, grid(images, columns))


def npy_of(array: np.ndarray) -> bytes:
    """An array as the content of an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def save_npz(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as a compressed .npz. Raises PrescoreError if the path cannot be written."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue())
