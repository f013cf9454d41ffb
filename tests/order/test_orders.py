"""Orders of convergence, fitted, of every solver by its name: one table, against the order that it declares.

Deterministic solvers: error at the end of the probability flow of a Gaussian and of a mixture, on two grids.
Stochastic ones: error of mean and variance at the end for Gaussian data, on the same grids, without Monte Carlo error.
The reference of the preconditioned solvers is not the data's own Gaussian, for which they are exact. Options, other
grids, strong orders and weak orders on mixtures are in the files of the families beside this one.
"""

from dataclasses import replace
from math import inf

import pytest
import torch
from flow import END, MODELS, START, VARIANCES, fitted_order, fitted_weak_order

from prescore import calibrate
from prescore.gaussian import Gaussian
from prescore.grid import geometric
from prescore.operators import Pixel
from prescore.samplers import SAMPLERS, make_sampler
from prescore.statistics import ModelStatistics
from prescore.statistics.score import ScoreStatistics

# Name: order of the state if deterministic, else of the moments (weak); strong order.
ORDERS = {
    "reverse-diffusion": (1, 1),
    "ancestral": (1, 1),
    "euler-maruyama": (1, 1),
    "probability-flow": (1, None),
    "reverse-sde": (1, 1),
    "edm-euler": (1, None),
    "edm-heun": (2, None),
    "edm-stochastic": (2, 1),
    "ddpm": (1, 1),
    "ddim": (1, 1),
    "analytic-ddpm": (1, 1),
    "analytic-ddim": (1, 0.5),
    "pndm": (2, None),
    "s-pndm": (2, None),
    "plms": (2, None),
    "ipndm": (2, None),
    "deis-tab": (2, None),
    "deis-rhoab": (2, None),
    "deis-rho3kutta": (3, None),
    "unipc": (2, None),
    "dpm-solver-1": (1, None),
    "dpm-solver-2": (2, None),
    "dpm-solver-3": (3, None),
    "dpmpp-2s": (2, None),
    "dpmpp-2m": (2, None),
    "dpmpp-3m": (3, None),
    "dpmpp-sde-2m": (2, 1),
    "sa-solver": (2, 1),
    "seeds-1": (1, 1),
    "seeds-2": (2, 1),
    "seeds-3": (2, 1),
    "p-ode-1": (1, None),
    "p-ode-2m": (2, None),
    "p-ode-3m": (3, None),
    "p-fit": (2, None),
    "p-seeds-1": (1, 1),
    "p-seeds-2": (2, 1),
    "p-seeds-3": (2, 1),
    "p-sde-2m": (2, 1),
}
# Their steps choose their own size, or end in Langevin dynamics, which has no step size to shrink.
WITHOUT = {"pc", "pds", "ald", "ggf", "ode-rk45"}
# Steps at which the order shows: three points of one path reach their order 2 from above.
STEPS = {"sa-solver": [128, 256, 512]}
# DDIM with noise, its ODE is edm-euler; churn that no step cuts off.
OPTIONS = {"ddim": {"eta": 0.5}, "edm-stochastic": {"S_churn": 4.0, "S_tmax": inf}}
REFERENCE = Gaussian(torch.tensor([0.2, 0.0, 0.3, 0.1]), Pixel(torch.tensor([0.05, 0.6, 0.5, 2.0])))


def statistics():
    """Of GAUSSIAN, with sigma^2 E score^2 / d on a fine grid."""
    levels = geometric(40, END * 0.9, START * 1.1)
    gamma = (levels.unsqueeze(1) ** 2 / (VARIANCES + levels.unsqueeze(1) ** 2)).mean(1)
    score = ScoreStatistics(levels=levels, score_square=gamma, residual_square=1 - gamma, count=1)
    both = torch.stack([torch.full((4,), bound, dtype=torch.float64) for bound in (-100.0, 100.0)])
    return replace(calibrate(both, data_range=(-100.0, 100.0)), model=ModelStatistics(score=score))


def make(name):
    options = dict(OPTIONS.get(name, {}))
    if "reference" in SAMPLERS[name].needs:
        options["reference"] = REFERENCE
    if "statistics" in SAMPLERS[name].needs:
        options |= {
            "statistics": statistics(),
            **({"last_noise": None} if "last_noise" in SAMPLERS[name].options else {}),
        }
    return make_sampler(name, **options)


def test_every_name_is_in_the_table():
    assert ORDERS.keys() | WITHOUT == SAMPLERS.keys()


@pytest.mark.parametrize("grid", ["log-uniform", "karras"])
@pytest.mark.parametrize("name", ORDERS)
def test_order(name, grid):
    sampler = make(name)
    order, strong_order = ORDERS[name]
    assert (sampler.order, sampler.strong_order) == (order, strong_order)
    if sampler.stochastic:
        assert fitted_weak_order(sampler, grid, STEPS.get(name, [32, 64, 128])) == pytest.approx(order, abs=0.2)
    else:
        for model in MODELS:
            assert fitted_order(sampler, grid, model) == pytest.approx(order, abs=0.2)
