"""Orders of convergence, fitted, of DEIS."""

import pytest
from flow import MODELS, SCHEDULE, fitted_order

from prescore.samplers.deis import DEIS, TABLEAUX, RungeKuttaDEIS

USUAL, FINE = [64, 128, 256], [128, 256, 512]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("grid", ["log-uniform", "karras", "uniform t"])
@pytest.mark.parametrize("variable", ["linear", "rho", "log-rho"])
@pytest.mark.parametrize(("degree", "order"), [(1, 2), (3, 2)])
def test_order_with_the_published_warmup(degree, order, variable, grid, model):
    """The first step, of degree 0, limits the order to 2."""
    sampler = DEIS(degree=degree, variable=variable)
    assert sampler.order == order
    assert fitted_order(sampler, grid, model) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("grid", ["log-uniform", "karras", "uniform t"])
@pytest.mark.parametrize("variable", ["rho", "log-rho", SCHEDULE], ids=["rho", "log-rho", "t"])
@pytest.mark.parametrize("degree", [2, 3])
def test_order_with_the_runge_kutta_warmup(degree, variable, grid, model):
    sampler = DEIS(degree=degree, variable=variable, warmup="runge-kutta")
    assert sampler.order == degree + 1
    steps = FINE if degree == 3 else USUAL
    assert fitted_order(sampler, grid, model, steps) == pytest.approx(degree + 1, abs=0.2)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("grid", ["log-uniform", "karras", "uniform t"])
@pytest.mark.parametrize("method", TABLEAUX)
def test_order_of_runge_kutta(method, grid, model):
    """On a Gaussian the error of third order of the midpoint rule in sigma vanishes: its order is 3 there."""
    sampler = RungeKuttaDEIS(method=method)
    order = {"midpoint": 2, "2heun": 2, "3kutta": 3, "4rk": 4}[method]
    assert sampler.order == order
    if (method, model) == ("midpoint", "gaussian"):
        order = 3
    assert fitted_order(sampler, grid, model, [32, 64, 128]) == pytest.approx(order, abs=0.2)
