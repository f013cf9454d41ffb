"""Schedules of flow matching, and those that are given as functions."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.schedule.base import Schedule, Times, float64

FAR = 1e9  # stands for the infinite noise of t = 1: 1 - t(FAR) is nothing in float32
HALVINGS = 200  # of an interval of times, until nothing is left to halve


@dataclass(frozen=True)
class RectifiedFlow(Schedule):
    """x_t = (1 - t) x0 + t n: s = 1 - t, sigma = t / (1 - t); with `shift` a, sigma = a t / (1 - t).

    A shifted time says how levels are to be spread: a t / (1 + (a - 1) t) is the time that a network is given, which
    is a function of sigma alone. The noise of t = 1 is infinite; `FAR` stands for it, and t comes back from levels up
    there with the accuracy of 1 - t: sigma(t(sigma)) = sigma within 2e-16 sigma, relatively.

    Source: Liu et al., "Flow straight and fast", ICLR 2023, https://arxiv.org/abs/2209.03003; the shift: Esser et al.,
    "Scaling rectified flow transformers for high-resolution image synthesis", ICML 2024,
    https://arxiv.org/abs/2403.03206, eq. 23.

    Args:
        shift: a > 0.
        t_min, t_max: times between which sampling runs, 0 < t_min < t_max <= 1.
    """

    shift: float = 1.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.shift < math.inf:
            raise PrescoreError(f"shift: {self.shift} is not a positive number")
        if not 0 < self.t_min < self.t_max <= 1:
            raise PrescoreError(f"t_min {self.t_min} and t_max {self.t_max}: 0 < t_min < t_max <= 1 is needed")

    def sigma(self, t: Times) -> Tensor:
        return (self.shift * float64(t) / (1 - float64(t))).clamp(max=FAR)

    def dsigma(self, t: Times) -> Tensor:
        return self.shift / (1 - float64(t)) ** 2

    def t(self, sigma: Times) -> Tensor:
        return float64(sigma) / (self.shift + float64(sigma))

    def scale(self, sigma: Times) -> Tensor:
        return 1 / (1 + float64(sigma))

    def ds(self, t: Times) -> Tensor:
        return -self.dsigma(t) * self.s(t) ** 2


@dataclass(frozen=True, eq=False)
class FunctionSchedule(Schedule):
    """x_t = alpha(t) x0 + std(t) n for two functions: s = alpha, sigma = std / alpha.

    Args:
        alpha, std: smooth functions of times, float64 tensors of any shape, made of torch's operations, which act on
            each element by itself; std / alpha rises with t.
        t_min, t_max: times between which sampling runs.

    Cost: the time of a noise level is found by bisection, `HALVINGS` evaluations.
    """

    alpha: Callable[[Tensor], Tensor]
    std: Callable[[Tensor], Tensor]
    t_min: float = 1e-3
    t_max: float = 1.0

    def sigma(self, t: Times) -> Tensor:
        t = float64(t)
        return self.std(t) / self.alpha(t)

    def dsigma(self, t: Times) -> Tensor:
        t = float64(t)
        return torch.func.jvp(self.sigma, (t,), (torch.ones_like(t),))[1]

    def t(self, sigma: Times) -> Tensor:
        sigma = float64(sigma)
        low, high = (torch.full_like(sigma, end) for end in (self.t_min, self.t_max))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if ((middle == low) | (middle == high)).all():
                break
            is_above = self.sigma(middle) > sigma
            low, high = torch.where(is_above, low, middle), torch.where(is_above, middle, high)
        return torch.where(self.sigma(high) <= sigma, high, low)

    def scale(self, sigma: Times) -> Tensor:
        return self.alpha(self.t(sigma))

    def s(self, t: Times) -> Tensor:
        return self.alpha(float64(t))

    def ds(self, t: Times) -> Tensor:
        t = float64(t)
        return torch.func.jvp(self.alpha, (t,), (torch.ones_like(t),))[1]
