import math
from itertools import pairwise

import pytest
import torch
from support import Replay, relative

from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.grid import karras
from prescore.noise import NoiseSource
from prescore.samplers import PredictorCorrector, sample
from prescore.samplers.edm import EDMChurn, EDMFlow
from prescore.schedule import IDDPM, SCHEDULES, VP, GeometricVE, Tabulated

EVERY = {**SCHEDULES, "geometric": GeometricVE(), "tabulated": Tabulated.linear(), "vp-refitted": VP.between(0.002, 80)}
every_schedule = pytest.mark.parametrize("schedule", EVERY.values(), ids=EVERY.keys())
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def denoise(x, sigma):
    return 0.2 + 0.3 / (0.3 + sigma**2) * (x - 0.2)


def level(sigma):
    return torch.tensor(sigma, dtype=torch.float64)


def one_step(sampler, sigma, sigma_next, draws=(), model=denoise, x=X):
    sigma, sigma_next = level(sigma), level(sigma_next)
    levels = torch.stack([sigma, sigma_next])
    return sampler.step(model, x, sigma, sigma_next, sampler.start(levels), Replay(draws))[0]


def test_euler_in_sigma_moves_straight_to_the_denoised():
    D = denoise(X, level(2.0))
    torch.testing.assert_close(one_step(EDMFlow(order=1), 2.0, 0.5), D + (X - D) / 4, rtol=1e-14, atol=1e-14)


def test_euler_in_variance_is_the_probability_flow_predictor():
    flow = PredictorCorrector(predictor="probability-flow", corrector="none")
    expected = one_step(flow, 2.0, 0.5)
    torch.testing.assert_close(one_step(EDMFlow(order=1, schedule="ve"), 2.0, 0.5), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 2 / 3, 1.0])
