"""Exact denoisers: distributions for which D(x, sigma) = E[x0 | x0 + sigma n = x] is known in closed form.

Samplers are measured against these: no network error, any size, and for the Gaussian the exact end point of the
probability flow too. All are callables `oracle(x, sigma)` with x of shape (B, *event) and sigma () or (B,), so that
they stand wherever a denoiser does, and all know their score and how to sample.

    Gaussian   D = mu + C (C + sigma^2)^-1 (x - mu)
    mixture    D = x - sigma^2 sum_k p(k | x) (C_k + sigma^2)^-1 (x - mu_k),
               p(k | x) proportional to w_k N(x; mu_k, C_k + sigma^2)
    data set   the mixture with C_k = 0 and equal weights: D = sum_i p(i | x) x_i

The second is Tweedie's formula D = x + sigma^2 grad log p(x; sigma) with the density of the mixture. Sums over
components run in chunks, keeping a running maximum of the logarithms, so that nothing overflows and memory stays
bounded whatever the number of components. They are computed in float64 and returned in the precision of x.

Source of the last: Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS 2022,
https://arxiv.org/abs/2206.00364, appendix B.3.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from prescore.denoiser import expand, per_sample
from prescore.errors import PrescoreError
from prescore.operators import Frequency, Identity, LinearOperator, Pixel

# Numbers in the largest temporary of one chunk of components: 32 MiB of float64.
CHUNK = 2**22


@dataclass(frozen=True, eq=False)
class GaussianOracle:
    """Data N(mean, covariance).

    Args:
        mean: shape of one event.
        covariance: a symmetric operator C that knows its eigenbasis (its method `map`), with eigenvalues >= 0.

    Cost of a call: one product with C for each different sigma in the batch.

    Raises:
        PrescoreError: C has no known eigenbasis, a negative eigenvalue, or does not act on events of this shape.
    """

    mean: Tensor
    covariance: LinearOperator

    def __post_init__(self) -> None:
        if isinstance(self.covariance, Identity):  # its only eigenvalue is 1, which no other function of C keeps
            object.__setattr__(self, "covariance", Pixel(torch.ones((), dtype=torch.float64)))
        self.covariance.check(tuple(self.mean.shape))
        _ = self.covariance.sqrt

    @classmethod
    def power_law(
        cls, shape: Sequence[int], exponent: float = 2.0, mean: float = 0.5, rms: float = 0.2
    ) -> "GaussianOracle":
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

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.mean.shape)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x], like x."""
        return self.mean.to(x) + self._filter(lambda u, c: c / (c + u), x, sigma)

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """grad log p(x; sigma) = -(C + sigma^2)^-1 (x - mu), like x."""
        return self._filter(lambda u, c: -1 / (c + u), x, sigma)

    def ode_solution(self, x: Tensor, s: Tensor, t: Tensor | float) -> Tensor:
        """Where the probability flow takes x from the level s to t: mu + sqrt((C + t^2) / (C + s^2)) (x - mu).

        s is () or (B,), t one number; either may be the higher level.
        """
        return self.mean.to(x) + self._filter(lambda u, c: ((c + float(t) ** 2) / (c + u)).sqrt(), x, s)

    def transform(self, z: Tensor) -> Tensor:
        """mu + sqrt(C) z: standard normals, (B, *event), become samples of the data."""
        return self.mean.to(z) + self.covariance.sqrt.mv(z)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n events, (n, *event), in the dtype of the mean."""
        size = (n, *self.mean.shape)
        return self.transform(torch.randn(size, dtype=self.mean.dtype, device=generator.device, generator=generator))

    def _filter(self, f: Callable[[float, Tensor], Tensor], x: Tensor, sigma: Tensor) -> Tensor:
        """f(sigma^2, C) (x - mu): one product for each different sigma."""
        r = x - self.mean.to(x)
        u = per_sample(sigma, x) ** 2
        out = torch.empty_like(r)
        for level in u.unique():
            rows = u == level
            out[rows] = self.covariance.map(partial(f, level.item())).mv(r[rows])
        return out


class Covariances(ABC):
    """Covariances C_k of K components in d dimensions, ready to be shifted by any sigma^2."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(K, d)."""

    @property
    def width(self) -> int:
        """Numbers that `solve` holds at a time for one component, sample and dimension."""
        return 1

    @abstractmethod
    def solve(self, part: slice, r: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """(C_k + u)^-1 r_k, and log det(C_k + u), for k of the components.

        Args:
            part: which ones.
            r: (B, k, d).
            u: sigma^2, () or (B, 1, 1).

        Returns:
            (B, k, d), and (k,) or (B, k).
        """

    @abstractmethod
    def draw(self, k: int, n: int, generator: torch.Generator) -> Tensor:
        """n samples of N(0, C_k), (n, d)."""


@dataclass(frozen=True, eq=False)
class Diagonal(Covariances):
    """C_k = diag(variances[k]), variances (K, *event) >= 0."""

    variances: Tensor

    def __post_init__(self) -> None:
        if not (self.variances >= 0).all():
            raise PrescoreError(f"variances: {self.variances.min():.3g} is among them; none may be negative")
        object.__setattr__(self, "variances", self.variances.double().flatten(1))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.variances), self.variances.shape[1]

    def solve(self, part: slice, r: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        shifted = self.variances[part] + u
        return r / shifted, shifted.log().sum(-1)

    def draw(self, k: int, n: int, generator: torch.Generator) -> Tensor:
        return self.variances[k].sqrt() * _normals(n, self.variances[k], generator)


@dataclass(frozen=True, eq=False)
class Full(Covariances):
    """C_k = matrices[k], symmetric with no negative eigenvalue, (K, d, d) on flattened events; diagonalised once."""

    matrices: Tensor
    eigenvalues: Tensor = field(init=False, repr=False)
    vectors: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not torch.allclose(self.matrices, self.matrices.mT, rtol=1e-5, atol=1e-8 * self.matrices.abs().max().item()):
            raise PrescoreError("matrices: a covariance is not symmetric")
        eigenvalues, vectors = torch.linalg.eigh(self.matrices.double())
        if not (eigenvalues >= -1e-10 * eigenvalues[:, -1:].abs()).all():
            raise PrescoreError(f"matrices: a covariance has the negative eigenvalue {eigenvalues.min():.3g}")
        object.__setattr__(self, "eigenvalues", eigenvalues.clamp_min(0))
        object.__setattr__(self, "vectors", vectors)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.eigenvalues), self.eigenvalues.shape[1]

    def solve(self, part: slice, r: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        vectors, shifted = self.vectors[part], self.eigenvalues[part] + u
        a = torch.einsum("kde,bkd->bke", vectors, r) / shifted
        return torch.einsum("kde,bke->bkd", vectors, a), shifted.log().sum(-1)

    def draw(self, k: int, n: int, generator: torch.Generator) -> Tensor:
        z = _normals(n, self.eigenvalues[k], generator)
        return (self.eigenvalues[k].sqrt() * z) @ self.vectors[k].mT


@dataclass(frozen=True, eq=False)
class LowRank(Covariances):
    """C_k = factors[k] factors[k]^T + diag(diagonal[k]): factors (K, d, rank), diagonal (K, d) > 0.

    Solved by the Woodbury identity: matrices of rank x rank only.
    """

    factors: Tensor
    diagonal: Tensor

    def __post_init__(self) -> None:
        if not (self.diagonal > 0).all():
            raise PrescoreError(f"diagonal: {self.diagonal.min():.3g} is among its entries; all must be positive")
        if self.factors.ndim != 3 or self.factors.shape[:2] != self.diagonal.shape:
            raise PrescoreError(
                f"factors {tuple(self.factors.shape)} and diagonal {tuple(self.diagonal.shape)}: "
                "(K, d, rank) and (K, d) are needed"
            )
        object.__setattr__(self, "factors", self.factors.double())
        object.__setattr__(self, "diagonal", self.diagonal.double())

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.diagonal), self.diagonal.shape[1]

    @property
    def width(self) -> int:
        return self.factors.shape[2]

    def solve(self, part: slice, r: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        F, shifted = self.factors[part], self.diagonal[part] + u
        G = F / shifted.unsqueeze(-1)
        inner = torch.eye(self.width, dtype=r.dtype, device=r.device) + F.mT @ G
        L = torch.linalg.cholesky(inner)
        a = torch.cholesky_solve(torch.einsum("...kdr,...kd->...kr", G, r).unsqueeze(-1), L).squeeze(-1)
        log_det = shifted.log().sum(-1) + 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return r / shifted - torch.einsum("...kdr,...kr->...kd", G, a), log_det

    def draw(self, k: int, n: int, generator: torch.Generator) -> Tensor:
        common = _normals(n, self.factors[k, 0], generator) @ self.factors[k].mT
        return common + self.diagonal[k].sqrt() * _normals(n, self.diagonal[k], generator)


@dataclass(frozen=True, eq=False)
class MixtureOracle:
    """Data from the mixture sum_k weights[k] N(means[k], C_k).

    Args:
        weights: (K,), positive; they are normalised to sum 1.
        means: (K, *event).
        covariances: `Diagonal`, `Full` or `LowRank`.
        chunk: components at a time; by default so many that a temporary has about 4 million numbers.

    Cost of a call: B K d operations (times d for Full, times the rank for LowRank).

    Raises:
        PrescoreError: the arguments are not for the same K and d, or a weight is not positive.
    """

    weights: Tensor
    means: Tensor
    covariances: Covariances
    chunk: int | None = None

    def __post_init__(self) -> None:
        K, d = len(self.means), self.means[0].numel()
        if self.weights.shape != (K,) or self.covariances.shape != (K, d):
            raise PrescoreError(
                f"weights {tuple(self.weights.shape)}, means {tuple(self.means.shape)} and covariances "
                f"{self.covariances.shape}: ({K},) weights and ({K}, {d}) covariances are needed for these means"
            )
        if not (self.weights > 0).all():
            raise PrescoreError("weights: all weights of a mixture must be positive")
        object.__setattr__(self, "weights", self.weights.double() / self.weights.double().sum())

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.means.shape[1:])

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x], like x."""
        x64 = x.double()
        return (x64 + expand(sigma, x64) ** 2 * self.score(x64, sigma)).to(x.dtype)

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """grad log p(x; sigma), like x."""
        return -_average(self._parts(x, sigma))[1].reshape(x.shape).to(x.dtype)

    def log_prob(self, x: Tensor, sigma: Tensor) -> Tensor:
        """log p(x; sigma) of the mixture with covariances C_k + sigma^2, (B,), float64."""
        return _average(self._parts(x, sigma))[0]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n events, (n, *event), in the dtype of the means."""
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        x = self.means[component].flatten(1)
        for k in component.unique().tolist():
            rows = component == k
            x[rows] += self.covariances.draw(k, int(rows.sum()), generator).to(x)
        return x.reshape(n, *self.event_shape)

    def _parts(self, x: Tensor, sigma: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """For each chunk log(w_k N(x; mu_k, C_k + sigma^2)), (B, k), and (C_k + sigma^2)^-1 (x - mu_k), (B, k, d)."""
        x = x.double().flatten(1).unsqueeze(1)
        u = expand(sigma, x) ** 2
        size = self.chunk or max(1, CHUNK // (x.numel() * self.covariances.width))
        for first in range(0, len(self.means), size):
            part = slice(first, first + size)
            r = x - self.means[part].double().flatten(1)
            y, log_det = self.covariances.solve(part, r, u)
            yield self.weights[part].log() - (log_det + (r * y).sum(-1) + _log_2pi(x)) / 2, y


@dataclass(frozen=True, eq=False)
class EmpiricalOracle:
    """A finite data set: each of its N samples with probability 1/N.

    Args:
        data: (N, *event), any real dtype; it is converted to float64 a chunk at a time.
        chunk: samples at a time; by default so many that a temporary has about 4 million numbers.

    Cost of a call: B N d operations, as matrix products.

    Raises:
        PrescoreError: there are no samples.
    """

    data: Tensor
    chunk: int | None = None

    def __post_init__(self) -> None:
        if self.data.ndim < 2 or self.data.numel() == 0:
            raise PrescoreError(f"data: shape {tuple(self.data.shape)} holds no samples; (N, *event) is needed")

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape[1:])

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x], like x; at sigma = 0 the nearest sample."""
        return _average(self._parts(x, sigma))[1].reshape(x.shape).to(x.dtype)

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """grad log p(x; sigma), sigma > 0, like x."""
        x64 = x.double()
        return ((self(x64, sigma) - x64) / expand(sigma, x64) ** 2).to(x.dtype)

    def log_prob(self, x: Tensor, sigma: Tensor) -> Tensor:
        """log p(x; sigma) of the data set with noise of level sigma > 0, (B,), float64."""
        return _average(self._parts(x, sigma))[0]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n samples of the data set, with replacement, (n, *event)."""
        return self.data[torch.randint(len(self.data), (n,), device=generator.device, generator=generator)]

    def _parts(self, x: Tensor, sigma: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """For each chunk log(N(x; x_i, sigma^2) / N), (B, k), and x_i, (k, d)."""
        x = x.double().flatten(1)
        u = (expand(sigma, x) ** 2).clamp_min(1e-200)  # so small that only the nearest sample has a weight
        size = self.chunk or max(1, CHUNK // max(x.shape))
        for rows in self.data.split(size):
            rows = rows.double().flatten(1)
            distance = x.square().sum(1, keepdim=True) - 2 * x @ rows.mT + rows.square().sum(1)
            yield -(distance / u + x.shape[1] * u.log() + _log_2pi(x)) / 2 - math.log(len(self.data)), rows


def _average(parts: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """log sum_k exp(logits_k), (B,), and the average of y_k with weights proportional to exp(logits_k), (B, d).

    The parts are pairs of logits, (B, k), and y, (B, k, d) or (k, d); they are seen once each.
    """
    top = total = average = torch.empty(0)
    for i, (logits, y) in enumerate(parts):
        new = logits.amax(1) if i == 0 else torch.maximum(top, logits.amax(1))
        w = torch.exp(logits - new[:, None])
        here, sums = w.sum(1), (w.unsqueeze(1) @ y).squeeze(1)
        if i > 0:
            keep = torch.exp(top - new)
            here, sums = keep * total + here, keep[:, None] * average + sums
        top, total, average = new, here, sums
    return top + total.log(), average / total[:, None]


def _log_2pi(x: Tensor) -> float:
    """d log(2 pi) for events flattened to (..., d)."""
    return x.shape[-1] * math.log(2 * math.pi)


def _normals(n: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """n rows of standard normals as long as `like`, of its dtype."""
    return torch.randn(n, len(like), dtype=like.dtype, device=generator.device, generator=generator).to(like.device)
