"""Orders of the two methods of GGF, fitted with fixed steps.

Weak order: mean and variance of a Gaussian pushed through the pair without Monte Carlo error. Strong order: distance
to a run with 8 times finer steps on the same Brownian path, in the clock of each schedule, on a mixture
too. Levels run from 3 to 0.05.
"""

import pytest
import torch
from support import slope

from prescore.oracle import Diagonal, MixtureOracle
from prescore.samplers.adaptive import improved_euler
from prescore.schedule import VP, GeometricVE

START, END = 3.0, 0.05
VARIANCES = torch.tensor([0.01, 0.1, 1.0, 4.0], dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0, 0.0, 2.0], dtype=torch.float64)
# Overlapping components: where paths must choose between distant ones, the few that choose otherwise after a change of
# the step are all that a mean square sees.
MIXTURE = MixtureOracle(
    torch.tensor([0.3, 0.7]),
    torch.stack([0.5 * MEAN, -0.5 * MEAN]),
    Diagonal(torch.stack([0.5 + VARIANCES, 0.2 + VARIANCES])),
)
ORDERS = {"euler": (0, 1, 1), "improved": (1, 2, 1)}
SCHEDULES = {"ve": GeometricVE(), "vp": VP()}


def gaussian(x, sigma):
    return MEAN + VARIANCES / (VARIANCES + sigma.reshape(-1, 1) ** 2) * (x - MEAN)


def walk(which, schedule, denoise, x, increments, steps):
    """x~ from START to END in `steps` equal steps of the schedule's time, given (steps, B, 4) increments."""
    t0, t1 = schedule.t(START), schedule.t(END)
    h = ((t0 - t1) / steps).repeat(len(x))
    x = schedule.s(t0) * x
    for i in range(steps):
        x = improved_euler(schedule, denoise, x, t0 - i * h, h, increments[i])[which]
    return x / schedule.s(t1)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("method", ORDERS)
def test_weak_order(method, schedule):
    """Each step is affine in x and w, so that rows 0, x = 1 and w = 1 give its moments."""
    which, order, _ = ORDERS[method]
    clock = SCHEDULES[schedule]
    t0, t1 = clock.t(START), clock.t(END)

    def error(steps):
        h = ((t0 - t1) / steps).repeat(3)
        m, v = clock.s(t0) * MEAN, clock.s(t0) ** 2 * (VARIANCES + START**2)
        x = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)[:, None].expand(3, 4)
        w = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)[:, None].expand(3, 4)
        for i in range(steps):
            origin, a, b = improved_euler(clock, gaussian, x, t0 - i * h, h, w)[which]
            m, v = origin + (a - origin) * m, (a - origin) ** 2 * v + (b - origin) ** 2 * h[0]
        m, v = m / clock.s(t1), v / clock.s(t1) ** 2
        return (v / (VARIANCES + END**2) - 1).norm().item() + (m - MEAN).norm().item()

    steps = [200, 400, 800]
    assert slope([1 / n for n in steps], [error(n) for n in steps]) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("oracle", [gaussian, MIXTURE])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("method", ORDERS)
def test_strong_order(method, schedule, oracle):
    which, _, order = ORDERS[method]
    clock, steps = SCHEDULES[schedule], [64, 128, 256]
    finest, generator = steps[-1] * 8, torch.Generator().manual_seed(0)
    normals = torch.randn(finest, 50, 4, generator=generator, dtype=torch.float64)
    increments = normals * ((clock.t(START) - clock.t(END)) / finest).sqrt()
    x = START * torch.randn(50, 4, generator=generator, dtype=torch.float64)

    def run(n):
        return walk(which, clock, oracle, x, increments.unflatten(0, (n, finest // n)).sum(1), n)

    exact = run(finest)
    errors = [(run(n) - exact).square().mean().sqrt().item() for n in steps]
    assert slope([1 / n for n in steps], errors) == pytest.approx(order, abs=0.2)
