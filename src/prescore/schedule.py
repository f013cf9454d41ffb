"""Noise schedules: how a forward diffusion scales its data and adds noise to it.

A schedule is a pair of functions of time, the scale s(t) and the noise level sigma(t):

    x_t = s(t) (x0 + sigma(t) n),    n ~ N(0, I)

which is the solution of the linear SDE dx = f(t) x dt + g(t) dw with

    f = s' / s,    g = s sqrt(2 sigma' sigma),    s = exp(int f),    sigma^2 = int g^2 / s^2.

Everything that samples works with unscaled coordinates x = x_t / s(t) = x0 + sigma n, in which schedules differ only
by the name that they give to a noise level. A schedule is thus needed where a network wants its own time, s(t) x, or
both, and where noise levels are to be spread the way its authors did.

Times and levels may be tensors of any shape, or numbers; they are converted to float64, and results are float64.
Nothing is clamped to the domain [t_min, t_max] unless a class says so.

Accuracy: no sigma(t) and no t(sigma) subtracts nearly equal numbers, so that both keep their digits down to the
smallest times. sigma(t(sigma)) = sigma within 1e-13 over every domain. t(sigma(t)) = t can be only as good as the
problem is conditioned: one unit in the last place of sigma moves t by eps sigma / sigma'(t). Where sigma has a
positive limit at t = 0 (`GeometricVE`, `Tabulated`) that is an absolute error of about 2e-16 t_max whatever t, hence
a relative one above 1e-12 for t < 1e-4 t_max; elsewhere it is below 1e-15 t.

Notation and f, g: Karras et al., "Elucidating the design space of diffusion-based generative models" (EDM),
NeurIPS 2022, https://arxiv.org/abs/2206.00364, appendix B and Table 1.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor

from prescore.errors import PrescoreError, suggest

Times = Tensor | float


def float64(values: Times | Sequence[float]) -> Tensor:
    """A float64 tensor of the values, on their own device."""
    return torch.as_tensor(values, dtype=torch.float64)


class Schedule(ABC):
    """Scale s(t) and noise level sigma(t), their derivatives and the exact inverse of sigma.

    The scale of this class is s = 1; `VariancePreserving` and `SubVP` have others.

    Raises:
        PrescoreError: the numbers given make no noise that rises from t_min to t_max.
    """

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise PrescoreError(
                f"{self}: its noise must rise between finite, positive levels, but goes from {self.sigma_min:g} "
                f"at t = {self.t_min:g} to {self.sigma_max:g} at t = {self.t_max:g}"
            )

    @property
    @abstractmethod
    def t_min(self) -> float:
        """The time at which sampling ends."""

    @property
    @abstractmethod
    def t_max(self) -> float:
        """The time at which sampling starts."""

    @abstractmethod
    def sigma(self, t: Times) -> Tensor:
        """Noise level at time t, in the unscaled coordinates."""

    @abstractmethod
    def dsigma(self, t: Times) -> Tensor:
        """d sigma / dt."""

    @abstractmethod
    def t(self, sigma: Times) -> Tensor:
        """The time at which the noise level is sigma: the exact inverse."""

    def scale(self, sigma: Times) -> Tensor:
        """s as a function of the noise level instead of the time."""
        return torch.ones_like(float64(sigma))

    def s(self, t: Times) -> Tensor:
        """Scale at time t."""
        return self.scale(self.sigma(t))

    def ds(self, t: Times) -> Tensor:
        """ds / dt."""
        return torch.zeros_like(float64(t))

    def f(self, t: Times) -> Tensor:
        """Drift coefficient of dx = f x dt + g dw."""
        return self.ds(t) / self.s(t)

    def g(self, t: Times) -> Tensor:
        """Diffusion coefficient of dx = f x dt + g dw."""
        return self.s(t) * (2 * self.dsigma(t) * self.sigma(t)).sqrt()

    def nearest(self, sigma: Times) -> Tensor:
        """The nearest level that a network of this schedule knows: sigma itself, unless it knows but some levels."""
        return float64(sigma)

    @property
    def sigma_min(self) -> float:
        """sigma(t_min)."""
        return self.sigma(self.t_min).item()

    @property
    def sigma_max(self) -> float:
        """sigma(t_max)."""
        return self.sigma(self.t_max).item()


class VariancePreserving(Schedule):
    """s = 1 / sqrt(1 + sigma^2), so that x_t has variance 1 if x0 has. alpha_bar = s^2."""

    def scale(self, sigma: Times) -> Tensor:
        return (1 + float64(sigma) ** 2).rsqrt()

    def ds(self, t: Times) -> Tensor:
        return -(self.s(t) ** 3) * self.sigma(t) * self.dsigma(t)


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
        PrescoreError: the levels are not increasing, positive and finite.
    """

    levels: Tensor

    def __post_init__(self) -> None:
        levels = float64(self.levels)
        if levels.ndim != 1 or len(levels) < 2 or not (levels.isfinite().all() and (levels > 0).all()):
            raise PrescoreError("levels: at least two positive, finite noise levels in one row are needed")
        if not (levels.diff() > 0).all():
            raise PrescoreError("levels: the noise levels must increase with the index")
        object.__setattr__(self, "levels", levels)

    @classmethod
    def from_betas(cls, betas: Tensor) -> "Tabulated":
        """alpha_bar_j = product over i <= j of (1 - beta_i), 0 < beta < 1 (Ho et al., DDPM, eq. 4)."""
        return cls(torch.expm1(-torch.log1p(-float64(betas)).cumsum(0)).sqrt())

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Tensor) -> "Tabulated":
        """The table alpha_bar_j itself, decreasing, inside (0, 1)."""
        alphas_cumprod = float64(alphas_cumprod)
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


# Those that need no arguments, by the names of EDM's Table 1 and of Song et al.
SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {"edm": EDM(), "ve": VE(), "vp": VP(), "iddpm": IDDPM(), "cosine": Cosine(), "subvp": SubVP()}
)


def as_schedule(schedule: Schedule | str) -> Schedule:
    """The schedule itself, or the one that `SCHEDULES` has under this name.

    Raises:
        PrescoreError: there is none of this name.
    """
    if isinstance(schedule, Schedule):
        return schedule
    if schedule not in SCHEDULES:
        raise PrescoreError(f"schedule: unknown name {schedule!r}; {suggest(str(schedule), SCHEDULES)}")
    return SCHEDULES[schedule]
