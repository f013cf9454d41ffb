"""Errors of steps measured on trajectories, and the levels that follow from them."""

from dataclasses import replace
from functools import cache
from math import log

import pytest
import torch

from prescore import calibrate
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError, SamplingError
from prescore.gaussian import Gaussian, cosine_gaussian, pixel_gaussian
from prescore.grid import geometric, karras
from prescore.noise import NoiseSource
from prescore.operators import Pixel
from prescore.oracle import Full, MixtureOracle
from prescore.samplers import auto_grid, calibrated, make_sampler, measure_steps, sample
from prescore.statistics import ModelStatistics, Tuning, in_range
from prescore.statistics.steps import _uniform_in_time

LOW, HIGH, SHAPE = 0.01, 50.0, (1, 4, 4)
SMALL = {"trajectories": 6, "seed": 5}


@cache
def mixture():
    """Three Gaussians whose covariances differ, in 16 dimensions."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(3, *SHAPE, generator=generator, dtype=torch.float64) / 2
    roots = torch.randn(3, 16, 16, generator=generator, dtype=torch.float64) / 4
    roots *= torch.logspace(0, -1.5, 16, dtype=torch.float64)
    oracle = MixtureOracle(torch.ones(3), means, Full(roots @ roots.mT + 1e-4 * torch.eye(16)))
    data = oracle.sample(2000, generator)
    return model(oracle), calibrate(data, data_range=(-9.0, 9.0))


def runs(reference, seeds, batch_size):
    return calibrated.Runs(mixture()[0], reference, seeds, {}, batch_size, False)


def model(function, **options):
    return Denoiser(function, SHAPE, LOW, HIGH, data_range=(-9.0, 9.0), dtype=torch.float64, **options)


@cache
def reference():
    return cosine_gaussian(mixture()[1])


@cache
def measured():
    return measure_steps(mixture()[0], reference(), **SMALL, tries=0)[0]


@cache
def tried():
    errors, tuning = measure_steps(mixture()[0], reference(), trajectories=16, seed=5)
    return replace(mixture()[1], model=ModelStatistics(steps=errors), tuning=tuning)


def arrive(denoiser, name, grid, seeds):
    """The samples of a solver, all of them from the start of the preconditioned ones."""
    start = make_sampler("p-ode-1", grid=grid, reference=reference()).initial(NoiseSource(seeds, SHAPE), grid[0])
    own = {"reference": reference()} if name.startswith("p-") else {}
    return sample(denoiser, make_sampler(name, grid=grid, **own), seeds=seeds, initial=start, progress=False)


@cache
def flow(seeds):
    """Where the exact flow arrives, nearly: 300 levels."""
    return arrive(mixture()[0], "p-ode-3m", geometric(300, LOW, HIGH, final_zero=True), seeds)


def error(name, grid, seeds):
    """Of the samples of a solver beside the flow, root mean square."""
    return (arrive(mixture()[0], name, grid, seeds) - flow(seeds)).square().mean().sqrt().item()


def test_the_error_of_a_step_is_that_of_the_formula():
    """In pixels, which are coordinates of their own, DPM-Solver++(2M) by hand."""
    pixels = pixel_gaussian(mixture()[1])
    levels = geometric(calibrated.FINE, LOW, HIGH, final_zero=True)
    followed = calibrated.follow(runs(pixels, range(3), 64), levels)
    errors = calibrated.step_errors(lambda: make_sampler("dpmpp-2m"), followed)
    X, D, C = followed.X, followed.D, followed.C

    def at_end(t, x):
        return ((C / (C + levels[t] ** 2)).sqrt() * (x - X[t])).square().mean().sqrt()

    def step(s, t, value):
        ratio = levels[t] / levels[s]
        return at_end(t, ratio * X[s] + (1 - ratio) * value)

    w, row, s = calibrated.WIDTHS[2], 2, 30
    torch.testing.assert_close(errors.inner[row, s], step(s, s + w, 1.5 * D[s] - 0.5 * D[s - w]))
    torch.testing.assert_close(errors.first[9], step(0, 9, D[0]))
    torch.testing.assert_close(errors.last[s], (D[s] - X[-1]).square().mean().sqrt())
    assert (errors.inner[row, :w] == errors.inner[row, w]).all()
    assert (errors.inner[row, -w:] == errors.inner[row, -w - 1]).all()


def test_the_trajectories_are_those_of_the_flow():
    levels = geometric(calibrated.FINE, LOW, HIGH, final_zero=True)
    pixels = pixel_gaussian(mixture()[1])
    followed = calibrated.follow(runs(pixels, range(4), 3), levels)
    finer = geometric(4 * calibrated.FINE, LOW, HIGH, final_zero=True)
    other = calibrated.follow(runs(pixels, range(4), 64), finer)
    assert (followed.X[-1] - other.X[-1]).square().mean().sqrt() < 2e-3
    assert followed.X.shape == (calibrated.FINE + 1, 4, 16)


def test_on_gaussian_data_the_reference_leaves_no_error():
    C = torch.logspace(0, -3, 16, dtype=torch.float64).reshape(SHAPE)
    oracle = Gaussian(torch.zeros(SHAPE, dtype=torch.float64), Pixel(C))
    exact = Gaussian(oracle.mean, Pixel(C))
    errors = measure_steps(model(oracle), exact, **SMALL)[0].solvers
    assert errors["gaussian"].rows.max() < 1e-10
    small = errors["data"].inner[:2, 30]
    assert log(small[1] / small[0], 2) == pytest.approx(3, abs=0.2)


def test_the_batch_size_does_not_matter():
    other, _ = measure_steps(mixture()[0], reference(), **SMALL, batch_size=4, tries=0)
    for prediction, errors in measured().solvers.items():
        torch.testing.assert_close(other.solvers[prediction].rows, errors.rows, rtol=1e-6, atol=1e-9)


def test_some_of_the_coordinates_stand_for_all(monkeypatch):
    monkeypatch.setattr(calibrated, "KEPT", 8)
    some = measure_steps(mixture()[0], reference(), **SMALL, tries=0)[0].solvers["gaussian"].inner[3]
    assert 0.5 < (some / measured().solvers["gaussian"].inner[3]).log().mean().exp() < 2


@pytest.mark.parametrize("name", ["p-ode-2m", "dpmpp-2m"])
def test_measured_levels_beat_the_usual_ones(name):
    """Samples that were not measured, beside the flow over many levels."""
    statistics = replace(mixture()[1], model=ModelStatistics(steps=measured()))
    for calls in (5, 8, 12, 20):
        others = [grid(calls, LOW, HIGH, final_zero=True) for grid in (karras, geometric)]
        seeds = range(100, 200)
        assert error(name, auto_grid(name, statistics, calls), seeds) < min(error(name, g, seeds) for g in others)


@pytest.mark.parametrize("name", calibrated.TRIED_SOLVERS)
def test_levels_that_were_tried_serve_others_too(name):
    """On samples that were not among those tried: no common grid is better, and the best rule little, on average."""
    statistics, seeds, behind = tried(), range(100, 400), 0.0
    for steps in (5, 8, 13, 20):
        common = [grid(steps, LOW, HIGH, final_zero=True) for grid in (karras, geometric)]
        rules = [statistics.model.steps.levels_by(rule, steps) for rule in calibrated.RULES]
        own = error(name, auto_grid(name, statistics, steps), seeds)
        assert own <= min(error(name, grid, seeds) for grid in common)
        behind += log(own / min(error(name, grid, seeds) for grid in rules)) / 4
    assert 0 <= behind < 0.1


@pytest.mark.parametrize("name", calibrated.TRIED_SOLVERS)
def test_trying_is_running_the_solver(name):
    """The choice, by hand: mean distance of the ends of runs to those of the trajectories, in pixels."""
    denoiser, seeds, steps = mixture()[0], range(5, 21), 7
    exact = arrive(denoiser, "p-ode-3m", geometric(calibrated.FINE, LOW, HIGH, final_zero=True), seeds)

    def distance(rule):
        x = arrive(denoiser, name, tried().model.steps.levels_by(rule, steps), seeds)
        return (x - exact).square().flatten(1).mean(1).sqrt().mean().item()

    assert tried().tuning.rules[name][steps] == min(calibrated.RULES, key=distance)


def test_levels_are_tried_in_batches():
    tuning = measure_steps(mixture()[0], reference(), trajectories=16, seed=5, batch_size=5)[1]
    assert tuning.rules == tried().tuning.rules


def test_levels_on_which_a_solver_diverges_are_not_taken(monkeypatch):
    def diverging(denoiser, sampler, **options):
        if len(sampler.grid) - 1 in calibrated.TRIED_STEPS and not torch.equal(sampler.grid, allowed(sampler.grid)):
            raise SamplingError("the state is no longer finite")
        return sample(denoiser, sampler, **options)

    def allowed(grid):
        return measured().levels_by(0.5, len(grid) - 1)

    monkeypatch.setattr(calibrated, "sample", diverging)
    found = measure_steps(mixture()[0], reference(), **SMALL, tries=1)[1].rules
    assert {rule for rules in found.values() for rule in rules.values()} == {0.5}


def test_a_rule_is_taken_from_the_nearest_number_of_steps():
    errors, tuning = measured(), Tuning(rules={"unipc": {4: 0.25, 8: "gaussian"}})
    statistics = replace(mixture()[1], model=ModelStatistics(steps=errors), tuning=tuning)
    levels = auto_grid("unipc", statistics, 5)
    deviation = (errors.shares * errors.variances).sum().sqrt().item()
    torch.testing.assert_close(levels, geometric(5, 0.25 * deviation / 5, HIGH, final_zero=True))
    assert torch.equal(auto_grid("unipc", statistics, 6), errors.grid("gaussian", 6))  # 6 / 4 > 8 / 6
    assert torch.equal(auto_grid("unipc", statistics, 50), errors.grid("gaussian", 50))
    assert torch.equal(auto_grid("p-ode-3m", statistics, 5), errors.grid("gaussian", 5))
    assert auto_grid("unipc", statistics, 1).tolist() == [HIGH, 0]
    assert auto_grid("unipc", statistics, 500)[-2] >= LOW
    with pytest.raises(PrescoreError, match="steps: 0 is not a positive whole number"):
        auto_grid("unipc", statistics, 0)


def test_rules_do_not_depend_on_the_unit_of_the_data():
    larger = in_range(tried(), (-27.0, 27.0))
    assert larger.tuning.rules == tried().tuning.rules
    torch.testing.assert_close(auto_grid("unipc", larger, 7), 3 * auto_grid("unipc", tried(), 7))


def test_which_solver_stands_for_a_sampler():
    statistics = replace(mixture()[1], model=ModelStatistics(steps=measured()))
    for name, prediction in {
        "p-sde-2m": "gaussian",
        "p-ode-3m": "gaussian",
        "unipc": "data",
        "edm-heun": "data",
    }.items():
        assert torch.equal(auto_grid(name, statistics, 6), measured().grid(prediction, 6))


def test_what_cannot_be_measured():
    denoiser, statistics = mixture()
    for name in ("trajectories", "batch_size"):
        with pytest.raises(PrescoreError, match=f"{name}: 0 is not a positive whole number"):
            measure_steps(denoiser, reference(), **{name: 0})
    with pytest.raises(PrescoreError, match="tries: -1 is not a whole number; 0 leaves"):
        measure_steps(denoiser, reference(), tries=-1)
    with pytest.raises(PrescoreError, match=r"events of shape \(1, 4, 4\)"):
        measure_steps(replace(denoiser, event_shape=(1, 5, 4)), reference())
    with pytest.raises(PrescoreError, match=r"prescore\.in_range"):
        measure_steps(replace(denoiser, data_range=(0.0, 1.0)), reference())
    with pytest.raises(SamplingError, match="not finite"):
        measure_steps(model(lambda x, sigma: x * float("nan")), reference(), trajectories=2)
    with pytest.raises(PrescoreError, match=r"grid: auto needs .*calibrate DATA --model MODEL"):
        auto_grid("dpmpp-2m", statistics, 5)
    with pytest.raises(PrescoreError, match="unknown name 'dpm'"):
        auto_grid("dpm", replace(statistics, model=ModelStatistics(steps=measured())), 5)


@pytest.mark.parametrize(("low", "high", "scale", "steps"), [(1, 20, 100, 6), (1, 20, 0.01, 6), (0.002, 80, 0.5, 1000)])
def test_levels_uniform_in_time_decrease_within_the_range(low, high, scale, steps):
    """Whatever the data's deviation is beside the noise; in the middle they are sigma = scale sqrt(exp(h t^2) - 1)."""
    levels = _uniform_in_time(low, high, scale, steps)
    assert (len(levels), levels[0].item(), levels[-1].item()) == (steps + 1, high, 0)
    assert (levels.diff() < 0).all()
    assert levels[-2] >= low
    t = (levels[:-1] / scale).square().log1p().sqrt()
    torch.testing.assert_close(t.diff(), t.diff().mean().expand(steps - 1), rtol=1e-6, atol=1e-9)
