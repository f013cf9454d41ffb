"""What a noise schedule is: scale, noise level, derivatives and inverse."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from prescore.errors import PrescoreError

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
