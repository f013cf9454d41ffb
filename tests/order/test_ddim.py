"""Orders of convergence, fitted, of DDPM, DDIM and Analytic-DPM on a Gaussian and on a mixture.

Weak errors have no Monte Carlo error. On the Gaussian, four coordinates of variances 0.01 to 4, the variance is
carried through the linear steps. On the mixture, one coordinate, E f(x) for a smooth f is carried backwards through
the steps by Gauss-Hermite quadrature and cubic splines, and compared with the integral over the exact density.
Strong errors are root mean square distances to the limit, a run with many times finer steps on the same Brownian path
without the correction of the variance, which vanishes in the limit. Levels are uniform in log sigma.
"""

import functools
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline
from support import BrownianNoise, Replay, slope

from prescore import calibrate
from prescore.gaussian import Gaussian
from prescore.operators import Pixel
from prescore.oracle import Diagonal, MixtureOracle
from prescore.samplers.analytic import AnalyticDDIM
from prescore.samplers.ddim import DDIM, DDPM
from prescore.statistics import ModelStatistics
from prescore.statistics.score import ScoreStatistics

START, END = 3.0, 0.05
MEAN = torch.tensor([0.5, -1.0, 0.0, 2.0], dtype=torch.float64)
VARIANCES = torch.tensor([0.01, 0.1, 1.0, 4.0], dtype=torch.float64)
GAUSSIAN = Gaussian(MEAN, Pixel(VARIANCES))
# Its two modes overlap: of separate ones the few paths that end in another mode than their limit rule strong errors.
MIXTURE = MixtureOracle(
    torch.tensor([0.4, 0.6]),
    torch.tensor([[-0.6], [0.6]], dtype=torch.float64),
    Diagonal(torch.tensor([[0.3], [0.15]])),
)
MEASURED = START * (END / START) ** torch.linspace(0, 1, 40, dtype=torch.float64)


def levels(steps, end=END):
    return START * (end / START) ** torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def statistics(gamma, shape):
    both = torch.stack([torch.full(shape, end, dtype=torch.float64) for end in (-100.0, 100.0)])
    score = ScoreStatistics(levels=MEASURED, score_square=gamma, residual_square=1 - gamma, count=1)
    return replace(calibrate(both, data_range=(-100.0, 100.0)), model=ModelStatistics(score=score))


def line(sigma):
    """Points and weights that integrate smooth functions over p(x; sigma) of the mixture."""
    x = torch.linspace(-4 - 10 * sigma, 4 + 10 * sigma, 1201, dtype=torch.float64)
    p = MIXTURE.log_prob(x.unsqueeze(1), torch.tensor(sigma, dtype=torch.float64)).exp()
    return x, p * (x[1] - x[0])


def mixture_gamma():
    """sigma^2 E score^2 of the mixture by quadrature."""
    values = []
    for sigma in MEASURED:
        x, weights = line(sigma.item())
        values.append((sigma**2 * MIXTURE.score(x.unsqueeze(1), sigma).squeeze(1).square() * weights).sum())
    return torch.stack(values)


u = MEASURED.unsqueeze(1) ** 2
OF_GAUSSIAN, OF_MIXTURE = statistics((u / (VARIANCES + u)).mean(1), (4,)), statistics(mixture_gamma(), (1,))

# name: class, its arguments, strong order
SAMPLERS = {
    "ddim, eta 0": (DDIM, {}, None),
    "ddim, eta 0.5": (DDIM, {"eta": 0.5}, 1),
    "ddpm": (DDPM, {}, 1),
    "ddpm, large": (DDPM, {"variance": "large"}, 1),
    "analytic-ddim": (AnalyticDDIM, {"last_noise": None}, 0.5),
    "analytic-ddim, eta 0.5": (AnalyticDDIM, {"last_noise": None, "eta": 0.5}, 1),
    "analytic-ddpm": (AnalyticDDIM, {"last_noise": None, "eta": 1.0}, 1),
}
STOCHASTIC = [name for name, (_, _, strong) in SAMPLERS.items() if strong is not None]


def make(name, grid, measured):
    cls, arguments, _ = SAMPLERS[name]
    given = {"statistics": measured} if cls is AnalyticDDIM else {}
    return cls(**arguments, **given, grid=grid)


def end_of(sampler, denoise, x, noise):
    state = sampler.start(sampler.grid)
    for s, t in pairwise(sampler.grid):
        x, state = sampler.step(denoise, x, s, t, state, noise)
    return x


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_is_declared_is_what_is_tested(name):
    sampler = make(name, levels(2), None)
    assert (sampler.order, sampler.strong_order) == (1, SAMPLERS[name][2])


