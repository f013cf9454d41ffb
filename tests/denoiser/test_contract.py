import re
from dataclasses import FrozenInstanceError

import pytest
import torch
from predictions import SHAPE, conditional

from prescore.denoiser import Denoiser, from_edm, from_noise_prediction, from_score, from_ve
from prescore.errors import PrescoreError
from prescore.schedule import Tabulated


def test_denoiser_calls_its_function_with_the_condition(x):
    model = Denoiser(conditional, SHAPE, 0.02, 80.0)
    sigma = torch.tensor(0.8).double()
    assert torch.equal(model(x, sigma, mean=torch.ones(4)), conditional(x, sigma, torch.ones(4)))
    assert (model.dtype, model.device, model.data_range) == (torch.float32, torch.device("cpu"), None)
    with pytest.raises(FrozenInstanceError):
        model.name = "other"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"function": 3}, "function: int"),
        ({"event_shape": ()}, "event_shape"),
        ({"event_shape": (3, 0, 32)}, "event_shape"),
        ({"sigma_min": -0.1}, "sigma_min"),
        ({"sigma_min": 80.0}, "sigma_min"),
        ({"sigma_max": float("inf")}, "sigma_max"),
        ({"sigma_max": float("nan")}, "sigma_max"),
        ({"data_range": (1.0, 0.0)}, "data_range"),
        ({"data_range": (0.0, 1.0, 2.0)}, "data_range"),
    ],
)
def test_denoisers_that_are_none(changes, message):
    right = {"function": conditional, "event_shape": SHAPE, "sigma_min": 0.02, "sigma_max": 80.0}
    with pytest.raises(PrescoreError, match=message):
        Denoiser(**right | changes)


def test_the_noise_range_is_that_of_the_schedule_unless_it_is_narrowed():
    function = from_noise_prediction(lambda x, t: x, Tabulated.linear())
    low, high = Tabulated.linear().sigma_min, Tabulated.linear().sigma_max
    assert (Denoiser(function, SHAPE).sigma_min, Denoiser(function, SHAPE).sigma_max) == (low, high)
    assert Denoiser(function, SHAPE, sigma_max=50).sigma_max == 50
    for given in ({"sigma_max": 200.0}, {"sigma_min": low / 2}, {"sigma_min": 0, "sigma_max": 1}):
        with pytest.raises(PrescoreError, match="the schedule of the function has noise from 0"):
            Denoiser(function, SHAPE, **given)
    for wrap in (from_score, from_edm, from_ve):
        with pytest.raises(PrescoreError, match="the function does not know its noise levels; give both"):
            Denoiser(wrap(lambda x, t: x), SHAPE, sigma_max=50)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"event_shape": 14}, "event_shape: 14 is not a shape such as"),
        ({"event_shape": "14"}, "event_shape: '14' is not a shape such as"),
        ({"event_shape": (3, True)}, "is not a shape such as"),
        ({"data_range": 2}, "data_range: 2 is not an interval"),
        ({"data_range": (0, "1")}, "is not an interval"),
        ({"sigma_max": "80"}, "sigma_max: '80' given; a number is needed"),
    ],
)
def test_attributes_of_the_wrong_kind_are_named(given, message):
    with pytest.raises(PrescoreError, match=re.escape(message)):
        Denoiser(**({"function": torch.relu, "event_shape": SHAPE, "sigma_min": 0.1, "sigma_max": 9.0} | given))


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("dtype", "float16"), ("dtype", torch.int64), ("device", "cpu"), ("name", 3), ("network_calls", 0)],
)
def test_wrong_attributes_are_refused_by_name(attribute, value):
    with pytest.raises(PrescoreError, match=f"^{attribute}: "):
        Denoiser(lambda x, sigma: x, (1, 4, 4), 0.01, 80.0, **{attribute: value})


def test_statistics_are_statistics_or_a_path():
    with pytest.raises(PrescoreError, match=r"statistics: int given; prescore\.Statistics or the path"):
        Denoiser(lambda x, sigma: x, (1, 8, 8), 0.02, 80.0, statistics=5)
