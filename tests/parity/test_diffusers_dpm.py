"""The exponential family against diffusers and azula: the same model, levels and noise."""

from itertools import pairwise

import pytest
import torch
from flow import MIXTURE, START, X
from peers import run
from support import Replay, relative, slope

from prescore.grid import append_zero, geometric, karras
from prescore.samplers.exponential import Exponential

pytest.importorskip("diffusers")
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}Warning:diffusers") for kind in ("Future", "Deprecation")]

# Ratios all different: a wrong history or stage shows.
LEVELS = torch.tensor([START, 1.5, 0.9, 0.62, 0.3, 0.12, 0.05], dtype=torch.float64)
GRIDS = {"uneven": LEVELS, "uneven to zero": append_zero(LEVELS), "karras to zero": append_zero(karras(9, 0.02, START))}
Z = torch.randn(20, *X.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SOLVERS = {"published": "midpoint", "exact": "heun"}  # the words of diffusers
TOLERANCE = 1e-10


def end(levels, **arguments):
    sampler, x, noise = Exponential(**arguments), X, Replay(Z)
    state = sampler.start(levels)
    for sigma, sigma_next in pairwise(levels):
        x, state = sampler.step(MIXTURE, x, sigma, sigma_next, state, noise)
    return x


def theirs(name, levels, **config):
    return run(name, MIXTURE, levels, X, iter(Z).__next__, **config)


@pytest.mark.parametrize("levels", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("weights", SOLVERS)
@pytest.mark.parametrize("l", [0.0, 1.0])
def test_2m(l, weights, levels):  # noqa: E741
    config = {"algorithm_type": "dpmsolver++" if l == 0 else "sde-dpmsolver++", "solver_type": SOLVERS[weights]}
    peer = theirs("DPMSolverMultistep", levels, solver_order=2, lower_order_final=False, **config)
    ours = end(levels, prediction="data", k=2, multistep=True, l=l, weights=weights)
    assert relative(ours, peer) < TOLERANCE


@pytest.mark.parametrize("l", [0.0, 1.0])
def test_first_order(l):  # noqa: E741
    config = {"algorithm_type": "dpmsolver++" if l == 0 else "sde-dpmsolver++", "solver_order": 1}
    levels = GRIDS["uneven to zero"]
    assert relative(end(levels, prediction="data", l=l), theirs("DPMSolverMultistep", levels, **config)) < TOLERANCE


@pytest.mark.parametrize("levels", GRIDS.values(), ids=GRIDS)
def test_3m(levels):
    """As published, which the exact weights differ from: half of the second difference, and a start of order 1."""
    peer = theirs("DPMSolverMultistep", levels, solver_order=3, lower_order_final=False)
    arguments = {"prediction": "data", "k": 3, "multistep": True, "l": 0.0, "warm_up": False}
    assert relative(end(levels, **arguments, weights="published"), peer) < TOLERANCE
    assert relative(end(levels, **arguments), peer) > 1e-3


@pytest.mark.parametrize("weights", SOLVERS)
@pytest.mark.parametrize("l", [0.0, 1.0])
def test_2m_of_noise_prediction(l, weights):  # noqa: E741
    config = {"algorithm_type": "dpmsolver" if l == 0 else "sde-dpmsolver", "solver_type": SOLVERS[weights]}
    peer = theirs("DPMSolverMultistep", LEVELS, solver_order=2, lower_order_final=False, **config)
    assert relative(end(LEVELS, k=2, multistep=True, l=l, weights=weights), peer) < TOLERANCE


def stages(levels, fractions):
    """Each level followed by the stages between it and the next: the levels of a single-step scheduler."""
    nodes = [s * (t / s) ** r for s, t in pairwise(levels) for r in (0, *fractions)]
    return torch.stack([*nodes, levels[-1]])


@pytest.mark.parametrize("prediction", ["data", "noise"])
@pytest.mark.parametrize("r1", [0.5, 0.3])
@pytest.mark.parametrize("weights", SOLVERS)
def test_2s(weights, r1, prediction):
    algorithm = {"data": "dpmsolver++", "noise": "dpmsolver"}[prediction]
    config = {"algorithm_type": algorithm, "solver_type": SOLVERS[weights], "lower_order_final": False}
    peer = theirs("DPMSolverSinglestep", stages(LEVELS, [r1]), solver_order=2, **config)
    ours = end(LEVELS, prediction=prediction, k=2, l=0.0, r1=r1, weights=weights)
    assert relative(ours, peer) < TOLERANCE


@pytest.mark.parametrize("prediction", ["data", "noise"])
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
def test_3s_has_the_same_limit_and_order(solver_type, prediction):
    """Its weights are not those of DPM-Solver-3: "midpoint" takes the second stage by the published rule of two points,
    "heun" ends with the parabola through all three. Both have order 3, so the difference vanishes with order 3."""
    algorithm = {"data": "dpmsolver++", "noise": "dpmsolver"}[prediction]
    config = {"algorithm_type": algorithm, "solver_type": solver_type, "lower_order_final": False, "solver_order": 3}
    differences = []
    for n in (steps := [16, 32, 64]):
        levels = geometric(n + 1, 0.4, START)
        peer = theirs("DPMSolverSinglestep", stages(levels, [1 / 3, 2 / 3]), **config)
        differences.append(relative(end(levels, prediction=prediction, k=3, l=0.0), peer))
    assert slope([1 / n for n in steps], differences) == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize("weights", SOLVERS)
@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_edm_scheduler_is_data_prediction(sigma_data, weights):
    """It turns the output of an EDM network into D, and takes the step of DPM-Solver++ with that."""
    levels = GRIDS["uneven to zero"]
    config = {"sigma_data": sigma_data, "solver_type": SOLVERS[weights], "lower_order_final": False}
    peer = theirs("EDMDPMSolverMultistep", levels, solver_order=2, **config)
    assert relative(end(levels, prediction="data", k=2, multistep=True, l=0.0, weights=weights), peer) < TOLERANCE


@pytest.mark.parametrize("name", ["DDIM", "EulerDiscrete"])
@pytest.mark.parametrize("prediction", ["noise", "data"])
def test_ddim(prediction, name):
    levels = GRIDS["uneven to zero"]
    assert relative(end(levels, prediction=prediction, l=0.0), theirs(name, levels)) < TOLERANCE


@pytest.mark.parametrize(("name", "prediction"), [("zEABSampler", "noise"), ("xEABSampler", "data")])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_azula(order, name, prediction):
    """Its exponential Adams-Bashforth methods. (Its REABSampler, prediction="edm" with sigma_data = 1, multiplies the
    integral by sqrt(alpha_s^2 + sigma_t^2), where both must be at s.)"""
    azula_sample, azula_noise = pytest.importorskip("azula.sample"), pytest.importorskip("azula.noise")
    from azula.denoise import Denoiser, DiracPosterior

    class Mixture(Denoiser):
        def __init__(self):
            super().__init__()
            self.schedule = azula_noise.VPSchedule()

        def forward(self, x_t, t):
            alpha, sigma = self.schedule(t)
            return DiracPosterior(MIXTURE(x_t / alpha, sigma / alpha))

    model = Mixture()
    sampler = getattr(azula_sample, name)(model, order=order, start=0.7, stop=0.05, steps=12, silent=True)
    sampler.dtype = torch.float64
    alpha, sigma = model.schedule(sampler.timesteps)
    arguments = {"prediction": prediction, "k": order, "multistep": order > 1, "warm_up": False, "l": 0.0}
    assert relative(end(sigma / alpha, **arguments), sampler(X * alpha[0]) / alpha[-1]) < TOLERANCE
