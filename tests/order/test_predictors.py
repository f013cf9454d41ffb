"""Orders of convergence, fitted, of every predictor: one table.

Data are Gaussian with four coordinates of variances 0.01 to 4; the exact solution of the probability-flow ODE and
the exact marginals are known. Weak order: error of the variance at the end of the run, pushed through the sampler
without Monte Carlo error. Strong order: root mean square distance to a run with 16 times finer steps on the same
Brownian path. Levels are uniform in log sigma from 3 to 0.05.
"""

from itertools import pairwise

import pytest
import torch
from support import BrownianNoise, Replay, slope

from prescore.operators import Pixel
from prescore.precondition import Preconditioner
from prescore.samplers import PredictorCorrector, sample

VARIANCES = torch.tensor([0.01, 0.1, 1.0, 4.0], dtype=torch.float64)
START, END = 3.0, 0.05
GAIN = Preconditioner(Pixel(torch.tensor([1.0, 1.3, 0.8, 1.1], dtype=torch.float64)))
MEAN = torch.tensor([0.5, -1.0, 0.0, 2.0], dtype=torch.float64)

# name: (predictor, form, preconditioner) -> expected order: weak, strong
EXPECTED = {
    "reverse-diffusion": (("reverse-diffusion", "paper", None), 1, 1),
    "ancestral": (("ancestral", "paper", None), 1, 1),
    "euler-maruyama": (("euler-maruyama", "paper", None), 1, 1),
    "probability-flow": (("probability-flow", "paper", None), 1, 1),
    "reverse-diffusion, M, marginal": (("reverse-diffusion", "marginal", GAIN), 1, 1),
    "ancestral, M, marginal": (("ancestral", "marginal", GAIN), 1, 1),
    "euler-maruyama, M, marginal": (("euler-maruyama", "marginal", GAIN), 1, 1),
}


def denoise(x, sigma):
    return MEAN + VARIANCES / (VARIANCES + sigma**2) * (x - MEAN)


denoise.dtype = torch.float64


def levels(steps):
    return START * (END / START) ** torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def make(name, steps):
    (predictor, form, M), _, _ = EXPECTED[name]
    return PredictorCorrector(predictor=predictor, corrector="none", form=form, preconditioner=M, grid=levels(steps))


def variance_error(name, steps):
    """Relative error of the variance at END, starting from the exact one at START."""
    sampler, v = make(name, steps), VARIANCES + START**2
    zero, one = torch.zeros(1, 4, dtype=torch.float64), torch.ones(1, 4, dtype=torch.float64)
    for s, t in pairwise(sampler.grid):
        origin = sampler.predict(denoise, zero, s, t, Replay([zero]))
        f = sampler.predict(denoise, one, s, t, Replay([zero])) - origin
        b = sampler.predict(denoise, zero, s, t, Replay([one])) - origin
        v = f[0] ** 2 * v + b[0] ** 2
    return (v / (VARIANCES + END**2) - 1).norm().item()


STEPS = [64, 128, 256, 512]


@pytest.mark.parametrize("name", EXPECTED)
def test_weak_order(name):
    fitted = slope([1 / n for n in STEPS], [variance_error(name, n) for n in STEPS])
    assert fitted == pytest.approx(EXPECTED[name][1], abs=0.2)


@pytest.mark.parametrize("name", EXPECTED)
def test_strong_order(name):
    finest = STEPS[-1] * 16
    generator = torch.Generator().manual_seed(0)
    normals = torch.randn(finest, 100, 4, generator=generator, dtype=torch.float64)
    start = torch.randn(100, 4, generator=generator, dtype=torch.float64)

    def end(steps):
        sampler = make(name, steps)
        noise = BrownianNoise(levels(finest), normals, sampler.grid, start)
        x = MEAN + (VARIANCES + START**2).sqrt() * noise()
        for s, t in pairwise(sampler.grid):
            x = sampler.predict(denoise, x, s, t, noise)
        return x

    exact = end(finest)
    errors = [(end(n) - exact).square().mean().sqrt().item() for n in STEPS]
    assert slope([1 / n for n in STEPS], errors) == pytest.approx(EXPECTED[name][2], abs=0.2)


def test_probability_flow_reaches_the_exact_solution():
    """The limit itself, not only the rate: mu + sqrt((C + t^2) / (C + s^2)) (x - mu)."""
    n = 4096
    sampler = PredictorCorrector(predictor="probability-flow", corrector="none", grid=levels(n))
    out = sample(denoise, sampler, seeds=range(3), event_shape=(4,), progress=False)
    start = sample(
        lambda x, sigma: x,
        PredictorCorrector(corrector="none", grid=torch.tensor([START, START * (1 - 1e-15)], dtype=torch.float64)),
        seeds=range(3),
        event_shape=(4,),
        progress=False,
    )
    exact = MEAN + ((VARIANCES + END**2) / (VARIANCES + START**2)).sqrt() * (start - MEAN)
    assert ((out - exact).norm() / exact.norm()).item() < 2e-3
