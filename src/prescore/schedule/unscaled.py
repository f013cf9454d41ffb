"""Schedules that add noise and leave the data as they are, s = 1: EDM, VE and improved DDPM."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from prescore.schedule.base import Schedule, Times, float64


@dataclass(frozen=True)
class EDM(Schedule):
    """sigma = t, s = 1: time is the noise level. Source: EDM, Table 1."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    @property
    def t_min(self) -> float:
        return self.sigma_min

    @property
    def t_max(self) -> float:
        return self.sigma_max

    def sigma(self, t: Times) -> Tensor:
        return float64(t)

    def dsigma(self, t: Times) -> Tensor:
        return torch.ones_like(float64(t))

    def t(self, sigma: Times) -> Tensor:
        return float64(sigma)


@dataclass(frozen=True)
class VE(Schedule):
    """sigma = sqrt(t), s = 1: time is the variance, g = 1. Source: EDM, Table 1."""

    sigma_min: float = 0.02
    sigma_max: float = 100.0

    @property
    def t_min(self) -> float:
        return self.sigma_min**2

    @property
    def t_max(self) -> float:
        return self.sigma_max**2

    def sigma(self, t: Times) -> Tensor:
        return float64(t).sqrt()

    def dsigma(self, t: Times) -> Tensor:
        return 0.5 / float64(t).sqrt()

    def t(self, sigma: Times) -> Tensor:
        return float64(sigma) ** 2


@dataclass(frozen=True)
class GeometricVE(Schedule):
    """sigma = sigma_min (sigma_max / sigma_min)^t, s = 1; t from 0 to 1.

    Source: Song et al., https://arxiv.org/abs/2011.13456, eq. 30; sigma_max 50 is that of CIFAR-10.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    @property
    def t_min(self) -> float:
        return 0.0

    @property
    def t_max(self) -> float:
        return 1.0

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def sigma(self, t: Times) -> Tensor:
        return self.sigma_min * torch.exp(self._rate * float64(t))

    def dsigma(self, t: Times) -> Tensor:
        return self._rate * self.sigma(t)

    def t(self, sigma: Times) -> Tensor:
        return torch.log(float64(sigma) / self.sigma_min) / self._rate


@dataclass(frozen=True)
class IDDPM(Schedule):
    """sigma = t, s = 1 as in EDM, with the levels u_j at which improved DDPM and ADM networks were trained:

        u_M = 0,    u_{j-1} = sqrt((u_j^2 + 1) / max(alpha_bar_{j-1} / alpha_bar_j, C1) - 1),
        alpha_bar_j = sin(pi/2 j / (M (C2 + 1)))^2

    C1 only ever limits u_0, where alpha_bar_0 = 0: u_0 = 20291 follows u_1 = 642. DDIM's are the same.

    Source: EDM, Table 1 and appendix C.3; Nichol and Dhariwal, https://arxiv.org/abs/2102.09672. Tables stored
    with published networks were computed in float32 and differ by up to 4.8e-4 from this one, which is float64.

    Args:
        M: number of levels.
        C1: bound on the ratio of alpha_bar, inside (0, 1).
        C2: offset of the cosine schedule, > 0.
    """

    M: int = 1000
    C1: float = 0.001
    C2: float = 0.008

    @cached_property
    def u(self) -> Tensor:
        """u_0 > ... > u_{M-1} > u_M = 0, float64, shape (M + 1,)."""
        # In L_j = log(u_j^2 + 1) the recursion is a sum of -log max(ratio, C1), and 1 - ratio a product of sines.
        j = torch.arange(self.M + 1, dtype=torch.float64)
        a = math.pi / 2 / (self.M * (self.C2 + 1))
        missing = torch.sin(a * (2 * j[1:] - 1)) * math.sin(a) / torch.sin(a * j[1:]) ** 2
        steps = -torch.log1p(-missing.clamp(max=1 - self.C1))
        log = torch.cat([steps.flip(0).cumsum(0).flip(0), steps.new_zeros(1)])
        return torch.expm1(log).sqrt()

    def index(self, sigma: Times) -> Tensor:
        """j of the level nearest to sigma in absolute distance, 0 <= j <= M; the larger level wins a tie."""
        sigma, rising = float64(sigma), self.u.flip(0).to(float64(sigma).device)
        above = torch.searchsorted(rising, sigma).clamp(1, self.M)
        below_is_nearer = sigma - rising[above - 1] < rising[above] - sigma
        return self.M - torch.where(below_is_nearer, above - 1, above)

    def nearest(self, sigma: Times) -> Tensor:
        return self.u.to(float64(sigma).device)[self.index(sigma)]

    @property
    def t_min(self) -> float:
        return self.u[-2].item()

    @property
    def t_max(self) -> float:
        return self.u[0].item()

    def sigma(self, t: Times) -> Tensor:
        return float64(t)

    def dsigma(self, t: Times) -> Tensor:
        return torch.ones_like(float64(t))

    def t(self, sigma: Times) -> Tensor:
        return float64(sigma)
