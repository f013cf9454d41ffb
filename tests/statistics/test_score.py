"""The size of a model's score: estimates, interpolation, merging."""

import math
from dataclasses import replace

import pytest
import torch

from prescore import calibrate
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.gaussian import Gaussian
from prescore.noise import NoiseSource
from prescore.operators import Pixel
from prescore.statistics import ModelStatistics, in_range, merge
from prescore.statistics.score import score_statistics

SHAPE = (2, 40)
C = torch.linspace(0.005, 0.03, 80, dtype=torch.float64).reshape(SHAPE)
ORACLE = Gaussian(torch.full(SHAPE, 0.5, dtype=torch.float64), Pixel(C))
LEVELS = torch.logspace(2, -2, 9, dtype=torch.float64)
RANGE = (-1.0, 2.0)


def data(count=60, seed=0):
    return ORACLE.sample(count, torch.Generator().manual_seed(seed))


def model(function=ORACLE, **options):
    arguments = {"data_range": RANGE, "dtype": torch.float64, "name": "gaussian"}
    return Denoiser(function, SHAPE, 0.01, 100.0, **arguments | options)


def exact_variance(levels=LEVELS):
    u = levels.reshape(-1, 1, 1) ** 2
    return (C * u / (C + u)).mean((1, 2))


def with_score(statistics, score):
    return replace(statistics, model=ModelStatistics(score=score))


def test_definition():
    x = data(5)
    s = score_statistics(model(), x, [3.0, 0.25], seed=7)
    noise = NoiseSource(range(7, 12), SHAPE)
    for i, sigma in enumerate((3.0, 0.25)):
        n = noise()
        eps = (x + sigma * n - ORACLE(x + sigma * n, torch.tensor(sigma).double())) / sigma
        assert s.score_square[i].item() == pytest.approx((eps.square().sum() / n.square().sum()).item(), rel=1e-10)
        assert s.residual_square[i].item() == pytest.approx((n - eps).square().mean().item(), rel=1e-10)
    assert (s.count, s.model, s.levels.tolist()) == (5, "gaussian", [3.0, 0.25])


def test_both_estimate_the_posterior_variance():
    """Within 5 standard errors: 1 / sqrt(N d) relative for the residual, and sigma / sqrt(c N d) more for the score."""
    s, exact = score_statistics(model(), data(200), LEVELS), exact_variance()
    error = 5 * math.sqrt(2 / (200 * 80))
    residual, score = (s.posterior_variance(LEVELS, name) / exact - 1 for name in ("residual", "score"))
    assert (residual.abs() < error).all()
    assert (score.abs() < error * (1 + 2 * LEVELS / 0.13)).all()


def test_chance_is_the_spread_over_noises():
    """At high noise, where the error of the prediction is small beside the noise, within 4 standard errors."""
    levels = [100.0, 1.0]
    drawn = [score_statistics(model(), data(20), levels, seed=1000 * k) for k in range(60)]
    found = torch.stack([s.levels.square() * (1 - s.score_square) for s in drawn]).std(0)
    expected = torch.stack([s.chance(80) for s in drawn]).square().mean(0).sqrt()
    torch.testing.assert_close(found, expected, rtol=4 / math.sqrt(2 * 60), atol=0)


def test_the_ratio_keeps_digits_where_the_mean_loses_them():
    """At sigma = 10, c = 0.0175: the mean of |eps|^2 alone would be wrong by far more than 1 - Gamma itself."""
    levels = torch.tensor([10.0, 9.0], dtype=torch.float64)
    x = data(200)
    one_minus_gamma = exact_variance(levels[:1]).item() / 100
    ours = 1 - score_statistics(model(), x, levels).score_square[0].item()
    noise = NoiseSource(range(200), SHAPE)
    y = x + 10 * noise()
    naive = 1 - ((y - ORACLE(y, levels[0])) / 10).square().mean().item()
    assert abs(naive / one_minus_gamma - 1) > 10
    assert abs(ours / one_minus_gamma - 1) < 5


def test_a_network_that_is_wrong_is_seen_by_the_residual():
    """D = mean whatever x: its error is all the variance of x0, at every level; the score says that there is none."""
    constant = model(lambda x, sigma: torch.full_like(x, 0.5))
    s = score_statistics(constant, data(200), LEVELS[:5])
    assert torch.allclose(s.residual_square * s.levels**2, C.mean(), rtol=0.1)
    assert (s.score_square[:4] > 0.99).all()


@pytest.mark.parametrize("sizes", [[11], [1] * 11, [4, 0, 7]])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_do_not_matter(sizes, batch_size):
    x = data(11)
    whole = score_statistics(model(), x, LEVELS)
    parts = score_statistics(model(), ((b, None) for b in x.split(sizes)), LEVELS, batch_size=batch_size)
    for name in ("levels", "score_square", "residual_square"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-12, atol=0)
    assert parts.count == whole.count == 11


