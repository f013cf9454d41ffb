"""GGF: the pair of methods, its controller against a plain loop, its noise, and what it promises of each sample."""

import math

import pytest
import torch
from support import relative

from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError, SamplingError
from prescore.noise import NoiseSource
from prescore.oracle import Diagonal, MixtureOracle
from prescore.samplers import sample
from prescore.samplers.adaptive import GGF, BrownianMemory
from prescore.schedule import VP, GeometricVE, Tabulated

LOW, HIGH = 0.02, 20.0
MIXTURE = MixtureOracle(
    torch.tensor([0.3, 0.7]),
    torch.tensor([[0.2, 0.9, 0.5], [0.7, 0.1, 0.4]], dtype=torch.float64),
    Diagonal(torch.tensor([[0.01, 0.02, 0.1], [0.05, 0.001, 0.02]], dtype=torch.float64)),
)
ENDS = torch.tensor([HIGH, LOW], dtype=torch.float64)


def model(oracle=MIXTURE, shape=(3,)):
    return Denoiser(oracle, shape, LOW, HIGH, dtype=torch.float64)


def row_by_row(x, sigma):
    """The mixture, with arithmetic that no batch-mate has a part in: a product of matrices rounds by its size."""
    return torch.cat([MIXTURE(row[None], level) for row, level in zip(x, sigma.expand(len(x)), strict=True)])


def unit_gaussian(x, sigma):
    return x / (1 + sigma.reshape(-1, *(1,) * (x.ndim - 1)) ** 2)


class Normals(NoiseSource):
    """Fast draws for many samples."""

    def __init__(self, *shape):
        self.generator, self.shape, self.draw = torch.Generator().manual_seed(0), shape, 0

    def __call__(self):
        return torch.randn(*self.shape, generator=self.generator, dtype=torch.float64)


def plain_loop(sampler, schedule, seed):
    """Algorithm 1 of the paper for one sample, in x~ and t, with noise drawn at each attempt and rounded factors."""
    noise = NoiseSource([seed], (3,), dtype=torch.float64)
    t, end = schedule.t(HIGH), schedule.t(LOW)
    x = schedule.s(t) * HIGH * noise()[0]
    previous, h, calls = x, 0.01, 0

    def reverse_drift(x, t):
        s, sigma = schedule.s(t), schedule.sigma(t)
        score = MIXTURE.score((x / s)[None], sigma)[0] / s
        return schedule.f(t) * x - schedule.g(t) ** 2 * score

    while t > end:
        h = min(h, t - end)
        z = noise()[0]
        lower = x - h * reverse_drift(x, t) + schedule.g(t) * math.sqrt(h) * z
        tilde = x - h * reverse_drift(lower, t - h) + schedule.g(t - h) * math.sqrt(h) * z
        better, calls = (lower + tilde) / 2, calls + 2
        delta = torch.maximum(
            torch.tensor(sampler.eps_abs), sampler.eps_rel * torch.maximum(lower.abs(), previous.abs())
        )
        E = ((lower - better) / delta).norm() / math.sqrt(3)
        if E <= 1:
            x, previous, t = better, lower, t - h if h < t - end else end
        h *= 2 ** (math.floor(8 * math.log2(0.9 * E**-0.9)) / 8)
    return x / schedule.s(end), calls


@pytest.mark.parametrize("schedule", [GeometricVE(), VP()])
def test_it_is_the_algorithm_of_the_paper(schedule):
    sampler = GGF(rejected="redraw", schedule=schedule, eps_rel=0.05, grid=ENDS)
    states = []
    x = sample(model(), sampler, seeds=[1, 2, 3], callback=lambda p: states.append(p.state), progress=False)
    assert states[0].rejections.sum() > 0
    for k, seed in enumerate([1, 2, 3]):
        expected, calls = plain_loop(sampler, schedule, seed)
        assert relative(x[k], expected) < 1e-9
        assert states[0].calls[k] == calls


