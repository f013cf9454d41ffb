"""A Gaussian N(mu, C), C diagonal in a cheap basis: the part of the data that is known exactly.

D_G(x, sigma) = mu + C (C + sigma^2)^-1 (x - mu)               its denoiser
score         = -(C + sigma^2)^-1 (x - mu)
x_t           = mu + sqrt((C + t^2) / (C + s^2)) (x_s - mu)    its probability flow from the level s to t
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from prescore.denoiser import per_sample
from prescore.errors import PrescoreError
from prescore.grid import interpolate
from prescore.operators import Frequency, Identity, LinearOperator, Pixel
from prescore.operators.base import broadcasts


@dataclass(frozen=True, eq=False)
class ErrorShare:
    """left(sigma), the share of the Gaussian model's error that a network leaves (`prescore.gaussian.fit`), at
    decreasing noise levels; both (L,), float64."""

    levels: Tensor
    shares: Tensor

    def at(self, sigma: float) -> float:
        """At a noise level, between 0 and 1: linear in log sigma, constant beyond the ends."""
        at = torch.tensor([sigma], dtype=torch.float64).log()
        return interpolate(at, self.levels.log().flip(0), self.shares.clamp(0, 1).flip(0)).item()


@dataclass(frozen=True, eq=False)
class Gaussian:
    """N(mean, covariance): an exact denoiser `(x, sigma) -> x0`, x (B, *event), sigma () or (B,), and its coordinates.

    Args:
        mean: real, broadcastable to an event.
        covariance: symmetric, with known eigenbasis: `Cosine`, `Frequency`, `Pixel`, `PCA`, ... Its eigenvalues are
            variances in the units of the data squared.
        label: what it was made from, in a word.
        event_shape: of its events, by default that of the mean.
        data_range: of the data that it was made from, if known: then it fits no others.
        error_share: what a network leaves of its error, if that was measured.

    Raises:
        PrescoreError: a variance is negative, the eigenbasis is not known, or the covariance does not act on such
            events.
    """

    mean: Tensor
    covariance: LinearOperator
    label: str = ""
    event_shape: tuple[int, ...] = ()
    data_range: tuple[float, float] | None = None
    error_share: ErrorShare | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.mean, Tensor):
            raise PrescoreError(f"mean: {type(self.mean).__name__} given; a tensor is needed")
        object.__setattr__(self, "event_shape", tuple(self.event_shape or self.mean.shape))
        if isinstance(self.covariance, Identity):  # its only eigenvalue is 1, which no other function of C keeps
            object.__setattr__(self, "covariance", Pixel(torch.ones((), dtype=torch.float64)))
        lowest = self.covariance.eigenvalues.min().item()
        if lowest < 0:
            raise PrescoreError(f"covariance: its smallest eigenvalue is {lowest:.3g}; a variance is not negative")
        self.check(self.event_shape)

    @classmethod
    def power_law(cls, shape: Sequence[int], exponent: float = 2.0, mean: float = 0.5, rms: float = 0.2) -> "Gaussian":
        """A stationary field over the axes after the channel axis, with power proportional to |k|^-exponent.

        Args:
            shape: (C, *spatial), 1 to 3 spatial axes. Channels are independent.
            exponent: of the power spectrum; natural images have about 2. k is in cycles per pixel; k = 0 has the
                power of the lowest frequency of the longest axis.
            mean, rms: mean and standard deviation of every pixel; the defaults suit data in [0, 1].

        Raises:
            PrescoreError: the shape has no spatial axis, or more than three.
        """
        if not 2 <= len(shape) <= 4:
            raise PrescoreError(f"shape: {tuple(shape)} is not (channels, *spatial) with 1 to 3 spatial axes")
        _, *rest, length = shape
        k2 = torch.fft.rfftfreq(length, dtype=torch.float64) ** 2
        for axis, size in enumerate(reversed(rest), start=1):
            k2 = torch.fft.fftfreq(size, dtype=torch.float64).reshape(-1, *(1,) * axis) ** 2 + k2
        power = k2.clamp_min(max(shape[1:]) ** -2.0) ** (-exponent / 2)
        unit = Frequency(power, axes=len(shape) - 1, length=length)
        # With the orthonormal transform the variance of a pixel is the mean of the power over the full spectrum.
        scale = rms**2 * math.prod(shape[1:]) / (power * unit.multiplicity).sum()
        return cls(torch.full(tuple(shape), mean, dtype=torch.float64), unit.map(lambda c: c * scale))

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """D_G = E[x0 | x], like x. Cost: one product with C for each different sigma in the batch."""
        return self.mean.to(x) + self._filter(lambda u, c: c / (c + u), x, sigma)

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """grad log p(x; sigma), like x."""
        return self._filter(lambda u, c: -1 / (c + u), x, sigma)

    def ode_solution(self, x: Tensor, s: Tensor, t: Tensor | float) -> Tensor:
        """Where the probability flow takes x from the level s, () or (B,), to t, one number; either may be higher."""
        return self.mean.to(x) + self._filter(lambda u, c: ((c + float(t) ** 2) / (c + u)).sqrt(), x, s)

    def draw(self, z: Tensor) -> Tensor:
        """mu + sqrt(C) z: standard normals, (B, *event), become samples."""
        return self.mean.to(z) + self.covariance.sqrt.mv(z)

    def noisy(self, z: Tensor, sigma: Tensor | float) -> Tensor:
        """Noisy data, N(mu, C + sigma^2), of standard normals (B, *event): in its eigenbasis sqrt(C + sigma^2) z."""
        Z = self.transform(z)
        return self.synthesise((self.variances + float(sigma) ** 2).sqrt().to(Z) * Z)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n samples, (n, *event), in the dtype of the mean."""
        size = (n, *self.event_shape)
        return self.draw(torch.randn(size, dtype=self.mean.dtype, device=generator.device, generator=generator))

    def analyse(self, x: Tensor) -> Tensor:
        """Coordinates of x - mean, real; complex ones are pairs in a last axis of length 2. `variances` fit them."""
        return self.transform(x - self.mean.to(x))

    def transform(self, z: Tensor) -> Tensor:
        """Coordinates of z itself, without the mean: for noise."""
        c = self.covariance.to_eigenbasis(z)
        return torch.view_as_real(c) if c.is_complex() else c

    def synthesise(self, c: Tensor) -> Tensor:
        """The batch x, (B, *event), that has the coordinates c."""
        x = self.covariance.from_eigenbasis(torch.view_as_complex(c) if self._complex else c, self.event_shape)
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
        if self.event_shape != tuple(event_shape) or not broadcasts(self.mean.shape, event_shape):
            own = self.event_shape
            raise PrescoreError(f"the statistics are of events of shape {own}, the model's have {tuple(event_shape)}")
        self.covariance.check(event_shape)

    def _filter(self, f: Callable[[float, Tensor], Tensor], x: Tensor, sigma: Tensor) -> Tensor:
        """f(sigma^2, C) (x - mu): one product for each different sigma."""
        r = x - self.mean.to(x)
        u = per_sample(sigma, x) ** 2
        out = torch.empty_like(r)
        for level in u.unique():
            rows = u == level
            out[rows] = self.covariance.map(partial(f, level.item())).mv(r[rows])
        return out
