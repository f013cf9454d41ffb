"""PNDM, DEIS and UniPC against diffusers: the same model, levels and start."""

from itertools import pairwise

import pytest
from flow import MIXTURE, SCHEDULE, START, X, end
from peers import run
from support import relative

from prescore.grid import append_zero, geometric, karras
from prescore.samplers.deis import DEIS, RungeKuttaDEIS
from prescore.samplers.pndm import PNDM
from prescore.samplers.unipc import UniPC

pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")

POSITIVE = {"log-uniform": geometric(13, 0.05, START), "karras": karras(21, 0.05, START)}
GRIDS = POSITIVE | {"to zero": append_zero(karras(12, 0.05, START))}
GRID = pytest.mark.parametrize("levels", list(GRIDS.values()), ids=GRIDS)
POSITIVE_GRID = pytest.mark.parametrize("levels", list(POSITIVE.values()), ids=POSITIVE)


def difference(ours, name, levels, **config):
    return relative(end(ours, levels), run(name, MIXTURE, levels, X, **config))


@POSITIVE_GRID
@pytest.mark.parametrize("corrector", [True, False])
@pytest.mark.parametrize("lower_order_final", [True, False])
@pytest.mark.parametrize("prediction", ["data", "noise"])
@pytest.mark.parametrize("B", ["bh1", "bh2"])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_unipc(p, B, prediction, lower_order_final, corrector, levels):
    ours = UniPC(p=p, B=B, prediction=prediction, lower_order_final=lower_order_final, corrector=corrector)
    theirs = {
        "solver_order": p,
        "solver_type": B,
        "predict_x0": prediction == "data",
        "lower_order_final": lower_order_final,
        "disable_corrector": [] if corrector else list(range(len(levels))),
    }
    assert difference(ours, "UniPCMultistep", levels, **theirs) < 1e-10


@pytest.mark.parametrize("p", [1, 2, 3])
def test_unipc_to_zero(p):
    assert difference(UniPC(p=p, B="bh2"), "UniPCMultistep", GRIDS["to zero"], solver_order=p) < 1e-10


def test_unipc_bh1_of_diffusers_fails_at_zero():
    """0 times infinity in its last step; here the last step is D."""
    levels = GRIDS["to zero"]
    assert run("UniPCMultistep", MIXTURE, levels, X, solver_type="bh1").isnan().all()
    assert end(UniPC(p=2, B="bh1"), levels).isfinite().all()


@POSITIVE_GRID
@pytest.mark.parametrize("degree", [0, 1, 2])
def test_deis_in_log_sigma(degree, levels):
    theirs = {"solver_order": degree + 1, "lower_order_final": False}
    assert difference(DEIS(degree=degree, variable="log-rho"), "DEISMultistep", levels, **theirs) < 1e-10


@GRID
def test_rho_ab_is_the_linear_multistep_method_in_sigma(levels):
    """Of k-diffusion and diffusers, which integrate the polynomials by scipy's quadrature."""
    assert difference(DEIS(degree=3, variable="rho"), "LMSDiscrete", levels) < 1e-10


@GRID
def test_rho_heun_is_heun_in_sigma(levels):
    assert difference(RungeKuttaDEIS(method="2heun"), "HeunDiscrete", levels) < 1e-10


@GRID
def test_f_pndm(levels):
    middle = [SCHEDULE.sigma((SCHEDULE.t(s) + SCHEDULE.t(t)) / 2) for s, t in pairwise(levels[:4])]
    assert difference(PNDM(schedule=SCHEDULE), "PNDM", levels, midpoints=middle) < 1e-10


@GRID
def test_plms(levels):
    assert difference(PNDM(variant="plms"), "PNDM", levels, skip_prk_steps=True) < 1e-10
