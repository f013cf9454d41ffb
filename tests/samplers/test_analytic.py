"""Analytic-DPM: the paper's formula on its own schedules, and exactness on Gaussian data."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from support import relative

from prescore import calibrate
from prescore.errors import PrescoreError
from prescore.gaussian import Gaussian
from prescore.operators import Pixel
from prescore.samplers import sample
from prescore.samplers.analytic import AnalyticDDIM
from prescore.samplers.ddim import DDIM
from prescore.schedule import Tabulated
from prescore.statistics import ModelStatistics
from prescore.statistics.score import ScoreStatistics, score_statistics

SHAPE = (2, 3)
ETAS = [0.0, 0.5, 1.0]
LEVELS = torch.logspace(3, -3, 13, dtype=torch.float64)


def with_gamma(gamma, residual=None, levels=LEVELS, data_range=(-1000.0, 1000.0), shape=SHAPE):
    """Statistics of which the samplers use the range and the score alone."""
    both = torch.stack([torch.full(shape, end, dtype=torch.float64) for end in data_range])
    score = ScoreStatistics(
        levels=levels, score_square=gamma, residual_square=1 - gamma if residual is None else residual, count=1
    )
    return replace(calibrate(both, data_range=data_range), model=ModelStatistics(score=score))


def gaussian(c, levels=LEVELS, **options):
    """Exact Gamma of N(mu, diag(c)): the mean of sigma^2 / (c + sigma^2)."""
    u = levels.unsqueeze(1) ** 2
    return with_gamma((u / (torch.as_tensor(c, dtype=torch.float64) + u)).mean(1), levels=levels, **options)


def tables():
    betas = {"linear": torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)}
    alpha_bar = torch.cos((torch.arange(1001, dtype=torch.float64) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
    betas["cosine"] = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)
    return betas


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("steps", [10, 50])
def test_theorem_1_in_the_coordinates_of_the_paper(name, eta, steps):
    """sigma_n*^2 of the paper from alpha, beta and a Gamma_n for each index, against ours times alpha_bar_{n-1}."""
    betas = tables()[name]
    alpha_bar = (1 - betas).cumprod(0)
    index = torch.linspace(0, 999, steps).round().long()
    Gamma = torch.linspace(0.05, 0.95, 1000, dtype=torch.float64)  # (n) = beta_bar E|score|^2 / d
    table = Tabulated.from_betas(betas).levels
    grid = torch.cat([table[index].flip(0), torch.zeros(1)])
    statistics = with_gamma(Gamma.flip(0), levels=table.flip(0), data_range=(-1e6, 1e6))
    ours = AnalyticDDIM(eta=eta, statistics=statistics, last_noise=None, grid=grid).noise_variance(grid[:-1], grid[1:])
    for i, (n, previous) in enumerate(pairwise(index.flip(0).tolist())):
        bar, bar_previous = alpha_bar[n], alpha_bar[previous]
        alpha = bar / bar_previous
        lam2 = eta**2 * (1 - bar_previous) / (1 - bar) * (1 - alpha)
        offset = ((1 - bar) / alpha).sqrt() - (1 - bar_previous - lam2).sqrt()
        assert (ours[i] * bar_previous).item() == pytest.approx((lam2 + offset**2 * (1 - Gamma[n])).item(), rel=1e-9)


@pytest.mark.parametrize("estimate", ["score", "residual"])
@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("c", [0.01, 1.0, 7.0])
@pytest.mark.parametrize(("s", "t"), [(50.0, 1.7), (1.0, 0.99), (2.0, 0.002), (0.05, 0.03)])
def test_one_step_on_isotropic_data_lands_on_the_exact_variance(c, eta, estimate, s, t):
    """Between the measured levels too, where the interpolation is exact for such data."""
    grid = torch.tensor([s, t], dtype=torch.float64)
    ((kept, std),) = AnalyticDDIM(eta=eta, statistics=gaussian([c]), estimate=estimate, last_noise=None).start(grid)
    shrink = c / (c + s**2)
    assert (shrink + kept * (1 - shrink)) ** 2 * (c + s**2) + std**2 == pytest.approx(c + t**2, rel=1e-9)


def test_one_step_of_eta_1_is_the_exact_reverse_step():
    c, grid = 0.3, torch.tensor([3.0, 0.4], dtype=torch.float64)
    s, t = grid.tolist()
    ((_, std),) = AnalyticDDIM(eta=1.0, statistics=gaussian([c]), last_noise=None).start(grid)
    assert std**2 == pytest.approx((s**2 - t**2) * (c + t**2) / (c + s**2), rel=1e-9)


@pytest.mark.parametrize("eta", ETAS)
def test_the_variance_is_the_best_isotropic_one(eta):
    """On data of several variances the Kullback-Leibler divergence of one step is least at v*."""
    c = torch.tensor([0.01, 0.2, 1.5, 4.0], dtype=torch.float64)
    s, t = 2.0, 0.9
    grid = torch.tensor([s, t], dtype=torch.float64)
    levels = torch.cat([LEVELS, grid[:1]]).sort(descending=True).values
    sampler = AnalyticDDIM(eta=eta, statistics=gaussian(c, levels), last_noise=None)
    kept, std = sampler.start(grid)[0]
    bridge = sampler.bridge_variance(*grid).item()
    # The law of x_t given x: the bridge about x0, x0 having variance c s^2 / (c + s^2).
    exact = bridge + (1 - kept) ** 2 * c * s**2 / (c + s**2)

    def divergence(v):
        return (exact / v - 1 - (exact / v).log()).sum().item() / 2

    assert divergence(std**2) < min(divergence(0.99 * std**2), divergence(1.01 * std**2))
    assert std**2 == pytest.approx(exact.mean().item(), rel=1e-9)


def test_without_spread_it_is_ddim():
    """Gamma = 1 says that x0 is known: C = 0."""
    grid = torch.tensor([5.0, 1.0, 0.1, 0.0], dtype=torch.float64)
    known = with_gamma(torch.ones_like(LEVELS))
    for eta in ETAS:
        ours = AnalyticDDIM(eta=eta, statistics=known, last_noise=None).noise_variance(grid[:-1], grid[1:])
        assert torch.allclose(ours, DDIM(eta=eta).bridge_variance(grid[:-1], grid[1:]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("estimate", ["score", "residual"])
@pytest.mark.parametrize("gamma", [-0.5, 0.0, 0.5, 1.0, 1.5])
def test_bounds(gamma, estimate):
    """0 <= C <= s^2, and at most ((high - low) / 2)^2, whatever was measured."""
    statistics = with_gamma(torch.full_like(LEVELS, gamma), data_range=(-1.0, 2.0))
    C = AnalyticDDIM(statistics=statistics, estimate=estimate).posterior_variance(LEVELS)
    assert (C >= 0).all()
    assert (LEVELS**2 >= C).all()
    assert (C <= 1.5**2).all()
    assert (C[0] == 1.5**2) == (gamma <= 0.5)


def test_the_last_noise_is_at_most_clip_grey_levels():
    grid = torch.tensor([5.0, 1.0, 0.5, 0.3, 0.0], dtype=torch.float64)
    statistics = gaussian([1.0], data_range=(-1.0, 1.0))
    free = [std for _, std in AnalyticDDIM(statistics=statistics, last_noise=None).start(grid)]
    for last_noise in (1.0, 2.0):
        stds = [std for _, std in AnalyticDDIM(statistics=statistics, last_noise=last_noise).start(grid)]
        assert stds[:2] == free[:2]
        assert stds[2] * math.sqrt(2 / math.pi) * 255 / 2 == pytest.approx(last_noise)  # mean of |z| is sqrt(2 / pi)
        assert stds[3] == 0
    assert free[2] > stds[2]
    assert [std for _, std in AnalyticDDIM(statistics=statistics, last_noise=1e6).start(grid)] == free
    assert AnalyticDDIM(statistics=statistics).start(grid[[2, 4]]) == ((0.0, 0.0),)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_measured_and_sampled(eta):
    """Score measured on 200 samples, 4 steps: the variance is right within 5 standard errors, DDIM's is far off."""
    oracle = Gaussian(torch.full((500,), 0.5, dtype=torch.float64), Pixel(torch.tensor(0.01).double()))
    data = oracle.sample(200, torch.Generator().manual_seed(0))

    def denoise(x, sigma):
        return oracle(x, sigma)

    denoise.dtype, denoise.event_shape = torch.float64, (500,)
    score = score_statistics(denoise, data, torch.logspace(1, -2, 12), data_range=(-1.0, 2.0))
    statistics = replace(calibrate(data, data_range=(-1.0, 2.0)), model=ModelStatistics(score=score))
    grid = torch.tensor([8.0, 1.0, 0.2, 0.05, 0.02], dtype=torch.float64)
    variance = {}
    for sampler in (AnalyticDDIM(eta=eta, statistics=statistics, grid=grid, last_noise=None), DDIM(eta=eta, grid=grid)):
        x = sample(denoise, sampler, seeds=range(40), progress=False)
        variance[type(sampler)] = (x - 0.5).square().mean().item() / (0.01 + 0.02**2)
    assert abs(variance[AnalyticDDIM] - 1) < 5 * math.sqrt(2 / 20000)
    assert abs(variance[DDIM] - 1) > 0.2


