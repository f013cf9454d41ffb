"""Orders of convergence, fitted, of the reverse SDE in scaled coordinates and of EDM's stochastic sampler.

Weak order: error of the mean and variance for Gaussian data at the end of the run, pushed through the sampler without
Monte Carlo error. Strong order: root mean square distance to a run with 8 times finer steps on the same Brownian
path, for a mixture. Levels are uniform in log sigma from 3 to 0.05.
"""

from itertools import pairwise
from math import inf

import pytest
import torch
from support import BrownianNoise, Replay, slope

from prescore.oracle import Diagonal, MixtureOracle
from prescore.samplers.edm import EDMChurn
from prescore.samplers.sde import ReverseSDE
from prescore.schedule import VP, SubVP

START, END = 3.0, 0.05
MEAN = torch.tensor([0.5, -1.0, 0.0, 2.0], dtype=torch.float64)
VARIANCES = torch.tensor([0.01, 0.1, 1.0, 4.0], dtype=torch.float64)
# Components so near that no path jumps from one to another, which would dominate a root mean square.
MIXTURE = MixtureOracle(
    torch.tensor([0.5, 0.3, 0.2]),
    torch.tensor([[0.0, 0.6], [0.7, -0.5], [-0.8, -0.2]], dtype=torch.float64),
    Diagonal(torch.tensor([[0.3, 0.2], [0.2, 0.5], [0.4, 0.2]], dtype=torch.float64)),
)
SMOOTH_VP = VP(beta_d=5.0, beta_min=1.0)
SCHEDULES = {"ve": "ve", "vp": SMOOTH_VP, "subvp": SubVP(5.0, 1.0)}
SDES = {
    f"{predictor}, {name}": (ReverseSDE, {"predictor": predictor, "schedule": schedule}, 1)
    for predictor in ("reverse-diffusion", "ancestral", "euler-maruyama")
    for name, schedule in SCHEDULES.items()
}
FLOWS = {
    f"probability-flow, {name}": (ReverseSDE, {"predictor": "probability-flow", "schedule": schedule}, 1)
    for name, schedule in SCHEDULES.items()
}
CHURNS = {
    f"churn, order {order}, {name}": (
        EDMChurn,
        {"order": order, "schedule": schedule, "S_churn": 4.0, "S_tmax": inf},
        order,
    )
    for order in (1, 2)
    for name, schedule in SCHEDULES.items()
}


def levels(steps):
    return START * (END / START) ** torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def gaussian(x, sigma):
    return MEAN + VARIANCES / (VARIANCES + sigma**2) * (x - MEAN)


def moments_error(sampler):
    """Relative error of mean and variance at END, starting from the exact ones at START."""
    m, v = MEAN, VARIANCES + START**2
    zero, one = torch.zeros(1, 4, dtype=torch.float64), torch.ones(1, 4, dtype=torch.float64)
    state = sampler.start(sampler.grid)
    for sigma, sigma_next in pairwise(sampler.grid):

        def end(x, z, sigma=sigma, sigma_next=sigma_next):
            return sampler.step(gaussian, x, sigma, sigma_next, state, Replay([z]))[0][0]

        origin = end(zero, zero)
        a, b = end(one, zero) - origin, end(zero, one) - origin
        m, v = origin + a * m, a**2 * v + b**2
    return ((m - MEAN).square().sum() + (v / (VARIANCES + END**2) - 1).square().sum()).sqrt().item()


WEAK_STEPS = [64, 128, 256]


@pytest.mark.parametrize("name", SDES | CHURNS)
def test_weak_order(name):
    cls, options, order = (SDES | CHURNS)[name]
    samplers = [cls(grid=levels(n), **options) for n in WEAK_STEPS]
    assert samplers[0].order == order
    fitted = slope([1 / n for n in WEAK_STEPS], [moments_error(sampler) for sampler in samplers])
    assert fitted == pytest.approx(order, abs=0.2)


STEPS = [32, 64, 128]
FINEST = STEPS[-1] * 32
GENERATOR = torch.Generator().manual_seed(0)
NORMALS = torch.randn(FINEST, 50, 2, generator=GENERATOR, dtype=torch.float64)
INITIAL = torch.randn(50, 2, generator=GENERATOR, dtype=torch.float64)


def end(cls, options, steps):
    """The end of the run on the one Brownian path."""
    sampler = cls(grid=levels(steps), **options)
    # The reverse SDE spreads its noise over sigma^2, churn evenly over the steps.
    clock = [torch.linspace(1, 0, n + 1, dtype=torch.float64).sqrt() for n in (FINEST, steps)]
    fine, coarse = clock if cls is EDMChurn else (levels(FINEST), sampler.grid)
    noise = BrownianNoise(fine, NORMALS, coarse, INITIAL)
    x, state = START * noise(), sampler.start(sampler.grid)
    for sigma, sigma_next in pairwise(sampler.grid):
        x, state = sampler.step(MIXTURE, x, sigma, sigma_next, state, noise)
    return x


@pytest.fixture(scope="module")
def limits():
    """Where the finest steps end. Every predictor and schedule has the same limit, churn and the ODE another each."""
    ends = {}
    for cases in (SDES, FLOWS, CHURNS):
        cls, options, _ = next(iter(cases.values()))
        ends |= dict.fromkeys(cases, end(cls, options, FINEST))
    return ends


@pytest.mark.parametrize("name", SDES | FLOWS | CHURNS)
def test_strong_order(name, limits):
    cls, options, _ = (SDES | FLOWS | CHURNS)[name]
    errors = [(end(cls, options, n) - limits[name]).square().mean().sqrt().item() for n in STEPS]
    expected = cls(grid=levels(2), **options).strong_order or 1
    assert slope([1 / n for n in STEPS], errors) == pytest.approx(expected, abs=0.2)
