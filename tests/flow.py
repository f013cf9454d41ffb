"""The probability flow and the moments of two known models, between two levels, and grids from one to the other."""

from functools import cache
from itertools import pairwise

import torch
from scipy.integrate import solve_ivp
from support import Replay, relative, slope

from prescore.gaussian import Gaussian
from prescore.grid import geometric, karras
from prescore.operators import Pixel
from prescore.oracle import Diagonal, MixtureOracle
from prescore.schedule import VP

START, END = 2.0, 0.4
STEPS = [64, 128, 256]
VARIANCES = torch.tensor([0.1, 0.3, 1.0, 4.0], dtype=torch.float64)
GAUSSIAN = Gaussian(torch.tensor([0.5, -1.0, 0.0, 2.0], dtype=torch.float64), Pixel(VARIANCES))
MIXTURE = MixtureOracle(
    torch.tensor([0.3, 0.7]),
    torch.tensor([[1.0, 0.0, 0.5, -1.0], [-1.0, 0.5, 0.0, 1.0]], dtype=torch.float64),
    Diagonal(torch.tensor([[0.2, 0.3, 0.5, 1.0], [0.4, 0.1, 0.3, 0.2]])),
)
MODELS = {"gaussian": GAUSSIAN, "mixture": MIXTURE}
SCHEDULE = VP()
X = START * torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def uniform_t(steps):
    t, t_end = SCHEDULE.t(START).item(), SCHEDULE.t(END).item()
    return SCHEDULE.sigma(torch.linspace(t, t_end, steps + 1, dtype=torch.float64))


GRIDS = {
    "log-uniform": lambda steps: geometric(steps + 1, END, START),
    "karras": lambda steps: karras(steps + 1, END, START),
    "uniform t": uniform_t,
    "uniform sigma": lambda steps: torch.linspace(START, END, steps + 1, dtype=torch.float64),
}


def end(sampler, levels, x=X, denoise=MIXTURE):
    """Where a deterministic sampler takes x."""
    sampler.check(tuple(x.shape[1:]), levels)
    state = sampler.start(levels)
    for sigma, sigma_next in pairwise(levels):
        x, state = sampler.step(denoise, x, sigma, sigma_next, state, Replay([]))
    return x


@cache
def exact_end(model):
    """Where the probability flow takes X from START to END."""
    if model == "gaussian":
        return GAUSSIAN.ode_solution(X, torch.tensor(START, dtype=torch.float64), END)

    def slope_of(sigma, flat):
        x = torch.from_numpy(flat).reshape(X.shape)
        return ((x - MIXTURE(x, torch.tensor(sigma, dtype=torch.float64))) / sigma).flatten().numpy()

    solution = solve_ivp(slope_of, (START, END), X.flatten().numpy(), "DOP853", rtol=1e-13, atol=1e-13)
    return torch.from_numpy(solution.y[:, -1]).reshape(X.shape)


def fitted_order(sampler, grid, model, steps=STEPS):
    """Fitted slope of the error at END."""
    errors = [relative(end(sampler, GRIDS[grid](n), denoise=MODELS[model]), exact_end(model)) for n in steps]
    return slope([1 / n for n in steps], errors)


def moments_error(sampler, levels):
    """Relative error of mean and variance of GAUSSIAN at END, from the exact ones at START, without Monte Carlo error.

    The end is linear in the start and in each draw, coordinate by coordinate: rows 0, 1 and 2 + i of the batch start
    at 0, at 1 and at 0, and row 2 + i has a draw of 1 in place i. A step draws 3 times at most.
    """
    rows = torch.eye(2 + 3 * (len(levels) - 1), dtype=torch.float64).unsqueeze(-1).expand(-1, -1, 4)
    x, noise, state = rows[1], Replay(rows[2:]), sampler.start(levels)
    for sigma, sigma_next in pairwise(levels):
        x, state = sampler.step(GAUSSIAN, x, sigma, sigma_next, state, noise)
    gain = x[1] - x[0]
    mean = x[0] + gain * GAUSSIAN.mean
    variance = gain**2 * (VARIANCES + START**2) + (x[2:] - x[0]).square().sum(0)
    return torch.cat([mean - GAUSSIAN.mean, variance / (VARIANCES + END**2) - 1]).norm().item()


def fitted_weak_order(sampler, grid, steps):
    """Fitted slope of the error of the moments at END."""
    return slope([1 / n for n in steps], [moments_error(sampler, GRIDS[grid](n)) for n in steps])
