"""Analytic-DPM: the bridge of DDIM with the noise variance that is optimal for the data.

Drawing the bridge q(x_t | x, x0) around D(x, s) instead of x0 loses the spread of x0 about D. Among all steps that
add isotropic noise to the bridge's mean the nearest to the exact reverse step, in Kullback-Leibler divergence, adds

    v* = v + (1 - kept)^2 C(s),    C(s) = E|x0 - D|^2 / d = s^2 (1 - Gamma(s)),    Gamma(s) = s^2 E|score|^2 / d,

v and kept = sqrt(t^2 - v) / s being those of `prescore.samplers.ddim`: 1 - kept is the weight of x0 in the bridge's
mean, C(s) the mean posterior variance of an entry of x0. This is Theorem 1 of the paper divided by alpha_bar_{n-1},

    sigma_n*^2 = lambda_n^2 + (sqrt(beta_bar_n / alpha_n) - sqrt(beta_bar_{n-1} - lambda_n^2))^2 (1 - Gamma_n),

Gamma_n = beta_bar_n E|score|^2 / d, and unscaled it no longer depends on the schedule. On data N(mu, c I) the step
with eta = 1 is the exact reverse step, and every eta lands on the exact variance c + t^2.

Bounds (Theorem 2): 0 <= C(s) <= s^2, and C(s) <= ((high - low) / 2)^2 for data inside [low, high].

Two estimates of C(s). "score" is the paper's, s^2 (1 - Gamma): it is a small difference of large numbers where s is
large (see `prescore.statistics.score`), and is right only for the exact D. "residual" is E|x0 - D|^2 / d itself:
it is the optimal variance for the network at hand, however imperfect (Bao et al. 2022b), and has no such
cancellation. For the exact D they agree.

The last noise is clipped, as the authors do for images: its mean size is at most `last_noise` of 255 grey levels (2, or
1 on some data), since nothing but the last denoising step can take it out of the sample again.
The authors' code also clamps D to the range of the data; here that is left to the denoiser.

Order: v* - v is of second order in the step, so the moments converge as those of DDIM, with order 1. With eta = 0
the limit is the deterministic ODE, but each step adds independent noise of a size proportional to the step: along a
path the distance to the limit shrinks as the square root of the step only.

Sources: Bao et al., "Analytic-DPM: an analytic estimate of the optimal reverse variance in diffusion probabilistic
models", ICLR 2022, https://arxiv.org/abs/2201.06503, Theorems 1 and 2; Bao et al. (2022b), "Estimating the optimal
covariance with imperfect mean in diffusion probabilistic models", ICML 2022, https://arxiv.org/abs/2206.07309.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.samplers.ddim import DDIM
from prescore.statistics import ScoreStatistics, Statistics
from prescore.statistics.score import ESTIMATES

SLACK = 1.01  # levels may lie this factor outside those at which the score was measured


@dataclass(frozen=True, kw_only=True, eq=False)
class AnalyticDDIM(DDIM):
    """DDIM (eta = 0) to DDPM (eta = 1) with the optimal variance v* of the module.

    Args:
        eta: share of the bridge's randomness, from 0 to 1. Even eta = 0 adds noise here.
        statistics: of the data, with `score`: measured by `prescore calibrate DATA --model MODEL`.
        estimate: of the posterior variance: "score" (the paper's) or "residual".
        last_noise: mean size of the last noise in the result, in 255ths of the data range, at most; None for no limit.

    Raises:
        PrescoreError: an unknown estimate, eta outside [0, 1], or a limit that is not positive. Without statistics, or
            with those of other events or levels, `check` and `start` raise it.
    """

    statistics: Statistics | None = None
    estimate: str = "score"
    last_noise: float | None = 2.0

    family: ClassVar[str] = "Analytic-DPM"
    choices: ClassVar[Mapping[str, Sequence[str]]] = {"estimate": ESTIMATES}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.last_noise is not None and not self.last_noise > 0:
            raise PrescoreError(f"last_noise: {self.last_noise} is not positive; the paper uses 2 or 1, None no limit")

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def strong_order(self) -> float:
        return 1 if self.eta > 0 else 0.5

    def check(self, event_shape: tuple[int, ...], levels: Tensor) -> None:
        statistics, score = self._measured()
        if statistics.event_shape != event_shape:
            raise PrescoreError(f"statistics: of samples {statistics.event_shape}, the model's are {event_shape}")
        low, high = score.levels[-1].item(), score.levels[0].item()
        first, last = levels[0].item(), levels[-2].item()
        if first > high * SLACK or last < low / SLACK:
            raise PrescoreError(
                f"statistics: the score was measured at noise levels {low:g} to {high:g}, the steps start from "
                f"{last:g} to {first:g}; measure it there"
            )

    def posterior_variance(self, s: Tensor) -> Tensor:
        """C(s) inside the bounds of Theorem 2."""
        statistics, score = self._measured()
        variance = score.posterior_variance(s, self.estimate)
        if statistics.data_range is None:
            return variance
        low, high = statistics.data_range
        return variance.clamp(max=((high - low) / 2) ** 2)

    def noise_variance(self, s: Tensor, t: Tensor) -> Tensor:
        variance = self.bridge_variance(s, t) + (1 - self.kept(s, t)) ** 2 * self.posterior_variance(s)
        if self.last_noise is None:
            return variance
        low, high = self._measured()[0].data_range or (0.0, 1.0)
        std = self.last_noise * (high - low) / 255 * math.sqrt(math.pi / 2)  # of noise with this mean size
        is_last = t == torch.where(t > 0, t, math.inf).min()
        return torch.where(is_last, variance.clamp(max=std**2), variance)

    def _measured(self) -> tuple[Statistics, ScoreStatistics]:
        if self.statistics is None or self.statistics.model.score is None:
            raise PrescoreError(
                "statistics: the optimal variance needs the size of the model's score; measure it with "
                "`prescore calibrate DATA --model MODEL --out FILE` or prescore.precondition.score_statistics"
            )
        return self.statistics, self.statistics.model.score
