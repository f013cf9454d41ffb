"""Orders of convergence, fitted, of the deterministic sampler of EDM in several schedules.

The exact end is the solution of the probability flow for Gaussian data, and a run with 8 times finer steps for a
mixture. Levels are uniform in log sigma from 3 to 0.05.
"""

from itertools import pairwise

import pytest
import torch
from support import Replay, relative, slope

from prescore.gaussian import Gaussian
from prescore.operators import Pixel
from prescore.oracle import Diagonal, MixtureOracle
from prescore.samplers.edm import EDMFlow
from prescore.schedule import VP, Cosine, GeometricVE, SubVP

START, END = 3.0, 0.05
STEPS = [32, 64, 128]
SCHEDULES = {
    "edm": "edm",
    "ve": "ve",
    "vp": "vp",
    "vp of other betas": VP(beta_d=5.0, beta_min=1.0),
    "subvp": SubVP(),
    "cosine": Cosine(),
    "geometric": GeometricVE(),
}
METHODS = {
    "euler": ({"order": 1}, 1),
    "heun": ({"alpha": 1.0}, 2),
    "ralston": ({"alpha": 2 / 3}, 2),
    "midpoint": ({"alpha": 0.5}, 2),
}
GAUSSIAN = Gaussian(
    torch.tensor([0.5, -1.0, 0.0, 2.0], dtype=torch.float64),
    Pixel(torch.tensor([0.01, 0.1, 1.0, 4.0], dtype=torch.float64)),
)
MIXTURE = MixtureOracle(
    torch.tensor([0.5, 0.3, 0.2]),
    torch.tensor([[0.0, 1.0], [1.5, -1.0], [-1.5, -0.5]], dtype=torch.float64),
    Diagonal(torch.tensor([[0.3, 0.2], [0.2, 0.5], [0.4, 0.1]], dtype=torch.float64)),
)
BOTH = pytest.mark.parametrize(("schedule", "method"), [(s, m) for s in SCHEDULES for m in METHODS])


def levels(steps):
    return START * (END / START) ** torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def starts(oracle):
    return START * torch.randn(20, *oracle.event_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def end(oracle, grid, **options):
    sampler, x = EDMFlow(grid=grid, **options), starts(oracle)
    for sigma, sigma_next in pairwise(grid):
        x, _ = sampler.step(oracle, x, sigma, sigma_next, None, Replay([]))
    return x


@BOTH
def test_order_on_a_gaussian(schedule, method):
    """In sigma and in sigma^2 the midpoint rule has no error of third order in h on any Gaussian.

    For x' = a x it is a''/24 + a a'/4 + a^3/6, which vanishes for a = t / (C + t^2) and for a = 1 / (2 (C + t)).
    """
    options, order = METHODS[method]
    if method == "midpoint" and schedule in ("edm", "ve"):
        order = 3
    exact = GAUSSIAN.ode_solution(starts(GAUSSIAN), torch.tensor(START), END)
    errors = [relative(end(GAUSSIAN, levels(n), schedule=SCHEDULES[schedule], **options), exact) for n in STEPS]
    assert slope([1 / n for n in STEPS], errors) == pytest.approx(order, abs=0.2)


@pytest.fixture(scope="module")
def mixture_end():
    return end(MIXTURE, levels(STEPS[-1] * 8))


@BOTH
def test_order_on_a_mixture(schedule, method, mixture_end):
    options, order = METHODS[method]
    errors = [relative(end(MIXTURE, levels(n), schedule=SCHEDULES[schedule], **options), mixture_end) for n in STEPS]
    assert slope([1 / n for n in STEPS], errors) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("schedule", ["edm", "ve", "vp of other betas"])
def test_the_last_step_to_zero_keeps_the_order(order, schedule):
    """Levels uniform in sigma: a single step by Euler's rule costs no order."""
    exact = GAUSSIAN.ode_solution(starts(GAUSSIAN), torch.tensor(START), 0.0)
    errors = []
    for n in (sizes := [128, 256, 512]):
        grid = START * torch.linspace(1, 0, n + 1, dtype=torch.float64)
        errors.append(relative(end(GAUSSIAN, grid, order=order, schedule=SCHEDULES[schedule]), exact))
    assert slope([1 / n for n in sizes], errors) == pytest.approx(order, abs=0.2)
