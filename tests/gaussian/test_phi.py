"""The phi functions beside mpmath at 60 digits."""

import pytest
import torch

from prescore.gaussian.phi import SERIES, phi

mpmath = pytest.importorskip("mpmath")

SIZES = [1e-300, 1e-30, 1e-16, 1e-8, 1e-4, 0.01, 0.1, 0.5, 1.0, 1.5, 3.0, 5.0, 10.0, 30.0, 100.0, 350.0, 700.0]
SWITCH = [SERIES * (1 + e) for e in (-1e-3, -1e-12, -2e-16, 0.0, 3e-16, 1e-12, 1e-3)]
POINTS = [0.0, *(sign * z for z in (*SIZES, *SWITCH) for sign in (1, -1))]


def exact(k: int, z: float) -> object:
    """The series for small z, else the recurrence: both have digits to spare here."""
    with mpmath.workdps(60):
        z = mpmath.mpf(z)
        if abs(z) < 1:
            return mpmath.fsum(z**j / mpmath.factorial(j + k) for j in range(60))
        value = mpmath.exp(z)
        for j in range(k):
            value = (value - 1 / mpmath.factorial(j)) / z
        return value


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_to_full_precision(k: int) -> None:
    values = phi(k, torch.tensor(POINTS, dtype=torch.float64)).tolist()
    for z, value in zip(POINTS, values, strict=True):
        wanted = exact(k, z)
        assert abs((mpmath.mpf(value) - wanted) / wanted) < 1e-14, z


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_elementwise_in_any_shape(k: int) -> None:
    z = torch.tensor(POINTS[:6], dtype=torch.float64)
    assert torch.equal(phi(k, z.reshape(2, 3)).flatten(), torch.stack([phi(k, value) for value in z]))
