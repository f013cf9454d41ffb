"""The adaptive probability-flow ODE against scipy and exact solutions; likelihoods against closed-form densities."""

import math

import numpy as np
import pytest
import torch
from support import relative, slope

from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError, SamplingError
from prescore.gaussian import Gaussian
from prescore.noise import NoiseSource
from prescore.operators import Pixel
from prescore.oracle import Diagonal, MixtureOracle
from prescore.samplers import sample
from prescore.samplers.ode import AdaptiveODE, log_likelihood, pair

LOW, HIGH = 0.02, 50.0
MEAN = torch.tensor([[0.5, -1.0], [0.0, 2.0]], dtype=torch.float64)
VARIANCE = torch.tensor([[0.01, 0.1], [1.0, 4.0]], dtype=torch.float64)
GAUSSIAN = Gaussian(MEAN, Pixel(VARIANCE))


def gaussian(mean, variance):
    """As a mixture of one: fast with a different sigma for each sample."""
    return MixtureOracle(torch.ones(1), mean[None], Diagonal(variance[None]))


MIXTURE = MixtureOracle(
    torch.tensor([0.3, 0.7]), torch.stack([MEAN, -MEAN]), Diagonal(torch.stack([VARIANCE, 0.3 + VARIANCE]))
)


def model(oracle, low=LOW, high=HIGH):
    return Denoiser(oracle, (2, 2), low, high, dtype=torch.float64)


def log_gaussian(x, mean, variance):
    return -((x - mean) ** 2 / variance + (2 * math.pi * variance).log()).sum((1, 2)) / 2


def start(seeds):
    return HIGH * NoiseSource(seeds, (2, 2), dtype=torch.float64)()


def test_it_is_the_exact_solution_of_the_gaussian_flow():
    grid = torch.tensor([HIGH, LOW], dtype=torch.float64)
    exact = GAUSSIAN.ode_solution(start(range(5)), grid[0], LOW)
    errors = []
    for tolerance in (1e-5, 1e-8):
        x = sample(
            model(GAUSSIAN), AdaptiveODE(grid=grid, rtol=tolerance, atol=tolerance), seeds=range(5), progress=False
        )
        errors.append(relative(x, exact))
    assert errors[0] < 1e-4
    assert errors[1] < 1e-7


@pytest.mark.parametrize("oracle", [GAUSSIAN, MIXTURE])
def test_the_pair_has_orders_five_and_four(oracle):
    """Fixed steps uniform in log sigma from 3 to 0.05; the result of order 4 is the other one minus the difference."""
    x, ends = start(range(4)) * 3 / HIGH, torch.tensor([3.0, 0.05], dtype=torch.float64).log()

    def f(log, x):
        return x - oracle(x, log[0].exp())

    def run(steps, embedded):
        h, y = (ends[1] - ends[0]).repeat(4) / steps, x
        for i in range(steps):
            t = ends[0] + i * h
            new, error, _ = pair(f, t, y, h, f(t, y))
            y = new - error if embedded else new
        return y

    exact = run(800, False)
    for embedded, order in ((False, 5), (True, 4)):
        steps = [100, 200, 400]
        errors = [(run(n, embedded) - exact).norm().item() for n in steps]
        assert slope([1 / n for n in steps], errors) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_each_sample_takes_the_steps_of_scipy(tolerance, monkeypatch):
    """Where they are not rounded."""
    monkeypatch.setattr("prescore.samplers.ode.quantised", lambda factor: factor)
    integrate = pytest.importorskip("scipy.integrate")
    seeds = [3, 4, 8]
    states = []
    x = sample(
        model(MIXTURE),
        AdaptiveODE(rtol=tolerance, atol=tolerance, grid=torch.tensor([HIGH, LOW], dtype=torch.float64)),
        seeds=seeds,
        callback=lambda p: states.append(p.state),
        progress=False,
    )
    for row, calls, seed in zip(x, states[-1].calls, seeds, strict=True):

        def f(log, y):
            y = torch.from_numpy(y).reshape(1, 2, 2)
            return (y - MIXTURE(y, torch.tensor(math.exp(log), dtype=torch.float64))).flatten().numpy()

        span = (math.log(HIGH), math.log(LOW))
        ours = integrate.solve_ivp(f, span, start([seed]).flatten().numpy(), rtol=tolerance, atol=tolerance)
        assert ours.nfev == calls
        np.testing.assert_allclose(row.flatten().numpy(), ours.y[:, -1], rtol=1e-8)


