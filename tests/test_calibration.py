"""Data and a model of them, measured in one call."""

import re

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from prescore import calibrate, in_range, measure_steps, score_statistics
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.gaussian import Gaussian, gaussian
from prescore.grid import geometric
from prescore.operators import Pixel
from prescore.statistics import measure_moments

SHAPE = (1, 4, 4)
SMALL = {"trajectories": 4, "tries": 2, "calls": (4, 6), "fitted": 0, "levels": 5}


def data(n=40, seed=0):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model(function=None, **options):
    own = Gaussian(torch.zeros(SHAPE, dtype=torch.float64), Pixel(torch.full(SHAPE, 0.3, dtype=torch.float64)))
    options = {"data_range": (-1.0, 1.0), "dtype": torch.float64, "name": "tiny", **options}
    return Denoiser(function or own, SHAPE, 0.05, 20.0, **options)


def test_it_is_all_the_measurements_by_hand():
    x = data()
    found = calibrate(x, model=model(), **SMALL)
    by_hand = in_range(calibrate(x), (-1.0, 1.0))
    assert torch.equal(found.moments.power, by_hand.moments.power)
    assert found.data_range == (-1.0, 1.0)
    score = score_statistics(model(), 2 * x - 1, geometric(5, 0.05, 20.0))
    torch.testing.assert_close(found.model.score.residual_square, score.residual_square)
    steps, tuning = measure_steps(model(), gaussian(found), trajectories=4, tries=2, calls=(4, 6))
    for name, errors in steps.solvers.items():
        assert torch.equal(found.model.steps.solvers[name].rows, errors.rows)
    assert found.tuning.rules == tuning.rules
    assert {name: set(rules) for name, rules in tuning.rules.items()} == {"unipc": {4, 6}, "p-ode-3m": {4, 6}}


def test_without_a_model_only_the_data_are_measured():
    found = calibrate(data(), components=3)
    assert (found.model.score, found.model.steps, found.tuning.rules) == (None, None, {})
    assert torch.equal(found.moments.components, measure_moments(data(), components=3).components)


def test_batches_are_read_twice():
    loader = DataLoader(TensorDataset(data()), batch_size=7)
    a, b = (calibrate(x, model=model(), **SMALL) for x in (loader, data()))
    torch.testing.assert_close(a.model.score.residual_square, b.model.score.residual_square, rtol=1e-10, atol=0)
    with pytest.raises(PrescoreError, match="data: an iterator is read once, and a model needs them twice"):
        calibrate(iter(loader), model=model(), **SMALL)


@pytest.mark.parametrize("rows", [40, 1])
def test_the_condition_reaches_the_model_row_by_row(rows):
    """A model that is exact only with the right condition: x0 of sample k is its label, in all of its entries."""
    labels = torch.linspace(0.2, 0.8, rows, dtype=torch.float64)
    x = labels.reshape(-1, 1, 1, 1).expand(rows, *SHAPE).expand(40, *SHAPE)

    def denoise(y, sigma, label):
        return (2 * label - 1).reshape(-1, 1, 1, 1).expand(y.shape)

    found = calibrate(x, model=model(denoise), condition={"label": labels}, **SMALL)
    assert found.model.score.residual_square.max() < 1e-20
    for wrong in (39, 41, 2):
        with pytest.raises(
            PrescoreError, match=f"condition 'label' has {wrong} rows; one for each sample, or one for all"
        ):
            calibrate(data(), model=model(denoise), condition={"label": torch.ones(wrong).double()}, **SMALL)


def test_trajectories_take_the_conditions_in_turn():
    seen = []

    def denoise(y, sigma, label):
        seen.append(label.tolist())
        return y / (1 + sigma**2)

    labels = {"label": torch.tensor([1.0, 2.0, 3.0])}
    reference = gaussian(in_range(calibrate(data()), (-1.0, 1.0)))
    measure_steps(model(denoise), reference, trajectories=4, tries=0, condition=labels)
    assert all(rows == [1.0, 2.0, 3.0, 1.0] for rows in seen)


def test_a_model_whose_data_have_their_mean_removed_is_measured_on_such_data():
    """The exact model of data N(mean, 0.01), less the mean, has the residual of the exact one."""
    mean = torch.linspace(0.2, 0.8, 16, dtype=torch.float64).reshape(SHAPE)
    x = mean + 0.1 * (data(400) - 0.5)
    variance = torch.full(SHAPE, 4 * 0.01 / 12, dtype=torch.float64)
    exact = Gaussian(torch.zeros(SHAPE, dtype=torch.float64), Pixel(variance))
    found = calibrate(x, model=model(exact, data_mean_removed=True), **SMALL)
    levels = found.model.score.levels
    expected = variance.mean() / (variance.mean() + levels**2)
    torch.testing.assert_close(found.model.score.residual_square, expected, rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calls": (5,)}, "calls: does nothing without a model"),
        ({"condition": {}}, "condition: does nothing without a model"),
        ({"model": model(), "trajectories": -1}, "trajectories: -1 is not a whole number, at least 0"),
        ({"model": model(), "trajectories": 3, "tries": 4}, "tries: 4 given; 0 to 3, the number of trajectories"),
        (
            {"model": Denoiser(abs, (2, 2), 0.1, 1.0, name="other")},
            r"model: other makes samples \(2, 2\), the data are",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(PrescoreError, match=message):
        calibrate(data(), **options)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([torch.rand(1, 14, 14)] * 9, "a list of 9 pictures (1, 14, 14); torch.stack makes one tensor"),
        (torch.rand(3, 16, 16), "(3, 16, 16) is one picture; about 200 of them"),
        (torch.rand(9, 16, 16, 3), "(9, 16, 16, 3) has its channels last; data.permute(0, 3, 1, 2)"),
        (torch.rand(1, 3, 16, 16), "1 sample given; at least 2, and rather 200"),
    ],
)
def test_data_that_look_like_something_else_are_refused(data, message):
    with pytest.raises(PrescoreError, match=re.escape(message)):
        calibrate(data)


def test_arrays_are_taken_as_they_are():
    data = torch.rand(9, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(calibrate(data.numpy()).moments.mean, calibrate(data).moments.mean)


def test_a_function_is_no_model():
    with pytest.raises(PrescoreError, match="model: function given; a denoiser that says its noise range is needed"):
        calibrate(torch.rand(9, 1, 6, 6), model=lambda x, sigma: x)
