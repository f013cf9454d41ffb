"""Schedules that shrink the data as they add noise: VP, sub-VP and cosine."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.schedule.base import Schedule, Times, VariancePreserving, float64


@dataclass(frozen=True)
class LinearBeta(Schedule):
    """Schedules made from beta(t) = beta_d t + beta_min: f = -beta / 2.

    Args:
        beta_d, beta_min: slope and start of beta(t), not negative and not both 0.
        t_min, t_max: times between which sampling runs.
    """

    beta_d: float = 19.9
    beta_min: float = 0.1
    t_min: float = 1e-3
    t_max: float = 1.0

    def beta(self, t: Times) -> Tensor:
        """beta_d t + beta_min."""
        return self.beta_d * float64(t) + self.beta_min

    def integral(self, t: Times) -> Tensor:
        """B(t) = beta_d t^2 / 2 + beta_min t, the integral of beta from 0."""
        return float64(t) * (self.beta_d / 2 * float64(t) + self.beta_min)

    def time(self, B: Tensor) -> Tensor:
        """The time at which the integral is B."""
        # The root of the quadratic equation in the form that subtracts nothing.
        return 2 * B / (self.beta_min + (self.beta_min**2 + 2 * self.beta_d * B).sqrt())


@dataclass(frozen=True)
class VP(LinearBeta, VariancePreserving):
    """sigma = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1): f = -beta / 2, g = sqrt(beta), beta = beta_d t + beta_min.

    Source: Song et al., "Score-based generative modeling through stochastic differential equations", ICLR 2021,
    https://arxiv.org/abs/2011.13456, eq. 32-33; numbers from EDM, Table 1.
    """

    @classmethod
    def between(cls, sigma_min: float, sigma_max: float, t_min: float = 1e-3) -> "VP":
        """The schedule with sigma(t_min) = sigma_min and sigma(1) = sigma_max.

        beta_min comes out negative where the range asks for it, such as -0.0048 for 0.002 to 80: sigma(t) then
        has no real values below t = -2 beta_min / beta_d, which is less than t_min.
        """
        if not 0 < t_min < 1:
            raise PrescoreError(f"t_min: {t_min} is not a time between 0 and 1")
        low, high = math.log1p(sigma_min**2), math.log1p(sigma_max**2)
        beta_d = 2 * (high - low / t_min) / (1 - t_min)
        return cls(beta_d, high - beta_d / 2, t_min)

    def sigma(self, t: Times) -> Tensor:
        return torch.expm1(self.integral(t)).sqrt()

    def dsigma(self, t: Times) -> Tensor:
        sigma = self.sigma(t)
        return self.beta(t) * (1 + sigma**2) / (2 * sigma)

    def t(self, sigma: Times) -> Tensor:
        return self.time(torch.log1p(float64(sigma) ** 2))


@dataclass(frozen=True)
class SubVP(LinearBeta):
    """sigma = 2 sinh(B / 2), s = exp(-B / 2), B the integral of beta: g = sqrt(beta (1 - exp(-2 B))).

    x_t has the noise 1 - s^2 where VP has sqrt(1 - s^2).

    Source: Song et al., https://arxiv.org/abs/2011.13456, eq. 12 and 29.
    """

    def sigma(self, t: Times) -> Tensor:
        return 2 * torch.sinh(self.integral(t) / 2)

    def dsigma(self, t: Times) -> Tensor:
        return torch.cosh(self.integral(t) / 2) * self.beta(t)

    def t(self, sigma: Times) -> Tensor:
        return self.time(2 * torch.asinh(float64(sigma) / 2))

    def scale(self, sigma: Times) -> Tensor:
        half = float64(sigma) / 2
        return 1 / (half + (1 + half**2).sqrt())

    def ds(self, t: Times) -> Tensor:
        return -self.beta(t) / 2 * self.s(t)


@dataclass(frozen=True)
class Cosine(VariancePreserving):
    """alpha_bar(t) = cos(a)^2 / cos(a_0)^2, a = (t + offset) / (1 + offset) pi / 2, a_0 = a(0); t from 0 to 1.

    sigma is infinite at t = 1: sampling starts a little below, at t_max = 0.9946 (sigma = 119) as in Lu et al.,
    "DPM-Solver", NeurIPS 2022, https://arxiv.org/abs/2206.00927.

    Source: Nichol and Dhariwal, "Improved denoising diffusion probabilistic models", ICML 2021,
    https://arxiv.org/abs/2102.09672, eq. 17.
    """

    offset: float = 0.008
    t_min: float = 1e-3
    t_max: float = 0.9946

    @property
    def _speed(self) -> float:
        return math.pi / 2 / (1 + self.offset)

    def sigma(self, t: Times) -> Tensor:
        # 1 / alpha_bar - 1 with a difference of squares as a product: exact near t = 0; and cos(a) as the sine of
        # what is left to pi / 2: exact near t = 1.
        da, a0 = self._speed * float64(t), self._speed * self.offset
        cos = torch.sin(self._speed * (1 - float64(t)))
        return (torch.sin(2 * a0 + da) * torch.sin(da)).sqrt() / cos

    def dsigma(self, t: Times) -> Tensor:
        sigma = self.sigma(t)
        return self._speed * (1 + sigma**2) / (sigma * torch.tan(self._speed * (1 - float64(t))))

    def t(self, sigma: Times) -> Tensor:
        # tan(a)^2 = tan(a_0)^2 + q with q = (sigma / cos(a_0))^2; then the tangent of the difference a - a_0.
        tan0 = math.tan(self._speed * self.offset)
        q = float64(sigma) ** 2 * (1 + tan0**2)
        tan = (tan0**2 + q).sqrt()
        return torch.atan2(q, (tan + tan0) * (1 + tan * tan0)) / self._speed