def test_torchdiffeq_agrees():
    torchdiffeq = pytest.importorskip("torchdiffeq")
    x = start(range(3))
    ends = torch.tensor([HIGH, LOW], dtype=torch.float64).log()
    both = torchdiffeq.odeint(lambda log, x: x - MIXTURE(x, log.exp()), x, ends, rtol=1e-9, atol=1e-9, method="dopri5")
    grid = torch.tensor([HIGH, LOW], dtype=torch.float64)
    ours = sample(model(MIXTURE), AdaptiveODE(grid=grid, rtol=1e-9, atol=1e-9), seeds=range(3), progress=False)
    assert relative(ours, both[-1]) < 1e-7


def test_a_sample_does_not_depend_on_its_batch():
    states = []
    sampler = AdaptiveODE(steps=4)
    together = sample(
        model(MIXTURE), sampler, seeds=range(7), callback=lambda p: states.append(p.state), progress=False
    )
    calls = states[-1].calls
    assert calls.unique().numel() > 1
    for k in range(7):
        alone = sample(model(MIXTURE), sampler, seeds=[k], callback=lambda p: states.append(p.state), progress=False)
        assert torch.equal(alone[0], together[k])
        assert states[-1].calls.item() == calls[k]


def test_the_last_step_denoises():
    ends = []
    x = sample(model(MIXTURE), AdaptiveODE(), seeds=range(2), callback=lambda p: ends.append(p.x), progress=False)
    assert torch.equal(x, MIXTURE(ends[0], torch.tensor(LOW, dtype=torch.float64)))


