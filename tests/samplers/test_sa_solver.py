"""SA-Solver against its Algorithm 1 written out, with the integrals of its Proposition 4.2 by quadrature."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from flow import MIXTURE, START, X
from support import relative

from prescore import Denoiser
from prescore.grid import geometric
from prescore.noise import NoiseSource
from prescore.samplers import make_sampler, sample

NODES, WEIGHTS = np.polynomial.legendre.leggauss(40)


def coefficients(s: float, t: float, known: list[float], tau: float) -> list[float]:
    """b_j = sigma_t int exp(-tau^2 (lam_t - lam)) (1 + tau^2) exp(lam) l_j dlam from lam_s to lam_t, alpha = 1."""
    start, stop = -math.log(s), -math.log(t)
    lam = start + (stop - start) * (NODES + 1) / 2
    body = t * np.exp(-(tau**2) * (stop - lam)) * (1 + tau**2) * np.exp(lam) * WEIGHTS * (stop - start) / 2
    at = [-math.log(level) for level in known]
    lagrange = [np.prod([(lam - b) / (a - b) for b in at if b != a], axis=0) for a in at]
    return [float((body * l_j).sum()) for l_j in lagrange]


def moved(x: torch.Tensor, s: float, t: float, points: list, tau: float, z: torch.Tensor) -> torch.Tensor:
    h = math.log(s / t)
    out = t / s * math.exp(-(tau**2) * h) * x + t * math.sqrt(1 - math.exp(-2 * tau**2 * h)) * z
    return out + sum(b * D for b, (_, D) in zip(coefficients(s, t, [q for q, _ in points], tau), points, strict=True))


@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
def test_it_is_algorithm_1(tau: float) -> None:
    levels = geometric(9, 0.05, START)
    sampler = make_sampler("sa-solver", grid=levels, l=tau)
    exact = Denoiser(MIXTURE, X.shape[1:], 0.01, START, dtype=torch.float64)
    ours = sample(exact, sampler, seeds=range(len(X)), initial=X, progress=False)
    noise = NoiseSource(range(len(X)), X.shape[1:])
    x, points, before = X.double(), [], None
    for s, t in pairwise(levels.tolist()):
        D = MIXTURE(x, torch.tensor(s, dtype=torch.float64))
        if before is not None:  # the corrector, with the same noise, and the value at the predicted state
            (last, start, known, z), place = before, s
            x = moved(last, start, place, [(s, D), *known], tau, z)
        points = [(s, D), *points][:3]
        z = noise() if tau > 0 else torch.zeros_like(x)
        before = (x, s, list(points), z)
        x = moved(x, s, t, points, tau, z)
    assert relative(ours, x) < 1e-9