@pytest.mark.parametrize("rejected", ["bridge", "redraw"])
@pytest.mark.parametrize("steps", [2, 4])
def test_a_sample_does_not_depend_on_its_batch(rejected, steps):
    """Bit for bit, and its count of calls too, also where batch-mates go on for longer and in later legs."""
    states, sampler = [], GGF(rejected=rejected, steps=steps, eps_rel=0.1, eps_abs=0.02)

    def run(seeds):
        keep = lambda p: states.append(p.state)  # noqa: E731
        return sample(model(row_by_row), sampler, seeds=seeds, callback=keep, progress=False)

    together = run(range(9))
    calls, rejections = states[-1].calls, states[-1].rejections
    assert calls.unique().numel() > 3
    assert rejections.sum() > 9
    for k in (0, 3, 8):
        assert torch.equal(run([k])[0], together[k])
        assert states[-1].calls.item() == calls[k]
    assert torch.equal(run([7, 2])[1], together[2])


def test_larger_events_do_not_depend_on_their_batch():
    denoiser, sampler = model(unit_gaussian, (3, 16, 16)), GGF(eps_rel=0.1)
    together = sample(denoiser, sampler, seeds=range(5), progress=False)
    assert torch.equal(sample(denoiser, sampler, seeds=[3], progress=False)[0], together[3])
    assert torch.equal(sample(denoiser, sampler, seeds=range(5), batch_size=2, progress=False), together)


def test_calls_are_counted():
    """A sample's own calls, and the batch's: those of the slowest sample and the denoising step."""
    seen = []
    x = sample(model(), GGF(), seeds=range(6), callback=seen.append, progress=False)
    assert GGF().total_calls(2) is None
    assert seen[-1].calls == seen[-1].state.calls.max()
    assert torch.equal(x, MIXTURE(seen[0].x, torch.tensor(seen[1].sigma, dtype=torch.float64)))
    assert torch.equal(seen[1].state.calls, seen[0].state.calls + 1)
    few = []
    sample(model(), GGF(eps_rel=0.2, eps_abs=0.1), seeds=range(6), callback=few.append, progress=False)
    assert (few[-1].state.calls < seen[-1].state.calls).all()


def end(tolerance, rejected, d, n, **options):
    """Samples of N(0, 1) at sigma = LOW from exact ones at HIGH, over the true standard deviation."""
    noise = Normals(n, d)
    sampler = GGF(eps_abs=tolerance, eps_rel=tolerance, rejected=rejected, **options)
    x, state = sampler.step(unit_gaussian, (1 + HIGH**2) ** 0.5 * noise(), *ENDS, None, noise)
    return x / (1 + LOW**2) ** 0.5, state


@pytest.mark.parametrize("schedule", [GeometricVE(), VP()])
def test_moments_converge_as_the_tolerance_falls(schedule):
    """In one dimension, where acceptance depends on the noise most."""
    n, bias = 20000, []
    for tolerance in (0.5, 0.02):
        x, state = end(tolerance, "bridge", 1, n, schedule=schedule)
        assert state.rejections.double().mean() > 1
        assert abs(x.mean().item()) < 4 / n**0.5
        bias.append(abs(x.var().item() - 1))
    assert bias[0] > 0.04
    assert bias[1] < 0.01 + 3 * (2 / n) ** 0.5


def test_noise_drawn_anew_after_a_rejection_biases():
    """The authors' form: in one dimension the variance comes out too large by more, the finer the tolerance."""
    first, second = (end(tolerance, "redraw", 1, 4000)[0].var().item() for tolerance in (0.3, 0.1))
    assert 2 < first < second


def test_moments_of_a_mixture():
    n, oracle = 4000, MIXTURE
    noise = Normals(n, 3)
    x = oracle.sample(n, torch.Generator().manual_seed(1)) + HIGH * noise()
    x, _ = GGF(eps_abs=0.01, eps_rel=0.01).step(oracle, x, *ENDS, None, noise)
    weights, means = oracle.weights[:, None], oracle.means
    mean = (weights * means).sum(0)
    second = (weights * (oracle.covariances.variances + means**2)).sum(0) + LOW**2
    std = (second - mean**2).sqrt()
    assert ((x.mean(0) - mean).abs() < 4 * std / n**0.5 + 0.01 * std).all()
    assert ((x.std(0) / std - 1).abs() < 0.05).all()


