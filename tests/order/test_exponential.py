"""Orders of convergence, fitted, of the exponential family.

ODE: error at the end of the flows of `flow`, a Gaussian and a mixture, on two grids; no reference is the data's own.

Weak order, without Monte Carlo error. Gaussian: mean and variance at the end, pushed through the linear sampler.
Mixture: the expectations of four functions, carried backwards through the steps by Gauss-Hermite quadrature over the
draws and cubic splines in x, and compared with the integrals over the exact density. Multistep methods have no
function of x alone to carry; their expectations are compared with those of finer steps on the same paths.

Strong order: distance to a run of finer steps on the same path. The noise of a step is a stochastic integral that
depends on C and l, not an increment of one Brownian motion. That of a coarse step is composed from those of the fine
steps inside it, by what the linear part keeps of them (`draws_on_path`).
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from flow import END, START, fitted_order, fitted_weak_order
from scipy.interpolate import CubicSpline
from support import Replay, slope

from prescore.gaussian import Gaussian
from prescore.grid import geometric
from prescore.operators import Frequency, Pixel
from prescore.oracle import Diagonal, MixtureOracle
from prescore.samplers.exponential import Exponential

SHIFTED = torch.tensor([0.2, 0.0, 0.3, 0.1], dtype=torch.float64)
PIXEL = Gaussian(SHIFTED, Pixel(torch.tensor([0.05, 0.6, 0.5, 2.0], dtype=torch.float64)))
FREQUENCY = Gaussian(SHIFTED, Frequency(torch.tensor([3.0, 0.5, 0.1], dtype=torch.float64), axes=1, length=4))
REFERENCES = {
    "noise": {"prediction": "noise"},
    "data": {"prediction": "data"},
    "edm": {"prediction": "edm", "sigma_data": 0.7},
    "pixel": {"prediction": "gaussian", "reference": PIXEL},
    "frequency": {"prediction": "gaussian", "reference": FREQUENCY},
}
METHODS = {
    "1": ({"k": 1}, 1),
    "2S": ({"k": 2}, 2),
    "2S published": ({"k": 2, "weights": "published"}, 2),
    "2S, r1 = 0.3": ({"k": 2, "r1": 0.3}, 2),
    "2S published, r1 = 0.7": ({"k": 2, "r1": 0.7, "weights": "published"}, 2),
    "2M": ({"k": 2, "multistep": True}, 2),
    "2M published": ({"k": 2, "multistep": True, "weights": "published"}, 2),
    "3S": ({"k": 3}, 3),
    "3S, r = 0.25, 0.8": ({"k": 3, "r1": 0.25, "r2": 0.8}, 3),
    "3S, r = 0.2, 0.5": ({"k": 3, "r1": 0.2, "r2": 0.5}, 3),
    "3M": ({"k": 3, "multistep": True}, 3),
    "3M published": ({"k": 3, "multistep": True, "weights": "published"}, 2),
    "3M cold": ({"k": 3, "multistep": True, "warm_up": False}, 2),
    "1, corrected": ({"k": 1, "corrector": True}, 2),
    "2M, corrected": ({"k": 2, "multistep": True, "corrector": True}, 3),
    "2M published, corrected": ({"k": 2, "multistep": True, "weights": "published", "corrector": True}, 3),
    "3M, corrected": ({"k": 3, "multistep": True, "corrector": True}, 3),
    "3M published, corrected": ({"k": 3, "multistep": True, "weights": "published", "corrector": True}, 3),
}


# All methods with two references; the others differ by their weights alone, and Frequency by a change of basis too.
MAIN = ("1", "2S", "2M", "2M published", "3S", "3M", "2M, corrected")
ODE = [(name, method) for name in ("noise", "pixel") for method in METHODS]
ODE += [(name, method) for name in ("data", "edm") for method in MAIN] + [("frequency", "2M"), ("frequency", "3S")]


@pytest.mark.parametrize(("name", "method"), ODE)
def test_order_of_the_ode(name, method):
    arguments, order = METHODS[method]
    sampler = Exponential(l=0.0, **REFERENCES[name], **arguments)
    assert (sampler.order, sampler.stochastic, sampler.strong_order) == (order, False, None)
    # A corrector's own order is k + 1; of k = 3 that shows until the start, of order 3, takes over.
    first = 64 if sampler.corrector and sampler.k == 3 else 32 if sampler.multistep or sampler.corrector else 12
    steps = [first, 2 * first, 4 * first]
    for model, grid in (("gaussian", "log-uniform"), ("mixture", "karras")):
        assert fitted_order(sampler, grid, model, steps) == pytest.approx(order, abs=0.2)


WEAK_METHODS = ["1", "2S", "2S, r1 = 0.3", "2M", "2M published", "3S", "1, corrected"]


@pytest.mark.parametrize(("name", "l"), [("noise", 1.0), ("data", 1.0), ("edm", 0.5), ("pixel", 1.0)])
@pytest.mark.parametrize("method", WEAK_METHODS)
def test_weak_order_on_a_gaussian(method, name, l):  # noqa: E741
    sampler = Exponential(l=l, **REFERENCES[name], **METHODS[method][0])
    assert sampler.order == min(METHODS[method][1], 2)
    assert fitted_weak_order(sampler, "log-uniform", [32, 64, 128]) == pytest.approx(sampler.order, abs=0.2)


# One coordinate: 0.6 N(0.7, 0.15) + 0.4 N(-0.6, 0.15), whose denoiser is a line and a tanh.
MODES, SHARES, WIDTH = (0.7, -0.6), (0.6, 0.4), 0.15


def on_line(x, sigma):
    """E[x0 | x]; the mean of the modes b + d and b - d given x is b + d tanh(d (x - b) / v + log(w / (1 - w)) / 2)."""
    v, b, d = WIDTH + sigma**2, sum(MODES) / 2, (MODES[0] - MODES[1]) / 2
    mode = b + d * torch.tanh(d * (x - b) / v + math.log(SHARES[0] / SHARES[1]) / 2)
    return (WIDTH * x + sigma**2 * mode) / v


def line(sigma):
    """Points and weights that integrate smooth functions over p(x; sigma)."""
    x = torch.linspace(-3 - 6 * sigma, 3 + 6 * sigma, 251, dtype=torch.float64)
    v = WIDTH + sigma**2
    p = sum(w * torch.exp(-((x - m) ** 2) / (2 * v)) for w, m in zip(SHARES, MODES, strict=True))
    return x, p / math.sqrt(2 * math.pi * v) * (x[1] - x[0])


def functions(x):
    x = torch.as_tensor(x)
    return torch.stack([x, x**2, torch.exp(-((x - 0.5) ** 2)), torch.sin(2 * x)], -1)


def expectations_error(sampler, steps):
    """Error of E functions(x) at END, starting from the exact distribution at START, of a method without history."""
    draws = 1 + len(sampler.stages)
    nodes, weights = np.polynomial.hermite_e.hermegauss(8 - draws)
    z = np.stack(np.meshgrid(*[nodes] * draws), -1).reshape(-1, draws)
    w = np.stack(np.meshgrid(*[weights / weights.sum()] * draws), -1).reshape(-1, draws).prod(-1)
    values, grid = functions, geometric(steps + 1, END, START)
    for s, t in reversed(list(pairwise(grid))):
        x, _ = line(s.item())
        noise = Replay(torch.from_numpy(z).T.unsqueeze(-1).repeat(1, len(x), 1))
        end, _ = sampler.step(on_line, x.repeat_interleave(len(z)).unsqueeze(1), s, t, sampler.start(grid), noise)
        before = np.einsum("xzf,z->xf", values(end.numpy().reshape(len(x), len(z))), w)
        values = CubicSpline(x.numpy(), before)
    (x, density), (_, start) = line(END), line(START)
    return np.linalg.norm(start.numpy() @ before - (density @ functions(x)).numpy())


ON_LINE = {
    **REFERENCES,
    "pixel": {"prediction": "gaussian", "reference": Gaussian(torch.tensor([0.2]), Pixel(torch.tensor([0.4])))},
}
ON_LINE_CASES = [
    ("noise", "1", 1.0),
    ("noise", "2S", 1.0),
    ("noise", "2S", 0.5),
    ("data", "2S", 1.0),
    ("data", "3S", 1.0),
]
ON_LINE_CASES += [("pixel", "1", 1.0), ("edm", "2S", 1.0)]


@pytest.mark.parametrize(("name", "method", "l"), ON_LINE_CASES)
def test_weak_order_on_a_mixture(name, method, l):  # noqa: E741
    sampler = Exponential(l=l, **ON_LINE[name], **METHODS[method][0])
    steps = [16, 32, 64] if sampler.k == 3 else [32, 64, 128]
    fitted = slope([1 / n for n in steps], [expectations_error(sampler, n) for n in steps])
    assert fitted == pytest.approx(sampler.order, abs=0.2)


def draws_on_path(sampler, fine, levels, shape):
    """The draws of a run on `levels`, composed from those of the fine steps, which depend on nothing else."""
    flow, l, generator = sampler._flow, sampler.l, torch.Generator().manual_seed(1)  # noqa: E741
    inner = [s * (t / s) ** r for s, t in pairwise(levels.tolist()) for r in (*sampler.stages, 1)]
    steps = pairwise(fine.tolist())
    for s, t in pairwise([START, *inner]):
        N, level = torch.zeros(()), s
        while level > t * (1 + 1e-9):
            level, below = next(steps)
            z = torch.randn(shape, generator=generator, dtype=torch.float64)
            N, level = flow.keep(level, below, l) * N + flow.std(level, below, l) * z, below
        yield N / flow.std(s, t, l)


def end_on_path(sampler, steps, fine, x, denoise):
    grid = fine[:: (len(fine) - 1) // steps]
    noise, state = Replay(draws_on_path(sampler, fine, grid, x.shape)), sampler.start(grid)
    for sigma, sigma_next in pairwise(grid):
        x, state = sampler.step(denoise, x, sigma, sigma_next, state, noise)
    return x


def start(oracle, paths):
    generator = torch.Generator().manual_seed(0)
    x = oracle.sample(paths, generator)
    return x + START * torch.randn(x.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("name", "weights", "l"), [("data", "published", 1.0), ("pixel", "exact", 0.5)])
def test_weak_order_of_multistep_on_a_mixture(name, weights, l):  # noqa: E741
    sampler = Exponential(k=2, multistep=True, weights=weights, l=l, **ON_LINE[name])
    oracle = MixtureOracle(
        torch.tensor(SHARES), torch.tensor(MODES, dtype=torch.float64).unsqueeze(1), Diagonal(torch.full((2, 1), WIDTH))
    )
    x, fine, steps = start(oracle, 30_000), geometric(129, END, START), [8, 16, 32]
    torch.testing.assert_close(on_line(x[:9], 0.8), oracle(x[:9], torch.tensor(0.8)), rtol=1e-6, atol=1e-6)
    exact = functions(end_on_path(sampler, 128, fine, x, on_line)).mean((0, 1))
    errors = [(functions(end_on_path(sampler, n, fine, x, on_line)).mean((0, 1)) - exact).norm().item() for n in steps]
    assert slope([1 / n for n in steps], errors) == pytest.approx(2, abs=0.2)


# Components so near that no path jumps from one to another, which would dominate a root mean square.
NEAR = MixtureOracle(
    torch.tensor([0.5, 0.3, 0.2]),
    torch.tensor([[0.0, 0.6, 0.3, 0.0], [0.7, -0.5, 0.0, 0.2], [-0.8, -0.2, 0.1, -0.3]], dtype=torch.float64),
    Diagonal(torch.tensor([[0.3, 0.2, 0.5, 0.4], [0.2, 0.5, 0.3, 0.6], [0.4, 0.2, 0.4, 0.5]], dtype=torch.float64)),
)
STRONG = ({"k": 1}, {"k": 2}, {"k": 2, "multistep": True}, {"k": 3}, {"k": 3, "r1": 1 / 4, "r2": 3 / 4})


@pytest.mark.parametrize(("name", "l"), [("noise", 1.0), ("noise", 0.5), ("data", 1.0), ("edm", 0.5), ("pixel", 1.0)])
def test_strong_order(name, l):  # noqa: E741
    """Theorem 4.1 of SEEDS for its SEEDS-1; the others, of weak order 2, have no higher strong order than it."""
    x, fine, steps = start(NEAR, 200), geometric(385, END, START), [8, 16, 32]
    exact = end_on_path(Exponential(l=l, **REFERENCES[name]), 384, fine, x, NEAR)
    for method in STRONG:
        sampler = Exponential(l=l, **REFERENCES[name], **method)
        errors = [(end_on_path(sampler, n, fine, x, NEAR) - exact).square().mean().sqrt().item() for n in steps]
        assert slope([1 / n for n in steps], errors) == pytest.approx(sampler.strong_order, abs=0.2), method
