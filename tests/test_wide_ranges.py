"""Usual levels of models that know very much noise: samples are as near to the data as from a narrow range.

The Frechet distance of samples is to the exact moments of a mixture, whose denoiser is exact.
"""

import math
from functools import cache

import pytest
import torch

from prescore import Denoiser
from prescore.metrics import frechet_distance
from prescore.oracle import Full, MixtureOracle
from prescore.plan import plan
from prescore.statistics import Statistics, measure_moments

SIDE, K, N = 8, 4, 200
FEW_CALLS = ("ddim", "deis-tab", "deis-rhoab", "unipc", "dpmpp-2m", "dpmpp-3m", "edm-euler")
WITH_REFERENCE = ("p-ode-1", "p-ode-2m", "p-ode-3m")
RANGES = {0.15: (-1.0, 1.0), 0.6: (-4.0, 4.0)}  # of data of these deviations
TOPS = {0.15: (157.0, 1000.0, 20000.0), 0.6: (1000.0, 20000.0)}


@cache
def problem(spread):
    """A mixture whose cosines differ in scale as those of pictures do, its mean and covariance, and statistics."""
    generator = torch.Generator().manual_seed(0)
    h = torch.arange(SIDE, dtype=torch.float64)
    cosines = torch.cos(math.pi * (h[:, None] + 0.5) * h / SIDE) * math.sqrt(2 / SIDE)
    cosines[:, 0] /= math.sqrt(2)
    Q = torch.kron(cosines, cosines)
    power = (1 + h[:, None] ** 2 + h**2).pow(-1.3).flatten()
    power *= SIDE**2 * spread**2 / power.sum()
    draws = torch.randn(2, K, SIDE**2, generator=generator, dtype=torch.float64)
    means = 0.7 * (power.sqrt() * draws[0]) @ Q.mT
    covariances = torch.stack([(Q * power * torch.exp(draw / 2) / 2) @ Q.mT for draw in draws[1]])
    oracle = MixtureOracle(torch.ones(K), means.reshape(K, 1, SIDE, SIDE), Full(covariances))
    mean = means.mean(0)
    total = covariances.mean(0) + (means - mean).mT @ (means - mean) / K
    data = oracle.sample(400, generator)
    return oracle, (mean, total), Statistics(moments=measure_moments(data, data_range=RANGES[spread]))


def planned(spread, name, calls, highest, is_measured, **asked):
    oracle, _, statistics = problem(spread)
    model = Denoiser(oracle, (1, SIDE, SIDE), 0.002, highest, data_range=RANGES[spread], dtype=torch.float64)
    return plan(model, sampler=name, calls=calls, statistics=statistics if is_measured else None, **asked)


def distance(spread, decided):
    return frechet_distance(decided.sample(range(N), progress=False).flatten(1), problem(spread)[1])


CASES = [*((name, True) for name in WITH_REFERENCE), *((name, known) for name in FEW_CALLS for known in (False, True))]


# Too few calls for these on any range: their distance is many times that of others, up and down as the levels fall.
UNSTEADY = {(0.15, "dpmpp-3m", 5), (0.6, "dpmpp-3m", 5), (0.6, "dpmpp-2m", 5)}


@pytest.mark.parametrize(
    ("spread", "name", "is_measured", "calls"),
    [
        (spread, *case, calls)
        for spread in RANGES
        for case in CASES
        for calls in (5, 8)
        if (spread, case[0], calls) not in UNSTEADY
    ],
)
def test_a_wide_range_costs_nothing(spread, name, is_measured, calls):
    narrow = planned(spread, name, calls, 80.0, is_measured)
    assert narrow.levels[0].item() == pytest.approx(80)
    wide, *others = (planned(spread, name, calls, sigma_max, is_measured) for sigma_max in TOPS[spread])
    assert all(torch.equal(other.levels, wide.levels) for other in others)
    assert distance(spread, wide) < 1.05 * distance(spread, narrow)


def test_a_range_that_was_asked_for_is_kept():
    assert planned(0.15, "p-ode-2m", 5, 20000.0, True, sigma_max=500.0).levels[0] == 500