def test_a_sample_depends_on_its_seed_alone():
    def denoise(x, sigma):
        return x / (1 + sigma**2)

    denoise.dtype, denoise.event_shape, denoise.sigma_min, denoise.sigma_max = torch.float64, SHAPE, 0.01, 20.0
    sampler = AnalyticDDIM(statistics=gaussian([1.0]), steps=5)
    together = sample(denoise, sampler, seeds=range(4), progress=False)
    assert torch.equal(together, sample(denoise, sampler, seeds=range(4), batch_size=1, progress=False))
    assert relative(together, sample(denoise, DDIM(steps=5), seeds=range(4), progress=False)) > 0.01


def test_what_it_declares():
    assert (AnalyticDDIM().strong_order, AnalyticDDIM(eta=0.5).strong_order) == (0.5, 1)
    assert AnalyticDDIM().stochastic
    assert AnalyticDDIM().total_calls(7) == 7


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AnalyticDDIM(estimate="scor"), "estimate: unknown value 'scor'; did you mean score"),
        (lambda: AnalyticDDIM(last_noise=0.0), "last_noise: 0.0 is not positive"),
        (lambda: AnalyticDDIM(eta=2.0), "eta: 2.0 is outside"),
        (lambda: AnalyticDDIM().check(SHAPE, LEVELS), "prescore calibrate DATA --model MODEL"),
        (lambda: AnalyticDDIM().start(LEVELS), "prescore calibrate DATA --model MODEL"),
        (
            lambda: AnalyticDDIM(statistics=replace(gaussian([1.0]), model=ModelStatistics())).check(SHAPE, LEVELS),
            "prescore calibrate DATA --model MODEL",
        ),
        (
            lambda: AnalyticDDIM(statistics=gaussian([1.0])).check((4,), LEVELS),
            r"statistics: of samples \(2, 3\), the model's are \(4,\)",
        ),
        (
            lambda: AnalyticDDIM(statistics=gaussian([1.0])).check(SHAPE, 2 * LEVELS),
            "measured at noise levels 0.001 to 1000, the steps start from 0.00632456 to 2000",
        ),
        (lambda: AnalyticDDIM(statistics=gaussian([1.0])).check(SHAPE, LEVELS / 4), "the steps start from 0.00079"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(PrescoreError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_levels_a_little_outside_are_taken():
    AnalyticDDIM(statistics=gaussian([1.0])).check(SHAPE, 1.005 * LEVELS)
    AnalyticDDIM(statistics=gaussian([1.0])).check(SHAPE, torch.cat([LEVELS, torch.zeros(1)]))
