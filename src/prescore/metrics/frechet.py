"""The Frechet distance between two sets of features.

Each set is summed up as a Gaussian N(m, C), and the squared 2-Wasserstein distance between the two Gaussians is

    d^2 = |m_1 - m_2|^2 + tr C_1 + tr C_2 - 2 tr (C_1 C_2)^(1/2)

which is what the literature reports as "the Frechet distance" (FID, if the features are those of an Inception
network). With any factors C = L L^T the last trace is the sum of the singular values of L_1^T L_2. Here
L = V sqrt(w) from the symmetric eigendecomposition C = V w V^T, so that no square root of a matrix without symmetry
is taken: nothing becomes complex, and covariances of fewer samples than features, which are singular, are no trouble.
The eigenvalues of L_1^T C_2 L_1 would do too, but an error of 1e-16 in one that is 0 is 1e-8 in its root.

The estimate from samples is biased: with n of them in each set it is about a constant over n too large, and the
constant grows with the number of features. Compare distances at equal n only, beside the distance that n true
samples have. Chong & Forsyth, "Effectively unbiased FID and Inception score and where to find them", CVPR 2020,
https://arxiv.org/abs/1911.07023.

Sources: Dowson & Landau, "The Frechet distance between multivariate normal distributions", Journal of Multivariate
Analysis 1982, https://doi.org/10.1016/0047-259X(82)90077-X, eq. 4; Heusel et al., "GANs trained by a two time-scale
update rule converge to a local Nash equilibrium", NeurIPS 2017, https://arxiv.org/abs/1706.08500, eq. 6.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from prescore.errors import PrescoreError


@dataclass(frozen=True, eq=False)
class Moments:
    """Number, mean and covariance of the features seen so far.

    Moments of parts add up, `a + b`, to those of the whole, by the formula of Chan, Golub & LeVeque (1983), "Algorithms
    for computing the sample variance", https://doi.org/10.1080/00031305.1983.10483115: batches may be of any size.

    Attributes:
        count: n.
        mean: float64, (d,).
        scatter: sum over the samples of (x - mean)(x - mean)^T, float64, (d, d).
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Of one batch, (n, *feature), n >= 1; every sample is flattened.

        Raises:
            PrescoreError: there are no samples, they are not floating point, or a value is not finite.
        """
        if features.ndim < 2 or 0 in features.shape or not features.is_floating_point():
            raise PrescoreError(
                f"features: {features.dtype} of shape {tuple(features.shape)}; floating point (n, *feature) is needed"
            )
        x = features.detach().double().flatten(1)
        mean = x.mean(0)
        if not mean.isfinite().all():
            raise PrescoreError(f"features: {int((~x.isfinite()).sum())} values are not finite")
        r = x - mean
        return cls(len(x), mean, r.mT @ r)

    @property
    def covariance(self) -> Tensor:
        """The unbiased estimate scatter / (n - 1), (d, d).

        Raises:
            PrescoreError: n is 1.
        """
        if self.count < 2:
            raise PrescoreError(f"features: {self.count} sample; a covariance needs at least 2")
        return self.scatter / (self.count - 1)

    @cached_property
    def factor(self) -> Tensor:
        """L with L L^T the covariance, (d, d), which a reference that many sets are compared with needs once."""
        return _factor(self.covariance)

    def __add__(self, other: "Moments") -> "Moments":
        if self.mean.shape != other.mean.shape:
            raise PrescoreError(f"features: {len(other.mean)} a sample after {len(self.mean)}; it must not change")
        n, step = self.count + other.count, other.mean - self.mean
        between = self.count * other.count / n * torch.outer(step, step)
        return Moments(n, self.mean + other.count / n * step, self.scatter + other.scatter + between)


Summary = Tensor | Moments | tuple[Tensor, Tensor] | Iterable[Tensor]


def feature_moments(batches: Iterable[Tensor]) -> Moments:
    """Moments of all the batches, each (n, *feature), of which one is held at a time.

    Raises:
        PrescoreError: there is none, or one does not fit the others.
    """
    total: Moments | None = None
    for batch in batches:
        total = Moments.of(batch) if total is None else total + Moments.of(batch)
    if total is None:
        raise PrescoreError("features: no samples given")
    return total


def frechet_distance(a: Summary, b: Summary) -> float:
    """|m_1 - m_2|^2 + tr C_1 + tr C_2 - 2 tr (C_1 C_2)^(1/2), in the square of the features' unit.

    Args:
        a, b: features (n, *feature) with n >= 2, their `Moments`, an iterable of batches of features, or a pair of a
            mean (d,) and a symmetric covariance (d, d), such as the exact ones of a distribution.

    Raises:
        PrescoreError: features that are no features, a matrix that is no covariance, or different numbers of features.

    Cost: two eigendecompositions and one set of singular values, d x d.

    >>> unit = torch.eye(2, dtype=torch.float64)
    >>> round(frechet_distance((torch.zeros(2), unit), (torch.ones(2), 4 * unit)), 12)
    4.0
    """
    (m1, L1), (m2, L2) = _gaussian(a), _gaussian(b)
    if m1.shape != m2.shape:
        raise PrescoreError(f"features: {len(m1)} a sample in one set and {len(m2)} in the other")
    m2, L2 = m2.to(m1.device), L2.to(m1.device)
    cross = torch.linalg.svdvals(L1.mT @ L2).sum()
    distance = (m1 - m2).square().sum() + L1.square().sum() + L2.square().sum() - 2 * cross
    return distance.clamp_min(0).item()


def _gaussian(summary: Summary) -> tuple[Tensor, Tensor]:
    """Mean, and a factor of the covariance."""
    if isinstance(summary, tuple):
        mean, covariance = (part.detach().double() for part in summary)
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise PrescoreError(
                f"mean {tuple(mean.shape)} and covariance {tuple(covariance.shape)}: (d,) and (d, d) are needed"
            )
        if not torch.allclose(covariance, covariance.mT, rtol=1e-5, atol=1e-8 * covariance.abs().max().item()):
            raise PrescoreError("covariance: it is not symmetric")
        return mean, _factor(covariance)
    if isinstance(summary, Tensor):
        summary = Moments.of(summary)
    elif not isinstance(summary, Moments):
        summary = feature_moments(summary)
    return summary.mean, summary.factor


def _factor(C: Tensor) -> Tensor:
    """L with L L^T = C."""
    w, V = torch.linalg.eigh(C)
    if w[0] < -1e-6 * w[-1].abs():
        raise PrescoreError(f"covariance: it has the negative eigenvalue {w[0]:.3g}")
    return V * w.clamp_min(0).sqrt()
