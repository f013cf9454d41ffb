"""Predictors of the reverse SDE that work in the scaled coordinates x_t = s(t) x of a schedule.

The reverse SDE dx_t = [f x_t - g^2 score_t] dt + g dw is the same process in any coordinates, but a step of finite
size is not. `predictor_corrector` steps in x = x_t / s. The models of Song et al. were sampled in x_t, where for a VP
or sub-VP schedule the drift f x_t is discretised too. With r = s / s_next <= 1 for the step from sigma to sigma_next,
G^2 = sigma^2 - sigma_next^2 and score_t = score / s, these steps are in unscaled coordinates

    reverse diffusion    x <- r [(2 - r) x + G^2 score + G z]
    probability flow     x <- r [(2 - r) x + G^2 / 2 score]
    ancestral            x <- x + G^2 score + r G z
    Euler-Maruyama       x <- r [(1 - f h) x + 2 sigma' sigma h score + sqrt(2 sigma' sigma h) z],    h = t - t_next

The first two follow from the exact transition of the forward process, x_t = r x_t_next + s G z, in which r^2 = 1 - beta
and (s G)^2 = beta for the chain of DDPM. Ancestral is DDPM's step with the variance beta; `predictor_corrector` has
it with the variance of p(x_next | x, x0), which no coordinates change. In a schedule with s = 1 reverse diffusion
and ancestral are reverse diffusion there, and Euler-Maruyama in `GeometricVE` is Euler-Maruyama there.

All have weak and strong order 1. The step to sigma_next = 0 ends at D(x, sigma). The authors return the mean of their
last predictor, which is D for ancestral and differs from it by O(beta_1) (D - x) otherwise.

The corrector needs no scale: the step size eps of Langevin dynamics cancels it. The authors' corrector for VP has
another factor 1 - beta in eps, which is 1 to within 2 % at their 1000 steps and left out here.

What the authors' code does otherwise: its discrete betas are linspace(beta_min, beta_max, N) / N, so that a chain of N
steps has not the levels of the SDE at which the network is called, and for N <= beta_max = 20 not even a real s;
its Euler-Maruyama steps by 1/N on times that are (1 - eps)/(N - 1) apart; its sub-VP has no reverse diffusion other
than Euler-Maruyama, no ancestral sampling and no corrector.

Source: Song et al., "Score-based generative modeling through stochastic differential equations", ICLR 2021,
https://arxiv.org/abs/2011.13456, eq. 6, Algorithms 3 and 5, appendices E and F.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from prescore.denoiser import Denoise
from prescore.errors import PrescoreError
from prescore.grid import append_zero
from prescore.noise import NoiseSource
from prescore.samplers.predictor_corrector import CHOICES, PredictorCorrector
from prescore.schedule import SCHEDULES, Schedule, as_schedule


class Weights(NamedTuple):
    """x <- keep x + drift score + noise z."""

    keep: float
    drift: float
    noise: float


def reverse_diffusion(schedule: Schedule, sigma: float, sigma_next: float) -> Weights:
    r, G2 = _ratio(schedule, sigma, sigma_next), sigma**2 - sigma_next**2
    return Weights(r * (2 - r), r * G2, r * math.sqrt(G2))


def probability_flow(schedule: Schedule, sigma: float, sigma_next: float) -> Weights:
    keep, drift, _ = reverse_diffusion(schedule, sigma, sigma_next)
    return Weights(keep, drift / 2, 0.0)


def ancestral(schedule: Schedule, sigma: float, sigma_next: float) -> Weights:
    r, G2 = _ratio(schedule, sigma, sigma_next), sigma**2 - sigma_next**2
    return Weights(1.0, G2, r * math.sqrt(G2))


def euler_maruyama(schedule: Schedule, sigma: float, sigma_next: float) -> Weights:
    r, t = _ratio(schedule, sigma, sigma_next), schedule.t(sigma)
    h = (t - schedule.t(sigma_next)).item()
    variance = 2 * schedule.dsigma(t).item() * sigma * h
    return Weights(r * (1 - schedule.f(t).item() * h), r * variance, r * math.sqrt(variance))


def no_predictor(schedule: Schedule, sigma: float, sigma_next: float) -> Weights:
    return Weights(1.0, 0.0, 0.0)


def _ratio(schedule: Schedule, sigma: float, sigma_next: float) -> float:
    return (schedule.scale(sigma) / schedule.scale(sigma_next)).item()


PREDICTORS: dict[str, Callable[[Schedule, float, float], Weights]] = {
    "reverse-diffusion": reverse_diffusion,
    "ancestral": ancestral,
    "euler-maruyama": euler_maruyama,
    "probability-flow": probability_flow,
    "none": no_predictor,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class ReverseSDE(PredictorCorrector):
    """Predictor-corrector sampler whose predictor works in the scaled coordinates of a schedule.

    Args:
        schedule: a `Schedule`, or its name in `prescore.schedule`.
        predictor, corrector, and the others: see `PredictorCorrector`.

    Raises:
        PrescoreError: an unknown schedule, and what `PredictorCorrector` refuses.
    """

    corrector: str = "none"
    schedule: Schedule | str = "vp"

    family: ClassVar[str] = "reverse SDE"
    choices: ClassVar[Mapping[str, Sequence[str]]] = {**CHOICES, "schedule": tuple(SCHEDULES)}

    def usual_levels(self, sigma_min: float, sigma_max: float, steps: int) -> Tensor:
        """T levels at times uniform in the schedule, then 0."""
        if not sigma_min > 0:
            raise PrescoreError(f"sigma_min: {sigma_min} is not positive; give the sampler a grid of noise levels")
        schedule = as_schedule(self.schedule)
        first, last = schedule.t(sigma_max).item(), schedule.t(sigma_min).item()
        return append_zero(schedule.sigma(torch.linspace(first, last, steps, dtype=torch.float64)))

    def unused(self, levels: Tensor) -> dict[str, str]:
        idle = super().unused(levels)
        if self.predictor == "none" and self.grid is not None:
            idle["schedule"] = "predictor = none and levels that are given"
        return idle

    def weights(self, sigma: float, sigma_next: float) -> Weights:
        """Those of the step to sigma_next."""
        if sigma_next == 0:
            return Weights(1.0, sigma**2, 0.0)
        return PREDICTORS[self.predictor](as_schedule(self.schedule), sigma, sigma_next)

    def predictor_weights(self, sigma: float, sigma_next: float) -> tuple[float, float, float]:
        _, drift, std = self.weights(sigma, sigma_next)
        langevin = drift if self.form == "paper" else std**2 / 2
        return drift - langevin, langevin, std

    def predict(self, denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor, noise: NoiseSource) -> Tensor:
        keep = self.weights(sigma.item(), sigma_next.item()).keep
        return torch.add(super().predict(denoise, x, sigma, sigma_next, noise), x, alpha=keep - 1)