def gaussian_error(sampler):
    """Relative error of the variance at END, starting from the exact one at START."""
    v, state = VARIANCES + START**2, sampler.start(sampler.grid)
    zero, one = torch.zeros(1, 4, dtype=torch.float64), torch.ones(1, 4, dtype=torch.float64)
    for s, t in pairwise(sampler.grid):
        origin, _ = sampler.step(GAUSSIAN, zero, s, t, state, Replay([zero]))
        f = sampler.step(GAUSSIAN, one, s, t, state, Replay([zero]))[0] - origin
        noisy, state = sampler.step(GAUSSIAN, zero, s, t, state, Replay([one]))
        v = f[0] ** 2 * v + (noisy - origin)[0] ** 2
    return (v / (VARIANCES + END**2) - 1).norm().item()


@pytest.mark.parametrize("name", SAMPLERS)
def test_weak_order_on_a_gaussian(name):
    steps = [32, 64, 128, 256]
    fitted = slope([1 / n for n in steps], [gaussian_error(make(name, levels(n), OF_GAUSSIAN)) for n in steps])
    assert fitted == pytest.approx(1, abs=0.2)


def f(x):
    return np.exp(-((x - 0.5) ** 2))


def mixture_error(sampler):
    """|E f(x) at END - the exact one|, starting from the exact distribution at START."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    weights = weights / math.sqrt(2 * math.pi)
    values, states = f, [sampler.start(sampler.grid)]
    for _ in sampler.grid[2:]:
        states.append(states[-1][1:])
    for (s, t), state in reversed(list(zip(pairwise(sampler.grid), states, strict=True))):
        x, density = line(s.item())
        zero = torch.zeros(len(x), 1, dtype=torch.float64)
        mean, _ = sampler.step(MIXTURE, x.unsqueeze(1), s, t, state, Replay([zero]))
        noisy, _ = sampler.step(MIXTURE, x.unsqueeze(1), s, t, state, Replay([zero + 1]))
        std = (noisy - mean)[0].item()
        before = values((mean + std * torch.from_numpy(nodes)).numpy()) @ weights
        values = CubicSpline(x.numpy(), before)
    x, density = line(END)
    exact = (torch.from_numpy(f(x.numpy())) * density).sum()
    x, density = line(START)
    return abs((torch.from_numpy(before) * density).sum() - exact).item()


@pytest.mark.parametrize("name", SAMPLERS)
def test_weak_order_on_a_mixture(name):
    steps = [32, 64, 128]
    fitted = slope([1 / n for n in steps], [mixture_error(make(name, levels(n), OF_MIXTURE)) for n in steps])
    assert fitted == pytest.approx(1, abs=0.2)


STEPS, FINEST, PATHS = [32, 64, 128, 256], 4096, 200
FINE = levels(FINEST)
ORACLES = {"gaussian": (GAUSSIAN, OF_GAUSSIAN), "mixture": (MIXTURE, OF_MIXTURE)}


@functools.cache
def path(oracle):
    """Draws of a Brownian path, a step of FINE each, and states at START."""
    generator = torch.Generator().manual_seed(0)
    shape = (PATHS, *ORACLES[oracle][0].event_shape)
    normals = torch.randn(FINEST, *shape, generator=generator, dtype=torch.float64)
    start = START * torch.randn(shape, generator=generator, dtype=torch.float64)
    return normals, ORACLES[oracle][0].sample(PATHS, generator) + start


def end_on_path(sampler, oracle):
    normals, start = path(oracle)
    noise = BrownianNoise(FINE, normals, sampler.grid, start)
    return end_of(sampler, ORACLES[oracle][0], noise(), noise)


@functools.cache
def limit(eta, oracle):
    return end_on_path(DDIM(eta=eta, grid=FINE), oracle)


@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("name", STOCHASTIC)
def test_strong_order(name, oracle):
    samplers = [make(name, FINE[:: FINEST // n], ORACLES[oracle][1]) for n in STEPS]
    exact = limit(samplers[0].eta, oracle)
    errors = [(end_on_path(sampler, oracle) - exact).square().mean().sqrt().item() for sampler in samplers]
    assert slope([1 / n for n in STEPS], errors) == pytest.approx(SAMPLERS[name][2], abs=0.2)


@pytest.mark.parametrize("schedule", ["geometric", "edm"])
@pytest.mark.parametrize("oracle", ORACLES)
def test_eta_0_has_order_1(oracle, schedule):
    def grid(steps):
        ramp = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        return levels(steps) if schedule == "geometric" else (START**0.5 + ramp * (END**0.5 - START**0.5)) ** 2

    x, denoise = path(oracle)[1], ORACLES[oracle][0]
    if oracle == "gaussian":
        exact = GAUSSIAN.ode_solution(x, torch.tensor(START), END)
    else:
        exact = limit(0.0, oracle)
    errors = [(end_of(DDIM(grid=grid(n)), denoise, x, Replay([])) - exact).norm().item() for n in STEPS]
    assert slope([1 / n for n in STEPS], errors) == pytest.approx(1, abs=0.2)
    assert errors[-1] < 0.02 * exact.norm().item()
