"""The samplers of EDM: Euler and second-order steps of the probability flow in any schedule, with or without churn.

In a schedule with scale s(t) and noise level sigma(t) the probability flow of x_t = s(t) (x0 + sigma(t) n) is

    dx_t/dt = (s'/s + sigma'/sigma) x_t - (sigma' s / sigma) D(x_t / s; sigma)

Euler's step from t to t + h, and the second-order family with the inner point t + alpha h, are

    order 1    x_t <- x_t + h d,    d = dx_t/dt at (x_t, t)
    order 2    x_t <- x_t + h [(1 - 1/(2 alpha)) d + 1/(2 alpha) d'],    d' = dx_t/dt at (x_t + alpha h d, t + alpha h)

alpha = 1 is Heun's method, 2/3 Ralston's, 1/2 the midpoint rule. The flow reaches the same samples in every schedule,
but the steps do not: a schedule bends the lines that they follow. sigma = t, s = 1 makes Euler's step a move straight
towards D, and the one to sigma = 0 end at D. A step starts and ends in unscaled coordinates x = x_t / s, so that the
noise levels at which it does are chosen apart from the schedule in which it is taken.

Gaussian data flatter the midpoint rule: in sigma and in sigma^2 its error of third order in h vanishes on them, so
that its order is 3 there and 2 on any other data.

The stochastic sampler first adds noise to the state, from sigma to a higher sigma_hat, and then takes that step:

    x <- x + S_noise sqrt(sigma_hat^2 - sigma^2) z,    sigma_hat = (1 + gamma) sigma,
    gamma = min(S_churn / N, sqrt(2) - 1) where S_tmin <= sigma <= S_tmax, else 0

Adding noise takes p(x; sigma) to p(x; sigma_hat) exactly. With S_noise = 1 the error of the distribution is therefore
that of the deterministic steps, and the weak order 2. Along one path the order is 1: as N grows with S_churn fixed,
the limit is an SDE whose noise this splits from its flow. S_noise > 1 makes up for networks that remove too much
noise; with an exact denoiser it is a bias that no number of steps removes.

The printed algorithms leave three things to the code. The grid has N levels and then 0, and N is the N of S_churn. The
last step, to 0, is Euler's for every alpha, also where the inner point would still have noise. And on a network that
knows only some levels, such as iDDPM's, sigma_hat is rounded to the nearest of these.

Source: Karras et al., "Elucidating the design space of diffusion-based generative models" (EDM), NeurIPS 2022,
https://arxiv.org/abs/2206.00364, eq. 4, Algorithms 1 and 2, appendix D.2 (alpha), Tables 1 and 5 (settings).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from prescore.denoiser import Denoise
from prescore.errors import PrescoreError
from prescore.grid import karras
from prescore.noise import NoiseSource
from prescore.samplers.base import Sampler
from prescore.schedule import SCHEDULES, Schedule, as_schedule


@dataclass(frozen=True, kw_only=True, eq=False)
class EDMFlow(Sampler):
    """Deterministic sampler of EDM: Algorithm 1, and Euler's method.

    Args:
        order: 1 (Euler) or 2.
        alpha: inner point of the second-order step, 0 < alpha <= 1.
        schedule: s(t) and sigma(t) in which the step is taken, a `Schedule` or its name in `prescore.schedule`; it
            need not be the model's own. In one that never reaches sigma = 0 the step to 0 ends at D.

    Raises:
        PrescoreError: an order or alpha that does not exist, an unknown schedule.
    """

    order: int = 2
    alpha: float = 1.0
    schedule: Schedule | str = "edm"

    family: ClassVar[str] = "EDM"
    choices: ClassVar[Mapping[str, Sequence[str]]] = {"schedule": tuple(SCHEDULES)}
    usual_steps: ClassVar[int] = 18

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in (1, 2):
            raise PrescoreError(f"order: {self.order!r} is neither 1 (Euler) nor 2")
        if not 0 < self.alpha <= 1:
            raise PrescoreError(
                f"alpha: {self.alpha} is not in (0, 1]; 1 is Heun's method, 2/3 Ralston's, 1/2 the midpoint rule"
            )

    @property
    def stochastic(self) -> bool:
        return False

    def unused(self, levels: Tensor) -> dict[str, str]:
        return {"alpha": "order = 1"} if self.order == 1 else {}

    def usual_levels(self, sigma_min: float, sigma_max: float, steps: int) -> Tensor:
        """N levels of `prescore.grid.karras`, rho = 7, then 0."""
        return karras(steps, sigma_min, sigma_max, final_zero=True)

    def total_calls(self, steps: int, final_zero: bool = True) -> int:
        return self.order * steps - (self.order - 1 if final_zero else 0)

    def step(
        self, denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: Any, noise: NoiseSource
    ) -> tuple[Tensor, Any]:
        schedule = as_schedule(self.schedule)
        if sigma_next == 0 and schedule.sigma(0.0) > 0:
            return denoise(x, sigma), state

        def slope(t: Tensor) -> tuple[float, float]:
            """(a, b) of dx_t/dt = s (a x - b D)."""
            rate = (schedule.dsigma(t) / schedule.sigma(t)).item()
            return schedule.f(t).item() + rate, rate

        t = schedule.t(sigma.item())
        t_next = schedule.t(sigma_next.item()) if sigma_next > 0 else torch.zeros_like(t)
        s, s_next, h = schedule.s(t).item(), schedule.s(t_next).item(), (t_next - t).item()
        (a, b), D = slope(t), denoise(x, sigma)

        def euler(h: float, s_next: float) -> Tensor:
            """s / s_next (x + h (a x - b D))."""
            return (s / s_next * (1 + h * a) * x).add_(D, alpha=-s / s_next * h * b)

        if self.order == 1 or sigma_next == 0:
            return euler(h, s_next), state
        t_mid, w = t + self.alpha * h, 1 / (2 * self.alpha)
        s_mid, (a_mid, b_mid) = schedule.s(t_mid).item(), slope(t_mid)
        x_mid = euler(self.alpha * h, s_mid)
        D_mid = denoise(x_mid, schedule.sigma(t_mid))
        k = w * h * s_mid / s_next
        return euler((1 - w) * h, s_next).add_(x_mid, alpha=k * a_mid).add_(D_mid, alpha=-k * b_mid), state


@dataclass(frozen=True, kw_only=True, eq=False)
class EDMChurn(EDMFlow):
    """Stochastic sampler of EDM: Algorithm 2, in any schedule and order.

    The paper's settings (S_churn, S_tmin, S_tmax, S_noise): CIFAR-10 VP 30, 0.01, 1, 1.007 and VE 80, 0.05, 1, 1.007;
    ImageNet-64 with ADM's network 80, 0.05, 50, 1.003 and with EDM's 40, 0.05, 50, 1.003.

    Args:
        S_churn: amount of noise added over the whole run, >= 0.
        S_tmin, S_tmax: levels between which it is added, both included. By default S_tmax is as high as it can be
            without sigma_hat leaving the grid.
        S_noise: standard deviation of the noise that is added, relative to what sigma_hat asks for.

    Raises:
        PrescoreError: a number out of range, or noise beyond what the model knows.
    """

    S_churn: float = 40.0
    S_tmin: float = 0.0
    S_tmax: float | None = None
    S_noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.S_churn < math.inf:
            raise PrescoreError(f"S_churn: {self.S_churn} is not a number >= 0; 0 adds no noise")
        if not self.S_tmin >= 0:
            raise PrescoreError(f"S_tmin: {self.S_tmin} is not a noise level >= 0")
        if self.S_tmax is not None and not self.S_tmax >= self.S_tmin:
            raise PrescoreError(f"S_tmax: {self.S_tmax} is below S_tmin = {self.S_tmin}: no level lies between them")
        if not 0 < self.S_noise < math.inf:
            raise PrescoreError(f"S_noise: {self.S_noise} is not a positive number; 1 adds what sigma_hat asks for")

    @property
    def stochastic(self) -> bool:
        return self.S_churn > 0

    def unused(self, levels: Tensor) -> dict[str, str]:
        churn = () if self.stochastic else ("S_tmin", "S_tmax", "S_noise")
        return super().unused(levels) | dict.fromkeys(churn, "S_churn = 0")

    def levels(self, sigma_min: float | None, sigma_max: float | None) -> Tensor:
        levels = super().levels(sigma_min, sigma_max)
        highest = max(self.raised(sigma, self.start(levels)).item() for sigma in levels[:-1])
        if sigma_max is not None and highest > max(sigma_max, levels[0].item()):
            raise PrescoreError(
                f"S_tmax: churn would raise the noise to {highest:.4g}, the model knows it up to {sigma_max:.4g}; "
                "leave S_tmax out, or lower it or S_churn"
            )
        return levels

    def start(self, levels: Tensor) -> tuple[float, float]:
        """gamma, and the level that sigma_hat may not exceed."""
        gamma = min(self.S_churn / (len(levels) - 1), math.sqrt(2) - 1)
        return gamma, levels[0].item() if self.S_tmax is None else math.inf

    def raised(self, sigma: Tensor, state: tuple[float, float]) -> Tensor:
        """sigma_hat, or sigma if no noise is to be added there."""
        gamma, ceiling = state
        sigma_hat = as_schedule(self.schedule).nearest(sigma * (1 + gamma))
        S_tmax = math.inf if self.S_tmax is None else self.S_tmax
        return sigma_hat if self.S_tmin <= sigma <= S_tmax and sigma < sigma_hat <= ceiling else sigma

    def step(
        self, denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: Any, noise: NoiseSource
    ) -> tuple[Tensor, Any]:
        sigma_hat = self.raised(sigma, state)
        if sigma_hat > sigma:
            x = x + self.S_noise * (sigma_hat**2 - sigma**2).sqrt() * noise()
        return super().step(denoise, x, sigma_hat, sigma_next, state, noise)
