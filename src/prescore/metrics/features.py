"""What measures of samples are taken of: functions from images to a few numbers each.

Features, their statistics and the measures are three separate steps, so that the features of a reference set are
computed once and every measure made of them: `Features.batches` here, `feature_moments` and the measures beside it. The
numbers depend on how images were brought to the extractor as much as on the extractor: `Preprocessing` says it, and two
sets of features may be compared only if name, dimension and pre-processing agree (`Features.facts`).

Sources: M. Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", NeurIPS
2017, https://arxiv.org/abs/1706.08500 (the distance in features); G. Parmar, R. Zhang and J.-Y. Zhu, "On aliased
resizing and surprising subtleties in GAN evaluation", CVPR 2022, https://arxiv.org/abs/2104.11222 (what pre-processing
does to it; resizing here follows its recommendation: Pillow's bicubic filter, widened where an image is made smaller,
on floating-point values that are neither rounded nor clipped).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prescore.errors import PrescoreError, check_choice
from prescore.metrics.frechet import Moments, feature_moments

Shape = Sequence[int]
FITS = ("none", "pad", "resize")
SLACK = 1e-5  # of the range: a rounding beyond its ends is no fault


@dataclass(frozen=True)
class Preprocessing:
    """How images become the input of an extractor.

    Args:
        shape: of that input, (C, H, W) for pictures.
        data_range: its lowest and highest value; images in another range are mapped to it linearly.
        fit: "none", images must have that shape; "pad", smaller ones are put in the middle of the lowest value; or
            "resize", images of any size are resized to it, and grey ones repeated over the channels.

    Raises:
        PrescoreError: the shape, the range or the name is none.
    """

    shape: tuple[int, ...]
    data_range: tuple[float, float] = (0.0, 1.0)
    fit: str = "none"

    def __post_init__(self) -> None:
        check_choice("fit", self.fit, FITS)
        if not self.shape or min(self.shape) < 1 or (self.fit != "none" and len(self.shape) != 3):
            raise PrescoreError(f"shape: {self.shape} is not the shape of a sample, (C, H, W) for images")
        if not self.data_range[0] < self.data_range[1]:
            raise PrescoreError(f"data_range: {self.data_range} is not an interval (low, high)")

    def __call__(self, images: Tensor, data_range: tuple[float, float] | None = (0.0, 1.0)) -> Tensor:
        """The input for images (n, C, H', W'), or samples of another shape, in float32.

        Args:
            images: uint8 as stored, or floating point within `data_range`.
            data_range: lowest and highest value that floating-point images may have; None leaves them as they are.

        Raises:
            PrescoreError: images of another shape, type or range.
        """
        self.check_shape(tuple(images.shape))
        unit = unit_images(images, data_range)
        low, high = self.data_range
        x = unit if (low, high) == (0, 1) else low + (high - low) * unit
        match self.fit:
            case "resize":
                return self._resized(x)
            case "pad":
                return self._padded(x)
        return x

    def check_shape(self, found: tuple[int, ...]) -> None:
        """Raise PrescoreError unless a batch of images of this shape can be brought to the extractor."""
        if len(found) == len(self.shape) + 1 and self._fits(found[1:]):
            return
        C, H, W = self.shape if self.fit != "none" else (0, 0, 0)
        needed = {
            "none": f"(n, {', '.join(map(str, self.shape))})",
            "pad": f"(n, {C}, {H}, {W}), or fewer pixels,",
            "resize": f"(n, {C}, height, width), or one channel,",
        }
        raise PrescoreError(f"images: shape {found}; {needed[self.fit]} is needed by these features")

    def _fits(self, shape: Shape) -> bool:
        if self.fit == "none":
            return tuple(shape) == self.shape
        C, H, W = self.shape
        if self.fit == "resize":
            return shape[0] in (1, C) and min(shape) > 0
        return shape[0] == C and shape[1] <= H and shape[2] <= W

    def _padded(self, x: Tensor) -> Tensor:
        (H, W), (h, w) = self.shape[1:], x.shape[2:]
        top, left = (H - h) // 2, (W - w) // 2
        return nn.functional.pad(x, (left, W - w - left, top, H - h - top), value=self.data_range[0])

    def _resized(self, x: Tensor) -> Tensor:
        x = x.expand(-1, self.shape[0], -1, -1)
        return nn.functional.interpolate(x, size=self.shape[1:], mode="bicubic", antialias=True)


@dataclass(frozen=True, eq=False)
class Features:
    """A named function from images to features.

    Args:
        name: for messages, tables and stored statistics.
        dimension: number of features of an image.
        preprocessing: what the function is given.
        function: (n, C, H, W) -> (n, dimension), each row a function of that image alone; it is called without
            gradients, and a module must be in evaluation mode.
        device: where the function wants its input.
        logits: (n, dimension) -> (n, classes), the logits of a classifier whose features these are, if they are.
        weights: what tells trained weights from others, such as their hash; "" where nothing was trained.

    Raises:
        PrescoreError: the function is a module in training mode.
    """

    name: str
    dimension: int
    preprocessing: Preprocessing
    function: Callable[[Tensor], Tensor] = field(repr=False)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    logits: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    weights: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.function, nn.Module) and self.function.training:
            raise PrescoreError(f"{self.name}: the module is in training mode; call its eval() first")

    @property
    def facts(self) -> dict[str, Any]:
        """What must be equal of two sets of features that are compared; JSON-able, to be stored with them."""
        facts = {"name": self.name, "dimension": self.dimension, "weights": self.weights}
        return {**facts, "preprocessing": asdict(self.preprocessing)}

    @torch.no_grad()
    def __call__(self, images: Tensor, data_range: tuple[float, float] | None = (0.0, 1.0)) -> Tensor:
        """Features (n, dimension) of one batch of images; see `Preprocessing.__call__`.

        Raises:
            PrescoreError: images of another shape or range, or the function does not return (n, dimension).
        """
        x = self.function(self.preprocessing(images, data_range).to(self.device))
        if not isinstance(x, Tensor) or x.shape != (len(images), self.dimension):
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise PrescoreError(f"{self.name}: it returned {found} instead of shape {(len(images), self.dimension)}")
        return x

    def batches(
        self,
        images: Tensor | Iterable[Tensor],
        *,
        batch_size: int = 256,
        data_range: tuple[float, float] | None = (0.0, 1.0),
    ) -> Iterator[Tensor]:
        """Features of a set of images, (n, dimension) at a time, n <= batch_size.

        Args:
            images: all of them, (N, C, H, W), or batches of any size.
            batch_size: images in one call of the function.
            data_range: as for `Preprocessing.__call__`.

        Raises:
            PrescoreError: as `__call__`; or batch_size < 1.
        """
        if batch_size < 1:
            raise PrescoreError(f"batch_size: {batch_size} is not a positive whole number")
        for part in (images,) if isinstance(images, Tensor) else images:
            for batch in part.split(batch_size):
                yield self(batch, data_range)

    def moments(
        self,
        images: Tensor | Iterable[Tensor],
        *,
        batch_size: int = 256,
        data_range: tuple[float, float] | None = (0.0, 1.0),
    ) -> Moments:
        """Number, mean and covariance of the features of a set of images; see `batches`."""
        return feature_moments(self.batches(images, batch_size=batch_size, data_range=data_range))


def module_features(
    module: nn.Module,
    preprocessing: Preprocessing,
    name: str | None = None,
    device: torch.device | str = "cpu",
) -> Features:
    """Features of any module that maps a batch of images to one vector each; its dimension is found by trying.

    Raises:
        PrescoreError: the module is in training mode, or does not return (n, dimension).
    """
    name, device = name or type(module).__name__, torch.device(device)
    with torch.no_grad():
        tried = module(torch.zeros(1, *preprocessing.shape, device=device))
    dimension = tried.shape[-1] if isinstance(tried, Tensor) and tried.ndim else 0
    if dimension == 0 or tried.shape != (1, dimension):
        found = tuple(tried.shape) if isinstance(tried, Tensor) else type(tried).__name__
        raise PrescoreError(f"{name}: it returned {found} for one image; (1, dimension) is needed")
    return Features(name, dimension, preprocessing, module, device)


def unit_images(images: Tensor, data_range: tuple[float, float] | None = (0.0, 1.0)) -> Tensor:
    """Images in [0, 1], float32: bytes over 255, or floating point within a range mapped to it linearly.

    Floating-point samples of which no range is known, None, are taken in their own units.

    Raises:
        PrescoreError: images of another type, beyond their range by more than a rounding, or not finite.
    """
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise PrescoreError(f"images: {images.dtype}; uint8, or floating point, is needed")
    if not images.isfinite().all():
        raise PrescoreError(f"images: {int((~images.isfinite()).sum())} values are not finite")
    if data_range is None:
        return images.float()
    low, high = data_range
    slack = SLACK * (high - low)
    if images.numel() and (images.min() < low - slack or images.max() > high + slack):
        raise PrescoreError(
            f"images: values from {images.min():.4g} to {images.max():.4g}, outside [{low:g}, {high:g}]; "
            "clip them (x.clamp) or name their range (data_range)"
        )
    return ((images.float() - low) / (high - low)).clamp(0, 1)
