"""Orders of convergence, fitted, of UniPC: the table of its docstring."""

import pytest
from flow import MODELS, fitted_order

from prescore.samplers.unipc import BS, PREDICTIONS, UniPC

GRIDS = pytest.mark.parametrize("grid", ["log-uniform", "karras", "uniform t"])
BOTH = pytest.mark.parametrize("model", MODELS)
USUAL, FINE, FINEST = [64, 128, 256], [128, 256, 512], [256, 512, 1024]

# (options), the orders of p = 1, 2, 3
TABLE = {
    "lower_order_final": ({}, (2, 2, 2)),
    "no lower_order_final": ({"lower_order_final": False}, (2, 3, 3)),
    "Runge-Kutta": ({"lower_order_final": False, "warmup": "runge-kutta"}, (2, 3, 4)),
    "predictor": ({"lower_order_final": False, "corrector": False}, (1, 2, 2)),
    "predictor, Runge-Kutta": ({"lower_order_final": False, "corrector": False, "warmup": "runge-kutta"}, (1, 2, 3)),
}


@BOTH
@GRIDS
@pytest.mark.parametrize(("row", "p"), [(row, p) for row in TABLE for p in (1, 2, 3) if p > 1 or "Runge" not in row])
def test_order(row, p, grid, model):
    options, orders = TABLE[row]
    sampler = UniPC(p=p, **options)
    assert sampler.order == orders[p - 1]
    # The error of the first step, small but of lower order, takes many steps to show.
    steps = FINEST if (row, p) == ("no lower_order_final", 3) else FINE if p == 3 else USUAL
    assert fitted_order(sampler, grid, model, steps) == pytest.approx(orders[p - 1], abs=0.2)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("B", BS)
@pytest.mark.parametrize("p", [1, 2])
def test_the_corrector_raises_the_order_by_one(p, B, prediction):
    options = {"p": p, "B": B, "prediction": prediction, "lower_order_final": False}
    corrected = fitted_order(UniPC(**options), "log-uniform", "mixture")
    predicted = fitted_order(UniPC(**options, corrector=False), "log-uniform", "mixture")
    assert (corrected, predicted) == pytest.approx((p + 1, p), abs=0.2)
