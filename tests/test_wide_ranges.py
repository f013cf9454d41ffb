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

SIDE, SPREAD, K, N = 8, 0.15, 4, 200
FEW_CALLS = ("ddim", "deis-tab", "deis-rhoab", "unipc", "dpmpp-2m", "dpmpp-3m", "edm-euler")
WITH_REFERENCE = ("p-ode-1", "p-ode-2m", "p-ode-3m")
TOPS = (157.0, 1000.0, 20000.0)


@cache
def problem():
    """A mixture whose cosines differ in scale as those of pictures do, its mean and covariance, and statistics."""
    generator = torch.Generator().manual_seed(0)
    h = torch.arange(SIDE, dtype=torch.float64)
    cosines = torch.cos(math.pi * (h[:, None] + 0.5) * h / SIDE) * math.sqrt(2 / SIDE)
    cosines[:, 0] /= math.sqrt(2)
    Q = torch.kron(cosines, cosines)
    power = (1 + h[:, None] ** 2 + h**2).pow(-1.3).flatten()
    power *= SIDE**2 * SPREAD**2 / power.sum()
    draws = torch.randn(2, K, SIDE**2, generator=generator, dtype=torch.float64)
    means = 0.7 * (power.sqrt() * draws[0]) @ Q.mT
    covariances = torch.stack([(Q * power * torch.exp(draw / 2) / 2) @ Q.mT for draw in draws[1]])
    oracle = MixtureOracle(torch.ones(K), means.reshape(K, 1, SIDE, SIDE), Full(covariances))
    mean = means.mean(0)
    total = covariances.mean(0) + (means - mean).mT @ (means - mean) / K
    data = oracle.sample(400, generator)
    return oracle, (mean, total), Statistics(moments=measure_moments(data, data_range=(-1, 1)))


def planned(name, calls, highest, is_measured, **asked):
    oracle, _, statistics = problem()
    model = Denoiser(oracle, (1, SIDE, SIDE), 0.002, highest, data_range=(-1, 1), dtype=torch.float64)
    return plan(model, sampler=name, calls=calls, statistics=statistics if is_measured else None, **asked)


def distance(decided):
    return frechet_distance(decided.sample(range(N), progress=False).flatten(1), problem()[1])


CASES = [*((name, True) for name in WITH_REFERENCE), *((name, known) for name in FEW_CALLS for known in (False, True))]


@pytest.mark.parametrize(
    ("name", "is_measured", "calls"),
    # dpmpp-3m takes 4 steps at 5 calls, which are too few for it on any range: its distance is 40 times dpmpp-2m's.
    [(*case, calls) for case in CASES for calls in (5, 8) if (case[0], calls) != ("dpmpp-3m", 5)],
)
def test_a_wide_range_costs_nothing(name, is_measured, calls):
    narrow = planned(name, calls, 80.0, is_measured)
    assert narrow.levels[0].item() == pytest.approx(80)
    wide, *others = (planned(name, calls, sigma_max, is_measured) for sigma_max in TOPS)
    assert all(torch.equal(other.levels, wide.levels) for other in others)
    assert distance(wide) < 1.05 * distance(narrow)


def test_a_range_that_was_asked_for_is_kept():
    assert planned("p-ode-2m", 5, 20000.0, True, sigma_max=500.0).levels[0] == 500