@every_schedule
def test_a_step_is_that_of_the_paper_in_scaled_coordinates(schedule, alpha):
    """Appendix D.2 written out in x_t, with the derivative of its eq. 4."""

    def slope(x_t, t):
        s, sigma = schedule.s(t), schedule.sigma(t)
        a = schedule.ds(t) / s + schedule.dsigma(t) / sigma
        return a * x_t - schedule.dsigma(t) * s / sigma * denoise(x_t / s, sigma)

    t, t_next = schedule.t(2.0), schedule.t(1.5)
    h, x_t = t_next - t, schedule.s(t) * X
    d = slope(x_t, t)
    inner = slope(x_t + alpha * h * d, t + alpha * h)
    x_t = x_t + h * ((1 - 1 / (2 * alpha)) * d + 1 / (2 * alpha) * inner)
    out = one_step(EDMFlow(schedule=schedule, alpha=alpha), 2.0, 1.5)
    torch.testing.assert_close(out, x_t / schedule.s(t_next), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("order", [1, 2])
@every_schedule
def test_every_schedule_comes_to_the_end_of_the_flow(schedule, order):
    """From 3 to 0 with the last step: sqrt(C / (C + 9)) (x - mu), for a schedule that knows 0 or not."""
    grid = karras(60 if order == 2 else 400, 0.02, 3.0, final_zero=True)
    sampler, x = EDMFlow(grid=grid, order=order, schedule=schedule), 3 * X
    for sigma, sigma_next in pairwise(grid):
        x, _ = sampler.step(denoise, x, sigma, sigma_next, None, Replay([]))
    assert relative(x - 0.2, math.sqrt(0.3 / 9.3) * (3 * X - 0.2)) < 2e-2


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("schedule", ["edm", "ve", "iddpm", GeometricVE(), Tabulated.linear()], ids=str)
def test_the_last_step(order, schedule):
    """It is one call at sigma, and D in sigma itself and where the schedule has no level 0."""
    calls = []
    sampler = EDMFlow(order=order, schedule=schedule)
    out = one_step(sampler, 0.5, 0.0, model=lambda x, sigma: calls.append(sigma.item()) or denoise(x, sigma))
    assert calls == [0.5]
    D = denoise(X, level(0.5))
    # Euler in the variance goes half the way to D.
    torch.testing.assert_close(out, (X + D) / 2 if schedule == "ve" else D, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("final_zero", [True, False])
@pytest.mark.parametrize("cls", [EDMFlow, EDMChurn])
def test_calls_are_those_declared(order, final_zero, cls):
    calls = []

    def model(x, sigma):
        calls.append(sigma)
        return denoise(x, sigma)

    sampler = cls(order=order, grid=karras(7, 0.01, 20.0, final_zero=final_zero))
    sample(model, sampler, seeds=[0, 1], event_shape=(4,), progress=False)
    steps = len(sampler.grid) - 1
    assert len(calls) == sampler.total_calls(steps, final_zero)
    assert len(calls) == (2 * steps - final_zero if order == 2 else steps)


def test_a_step_leaves_its_arguments_alone():
    x, D = X.clone(), X.clone() / 2
    one_step(EDMFlow(), 2.0, 1.0, model=lambda x, sigma: D, x=x)
    assert torch.equal(x, X)
    assert torch.equal(D, X / 2)


def test_the_usual_grid():
    assert torch.equal(EDMFlow(steps=9).levels(0.01, 50.0), karras(9, 0.01, 50.0, final_zero=True))
    assert len(EDMChurn().levels(0.01, 50.0)) == 19


def test_no_churn_is_the_deterministic_sampler():
    still, flow = EDMChurn(steps=6, S_churn=0.0), EDMFlow(steps=6)
    assert not still.stochastic
    assert still.strong_order is flow.strong_order is None
    model = Denoiser(denoise, (4,), 0.01, 20.0, dtype=torch.float64)
    assert torch.equal(*(sample(model, s, seeds=range(3), progress=False) for s in (still, flow)))


def test_the_noise_that_churn_adds():
    """With a model that sees no noise at all nothing else moves the state."""
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sampler = EDMChurn(S_churn=0.2, S_tmax=math.inf, S_noise=1.5)
    out = one_step(sampler, 2.0, 1.0, [z], model=lambda x, sigma: x)
    torch.testing.assert_close(out, X + 1.5 * math.sqrt(2.4**2 - 2.0**2) * z, rtol=1e-13, atol=1e-13)
    capped = one_step(EDMChurn(S_churn=100.0, S_tmax=math.inf), 2.0, 1.0, [z], model=lambda x, sigma: x)
    torch.testing.assert_close(capped, X + 2.0 * z, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("options", [{}, {"S_tmin": 0.1, "S_tmax": 10.0}, {"S_tmax": math.inf}])
def test_where_churn_adds_noise(options):
    """Between S_tmin and S_tmax, both included; by default wherever the noise stays within the grid."""
    grid = torch.tensor([20.0, 15.0, 10.0, 5.0, 1.0, 0.1, 0.05, 0.0], dtype=torch.float64)
    sampler = EDMChurn(grid=grid, **options)
    state = sampler.start(grid)
    raised = [sampler.raised(sigma, state).item() for sigma in grid[:-1]]
    low, high = options.get("S_tmin", 0.0), options.get("S_tmax", 20 / math.sqrt(2))
    expected = [s * math.sqrt(2) if low <= s <= high else s for s in grid[:-1].tolist()]
    assert raised == pytest.approx(expected, rel=1e-14)


def test_churn_stops_at_levels_that_the_network_knows():
    schedule = IDDPM()
    grid = karras(18, 0.02, 50.0, final_zero=True)
    sampler = EDMChurn(grid=grid, schedule=schedule, S_tmax=math.inf)
    state = sampler.start(grid)
    raised = torch.stack([sampler.raised(sigma, state) for sigma in grid[:-1]])
    assert torch.isin(raised, schedule.u).all()
    assert (raised > grid[:-1]).all()


def test_churn_beyond_the_model_is_refused():
    model = Denoiser(denoise, (4,), 0.01, 20.0)
    with pytest.raises(
        PrescoreError, match=r"^S_tmax: churn would raise the noise to 28.28, the model knows it up to 20"
    ):
        sample(model, EDMChurn(S_tmax=math.inf), seeds=[0], progress=False)
    for fits in (EDMChurn(), EDMChurn(S_tmax=14.0), EDMChurn(S_tmax=math.inf, S_churn=0.0)):
        assert sample(model, fits, seeds=[0], progress=False).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_depends_on_its_seed_alone(dtype):
    model = Denoiser(denoise, (4,), 0.01, 20.0, dtype=dtype)
    sampler = EDMChurn(steps=6, schedule="vp")
    together = sample(model, sampler, seeds=range(4), dtype=dtype, progress=False)
    assert together.dtype == dtype
    assert torch.equal(together, sample(model, sampler, seeds=range(4), batch_size=1, dtype=dtype, progress=False))


def test_churn_reaches_the_variance_of_the_data():
    """100 steps from the prior; 20000 numbers of variance 0.3 within 4 standard errors and 1 %."""
    model = Denoiser(denoise, (20000,), 0.01, 20.0, dtype=torch.float64)
    x = sample(model, EDMChurn(steps=100), seeds=[0], progress=False)
    assert abs(x.mean() - 0.2) < 4 * math.sqrt(0.3 / 20000)
    assert abs(x.var() / 0.3 - 1) < 4 * math.sqrt(2 / 20000) + 0.01


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (EDMFlow, {"order": 3}, "order: 3 is neither 1"),
        (EDMFlow, {"alpha": 0.0}, r"alpha: 0.0 is not in \(0, 1\]; 1 is Heun's"),
        (EDMFlow, {"alpha": 1.2}, "alpha: 1.2 is not in"),
        (EDMFlow, {"alpha": math.nan}, "alpha: nan is not in"),
        (EDMFlow, {"schedule": "vpp"}, "schedule: unknown value 'vpp'; did you mean"),
        (EDMFlow, {"steps": 0}, "steps: 0 is not"),
        (EDMChurn, {"S_churn": -1.0}, "S_churn: -1.0 is not a number >= 0"),
        (EDMChurn, {"S_churn": math.inf}, "S_churn: inf is not"),
        (EDMChurn, {"S_tmin": -0.1}, "S_tmin: -0.1 is not a noise level"),
        (EDMChurn, {"S_tmin": 2.0, "S_tmax": 1.0}, "S_tmax: 1.0 is below S_tmin = 2.0"),
        (EDMChurn, {"S_noise": 0.0}, "S_noise: 0.0 is not a positive"),
        (EDMChurn, {"S_noise": math.nan}, "S_noise: nan is not a positive"),
    ],
)
def test_bad_input_is_one_clear_line(cls, options, message):
    with pytest.raises(PrescoreError, match=message) as caught:
        cls(**options)
    assert "\n" not in str(caught.value)


def test_what_the_samplers_declare():
    assert (EDMFlow(order=1).order, EDMFlow().order, EDMChurn(order=1).order, EDMChurn().order) == (1, 2, 1, 2)
    assert (EDMFlow().stochastic, EDMChurn().stochastic, EDMChurn().strong_order) == (False, True, 1)
    noise = NoiseSource([0], (4,))
    sampler = EDMChurn(grid=torch.tensor([2.0, 1.0, 0.5, 0.0]))
    x, state = sampler.initial(noise, sampler.grid[0]), sampler.start(sampler.grid)
    for sigma, sigma_next in pairwise(sampler.grid):
        x, state = sampler.step(denoise, x, sigma, sigma_next, state, noise)
    assert noise.draw == 3  # the initial state, and where the noise stays within the grid: 1 and 0.5
