"""Exact denoisers of Gaussians, and everything that a network could predict of one."""

import torch
from torch import Tensor

from prescore.denoiser import edm_coefficients, expand

SHAPE, B = (2, 3, 5), 4
LEVELS = [torch.tensor(0.7).double(), torch.tensor([0.01, 0.5, 3.0, 90.0]).double()]


class Gaussian:
    """Data N(mu, c), elementwise, and everything that a network could predict of it, from first principles."""

    mu, c = 0.4, 0.3

    def denoised(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.mu + self.c / (self.c + expand(sigma, x) ** 2) * (x - self.mu)

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        return -(x - self.mu) / (self.c + expand(sigma, x) ** 2)

    def noise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[n | x] of the joint Gaussian (n, x): cov(n, x) / var(x) (x - mu)."""
        sigma = expand(sigma, x)
        return sigma / (self.c + sigma**2) * (x - self.mu)

    def velocity(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[cos(phi) n - sin(phi) x0 | x], tan(phi) = sigma."""
        phi = torch.atan(expand(sigma, x))
        return torch.cos(phi) * self.noise(x, sigma) - torch.sin(phi) * self.denoised(x, sigma)

    def edm(self, x: Tensor, sigma: Tensor, sigma_data: float = 0.5) -> Tensor:
        c_skip, c_out, _, _ = edm_coefficients(expand(sigma, x), sigma_data)
        return (self.denoised(x, sigma) - c_skip * x) / c_out


gaussian = Gaussian()


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def a_denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    return x / (1 + expand(sigma, x) ** 2)


def conditional(x: Tensor, sigma: Tensor, mean: Tensor | None = None) -> Tensor:
    """Exact denoiser of N(mean, 0.3); without a condition N(0.1, 0.3)."""
    assert mean is None or mean.shape == x.shape[:1]
    mu = 0.1 if mean is None else mean.reshape(-1, 1, 1, 1)
    return mu + 0.3 / (0.3 + expand(sigma, x) ** 2) * (x - mu)
