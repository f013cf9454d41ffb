"""The first two moments of every pixel, beside those of the data.

    sqrt(mean over pixels of (m - m_ref)^2)    and    sqrt(mean over pixels of (s - s_ref)^2)

with the mean m and the standard deviation s of each pixel and channel over the samples. They need no trained network
and few samples: with n exact ones the first is about the root mean square of s, over sqrt(n). They see wrong
brightness, contrast and vanished variety where it is, and no structure.
"""

from dataclasses import dataclass

from torch import Tensor

from prescore.errors import PrescoreError


@dataclass(frozen=True, eq=False)
class PixelMoments:
    """Number, mean and scatter of each pixel seen so far; those of parts add up, as `prescore.metrics.Moments` do.

    Attributes:
        count: n.
        mean: float64, of the shape of an image.
        scatter: sum over the samples of (x - mean)^2, the same.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, images: Tensor) -> "PixelMoments":
        """Of one batch (n, *event), n >= 1."""
        x = images.detach().double()
        mean = x.mean(0)
        return cls(len(x), mean, (x - mean).square().sum(0))

    @property
    def deviation(self) -> Tensor:
        """The standard deviation of each pixel, sqrt(scatter / (n - 1)).

        Raises:
            PrescoreError: n is 1.
        """
        if self.count < 2:
            raise PrescoreError(f"images: {self.count} given; a standard deviation needs at least 2")
        return (self.scatter / (self.count - 1)).sqrt()

    def __add__(self, other: "PixelMoments") -> "PixelMoments":
        n, step = self.count + other.count, other.mean - self.mean
        between = self.count * other.count / n * step.square()
        return PixelMoments(n, self.mean + other.count / n * step, self.scatter + other.scatter + between)


def pixel_errors(a: PixelMoments, b: PixelMoments) -> tuple[float, float]:
    """Root mean square differences of the means and of the standard deviations, in the unit of the images.

    Raises:
        PrescoreError: images of different shape, or one image.

    >>> import torch
    >>> x = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    >>> pixel_errors(PixelMoments.of(x), PixelMoments.of(x + 1))
    (1.0, 0.0)
    """
    if a.mean.shape != b.mean.shape:
        raise PrescoreError(f"images: shapes {tuple(a.mean.shape)} and {tuple(b.mean.shape)}; equal ones are needed")
    return _rms(a.mean - b.mean.to(a.mean.device)), _rms(a.deviation - b.deviation.to(a.mean.device))


def _rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()
