from itertools import product

import pytest
import torch
from flow import MIXTURE, X, end
from support import relative

from prescore.errors import PrescoreError
from prescore.grid import append_zero, geometric, karras
from prescore.samplers.deis import DEIS
from prescore.samplers.unipc import BS, PREDICTIONS, UniPC

LEVELS = karras(13, 0.1, 3.0)
EXACT = {"lower_order_final": False, "B": "exact"}


@pytest.mark.parametrize("warmup", ["lower", "runge-kutta"])
@pytest.mark.parametrize("final_zero", [True, False])
@pytest.mark.parametrize(("p", "B", "prediction"), list(product([1, 2, 3], BS, PREDICTIONS)))
def test_calls(p, B, prediction, final_zero, warmup):
    levels, calls = geometric(7, 0.1, 3.0, final_zero=final_zero), []

    def denoise(x, sigma):
        assert sigma > 0
        calls.append(sigma)
        return MIXTURE(x, sigma)

    sampler = UniPC(p=p, B=B, prediction=prediction, warmup=warmup, lower_order_final=p != 2)
    assert end(sampler, levels, denoise=denoise).isfinite().all()
    assert len(calls) == sampler.total_calls(len(levels) - 1, final_zero)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_the_predictor_with_noise_prediction_is_deis_in_log_sigma(p):
    ours = UniPC(p=p, prediction="noise", corrector=False, **EXACT)
    assert relative(end(ours, LEVELS), end(DEIS(degree=p - 1, variable="log-rho"), LEVELS)) < 1e-13


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_b_is_felt_only_where_two_points_are_used(prediction):
    """With a Runge-Kutta warm-up and no lowered order, the formulas of p = 3 have three and four points."""
    options = {"p": 3, "warmup": "runge-kutta", "lower_order_final": False, "prediction": prediction}
    one, two, exact = (end(UniPC(B=B, **options), LEVELS) for B in BS)
    assert relative(one, exact) == relative(two, exact) == 0
    one, two = (end(UniPC(B=B, p=2, prediction=prediction), LEVELS) for B in ("bh1", "bh2"))
    assert relative(one, two) > 1e-5


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_constant_model_is_carried_exactly(prediction):
    """x0 constant, or eps constant."""

    def denoise(x, sigma):
        return torch.ones_like(x) if prediction == "data" else x - sigma

    x = end(UniPC(prediction=prediction), append_zero(LEVELS), denoise=denoise)
    exact = torch.ones_like(X) if prediction == "data" else X - 3
    torch.testing.assert_close(x, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_step_to_zero_ends_at_the_denoised_state(prediction, p):
    seen = []

    def denoise(x, sigma):
        seen.append(MIXTURE(x, sigma))
        return seen[-1]

    x = end(UniPC(p=p, prediction=prediction, corrector=False), append_zero(LEVELS), denoise=denoise)
    assert relative(x, seen[-1]) < 1e-13


def test_the_corrector_makes_the_error_smaller_at_no_cost():
    fine = end(UniPC(warmup="runge-kutta", **EXACT), karras(1201, 0.1, 3.0))
    errors = [relative(end(UniPC(p=2, corrector=c), LEVELS), fine) for c in (True, False)]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 4}, "p: 4 is not one of 1, 2, 3"),
        ({"B": "bh3"}, "B: unknown value 'bh3'; did you mean bh"),
        ({"prediction": "x0"}, "prediction: unknown value 'x0'; known: data, noise"),
        ({"warmup": "rk"}, "warmup: unknown value 'rk'"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(PrescoreError, match=message):
        UniPC(**arguments)


def test_too_few_steps():
    UniPC(p=3).check((4,), geometric(4))
    with pytest.raises(PrescoreError, match="steps: 2 given, but order 3 needs at least 3"):
        UniPC(p=3).check((4,), geometric(3))
