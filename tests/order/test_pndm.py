"""Orders of convergence, fitted, of PNDM: 2 on the usual grids, more where the steps are equal in sigma."""

import pytest
from flow import MODELS, SCHEDULE, fitted_order

from prescore.samplers.pndm import PNDM, VARIANTS
from prescore.schedule import EDM


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("grid", ["log-uniform", "karras", "uniform t"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_order(variant, grid, model):
    sampler = PNDM(variant=variant, schedule=SCHEDULE)
    assert sampler.order == 2
    assert fitted_order(sampler, grid, model) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("variant", "order", "steps"),
    [("f-pndm", 4, [256, 512, 1024]), ("s-pndm", 2, [64, 128, 256]), ("plms", 3, [512, 1024, 2048])],
)
def test_order_where_steps_are_equal_in_sigma(variant, order, steps, model):
    sampler = PNDM(variant=variant, schedule=EDM())
    assert fitted_order(sampler, "uniform sigma", model, steps) == pytest.approx(order, abs=0.2)
