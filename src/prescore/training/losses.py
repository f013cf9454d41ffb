"""Denoising loss and the noise levels it is averaged over.

Source: T. Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022,
https://arxiv.org/abs/2206.00364, Table 1 ("Training") and eq. 2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LogUniform:
    """VE recipe: ln sigma ~ U(ln sigma_min, ln sigma_max)."""

    sigma_min: float
    sigma_max: float

    def quantile(self, u: Tensor) -> Tensor:
        """Noise level below which a share u in [0, 1] of the training lies."""
        return self.sigma_min * (u * math.log(self.sigma_max / self.sigma_min)).exp()


@dataclass(frozen=True)
class LogNormal:
    """EDM recipe: ln sigma ~ N(P_mean, P_std^2)."""

    P_mean: float = -1.2
    P_std: float = 1.2

    def quantile(self, u: Tensor) -> Tensor:
        """Noise level below which a share u in (0, 1) of the training lies."""
        return (self.P_mean + self.P_std * torch.special.ndtri(u)).exp()


def stratified(count: int, generator: torch.Generator) -> Tensor:
    """One uniform number in each of `count` equal parts of (0, 1), in order: (count,), float64.

    Each, taken from a random place, is uniform; together they cover every noise level in every batch, which takes
    most of the noise out of the loss (D. Kingma et al., "Variational Diffusion Models", 2021,
    https://arxiv.org/abs/2107.00630, appendix I.1).
    """
    u = torch.rand(count, generator=generator, dtype=torch.float64)
    return ((torch.arange(count) + u) / count).clamp(1e-12, 1 - 1e-12)


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """(sigma^2 + sd^2) / (sigma sd)^2: the loss of the raw network's output then has unit weight at every sigma."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def inverse_square_weight(sigma: Tensor) -> Tensor:
    """1 / sigma^2, of the VP and VE recipes."""
    return 1 / sigma**2


def denoising_loss(
    denoise: Callable[[Tensor, Tensor], Tensor], x0: Tensor, sigma: Tensor, n: Tensor, weight: Tensor
) -> Tensor:
    """Mean over samples and coordinates of weight (D(x0 + sigma n; sigma) - x0)^2; a 0-d tensor.

    Shapes: x0, n (B, *event); sigma, weight (B,).
    """
    shape = (-1, *[1] * (x0.ndim - 1))
    error = denoise(x0 + sigma.reshape(shape) * n, sigma) - x0
    return (weight.reshape(shape) * error**2).mean()
