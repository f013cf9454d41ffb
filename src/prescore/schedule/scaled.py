"""Schedules that shrink the data as they add noise: VP, sub-VP, cosine, and tables of discrete models."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.schedule.base import Schedule, Times, VariancePreserving, float64

# What is more likely a table of another quantity: levels that never reach the first, betas that begin above the second.
LEAST_NOISE, MOST_AT_ONCE = 0.1, 0.5


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


def _row(name: str, values: Times | Sequence[float]) -> Tensor:
    """At least two numbers inside (0, 1) in a row, float64. Raises PrescoreError."""
    try:
        row = float64(values)
    except (TypeError, ValueError, RuntimeError):
        kind = type(values).__name__
        raise PrescoreError(f"{name}: {kind} given; a row of numbers inside (0, 1) is needed") from None
    if row.ndim != 1 or len(row) < 2 or not ((row > 0) & (row < 1)).all():
        raise PrescoreError(f"{name}: at least two numbers inside (0, 1) in one row are needed")
    return row


@dataclass(frozen=True, eq=False)
class Tabulated(VariancePreserving):
    """Noise levels of a discrete model, made continuous: t is the index, log sigma linear between the entries.

    t(sigma) is limited to [0, N - 1], since the network knows no other index. The derivative is that of the piece
    which starts at t.

    The interpolation is the usual one for models with a time index: k-diffusion,
    https://github.com/crowsonkb/k-diffusion, `DiscreteSchedule` (it agrees with the model at its own N levels;
    neighbouring levels of the linear betas differ by 0.5 to 1 % above t = 100, but by 48 % at t = 0).

    Args:
        levels: sigma_j = sqrt(1 / alpha_bar_j - 1), increasing, shape (N,), N >= 2.

    Raises:
        PrescoreError: the levels are not increasing, positive and finite, or all below LEAST_NOISE.
    """

    levels: Tensor

    def __post_init__(self) -> None:
        levels = float64(self.levels)
        if levels.ndim != 1 or len(levels) < 2 or not (levels.isfinite().all() and (levels > 0).all()):
            raise PrescoreError("levels: at least two positive, finite noise levels in one row are needed")
        if not (levels.diff() > 0).all():
            raise PrescoreError("levels: the noise levels must increase with the index")
        if levels[-1] < LEAST_NOISE:
            raise PrescoreError(
                f"levels: the highest is {levels[-1]:.3g}, hardly any noise; a table of betas goes to "
                "Tabulated.from_betas, one of alpha_bar to Tabulated.from_alphas_cumprod"
            )
        object.__setattr__(self, "levels", levels)

    @classmethod
    def from_betas(cls, betas: Tensor) -> "Tabulated":
        """alpha_bar_j = product over i <= j of (1 - beta_i), 0 < beta < 1 (Ho et al., DDPM, eq. 4).

        Raises:
            PrescoreError: the betas are none.
        """
        betas = _row("betas", betas)
        if betas[0] > MOST_AT_ONCE and (betas.diff() < 0).all():
            raise PrescoreError(
                f"betas: the first, {betas[0]:.3g}, leaves hardly any data; a table of alpha_bar goes to "
                "from_alphas_cumprod"
            )
        return cls(torch.expm1(-torch.log1p(-float64(betas)).cumsum(0)).sqrt())

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Tensor) -> "Tabulated":
        """The table alpha_bar_j itself, decreasing, inside (0, 1).

        Raises:
            PrescoreError: the table is none.
        """
        alphas_cumprod = _row("alphas_cumprod", alphas_cumprod)
        if not (alphas_cumprod.diff() < 0).all():
            raise PrescoreError(
                "alphas_cumprod: they must decrease with the index; a table of betas goes to from_betas"
            )
        return cls(((1 - alphas_cumprod) / alphas_cumprod).sqrt())

    @classmethod
    def linear(cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> "Tabulated":
        """Linear betas of Ho et al., "Denoising diffusion probabilistic models", NeurIPS 2020, section 4,
        https://arxiv.org/abs/2006.11239."""
        return cls.from_betas(torch.linspace(beta_start, beta_end, steps, dtype=torch.float64))

    @property
    def t_min(self) -> float:
        return 0.0

    @property
    def t_max(self) -> float:
        return len(self.levels) - 1.0

    def _segment(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """log sigma at both ends of the segment that starts at an index."""
        log = self.levels.log().to(index.device)
        index = index.clamp(0, len(log) - 2)
        return log[index], log[index + 1]

    def sigma(self, t: Times) -> Tensor:
        t = float64(t)
        first = t.detach().floor().clamp(0, self.t_max - 1)
        return torch.lerp(*self._segment(first.long()), t - first).exp()

    def dsigma(self, t: Times) -> Tensor:
        low, high = self._segment(float64(t).detach().floor().long())
        return self.sigma(t) * (high - low)

    def t(self, sigma: Times) -> Tensor:
        log = float64(sigma).log()
        first = torch.searchsorted(self.levels.log().to(log.device), log.detach(), right=True) - 1
        first = first.clamp(0, len(self.levels) - 2)
        low, high = self._segment(first)
        return (first + (log - low) / (high - low)).clamp(self.t_min, self.t_max)
