"""Exact denoisers: distributions for which D(x, sigma) = E[x0 | x0 + sigma n = x] is known in closed form.

Samplers are measured against these: no network error, any size. All are callables `oracle(x, sigma)` with x of shape
(B, *event) and sigma () or (B,), so that they stand wherever a denoiser does, and all know their score and how to
sample. The simplest, of one Gaussian, is `prescore.Gaussian`.

    mixture    D = x - sigma^2 sum_k p(k | x) (C_k + sigma^2)^-1 (x - mu_k),
               p(k | x) proportional to w_k N(x; mu_k, C_k + sigma^2)
    data set   the mixture with C_k = 0 and equal weights: D = sum_i p(i | x) x_i

The first is Tweedie's formula D = x + sigma^2 grad log p(x; sigma) with the density of the mixture. Sums over
components run in chunks, keeping a running maximum of the logarithms, so that nothing overflows and memory stays
bounded whatever the number of components. They are computed in float64 and returned in the precision of x.

Source of the last: Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS 2022,
https://arxiv.org/abs/2206.00364, appendix B.3.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prescore.denoiser import expand
from prescore.errors import PrescoreError

# Numbers in the largest temporary of one chunk of components: 32 MiB of float64.
CHUNK = 2**22


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
