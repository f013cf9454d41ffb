"""PNDM: pseudo numerical methods, classical ones with the step of DDIM in the place of Euler's.

DDIM's step carries x from sigma_s to sigma_t with one value e of the predicted noise, eps = (x - D) / sigma:

    phi(x, e, s, t) = x + (sigma_t - sigma_s) e        (unscaled coordinates; the paper's eq. 11 divided by s(t))

A pseudo method forms e as a classical method forms its slope, as if the steps were equal, and then applies phi once:

    F-PNDM   e = (55 e_i - 59 e_{i-1} + 37 e_{i-2} - 9 e_{i-3}) / 24; the first three steps are pseudo Runge-Kutta:
             e = (e_1 + 2 e_2 + 2 e_3 + e_4) / 6, stages 2 and 3 in the middle of the step in time t (4 calls each)
    S-PNDM   e = (3 e_i - e_{i-1}) / 2; the first step is pseudo improved Euler, e = (e_1 + e_2) / 2 (2 calls)
    PLMS     as S-PNDM, then e = (23 e_i - 16 e_{i-1} + 5 e_{i-2}) / 12 once, then as F-PNDM: what latent diffusion
             and diffusers with skip_prk_steps=True do
    iPNDM    the classical method with as many of the last values as there are, up to four: no call more than steps

Order. The weights are those of equal steps in sigma, the variable in which phi is Euler's step. Only where the steps
are equal in sigma (hence stages in the middle in sigma) do the methods have their classical orders: 4, 2, 3 for PLMS
and 2 for iPNDM, whose starts are of lower order. On any other grid that is a smooth image of a uniform one, the usual
grid uniform in t too, the error of one step is h^3 and all are of order 2, as the paper proves (Theorem 3.1 and its
appendix). With the weights of the actual steps F-PNDM is `DEIS(variable="rho", degree=3, warmup="runge-kutta")`, which
is of order 4 on every grid.

A step to sigma = 0 is taken with the same e.

Source: Liu, Ren, Lin and Zhao, "Pseudo numerical methods for diffusion models on manifolds", ICLR 2022,
https://arxiv.org/abs/2202.09778, section 3.3 and Algorithm 2; Zhang and Chen, "Fast sampling of diffusion models with
exponential integrator", ICLR 2023, https://arxiv.org/abs/2204.13902, section 4, for iPNDM.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from prescore.denoiser import Denoise
from prescore.grid import karras
from prescore.noise import NoiseSource
from prescore.samplers.base import Sampler
from prescore.samplers.deis import (
    TABLEAUX,
    check_steps,
    classical_step,
    clock,
    combine,
    power_levels,
    predicted_noise,
    runge_kutta,
)
from prescore.schedule import Schedule

# Weights of the values of eps, newest first.
ADAMS_BASHFORTH = (
    (1,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
# Values that the multistep method uses, and steps before it.
VARIANTS: Mapping[str, tuple[int, int]] = {"f-pndm": (4, 3), "s-pndm": (2, 1), "plms": (4, 1), "ipndm": (4, 0)}
MORE_CALLS = {"f-pndm": 9, "s-pndm": 1, "plms": 1, "ipndm": 0}  # than steps
SCHEDULES = ("linear", "cosine")


class History(NamedTuple):
    """The schedule in whose time F-PNDM's first steps have their middle, and the last values of eps, newest first."""

    time: Schedule | None
    eps: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class PNDM(Sampler):
    """x_t = x_s + (sigma_t - sigma_s) e, e from the last values of eps with the Adams-Bashforth weights of equal steps.

    Args:
        variant: "f-pndm", "s-pndm", "plms" or "ipndm".
        schedule: whose time the usual levels are uniform in (those of iPNDM are EDM's), and in which F-PNDM's first
            steps have their middle: "linear" betas, fitted to the range of the levels, "cosine", or a Schedule.

    Raises:
        PrescoreError: an unknown word.
    """

    variant: str = "f-pndm"
    schedule: Schedule | str = "linear"

    family: ClassVar[str] = "PNDM"
    choices: ClassVar[Mapping[str, Sequence[str]]] = {"variant": tuple(VARIANTS), "schedule": SCHEDULES}

    @property
    def order(self) -> int:
        return 2

    @property
    def stochastic(self) -> bool:
        return False

    def total_calls(self, steps: int, final_zero: bool = True) -> int:
        return steps + MORE_CALLS[self.variant]

    def usual_levels(self, sigma_min: float, sigma_max: float, steps: int) -> Tensor:
        if self.variant == "ipndm":
            return karras(steps, sigma_min, sigma_max, final_zero=True)
        time = clock(self.schedule, torch.tensor([sigma_max, sigma_min], dtype=torch.float64))
        return power_levels(time, steps, sigma_min, sigma_max, 1)

    def unused(self, levels: Tensor) -> dict[str, str]:
        is_idle = self.variant != "f-pndm" and (self.grid is not None or self.variant == "ipndm")
        return {"schedule": f"variant = {self.variant} and levels that are given"} if is_idle else {}

    def check(self, event_shape: tuple[int, ...], levels: Tensor) -> None:
        values, before = VARIANTS[self.variant]
        check_steps(levels, values if before else 1, self.variant)

    def start(self, levels: Tensor) -> History:
        return History(clock(self.schedule, levels) if self.variant == "f-pndm" else None, ())

    def step(
        self, denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: History, noise: NoiseSource
    ) -> tuple[Tensor, History]:
        time, past = state
        values, before = VARIANTS[self.variant]
        if len(past) >= before:
            past = (predicted_noise(denoise, x, sigma), *past)
            h = (sigma_next - sigma).item()
            x = combine(x, [h * weight for weight in ADAMS_BASHFORTH[len(past) - 1]], past)
        elif time is not None:
            middle = time.sigma((time.t(sigma) + time.t(sigma_next)) / 2)
            x, eps = classical_step(denoise, x, [sigma, middle, sigma_next])
            past = (eps, *past)
        else:
            x, eps = runge_kutta(denoise, x, TABLEAUX["2heun"].rows, [sigma, sigma_next, sigma_next])
            past = (eps, *past)
        return x, History(time, past[: values - 1])
