"""The exact flow of a Gaussian, and the weights that exponential integrators around it have.

A Gaussian model N(mu, C) of the data is solved exactly; only what a network adds to it is approximated. In the basis
where C is diagonal, coordinate by coordinate, with X = x - mu, a denoiser is split into

    D(x, sigma) - mu = C / (C + sigma^2) X + R,      R = c F,    c = sigma / sqrt(C + sigma^2)

(c is the EDM's c_out up to a constant). For stochasticity l, p = (1 + l^2) / 2 and lam = -log sigma, the reverse
diffusion from s to t < s then reads exactly

    X_t = (v_t / v_s)^p X_s + int_s^t 2p (v_t / v)^p c F dlam + noise,        v = C + sigma^2
    noise variance = v_t (1 - (v_t / v_s)^(l^2))

with l = 0 the probability-flow ODE and l = 1 the reverse SDE. F, which varies slowly, is replaced by a polynomial in
lam. The integrals of its powers are closed forms or Gauss-Legendre sums.

Nothing here divides by C: a = C / (1 + C) and b = 1 / (1 + C) take its place, and both ends are ordinary numbers.

Sources: Gonzalez et al., "SEEDS: Exponential SDE solvers for fast high-quality sampling from diffusion models",
NeurIPS 2023, https://arxiv.org/abs/2305.14267, Prop. 3.1, 3.2; Hochbruck & Ostermann, "Explicit exponential
Runge-Kutta methods for semilinear parabolic problems", SIAM J. Numer. Anal. 2005,
https://doi.org/10.1137/040611434, Eq. 5.8.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from prescore.gaussian.phi import phi

NODES, GAUSS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(32))


@dataclass(frozen=True)
class GaussianFlow:
    """The weights of the module, for one variance C = a / b in each coordinate, in multiples of 1 + C.

    Levels are numbers s > t >= 0, l is the stochasticity, and weights are float64 tensors of the shape of C.

    Args:
        a, b: real, float64, a + b = 1. b = 0 is C infinite, a = 0 is C = 0.
    """

    a: Tensor
    b: Tensor

    @classmethod
    def of(cls, C: Tensor) -> "GaussianFlow":
        b = 1 / (1 + C)
        return cls(torch.where(C.isinf(), 1.0, C * b), b)

    def v(self, sigma: float | Tensor) -> Tensor:
        """C + sigma^2."""
        return self.a + self.b * sigma**2

    def skip(self, sigma: float) -> Tensor:
        """C / (C + sigma^2)."""
        return self.a / self.v(sigma)

    def out(self, sigma: float | Tensor) -> Tensor:
        """c = sigma / sqrt(C + sigma^2)."""
        return sigma / self.v(sigma).sqrt()

    def keep(self, s: float, t: float, l: float) -> Tensor:  # noqa: E741
        """(v_t / v_s)^p: what is left of X."""
        return (self.v(t) / self.v(s)) ** ((1 + l**2) / 2)

    def end(self, s: float, left: float) -> Tensor:
        """sqrt(C (C + left s^2)) / (C + s^2): what is kept of X in the step from s to 0."""
        skip = self.skip(s)
        return (skip * (skip + left * (1 - skip))).sqrt()

    def std(self, s: float, t: float, l: float) -> Tensor:  # noqa: E741
        """Deviation of the noise from s to t."""
        reach = (s**2 - t**2) / self.v(s)  # 1 - v_t / v_s over b
        log = torch.where(self.b == 0, -1.0, torch.log1p(-self.b * reach) / (self.b * reach).clamp(min=1e-300))
        return (self.v(t) * l**2 * reach * -log * phi(1, l**2 * self.b * reach * log)).sqrt()

    def moments(self, s: float, t: float, l: float, n: int) -> list[Tensor]:  # noqa: E741
        """The weights of 1, r, .., r^(n-1), r = (lam - lam_s) / (lam_t - lam_s), under the integral from s to t."""
        p = (1 + l**2) / 2
        first = self._first(s, t, l) if t == 0 or l in (0, 1) else None
        if n == 1 and first is not None:
            return [first]
        nodes, gauss = (v.to(self.a.device).reshape(-1, *(1,) * self.a.ndim) for v in (NODES, GAUSS))
        h, r = math.log(s / t), (1 + nodes) / 2
        sigma = s * torch.exp(-r * h)
        kernel = gauss / 2 * h * 2 * p * (self.v(t) / self.v(sigma)) ** p * self.out(sigma)
        moments = [(kernel * r**k).sum(0) for k in range(n)]
        return moments if first is None else [first, *moments[1:]]

    def integrals(self, s: float, t: float, l: float, levels: Sequence[float], published: bool = False) -> list[Tensor]:  # noqa: E741
        """Weights of F at `levels`, of which the first is s, in the integral from s to t, by the polynomial in lam.

        `published` takes the polynomial of degree 1 at the middle of the step instead of its integral, and half of the
        second difference of that of degree 2, as the papers print.
        """
        n = len(levels)
        M = self.moments(s, t, l, n)
        if n == 1:
            return M
        if published:
            M = [M[0], M[0] / 2] if n == 2 else [M[0], M[1], M[2] / 2]
        d = [math.log(s / level) / math.log(s / t) for level in levels]  # positions, in units of the step
        inverse = np.linalg.inv(np.vander(d, increasing=True)).tolist()
        return [sum((M[i] * inverse[i][j] for i in range(n)), torch.zeros(())) for j in range(n)]

    def stage_integrals(
        self,
        s: float,
        t: float,
        l: float,  # noqa: E741
        levels: Sequence[float],
        places: tuple[float, float],
    ) -> list[Tensor]:
        """Those of a method with two stages inside the step, at the places r1 and r2: of the second stage, which knows
        the first, or of the end, which knows both. The errors of the stages cancel in the last one, whatever the
        places (Hochbruck & Ostermann, their family with gamma)."""
        M = self.moments(s, t, l, len(levels))
        if len(levels) == 1:
            return M
        r1, r2 = places
        gamma = (3 * r2**2 - 2 * r2) / (2 * r1 - 3 * r1**2)
        if len(levels) == 2:
            position = math.log(s / levels[1]) / math.log(s / t)
            slope = M[1] / position + gamma * self.moments(s, levels[1], l, 2)[1]
            return [M[0] - slope, slope]
        slope = M[1] / (gamma * r1 + r2)
        return [M[0] - (1 + gamma) * slope, gamma * slope, slope]

    def _first(self, s: float, t: float, l: float) -> Tensor:  # noqa: E741
        """int_s^t 2p (v_t / v)^p c dlam in closed form, for l = 0 and l = 1."""
        root_t = self.v(t).sqrt()
        # sigma / sqrt(v) at t, which at t = 0 has the limit 1/sqrt(b) for C = 0.
        out_t = torch.where((self.a == 0), self.b.rsqrt(), t / root_t)
        if l == 1:
            root_s = self.v(s).sqrt()
            return 2 * (s**2 - t**2) / (root_s * (s + root_s * out_t))
        # arctan(x) - arctan(y) = arctan((x - y) / (1 + x y)), x = s / sqrt C, y = t / sqrt C.
        z = (s - t) * torch.where(self.a == 0, 0.0, (self.a * self.b).sqrt() / (self.a + self.b * s * t))
        arctan = torch.where(z == 0, 1.0, z.atan() / torch.where(z == 0, 1.0, z))
        return (s - t) / (torch.where(self.a == 0, 0.0, self.a / root_t) + self.b * s * out_t) * arctan


@dataclass(frozen=True)
class WeightCache:
    """Weights that were computed, by what they are for, in the precision and on the device of what they multiply."""

    known: dict[Hashable, list[float | Tensor]] = field(default_factory=dict)

    def __call__(
        self, key: tuple[Hashable, ...], like: Tensor, compute: Callable[[], list[Tensor]]
    ) -> list[float | Tensor]:
        """What `compute` returns, each time on the first call with this key and this kind of `like`.

        Weights that all coordinates share become plain numbers.
        """
        key = (*key, like.dtype, like.device)
        if key not in self.known:
            self.known[key] = [w.item() if w.ndim == 0 else w.to(like.device, like.dtype) for w in compute()]
        return self.known[key]