def test_the_memory_keeps_a_brownian_motion():
    """Steps rejected at random by a rule that looks at the noise: the path that remains is still Brownian."""
    n, noise = 20000, Normals(20000, 1)
    path = BrownianMemory(noise())
    t, W, at_half = torch.zeros(n, dtype=torch.float64), torch.zeros(n, 1, dtype=torch.float64), None
    wish = torch.full((n,), 0.5, dtype=torch.float64)
    at_half = torch.zeros(n, 1, dtype=torch.float64)
    while (active := t < 1).any():
        goal = torch.where(t < 0.5, 0.5, 1.0)
        h, w = path.increment(torch.minimum(wish, goal - t), noise())
        rejected = active & (w[:, 0] > 0.8 * h.sqrt()) & (h > 0.01)
        path.remember(h, w, rejected)
        move = active & ~rejected
        W = torch.where(move[:, None], W + w, W)
        t = torch.where(move, torch.where(h >= goal - t, goal, t + h), t)
        at_half = torch.where((move & (t == 0.5))[:, None], W, at_half)
        wish = torch.where(rejected, h / 3, torch.full_like(h, 0.5))
    assert len(path.lengths) > 3
    first, second = at_half[:, 0], (W - at_half)[:, 0]
    for part in (first, second):
        assert abs(part.mean().item()) < 4 * (0.5 / n) ** 0.5
        assert part.var().item() == pytest.approx(0.5, rel=4 * (2 / n) ** 0.5)
    assert abs((first * second).mean().item()) < 4 * 0.5 / n**0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps_rel": 0.0}, "eps_rel: 0.0 is not a positive number"),
        ({"eps_abs": math.nan}, "eps_abs: nan is not a positive number"),
        ({"rejected": "bridged"}, "rejected: unknown value 'bridged'; did you mean bridge"),
        ({"safety": 1.0}, "safety: 1.0 is not between 0 and 1"),
        ({"exponent": 2.0}, r"exponent: 2.0 is not in \[0.5, 1\]"),
        ({"first_step": 0.0}, "first_step: 0.0 is not positive"),
        ({"max_calls": 1}, "max_calls: 1 is less than"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message):
    with pytest.raises(PrescoreError, match=message) as caught:
        GGF(**arguments)
    assert "\n" not in str(caught.value)


def test_levels_outside_the_schedule_are_refused():
    with pytest.raises(PrescoreError, match=r"schedule: Tabulated has no time for sigma = 500; it knows 0\.01 to 157"):
        sample(
            model(), GGF(schedule=Tabulated.linear(), grid=torch.tensor([500.0, 1.0, 0.0])), seeds=[0], progress=False
        )


def rough(x, sigma):
    return torch.sin(1e12 * x)


@pytest.mark.parametrize(
    ("oracle", "options"),
    [(MIXTURE, {"max_calls": 40}), (rough, {"eps_rel": 1e-6, "max_calls": 400}), (MIXTURE, {"first_step": 1e-18})],
)
def test_it_stops_where_the_tolerance_cannot_be_met(oracle, options):
    """Too few calls, a model whose output jumps so that no step is short enough, and a step lost in rounding."""
    with pytest.raises(SamplingError, match=r"tolerance: eps_rel = .* not met for 3 samples .* raise the") as caught:
        sample(model(oracle), GGF(**options), seeds=range(3), progress=False)
    assert "\n" not in str(caught.value)


def test_a_plain_step_without_the_driver_stops_at_nan():
    with pytest.raises(SamplingError, match="not met"):
        GGF().step(lambda x, sigma: x * math.nan, torch.ones(2, 3, dtype=torch.float64), *ENDS, None, Normals(2, 3))
