"""The phi functions of exponential integrators.

    phi_0(z) = e^z,    phi_{k+1}(z) = (phi_k(z) - 1/k!) / z = int_0^1 e^{(1-r) z} r^k / k! dr,    phi_k(0) = 1/k!

The quotient cancels near 0 and loses k times the digits of 1/z; there the Taylor series sum_j z^j / (j + k)! is used.

Source: Hochbruck & Ostermann, "Exponential integrators", Acta Numerica 2010,
https://doi.org/10.1017/S0962492910000048, eq. 2.10-2.11.
"""

import math

import torch
from torch import Tensor

SERIES = 2.0  # below this |z| the series, above it the quotient; both are then good to some 1e-15
TERMS = 30


def phi(k: int, z: Tensor) -> Tensor:
    """phi_k(z), elementwise; z real float64, k >= 0. Relative error below 1e-14 for k <= 3 and any z.

    >>> phi(1, torch.tensor([0.0, 1.0], dtype=torch.float64))
    tensor([1.0000, 1.7183], dtype=torch.float64)
    """
    if k == 0:
        return z.exp()
    if k == 1:
        return torch.where(z == 0, 1.0, torch.expm1(z) / torch.where(z == 0, 1.0, z))
    near = torch.where(z.abs() < SERIES, z, 0.0)
    series = torch.zeros_like(z)
    for j in reversed(range(TERMS)):
        series = series * near + 1 / math.factorial(j + k)
    far = torch.where(z.abs() < SERIES, SERIES, z)
    quotient = torch.expm1(far) / far
    for j in range(1, k):
        quotient = (quotient - 1 / math.factorial(j)) / far
    return torch.where(z.abs() < SERIES, series, quotient)
