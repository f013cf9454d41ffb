"""The rule that chooses a sampler."""

from dataclasses import replace

import pytest
import torch

import prescore
from prescore import calibrate
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.gaussian import Gaussian
from prescore.operators import Pixel
from prescore.oracle import EmpiricalOracle
from prescore.samplers import SAMPLERS, choose_sampler
from prescore.samplers.choose import least_error_share
from prescore.statistics import ModelStatistics
from prescore.statistics.score import score_statistics
from prescore.tuned import FEW_CALLS, MANY_CALLS

SHAPE = (1, 4, 4)


def measured(data, oracle):
    model = Denoiser(oracle, SHAPE, 0.01, 50.0, data_range=(-9.0, 9.0), dtype=torch.float64)
    return replace(calibrate(data, data_range=(-9.0, 9.0)), model=ModelStatistics(score=score_statistics(model, data)))


@pytest.fixture(scope="module")
def gaussian_data():
    oracle = Gaussian(torch.zeros(SHAPE, dtype=torch.float64), Pixel(torch.ones(SHAPE, dtype=torch.float64)))
    return measured(oracle.sample(300, torch.Generator().manual_seed(0)), oracle)


@pytest.fixture(scope="module")
def points():
    """Data of four points: at low noise the network knows which one, the Gaussian model does not."""
    data = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return measured(data.repeat(20, 1, 1, 1), EmpiricalOracle(data))


def test_what_the_network_leaves_of_the_error_of_the_gaussian_model(gaussian_data, points):
    assert least_error_share(gaussian_data) == pytest.approx(1, abs=0.1)
    assert least_error_share(points) < 0.01
    mapped = prescore.in_range(gaussian_data, (0.0, 1.0))
    assert least_error_share(mapped) == pytest.approx(least_error_share(gaussian_data), rel=1e-9)


@pytest.mark.parametrize(
    ("calls", "noise", "near", "far"),
    [
        (1, False, "p-ode-1", "ddim"),
        (2, False, "p-ode-2m", "dpmpp-2m"),
        (FEW_CALLS, False, "p-ode-2m", "unipc"),
        (FEW_CALLS + 1, False, "p-ode-3m", "unipc"),
        (MANY_CALLS + 1, False, "p-ode-3m", "unipc"),
        (MANY_CALLS, True, "p-sde-2m", "dpmpp-sde-2m"),
        (MANY_CALLS + 1, True, "edm-stochastic", "edm-stochastic"),
    ],
)
def test_the_rule(gaussian_data, points, calls, noise, near, far):
    assert choose_sampler(calls, gaussian_data, noise=noise).name == near
    assert choose_sampler(calls, points, noise=noise).name == far
    assert choose_sampler(calls, noise=noise).name == far
    assert {near, far} <= set(SAMPLERS)


@pytest.mark.parametrize(("model", "name"), [("mnist-ve", "unipc"), ("natural-edm", "p-ode-3m")])
def test_the_shipped_models(model, name):
    choice = choose_sampler(6, prescore.load_statistics(model))
    assert choice.name == name
    assert "of the Gaussian model's error" in choice.reason


def test_the_reason_says_what_is_not_known(gaussian_data):
    for statistics in (None, replace(gaussian_data, model=ModelStatistics())):
        assert "how Gaussian the data are is not known" in choose_sampler(8, statistics).reason
    with pytest.raises(PrescoreError, match="without the score of a model"):
        least_error_share(replace(gaussian_data, model=ModelStatistics()))


@pytest.mark.parametrize("calls", [0, -3, 1.5])
def test_numbers_of_calls_that_are_none(calls):
    with pytest.raises(PrescoreError, match="is not a positive whole number"):
        choose_sampler(calls)


def test_vectors_of_unlike_scale_take_a_reference():
    def statistics(*scales):
        return calibrate(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor(scales))

    assert choose_sampler(8, statistics(1.0, 2.0, 3.0)).name == "unipc"
    choice = choose_sampler(8, statistics(1.0, 200.0, 3.0))
    assert choice.name == "p-ode-3m"
    assert "directions differ by a factor of 199" in choice.reason
    assert choose_sampler(8, statistics(1.0, 2.0, 0.0)).name == "unipc"
