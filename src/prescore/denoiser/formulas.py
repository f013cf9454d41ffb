"""What networks predict instead of x0, and back: formulas affine in x0 at fixed x and sigma.

    score     grad log p(x; sigma) = (D - x) / sigma^2
    noise     eps = (x - D) / sigma
    velocity  v = alpha eps - sigma_vp x0, with alpha = 1 / sqrt(1 + sigma^2), sigma_vp = sigma alpha
    EDM       F = (D - c_skip x) / c_out
    flow      n - x0 = x_t - D over t, with x_t = (1 - t) x0 + t n = x / (1 + sigma), t = sigma / (1 + sigma)

Velocity is defined in the variance-preserving coordinates alpha x = alpha x0 + sigma_vp n, in which it is the
derivative of the data's rotation into noise. In unscaled coordinates v = (eps - sigma x0) / sqrt(1 + sigma^2) and
x0 = (x / sqrt(1 + sigma^2) - sigma v) / sqrt(1 + sigma^2).

Sources: Efron, "Tweedie's formula and selection bias", JASA 2011, https://doi.org/10.1198/jasa.2011.tm11181;
Karras et al., "Elucidating the design space of diffusion-based generative models" (EDM), NeurIPS 2022,
https://arxiv.org/abs/2206.00364, eq. 3, 7 and Table 1; Salimans and Ho, "Progressive distillation for fast sampling
of diffusion models", ICLR 2022, https://arxiv.org/abs/2202.00512, appendix D (velocity).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from prescore.errors import PrescoreError


def expand(sigma: Tensor, x: Tensor) -> Tensor:
    """sigma, 0-d or (B,), in the dtype and on the device of x (B, *event), shaped to broadcast against it.

    Raises:
        PrescoreError: sigma has another shape.

    >>> expand(torch.tensor([1.0, 2.0]), torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 1, 1, 1])
    """
    sigma = _level(sigma, x, x.dtype)
    return sigma.reshape(-1, *(1,) * (x.ndim - 1)) if sigma.ndim else sigma


def per_sample(sigma: Tensor, x: Tensor) -> Tensor:
    """sigma, 0-d or (B,), in float64 and one for each sample of x, (B,): for network times and other functions of it.

    Raises:
        PrescoreError: sigma has another shape.
    """
    return _level(sigma, x, torch.float64).expand(len(x))


def denoised_from_score(score: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """D = x + sigma^2 score. Here and below x is (B, *event), sigma () or (B,), the result like x."""
    return x + expand(sigma, x) ** 2 * score


def score_from_denoised(denoised: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """grad log p(x; sigma) = (D - x) / sigma^2, sigma > 0."""
    return (denoised - x) / expand(sigma, x) ** 2


def denoised_from_noise(noise: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """D = x - sigma eps."""
    return x - expand(sigma, x) * noise


def noise_from_denoised(denoised: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """eps = (x - D) / sigma, sigma > 0."""
    return (x - denoised) / expand(sigma, x)


def denoised_from_velocity(velocity: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """D = (alpha x - sigma v) alpha, alpha = 1 / sqrt(1 + sigma^2); x is unscaled."""
    alpha = (1 + expand(sigma, x) ** 2).rsqrt()
    return (alpha * x - expand(sigma, x) * velocity) * alpha


def velocity_from_denoised(denoised: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """v = alpha (eps - sigma D), eps = (x - D) / sigma, sigma > 0; x is unscaled."""
    alpha = (1 + expand(sigma, x) ** 2).rsqrt()
    return alpha * (noise_from_denoised(denoised, x, sigma) - expand(sigma, x) * denoised)


def denoised_from_flow(velocity: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """D = (x - sigma v) / (1 + sigma), v = n - x0 of x_t = (1 - t) x0 + t n; x is unscaled."""
    level = per_sample(sigma, x)
    return expand(1 / (1 + level), x) * x - expand(level / (1 + level), x) * velocity


class Coefficients(NamedTuple):
    """D = c_skip x + c_out F(c_in x, c_noise)."""

    c_skip: Tensor | float
    c_out: Tensor | float
    c_in: Tensor | float
    c_noise: Tensor


def edm_coefficients(sigma: Tensor, sigma_data: float = 0.5) -> Coefficients:
    """EDM's preconditioning of the network (Table 1), in the shape of sigma > 0; sigma_data is the std of the data.

    c_skip = sd^2 / (sigma^2 + sd^2), c_out = sigma sd / sqrt(sigma^2 + sd^2), c_in = 1 / sqrt(sigma^2 + sd^2),
    c_noise = log(sigma) / 4.
    """
    total = (sigma**2 + sigma_data**2).sqrt()
    return Coefficients((sigma_data / total) ** 2, sigma * sigma_data / total, 1 / total, sigma.log() / 4)


def ve_coefficients(sigma: Tensor) -> Coefficients:
    """Those of a VE network in EDM's form (Table 1): c_skip = 1, c_out = sigma, c_in = 1, c_noise = log(sigma / 2)."""
    return Coefficients(1.0, sigma, 1.0, (sigma / 2).log())


def denoised_from_edm(raw: Tensor, x: Tensor, sigma: Tensor, sigma_data: float = 0.5) -> Tensor:
    """D = c_skip x + c_out F, F the raw output of an EDM network."""
    c = edm_coefficients(expand(sigma, x), sigma_data)
    return c.c_skip * x + c.c_out * raw


def edm_from_denoised(denoised: Tensor, x: Tensor, sigma: Tensor, sigma_data: float = 0.5) -> Tensor:
    """F = (D - c_skip x) / c_out, sigma > 0."""
    c = edm_coefficients(expand(sigma, x), sigma_data)
    return (denoised - c.c_skip * x) / c.c_out


def _level(sigma: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    sigma = torch.as_tensor(sigma, dtype=dtype, device=x.device)
    if sigma.shape not in ((), x.shape[:1]):
        raise PrescoreError(f"sigma of shape {tuple(sigma.shape)}: () or ({len(x)},), one for each sample, is needed")
    return sigma