@pytest.mark.parametrize("trace", ["exact", "rademacher"])
def test_likelihood_of_a_gaussian(trace):
    """Rademacher probes are exact too: the Jacobian is diagonal. A prior with the data's own moments is exact."""
    oracle = Gaussian(MEAN, Pixel(torch.full((2, 2), 0.3, dtype=torch.float64)))
    x = oracle.sample(6, torch.Generator().manual_seed(0))
    found = log_likelihood(
        model(gaussian(MEAN, torch.full((2, 2), 0.3))),
        x,
        trace=trace,
        prior_mean=MEAN,
        prior_variance=0.3,
        rtol=1e-8,
        atol=1e-8,
    )
    exact = log_gaussian(x, MEAN, torch.full((2, 2), 0.3 + LOW**2, dtype=torch.float64))
    torch.testing.assert_close(found.log_prob, exact, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.bits_per_dim, -exact / (4 * math.log(2)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.latent, oracle.ode_solution(x, torch.tensor(LOW), HIGH), rtol=1e-6, atol=1e-6)


def test_the_density_is_that_of_the_sampler():
    """With the prior N(0, sigma_max^2) the flow of a Gaussian ends in a Gaussian."""
    x = GAUSSIAN.sample(6, torch.Generator().manual_seed(0))
    found = log_likelihood(model(gaussian(MEAN, VARIANCE)), x, trace="exact", rtol=1e-8, atol=1e-8)
    shrink = ((VARIANCE + LOW**2) / (VARIANCE + HIGH**2)).sqrt()
    exact = log_gaussian(x, MEAN - shrink * MEAN, (shrink * HIGH) ** 2)
    torch.testing.assert_close(found.log_prob, exact, rtol=1e-6, atol=1e-6)


def mixture_likelihood(trace, repeats):
    x = MIXTURE.sample(3, torch.Generator().manual_seed(1))
    # The prior has the mixture's mean and a common variance near its own: what is left is of order 1 / sigma_max^2.
    found = log_likelihood(
        model(MIXTURE, high=200.0),
        x.repeat(repeats, 1, 1),
        trace=trace,
        probes=1,
        seeds=range(3 * repeats),
        prior_mean=-0.4 * MEAN,
        prior_variance=2.0,
        rtol=1e-6,
        atol=1e-6,
    )
    return found.log_prob.reshape(repeats, 3), MIXTURE.log_prob(x, torch.tensor(LOW, dtype=torch.float64))


def test_likelihood_of_a_mixture():
    found, exact = mixture_likelihood("exact", 1)
    torch.testing.assert_close(found[0], exact, rtol=0, atol=3e-4)


@pytest.mark.parametrize("trace", ["rademacher", "gaussian"])
def test_probes_are_right_in_the_mean(trace):
    found, exact = mixture_likelihood(trace, 300)
    spread = found.std(0)
    assert (spread > 0.01).all()
    assert ((found.mean(0) - exact).abs() < 4 * spread / 300**0.5).all()


def test_a_few_numbers_have_an_exact_trace():
    x = MIXTURE.sample(3, torch.Generator().manual_seed(1))
    usual, exact = (log_likelihood(model(MIXTURE), x, **how) for how in ({}, {"trace": "exact"}))
    assert torch.equal(usual.log_prob, exact.log_prob)
    assert torch.equal(usual.error, torch.zeros(3).double())


def test_the_spread_of_probes_is_the_error():
    """Of 100 seeds with 8 probes each; the errors say the spread of the means, and one probe says none."""
    x = MIXTURE.sample(1, torch.Generator().manual_seed(1)).repeat(100, 1, 1)
    exact = log_likelihood(model(MIXTURE), x[:1], trace="exact").log_prob
    found = log_likelihood(model(MIXTURE), x, trace="rademacher", probes=8)
    spread = (found.log_prob - exact).square().mean().sqrt()
    assert found.error.square().mean().sqrt().item() == pytest.approx(spread.item(), rel=0.25)
    assert log_likelihood(model(MIXTURE), x[:2], trace="rademacher", probes=1).error.isnan().all()


def test_dequantised_bits():
    """2^-bits is the density at a point of each bin times the width of the bin: their sum is the mass in the range."""
    variance = 0.05
    oracle = gaussian(torch.full((1, 1), 0.5), torch.full((1, 1), variance))
    denoiser = Denoiser(oracle, (1, 1), 0.001, HIGH, dtype=torch.float64, data_range=(-1.0, 1.0))
    values = torch.linspace(-1, 1, 256, dtype=torch.float64).reshape(-1, 1, 1)
    found = log_likelihood(denoiser, values, bins=256, trace="exact", prior_mean=0.5, prior_variance=variance)
    mass = (math.erf(0.5 / math.sqrt(2 * variance)) + math.erf(1.5 / math.sqrt(2 * variance))) / 2
    assert torch.pow(2.0, -found.bits_per_dim).sum().item() == pytest.approx(mass, abs=1e-3)
    # The points lie each in its own bin, in order, and inside the range.
    x = 0.5 + (variance / (variance + HIGH**2)) ** 0.5 * (found.latent.flatten() - 0.5)
    bins = ((x + 1) * 128).floor()
    assert torch.equal(bins, torch.arange(256, dtype=torch.float64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rtol": 0.0}, "rtol: 0.0 is not a positive number"),
        ({"atol": math.inf}, "atol: inf is not a positive number"),
        ({"max_calls": 7}, "max_calls: 7 is less than the 8 calls"),
        ({"trace": "exactly"}, "trace: unknown value 'exactly'; did you mean exact"),
        ({"probes": 0}, "probes: 0 is not a positive whole number"),
        ({"seeds": [1]}, "seeds: 1 of them for 2 data"),
        ({"sigma_min": 0.0}, "sigma_min 0.0 and sigma_max 50.0: 0 < sigma_min"),
        ({"bins": 1}, "bins: 1 values in data_range"),
    ],
)
def test_bad_input_of_the_likelihood(arguments, message):
    with pytest.raises(PrescoreError, match=message) as caught:
        log_likelihood(model(GAUSSIAN), torch.zeros(2, 2, 2), **arguments)
    assert "\n" not in str(caught.value)
    if arguments.keys() & {"rtol", "atol", "max_calls"}:
        with pytest.raises(PrescoreError, match=message):
            AdaptiveODE(**arguments)


def test_a_model_without_gradient_is_refused():
    def f(x, sigma):
        return x.detach()

    with pytest.raises(PrescoreError, match="has no gradient"):
        log_likelihood(model(f), torch.zeros(2, 2, 2))


def test_it_stops_where_the_tolerance_cannot_be_met():
    """A model with noise in its output, and one that is asked for too much in too few calls."""
    generator = torch.Generator().manual_seed(0)

    def rough(x, sigma):
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    for f, options in ((rough, {"rtol": 1e-10, "max_calls": 1000}), (GAUSSIAN, {"max_calls": 50})):
        with pytest.raises(SamplingError, match=r"tolerance: rtol = .* not met for 2 samples .* stopped at sigma") as e:
            sample(model(f), AdaptiveODE(**options), seeds=range(2), progress=False)
        assert "\n" not in str(e.value)