def test_single_precision_and_bytes():
    calls = []

    def function(x, sigma):
        calls.append((x.dtype, sigma.dtype, sigma.ndim))
        return ORACLE(x, sigma)

    x = data(8)
    s = score_statistics(model(function, dtype=torch.float32), x.float(), LEVELS)
    assert set(calls) == {(torch.float32, torch.float32, 0)}
    wide = score_statistics(model(), x, LEVELS)
    assert torch.allclose(s.residual_square, wide.residual_square, rtol=1e-3)
    bytes_ = ((x + 1) / 3 * 255).round().to(torch.uint8)
    coarse = score_statistics(model(), bytes_, LEVELS[:5])
    assert torch.allclose(coarse.residual_square, wide.residual_square[:5], rtol=0.02)


def test_usual_levels_are_the_range_of_the_model():
    s = score_statistics(model(), data(2))
    assert s.levels.shape == (24,)
    assert s.levels[[0, -1]].tolist() == pytest.approx([100.0, 0.01])


@pytest.mark.parametrize("estimate", ["score", "residual"])
def test_interpolation_is_exact_for_isotropic_data(estimate):
    u = LEVELS**2
    gamma = u / (0.3 + u)
    s = replace(score_statistics(model(), data(2), LEVELS), score_square=gamma, residual_square=1 - gamma)
    between = torch.logspace(2, -2, 37, dtype=torch.float64)
    exact = 0.3 * between**2 / (0.3 + between**2)
    assert torch.allclose(s.posterior_variance(between, estimate), exact, rtol=1e-8)


def test_beyond_the_ends_the_share_stays_constant():
    s = score_statistics(model(), data(20), LEVELS)
    ends = s.posterior_variance(torch.tensor([200.0, 100.0, 0.01, 0.005]).double(), "residual")
    assert ends[0] / ends[1] == pytest.approx(4)
    assert ends[2] / ends[3] == pytest.approx(4)


def test_in_range_and_merge():
    x, y = data(10), data(30, seed=1)
    a, b = (
        replace(
            calibrate(z, data_range=RANGE), model=ModelStatistics(score=score_statistics(model(), z, LEVELS, seed=seed))
        )
        for z, seed in ((x, 0), (y, 10))
    )
    whole = score_statistics(model(), torch.cat([x, y]), LEVELS)
    merged = merge(a, b).model.score
    torch.testing.assert_close(merged.residual_square, whole.residual_square, rtol=1e-12, atol=0)
    assert torch.allclose(merged.score_square, whole.score_square, rtol=1e-2)
    assert merged.count == 40
    scaled = in_range(a, (0.0, 1.0)).model.score
    torch.testing.assert_close(scaled.posterior_variance(LEVELS / 3), a.model.score.posterior_variance(LEVELS) / 9)


def test_what_cannot_be_merged():
    plain = calibrate(data(4), data_range=RANGE)
    score = score_statistics(model(), data(4), LEVELS)
    with pytest.raises(PrescoreError, match="only one of two statistics has a score"):
        merge(plain, with_score(plain, score))
    for other in (replace(score, model="another"), replace(score, levels=2 * LEVELS)):
        with pytest.raises(PrescoreError, match="different models or noise levels"):
            merge(with_score(plain, score), replace(plain, model=ModelStatistics(score=other)))
    with pytest.raises(PrescoreError, match="of guidance 1 and 3"):
        merge(with_score(plain, score), replace(plain, model=ModelStatistics(score=score, guidance=3.0)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: score_statistics(model(), data(2), [1.0, 2.0]), "noise levels must decrease"),
        (lambda: score_statistics(model(), data(2), [1.0, 0.0]), "levels: the last one is 0"),
        (lambda: score_statistics(model(), data(2), [1.0]), "at least two noise levels"),
        (lambda: score_statistics(ORACLE, data(2), data_range=RANGE), "levels: the model does not say its noise range"),
        (lambda: score_statistics(model(), torch.empty(0, *SHAPE)), "data: no samples given"),
        (lambda: score_statistics(model(), []), "data: no samples given"),
        (lambda: score_statistics(model(), torch.zeros(2, 3, 40)), r"samples of shape \(3, 40\), \(2, 40\) are needed"),
        (lambda: score_statistics(model(), 5 * data(2)), r"outside data_range \(-1, 2\)"),
        (lambda: score_statistics(model(), data(2), batch_size=0), "batch_size: 0 is not"),
        (lambda: score_statistics(model(lambda x, sigma: x[:1]), data(2)), r"returned \(1, 2, 40\) instead of shape"),
        (lambda: score_statistics(model(lambda x, sigma: x / 0), data(2)), "not finite at sigma = 100"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(PrescoreError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
