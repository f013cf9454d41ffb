"""What is kept of a set of images, so that metrics can be made of it.

The statistics of parts add up to those of the whole, in float64 and whatever the parts were: images pass by one batch
at a time. What the metrics of single pairs of images need, the kernel distance, precision to coverage and the sliced
Wasserstein distance, are the features themselves, n rows of d numbers; all others need sums only.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.metrics.frechet import Moments
from prescore.metrics.inception_score import Answers
from prescore.metrics.pixels import PixelMoments
from prescore.statistics.moments import mean_power

WORD = 2**256


@dataclass(frozen=True, eq=False)
class MeanPower:
    """The power at each frequency of the images seen so far; those of parts add up.

    Attributes:
        count: of the images.
        power: mean over them, a half spectrum.
        length: pixels that its last axis stands for.
    """

    count: int
    power: Tensor
    length: int

    @classmethod
    def of(cls, images: Tensor) -> "MeanPower":
        """Of images (n, C, H, W), or others that have a spectrum, n >= 1."""
        power = image_power(images)
        assert power is not None
        return cls(len(images), power, images.shape[-1])

    def __add__(self, other: "MeanPower") -> "MeanPower":
        n = self.count + other.count
        return MeanPower(n, self.power + other.count / n * (other.power - self.power), self.length)


Part = TypeVar("Part", Moments, Answers, PixelMoments, MeanPower)


@dataclass(frozen=True, eq=False)
class SetStatistics:
    """Statistics of a set of images and of their features; None or () for what was not asked for.

    Attributes:
        count: n, the number of images.
        shape: (C, H, W) of each, or that of other samples; metrics take their numbers in their own units.
        extractor: `Features.facts` of what made the features.
        digest: of the images in [0, 1]: the sum of the SHA-256 of each, modulo 2^256, whatever their order.
        lowest, highest: of all values, in [0, 1].
        moments: of the features.
        rows: the features, in parts (k, d), float32.
        answers: of the extractor, where it is a classifier.
        pixels: moments of each pixel, in [0, 1].
        power: mean over the images of the power at each frequency, in [0, 1], (C, H, W // 2 + 1), float64; vectors
            have none.
    """

    count: int
    shape: tuple[int, ...]
    extractor: Mapping[str, Any]
    digest: int
    lowest: float
    highest: float
    moments: Moments | None = None
    rows: tuple[Tensor, ...] = ()
    answers: Answers | None = None
    pixels: PixelMoments | None = None
    power: Tensor | None = None

    @property
    def features(self) -> Tensor | None:
        """All features, (n, d), if they were kept."""
        if len(self.rows) == 1:
            return self.rows[0]
        return torch.cat(self.rows) if self.rows else None

    @property
    def spectrum(self) -> "MeanPower | None":
        """The power, as the mean that it is."""
        return None if self.power is None else MeanPower(self.count, self.power, self.shape[-1])

    def __add__(self, other: "SetStatistics") -> "SetStatistics":
        self.check_comparable(other.shape, other.extractor)
        power = _sum(self.spectrum, other.spectrum)
        return SetStatistics(
            count=self.count + other.count,
            shape=self.shape,
            extractor=self.extractor,
            digest=(self.digest + other.digest) % WORD,
            lowest=min(self.lowest, other.lowest),
            highest=max(self.highest, other.highest),
            moments=_sum(self.moments, other.moments),
            rows=self.rows + other.rows if self.rows and other.rows else (),
            answers=_sum(self.answers, other.answers),
            pixels=_sum(self.pixels, other.pixels),
            power=None if power is None else power.power,
        )

    def joined(self) -> "SetStatistics":
        """The same with the features in one part."""
        return replace(self, rows=() if self.features is None else (self.features,))

    def check_comparable(self, shape: tuple[int, ...], extractor: Mapping[str, Any]) -> None:
        """Raise PrescoreError unless images of this shape and features with these facts can be compared with these."""
        check_shapes(shape, self.shape)
        old, new = _flat(self.extractor), _flat(extractor)
        for name in {**old, **new}:
            if old.get(name) != new.get(name):
                raise PrescoreError(
                    f"reference: its features have {name} = {old.get(name)}, those of the samples {new.get(name)}; "
                    "both have to be measured alike"
                )


def check_shapes(samples: tuple[int, ...], reference: tuple[int, ...]) -> None:
    """Raise PrescoreError unless samples and reference are images of one shape."""
    if samples != reference:
        sizes = [" x ".join(map(str, shape)) for shape in (samples, reference)]
        raise PrescoreError(
            f"samples: images {sizes[0]}, those of the reference are {sizes[1]}; bring them to one size"
        )


def image_digest(images: Tensor) -> int:
    """`SetStatistics.digest` of images (n, *event) in [0, 1], float32."""
    hashes = (hashlib.sha256(image.numpy().tobytes()).digest() for image in images.cpu())
    return sum(int.from_bytes(h) for h in hashes) % WORD


def image_power(images: Tensor) -> Tensor | None:
    """`SetStatistics.power` of images (n, C, H, W) or others (n, *event)."""
    axes = spectrum_axes(tuple(images.shape[1:]))
    return mean_power(images.cpu().double(), tuple(range(-axes, 0))) if axes else None


def spectrum_axes(shape: tuple[int, ...]) -> int:
    """Over how many trailing axes of samples of this shape spectra are taken: all but their channels, at most three."""
    return min(len(shape) - 1, 3)


def _sum(a: Part | None, b: Part | None) -> Part | None:
    return None if a is None or b is None else a + b


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested facts as one mapping; lists, which JSON makes of tuples, as tuples."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value) if isinstance(value, Mapping) else {name: tuple(value) if type(value) is list else value}
    return flat
