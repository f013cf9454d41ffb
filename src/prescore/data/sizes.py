"""How images are brought into one form: their size, their background, the units of their values."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from prescore.data.guards import check_total, shown
from prescore.errors import PrescoreError

Size = int | tuple[int, int]  # of a square, or height and width


@dataclass(frozen=True)
class Frame:
    """The size that all images get, and how.

    Attributes:
        how: "pad", surround smaller ones evenly; "crop", cut the middle out of larger ones; "fit", cut the largest part
            of these proportions out of the middle and scale it.
        height, width: in pixels.
    """

    how: str
    height: int
    width: int

    @classmethod
    def of(cls, **sizes: Size | None) -> "Frame | None":
        """The one that is given, or None. Raises PrescoreError if more than one is, or it is no size."""
        given = {how: size for how, size in sizes.items() if size is not None}
        if not given:
            return None
        (how, size), *others = given.items()
        if others:
            raise PrescoreError(f"{how}: given together with {others[0][0]}; one of them is possible")
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < 1:
            raise PrescoreError(f"{how}: {height} x {width} pixels given; at least 1 x 1 is needed")
        return cls(how, height, width)

    def __call__(self, name: str, images: np.ndarray, around: Any = 0) -> np.ndarray:
        """Images (..., C, H, W) in this size; padding has the value `around`, one number or (C, 1, 1).

        Raises:
            PrescoreError: they are larger than what they shall be padded to, or smaller than what shall be cut out; or
                the result would be too large.
        """
        (*others, H, W), height, width = images.shape, self.height, self.width
        check_total(f"{self.how} to {height} x {width}", math.prod(others) * height * width * images.dtype.itemsize)
        pixels = f"the {H} x {W} pixels of the images in {name}"
        if self.how == "fit":
            return _fitted(images, height, width)
        if self.how == "pad":
            if height < H or width < W:
                raise PrescoreError(f"pad: {height} x {width} is less than {pixels} (larger ones by fit or crop)")
            padded = np.empty((*others, height, width), images.dtype)
            padded[...] = around
            top, left = (height - H) // 2, (width - W) // 2
            padded[..., top : top + H, left : left + W] = images
            return padded
        if height > H or width > W:
            raise PrescoreError(f"crop: {height} x {width} is more than {pixels} (smaller ones by fit or pad)")
        top, left = (H - height) // 2, (W - width) // 2
        return images[..., top : top + height, left : left + width]


@dataclass(frozen=True)
class Look:
    """The form that images get.

    Attributes:
        low, high: lowest and highest value of floating-point images.
        frame: their size, or None for the one they have.
        background: the colour behind transparent pixels and around padded images, three numbers from 0 to 255. Without
            one, padding has the lowest value.
    """

    low: float = 0.0
    high: float = 1.0
    frame: Frame | None = None
    background: tuple[int, int, int] | None = None

    def in_units(self, unit: np.ndarray) -> np.ndarray:
        """Values in [0, 1] as float32 ones in the range."""
        return (self.low + (self.high - self.low) * unit).astype(np.float32)

    def framed(self, name: str, images: np.ndarray) -> np.ndarray:
        """Images (..., C, H, W) in their size. Raises PrescoreError."""
        return images if self.frame is None else self.frame(name, images, self._around(name, images))

    def shape(self, event: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that images of this one get. Raises PrescoreError if they are no images, and get a size."""
        if self.frame is None:
            return event
        if len(event) != 3:
            raise PrescoreError(f"{self.frame.how}: samples of the shape {event} are no images")
        return event[0], self.frame.height, self.frame.width

    def _around(self, name: str, images: np.ndarray) -> Any:
        is_float = images.dtype.kind == "f"
        if self.background is None:
            return self.low if is_float else 0
        channels, colour = images.shape[-3], np.array(self.background)
        if channels != 3 and not (channels == 1 and np.ptp(colour) == 0):
            raise PrescoreError(f"background: a colour was given, and the images in {name} have {channels} channels")
        around = colour[:channels, None, None]
        return self.in_units(around / 255) if is_float else around


def background_of(colour: str) -> tuple[int, int, int]:
    """A colour by its name, or as CSS has it: white, #ff8800, rgb(255, 136, 0), hsl(32, 100%, 50%).

    Raises:
        PrescoreError: it is none, or not opaque, or Pillow is missing.
    """
    try:
        from PIL import ImageColor
    except ImportError:
        raise PrescoreError("background: colours need Pillow; pip install '.[cli]' in the clone") from None
    try:
        red, green, blue, *opacity = ImageColor.getrgb(colour)
    except ValueError:
        opacity = [0]
    if opacity not in ([], [255]):
        raise PrescoreError(f"background: {shown(repr(colour))} is no opaque colour; white or #ff8800 would be one")
    return red, green, blue


def _fitted(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """By Pillow's bicubic filter, on floating-point values; these stay between those that were there."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise PrescoreError("fit: needs Pillow; pip install '.[cli]' in the clone") from None
    fitted = np.empty((*images.shape[:-2], height, width), images.dtype)
    for place in np.ndindex(images.shape[:-2]):
        plane = images[place].astype(np.float32)
        scaled = np.asarray(ImageOps.fit(Image.fromarray(plane), (width, height), Image.Resampling.BICUBIC))
        scaled = scaled.clip(plane.min(), plane.max())
        fitted[place] = scaled if images.dtype.kind == "f" else np.rint(scaled)
    return fitted
