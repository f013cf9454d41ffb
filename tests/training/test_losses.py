import math

import pytest
import torch

from prescore.training.losses import (
    LogNormal,
    LogUniform,
    denoising_loss,
    edm_weight,
    inverse_square_weight,
    stratified,
)

U = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)


def test_log_uniform_levels():
    sigma = LogUniform(0.01, 50).quantile(U)
    assert torch.allclose(sigma.log(), math.log(0.01) + U * math.log(5000))


def test_log_normal_levels():
    sigma = LogNormal(-1.2, 1.2).quantile(U)
    assert torch.allclose(torch.special.ndtr((sigma.log() + 1.2) / 1.2), U)


def test_stratified_numbers_are_uniform_one_in_each_part():
    u = torch.stack([stratified(8, torch.Generator().manual_seed(seed)) for seed in range(500)])
    assert ((u * 8).floor() == torch.arange(8)).all()
    within = (u * 8).frac()
    assert within.mean().item() == pytest.approx(1 / 2, abs=0.02)
    assert within.var().item() == pytest.approx(1 / 12, rel=0.05)


def test_weights_of_the_table():
    sigma, sd = torch.tensor([0.1, 2.0], dtype=torch.float64), 0.5
    assert torch.allclose(edm_weight(sigma, sd), torch.tensor([(0.01 + 0.25) / 0.0025, (4 + 0.25) / 1.0]).double())
    assert torch.allclose(inverse_square_weight(sigma), torch.tensor([100.0, 0.25]).double())


def test_edm_weight_makes_the_target_loss_one_at_every_level():
    """With F = 0 and data of variance sd^2 the weighted error of D is the variance of F's target, which is 1."""
    sd, generator = 0.3, torch.Generator().manual_seed(0)
    x0 = sd * torch.randn(200_000, 1, generator=generator, dtype=torch.float64)
    n = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    for level in (0.02, 0.3, 10.0):
        sigma = torch.full((len(x0),), level, dtype=torch.float64)

        def skip(x, sigma, level=level):
            return sd**2 / (level**2 + sd**2) * x

        assert denoising_loss(skip, x0, sigma, n, edm_weight(sigma, sd)).item() == pytest.approx(1, rel=0.01)


def test_denoising_loss_is_the_weighted_mean():
    x0, n = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    sigma, weight = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 10.0])
    loss = denoising_loss(lambda x, _: x, x0, sigma, n, weight)  # the error is sigma n
    assert loss.item() == pytest.approx((2 * 1 + 10 * 9) / 2)
