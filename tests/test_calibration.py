"""Data and a model of them, measured in one call."""

import math
import re
import warnings
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from prescore import (
    calibrate,
    calibrate_model,
    draw,
    in_range,
    load_statistics,
    measure_steps,
    plan,
    save_statistics,
    score_statistics,
)
from prescore.calibration import calls_to_calibrate
from prescore.data import DataWarning
from prescore.denoiser import Denoiser
from prescore.errors import ModelWarning, PrescoreError
from prescore.gaussian import Gaussian, gaussian
from prescore.grid import geometric
from prescore.operators import Pixel
from prescore.plan import seen_by
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


def test_few_data_are_said_to_be_few(recwarn):
    """By the standard error of a variance, which a draw of many sets shows too."""
    n, sets = 10, 4000
    x = torch.randn(sets, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spread = x.var(1).std().item()  # of a variance of 1
    assert spread == pytest.approx(0.47, abs=0.02)
    message = "10 samples are few: the variance of a low frequency has a standard error of 47% .*; with 200 it is 10%"
    for model_of in ({}, {"model": model(), "trajectories": 0, "levels": 2}):
        with pytest.warns(DataWarning, match=message) as warned:
            calibrate(data(10), **model_of)
        assert sum("are few" in str(one.message) for one in warned) == 1
    with pytest.warns(DataWarning, match="4 samples are few: .* 82% of itself; with 64 it is 18%"):
        calibrate_model(field(), n=4, **QUICK)
    recwarn.clear()
    calibrate(data(50))
    assert not recwarn.list


def test_arrays_are_taken_as_they_are():
    data = torch.rand(9, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(calibrate(data.numpy()).moments.mean, calibrate(data).moments.mean)


def test_a_function_is_no_model():
    with pytest.raises(PrescoreError, match="model: function given; a denoiser that says its noise range is needed"):
        calibrate(torch.rand(9, 1, 6, 6), model=lambda x, sigma: x)


VARIANCE = torch.linspace(0.02, 0.5, 16, dtype=torch.float64).reshape(SHAPE)
MEAN = torch.linspace(-0.4, 0.4, 16, dtype=torch.float64).reshape(SHAPE)
QUICK = {"trajectories": 0, "levels": 5}


def field(sigma_max=20.0, **options):
    """The exact model of a Gaussian field."""
    exact = Gaussian(MEAN, Pixel(VARIANCE))
    return Denoiser(exact, SHAPE, 0.02, sigma_max, dtype=torch.float64, **{"data_range": (-1.0, 1.0), **options})


def test_own_samples_have_the_statistics_of_the_data_within_their_sampling_error():
    n = 400
    found = calibrate_model(field(name="field"), n=n, **QUICK)
    mean, square = found.moments.mean, found.moments.mean_square
    z = (mean - MEAN) / (VARIANCE / n).sqrt()
    chi = n * (square - mean.square()) / VARIANCE
    assert z.square().sum() < 40  # of 16 degrees of freedom, once in 1200
    assert ((chi - n) / (2 * n) ** 0.5).square().sum() < 40
    levels = found.model.score.levels.reshape(-1, 1, 1, 1)
    expected = (VARIANCE / (VARIANCE + levels**2)).mean((1, 2, 3))  # of the exact model, whatever it is measured on
    torch.testing.assert_close(found.model.score.residual_square, expected, rtol=0.1, atol=0)
    assert (found.measured_on, found.samples_of, found.data_range) == ("400 samples of field", "field", (-1.0, 1.0))


def test_the_second_stage_starts_from_the_mean_of_the_first():
    """Where noise ends near the deviation of the data, a start without their mean M lacks k M at the end, k^2 = C / (C
    + sigma^2); one with the mean of the first stage lacks k^2 M."""
    n, short, k = 400, field(sigma_max=0.5), (VARIANCE / (VARIANCE + 0.25)).sqrt()
    first = draw(short, n, sampler="unipc", calls=40, progress=False).mean(0)
    found = calibrate_model(short, n=n, **QUICK).moments.mean
    for mean, lacking in ((first, k), (found, k**2)):
        assert ((mean - (1 - lacking) * MEAN) / (VARIANCE / n).sqrt()).square().sum() < 60
    assert ((first - (1 - k**2) * MEAN) / (VARIANCE / n).sqrt()).square().sum() > 100


@pytest.mark.filterwarnings("ignore::prescore.errors.ModelWarning")
def test_it_is_calibration_on_samples_drawn_by_hand():
    def statistics(x):
        known = calibrate(x, data_range=(-9.0, 9.0))
        return replace(known, moments=replace(known.moments, data_range=(-1.0, 1.0)))

    first = draw(model(), 3, seed=5, sampler="unipc", calls=40, progress=False)
    x = draw(model(), 6, seed=5, sampler="p-ode-3m", calls=40, statistics=statistics(first), progress=False)
    found, again, other = (
        calibrate_model(model(), n=6, **how, **QUICK).moments.power
        for how in ({"seed": 5}, {"seed": 5, "batch_size": 4}, {"seed": 6})
    )
    torch.testing.assert_close(found, statistics(x).moments.power, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(again, found, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(other, found)


@pytest.mark.filterwarnings("ignore::prescore.errors.ModelWarning")
@pytest.mark.parametrize(
    ("options", "spared"),
    [
        (QUICK, 0),
        ({"trajectories": 2, "tries": 1, "calls": (8, 12), "fitted": 0, "levels": 5}, 0),
        ({"trajectories": 3, "tries": 0, "calls": 8, "fitted": 3, "batch_size": 2, "levels": 2}, 60),
    ],
)
def test_the_calls_are_those_that_are_said_before(options, spared):
    """Of those that a fit may take, some are spared, where no more steps fit in, and those to shrink a bad network."""
    made, to_shrink = 0, 2 * options["levels"] * math.ceil(6 / options.get("batch_size", 6))

    def counted(x, sigma):
        nonlocal made
        made += 2
        return model()(x, sigma)

    guided = model(counted, network_calls=2)
    calibrate_model(guided, n=6, **options)
    assert 0 <= calls_to_calibrate(guided, n=6, **options) - to_shrink - made <= spared


def test_own_samples_take_the_rows_of_a_condition_in_turn():
    """x0 is the label, whatever the noise, so that sample k is row k of those that are taken in turn."""
    seen = []

    def denoise(y, sigma, label):
        seen.append(label.tolist())
        return label.reshape(-1, 1, 1, 1).expand(y.shape)

    labels = torch.tensor([0.1, 0.2, 0.6], dtype=torch.float64)
    found = calibrate_model(model(denoise), n=4, condition={"label": labels}, trajectories=3, tries=0, levels=5)
    assert (found.moments.mean - 0.25).abs().max() < 0.01
    pairs = 24  # of either start
    assert {len(rows) for rows in seen} == {2, 4, 3, 2 * pairs}
    assert all(rows == [0.1, 0.2, 0.6, 0.1][: len(rows)] for rows in seen if len(rows) < pairs)
    assert all(rows == 12 * [0.1, 0.2, 0.6, 0.1] for rows in seen if len(rows) > pairs)


def test_a_model_that_knows_less_than_its_samples_show_is_doubted():
    """Samples of the exact flow up to 1, above which the network answers as if the noise were four times as high."""

    def denoise(x, sigma):
        exact = Gaussian(MEAN, Pixel(VARIANCE))
        return exact(x, sigma) + (0.3 * (x - MEAN) if 0.3 < sigma < 3 else 0)

    with pytest.warns(ModelWarning, match="times the error of the Gaussian model|no noise level"):
        calibrate_model(replace(field(), function=denoise), n=20, **QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 3}, "n: 3 samples asked for; at least 4, and rather 64, are needed"),
        ({"n": 8.0}, "n: 8.0 samples asked for"),
        ({"sample_calls": 5}, "sample_calls: 5 given; at least 8, and rather 40, are needed"),
        ({"seed": "a"}, "seed: 'a' given; a whole number from 0 to 2**64 - 64"),
        ({"seed": 2**64 - 3, "n": 4}, f"seed: {2**64 - 3} given"),
        (
            {"n": 4, "condition": {"label": torch.zeros(5)}},
            "condition 'label' has 5 rows; 1 to 4, the number of samples",
        ),
        ({"trajectories": 3, "tries": 4}, "tries: 4 given"),
        ({"batch_size": 0}, "batch_size: 0 is not a whole number, at least 1"),
        ({"batch_size": 10**26}, "batch_size: 100000000000000000000000000 given; at most 10000000"),
        ({"levels": 1}, "levels: 1 is not a whole number, at least 2"),
    ],
)
def test_bad_numbers_of_own_samples_are_refused(options, message):
    with pytest.raises(PrescoreError, match=re.escape(message)):
        calibrate_model(field(), **options)


def test_what_was_measured_on_own_samples_says_so_in_its_file(tmp_path):
    found = calibrate_model(field(name="field"), n=4, **QUICK)
    save_statistics(found, tmp_path / "s")
    read = load_statistics(tmp_path / "s")
    assert read.measured_on == in_range(read, (0.0, 1.0)).measured_on == "4 samples of field"
    assert calibrate(data()).measured_on == "40 samples"
    assert plan(field(), sampler="p-ode-3m", calls=5, statistics=found).settings["statistics"] == "4 samples of field"


def test_a_model_whose_data_have_their_mean_removed_draws_such_samples():
    found = calibrate_model(field(data_mean_removed=True, data_range=(0.0, 1.0)), n=50, **QUICK)
    assert found.data_range == (0.0, 1.0)
    torch.testing.assert_close(seen_by(field(data_mean_removed=True), found).moments.mean, torch.zeros(SHAPE).double())


def test_paths_and_single_samples_are_no_data():
    with pytest.raises(PrescoreError, match=r"'pictures' is a path; prescore.data.load_images reads"):
        calibrate("pictures")
    with pytest.raises(PrescoreError, match="a TensorDataset gives single samples; a DataLoader of it gives batches"):
        calibrate(TensorDataset(torch.rand(9, 1, 4, 4)))


@pytest.mark.parametrize("calls", ["5,8", 0, [5, "8"], True])
def test_numbers_of_calls_are_checked_before_anything_is_measured(calls):
    never = Denoiser(lambda x, sigma: pytest.fail("it was called"), (1, 4, 4), 0.01, 9.0)
    with pytest.raises(PrescoreError, match=r"calls: .* is not a positive whole number"):
        calibrate(torch.rand(9, 1, 4, 4), model=never, calls=calls)


def test_statistics_show_what_they_are():
    assert repr(calibrate(torch.rand(9, 1, 4, 4))) == "Statistics(9 samples of shape (1, 4, 4) in (0.0, 1.0))"


def test_two_axes_are_vectors_and_few_of_them_are_said():
    """One channel of a picture looks the same."""
    with pytest.warns(DataWarning, match=r"\(20, 64\) is taken for 20 vectors of 64 numbers"):
        calibrate(torch.rand(20, 64, generator=torch.Generator().manual_seed(0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert calibrate(torch.rand(65, 64, generator=torch.Generator().manual_seed(0))).event_shape == (64,)


def test_a_model_without_a_range_takes_data_of_any():
    variance = torch.tensor([1.0, 100.0, 0.01])
    data = 500 + torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) * variance.sqrt()
    model = Denoiser(lambda x, sigma: 500 + (x - 500) * variance / (variance + sigma**2), (3,), 0.01, 100.0)
    statistics = calibrate(data, model=model, trajectories=0, levels=3)
    assert statistics.data_range is None
    torch.testing.assert_close(statistics.moments.mean, data.double().mean(0))
    x = draw(model, n=500, sampler="p-ode-2m", calls=6, statistics=statistics, progress=False)
    torch.testing.assert_close(x.std(0).float(), variance.sqrt(), rtol=0.15, atol=0)
