"""Noise levels from the errors of steps."""

import math

import pytest
import torch

from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.grid import geometric
from prescore.samplers import make_sampler, sample
from prescore.statistics.steps import PREDICTIONS, SolverErrors, StepErrors

LEVELS = torch.logspace(2, -3, 51, dtype=torch.float64)
LAM = -LEVELS.log()
WIDTHS = (LEVELS[0] / LEVELS[1]).log() * torch.tensor([1.0, 2, 4, 8, 16], dtype=torch.float64)
HALF = LAM.mean()


def errors(kappa=lambda lam: torch.ones_like(lam), last=0.3):
    """Steps of second order: kappa(lam) h^3 inside, and c sigma at the end."""
    inner = kappa(LAM) * WIDTHS[:, None] ** 3
    solver = SolverErrors((LAM - LAM[0]) ** 2, inner, last * LEVELS)
    variances, shares = torch.tensor([[1.0, 0.01], [0.25, 0.75]], dtype=torch.float64)
    solvers = dict.fromkeys(PREDICTIONS, solver)
    return StepErrors(
        levels=LEVELS, widths=WIDTHS, variances=variances, shares=shares, solvers=solvers, count=3, model="m"
    )


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 40, 300])
def test_levels_are_a_grid_from_sigma_max_to_zero(prediction, steps):
    grid = errors().grid(prediction, steps)
    assert grid.shape == (steps + 1,)
    assert grid.dtype == torch.float64
    assert grid[0].item() == pytest.approx(100, rel=1e-12)
    assert grid[-1] == 0
    assert grid[-2] >= LEVELS[-1] * (1 - 1e-9)
    assert (grid.diff() < 0).all()


def test_equal_errors_make_equal_steps():
    h = errors().grid("gaussian", 12)[:-1].log().diff()[1:]
    torch.testing.assert_close(h, h[:1].expand(len(h)), rtol=1e-6, atol=0)


def test_steps_are_shorter_where_their_error_is_larger():
    """kappa 64 times larger: steps shorter by 64^(1/3) at full weight, and by half of that in the logarithm."""
    grid = errors(lambda lam: torch.where(lam > HALF, 64.0, 1.0), last=1e3).grid("gaussian", 60)
    lam, h = -grid[:-1].log(), -grid[:-1].log().diff()
    early, late = h[1:][lam[1:-1] < HALF - 2], h[lam[:-1] > HALF + 2]
    assert (early[-1] / late[0]).item() == pytest.approx(64 ** (1 / 6), rel=1e-6)


def test_the_lowest_level_weighs_the_last_step_against_all_others():
    """With steps of the same size h and error k h^3 the sum of the squares is known; the best end is its minimum."""
    steps, flat = 8, errors()
    grid = flat.grid("gaussian", steps)

    def total(end):
        # The first step is of order 1: its length x has x^2 = h^3.
        low, high = 0.0, end
        for _ in range(80):
            h = (low + high) / 2
            low, high = (h, high) if (steps - 2) * h + h**1.5 < end else (low, h)
        return (steps - 1) * h**6 + (0.3 * 100 * math.exp(-end)) ** 2

    best = min((total(x / 1000), x / 1000) for x in range(1000, 11000))[1]
    assert (-grid[-2].log() - LAM[0]).item() == pytest.approx(best, abs=0.05)
    assert flat.error("gaussian", grid) ** 2 == pytest.approx(total(best), rel=0.02)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_more_steps_make_smaller_errors_and_end_lower(prediction):
    e = errors()
    grids = [e.grid(prediction, n) for n in (3, 5, 8, 12, 20, 40)]
    ends, sums = [g[-2].item() for g in grids], [e.error(prediction, g) for g in grids]
    assert ends == sorted(ends, reverse=True)
    assert sums == sorted(sums, reverse=True)


def test_scaled_data_have_scaled_levels_and_errors():
    e = errors(lambda lam: 1 + lam**2)
    twice = e.scaled(2.0)
    torch.testing.assert_close(twice.grid("gaussian", 7), 2 * e.grid("gaussian", 7))
    for prediction in PREDICTIONS:
        grid = e.grid(prediction, 7)
        assert twice.error(prediction, 2 * grid) == pytest.approx(2 * e.error(prediction, grid))


def test_data_prediction_adds_its_error_on_the_gaussian_model():
    """The recursion beside the sampler itself, on exactly that Gaussian."""
    e, grid = errors(), torch.tensor([100.0, 30.0, 4.0, 1.0, 0.1, 0.0], dtype=torch.float64)
    C = torch.tensor([1.0, 0.01, 0.01, 0.01], dtype=torch.float64)
    start = (C + 100.0**2).sqrt()
    denoiser = Denoiser(lambda x, sigma: C / (C + sigma**2) * x, (4,), 0.1, 100.0, dtype=torch.float64)
    x = sample(denoiser, make_sampler("dpmpp-2m", grid=grid), seeds=[0], initial=start[None], progress=False)
    linear = (x[0] - C.sqrt()).square().mean().item()
    assert e.error("data", grid) ** 2 - e.error("gaussian", grid) ** 2 == pytest.approx(linear, rel=1e-9)


def test_data_prediction_takes_the_grid_of_the_least_predicted_error():
    e = errors(lambda lam: 1 + lam**2)
    best = e.error("data", e.grid("data", 6))
    assert best <= e.error("data", e.grid("gaussian", 6))
    for low in (0.01, 0.03, 0.1, 0.3, 1.0):
        assert best <= e.error("data", geometric(6, low, 100.0, final_zero=True)) * 1.02


def test_a_step_without_error_is_not_longer_than_any_that_was_measured():
    grid = errors(lambda lam: torch.zeros_like(lam), last=1e-9).grid("gaussian", 4)
    assert (grid[:-2] / grid[1:-1] < 13).all()
    assert grid.isfinite().all()


def test_another_noise_range_is_refused():
    errors().check_range(1e-3, 100.0)
    for low, high in ((1e-3, 50.0), (2e-3, 100.0)):
        with pytest.raises(PrescoreError, match=r"auto was measured for noise from 0\.001 to 100"):
            errors().check_range(low, high)


@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_numbers_of_steps_that_are_none(steps):
    with pytest.raises(PrescoreError, match="is not a positive whole number"):
        errors().grid("gaussian", steps)
