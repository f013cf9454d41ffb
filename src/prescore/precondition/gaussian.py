"""The Gaussian model of the data, N(mu, C), C diagonal in a cheap basis: cosine, frequency, pixel, PCA.

It is the part of the data that is known exactly. Its denoiser is D_G(x, sigma) = mu + C (C + sigma^2)^-1 (x - mu).
How far the data are from it a network says: of the mean square error that the model leaves at a noise level,
E|x0 - D_G|^2 / d = mean of C sigma^2 / (C + sigma^2), the network leaves a share,

    left(sigma) = sigma^2 R(sigma) / mean(C sigma^2 / (C + sigma^2)),

R measured by `calibrate --model` (`prescore.precondition.score`). It is 1 where nothing is known beside the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.operators.base import LinearOperator, broadcasts
from prescore.operators.cosine import Cosine
from prescore.operators.dense import PCA
from prescore.operators.frequency import Frequency
from prescore.operators.pixel import Pixel
from prescore.precondition.score import interpolate
from prescore.precondition.statistics import Statistics


@dataclass(frozen=True, eq=False)
class Left:
    """The share of the Gaussian model's error that a network leaves, at decreasing noise levels; both (L,), float64."""

    levels: Tensor
    shares: Tensor

    def at(self, sigma: float) -> float:
        """At a noise level, between 0 and 1: linear in log sigma, constant beyond the ends."""
        at = torch.tensor([sigma], dtype=torch.float64).log()
        return interpolate(at, self.levels.log(), self.shares.clamp(0, 1)).item()


@dataclass(frozen=True, eq=False)
class Gaussian:
    """N(mean, covariance).

    Args:
        mean: real, broadcastable to an event.
        covariance: symmetric, with known eigenbasis: `Cosine`, `Frequency`, `Pixel`, `PCA`. Its eigenvalues are
            variances in the units of the data squared.
        label: what it was made from, in a word.
        event_shape, data_range: of the data that it was made from, if known: then it fits no others.
        left: what a network leaves of its error, if that was measured.

    Raises:
        PrescoreError: a variance is negative, or the eigenbasis is not known.
    """

    mean: Tensor
    covariance: LinearOperator
    label: str = ""
    event_shape: tuple[int, ...] | None = None
    data_range: tuple[float, float] | None = None
    left: Left | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.mean, Tensor):
            raise PrescoreError(f"mean: {type(self.mean).__name__} given; a tensor is needed")
        lowest = self.covariance.eigenvalues.min().item()
        if lowest < 0:
            raise PrescoreError(f"covariance: its smallest eigenvalue is {lowest:.3g}; a variance is not negative")

    def analyse(self, x: Tensor) -> Tensor:
        """Coordinates of x - mean, real; complex ones are pairs in a last axis of length 2. `variances` fit them."""
        return self.transform(x - self.mean.to(x))

    def transform(self, z: Tensor) -> Tensor:
        """Coordinates of z itself, without the mean: for noise."""
        c = self.covariance.to_eigenbasis(z)
        return torch.view_as_real(c) if c.is_complex() else c

    def synthesise(self, c: Tensor, event_shape: Sequence[int]) -> Tensor:
        """The batch x, (B, *event_shape), that has the coordinates c."""
        x = self.covariance.from_eigenbasis(torch.view_as_complex(c) if self._complex else c, event_shape)
        return x + self.mean.to(x)

    @property
    def variances(self) -> Tensor:
        """C for each coordinate, float64; broadcasts to `analyse(x)`."""
        C = self.covariance.eigenvalues.double()
        # Once for each real and imaginary part: weights of the full shape are multiplied without strides of 0.
        return C.unsqueeze(-1).repeat_interleave(2, -1) if self._complex else C

    @property
    def _complex(self) -> bool:
        return isinstance(self.covariance, Frequency)

    def check(self, event_shape: Sequence[int]) -> None:
        """Raise PrescoreError unless it is a distribution of events of this shape."""
        own = tuple(self.mean.shape) if self.event_shape is None else self.event_shape
        if not broadcasts(own, event_shape) or (self.event_shape or tuple(event_shape)) != tuple(event_shape):
            raise PrescoreError(f"the statistics are of events of shape {own}, the model's have {tuple(event_shape)}")
        self.covariance.check(event_shape)


def gaussian(statistics: Statistics) -> Gaussian:
    """The default: in the cosine basis if the statistics have it, else per frequency."""
    return frequency_gaussian(statistics) if statistics.cosine_variance is None else cosine_gaussian(statistics)


def cosine_gaussian(statistics: Statistics) -> Gaussian:
    """One variance for each cosine and channel: for images and signals, whose opposite borders differ.

    Raises:
        PrescoreError: the statistics are of an earlier version, which did not measure it.
    """
    if statistics.cosine_variance is None:
        raise PrescoreError(
            "statistics: of an earlier version, without the cosine basis; run `prescore calibrate` again"
        )
    return _of(statistics, Cosine(statistics.cosine_variance, statistics.axes), "cosine")


def frequency_gaussian(statistics: Statistics) -> Gaussian:
    """One variance for each frequency and channel: for periodic fields. Two real FFTs for each network call."""
    C = Frequency(statistics.power_centred / statistics.size_transformed, statistics.axes, statistics.length)
    return _of(statistics, C, "frequency")


def pixel_gaussian(statistics: Statistics) -> Gaussian:
    """One variance for each entry of an event."""
    return _of(statistics, Pixel((statistics.mean_square - statistics.mean**2).clamp(min=0)), "pixel")


def pca_gaussian(statistics: Statistics) -> Gaussian:
    """One variance for each principal component, and one for all that is left. Two matrix products for each call.

    Raises:
        PrescoreError: the statistics have no components.
    """
    if statistics.components is None or statistics.component_variances is None:
        raise PrescoreError("statistics: they have no principal components; measure them with `--components K`")
    rest = statistics.remainder_variance or 0.0
    Q = statistics.components.flatten(1).mT.contiguous()
    return _of(statistics, PCA(Q, statistics.component_variances, rest), "pca")


def _of(statistics: Statistics, covariance: LinearOperator, label: str) -> Gaussian:
    left = None if statistics.score is None else error_left(statistics)
    return Gaussian(statistics.mean, covariance, label, statistics.event_shape, statistics.data_range, left)


def error_left(statistics: Statistics) -> Left:
    """What the network leaves of the error of the Gaussian model, which is that of `gaussian` for all bases.

    Raises:
        PrescoreError: the statistics are without the score of a model.
    """
    score = statistics.score
    if score is None:
        raise PrescoreError("statistics: without the score of a model; run `prescore calibrate DATA --model MODEL`")
    C, count = statistics.cosine_variance, torch.ones(())
    if C is None:
        C, count = statistics.power_centred / statistics.size_transformed, statistics.multiplicity
    C, count, u = C.flatten(), count.expand(C.shape).flatten(), score.levels.square()[:, None]
    error = (count * C * u / (C + u)).sum(1) / count.sum()
    return Left(score.levels, u[:, 0] * score.residual_square / error.clamp(min=1e-300))  # 0 for data that are constant
