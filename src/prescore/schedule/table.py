"""Tables of noise levels, of discrete models, made continuous."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.schedule.base import Schedule, Times, VariancePreserving, float64

# What is more likely a table of another quantity: levels that never reach the first, betas that begin above the second.
LEAST_NOISE, MOST_AT_ONCE = 0.1, 0.5


@dataclass(frozen=True, eq=False)
class TabulatedVE(Schedule):
    """Noise levels of a discrete model with s = 1, made continuous: t is the index, log sigma linear between entries.

    t(sigma) is limited to [0, N - 1], since the network knows no other index. The derivative is that of the piece
    which starts at t.

    The interpolation is the usual one for models with a time index: k-diffusion,
    https://github.com/crowsonkb/k-diffusion, `DiscreteSchedule` (it agrees with the model at its own N levels;
    neighbouring levels of the linear betas differ by 0.5 to 1 % above t = 100, but by 48 % at t = 0).

    Args:
        levels: sigma_j, increasing, shape (N,), N >= 2.

    Raises:
        PrescoreError: the levels are not increasing, positive and finite.
    """

    levels: Tensor

    def __post_init__(self) -> None:
        try:
            levels = float64(self.levels)
        except (TypeError, ValueError, RuntimeError):
            levels = torch.empty(0)
        if levels.ndim != 1 or len(levels) < 2 or not (levels.isfinite().all() and (levels > 0).all()):
            raise PrescoreError("levels: at least two positive, finite noise levels in one row are needed")
        if not (levels.diff() > 0).all():
            raise PrescoreError("levels: the noise levels must increase with the index")
        object.__setattr__(self, "levels", levels)

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


@dataclass(frozen=True, eq=False)
class Tabulated(VariancePreserving, TabulatedVE):
    """The same of a model that shrinks the data, as DDPM does: s = 1 / sqrt(1 + sigma^2).

    Args:
        levels: sigma_j = sqrt(1 / alpha_bar_j - 1), increasing, shape (N,), N >= 2.

    Raises:
        PrescoreError: as `TabulatedVE`, or the levels are all below LEAST_NOISE.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels[-1] < LEAST_NOISE:
            raise PrescoreError(
                f"levels: the highest is {self.levels[-1]:.3g}, hardly any noise; a table of betas goes to "
                "Tabulated.from_betas, one of alpha_bar to Tabulated.from_alphas_cumprod"
            )

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
