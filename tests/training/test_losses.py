import itertools
import math

import numpy as np
import pytest
import torch
from support import reference, relative

from prescore.errors import PrescoreError
from prescore.training.losses import (
    LOSSES,
    SLICED,
    Levels,
    LogNormal,
    LogUniform,
    UniformTime,
    denoising_loss,
    edm_weight,
    implicit_loss,
    inverse_square_weight,
    ncsn_weight,
    sliced_loss,
    sliced_loss_vr,
    stratified,
)

U = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)


def test_log_uniform_levels():
    sigma = LogUniform(0.01, 50).quantile(U)
    assert torch.allclose(sigma.log(), math.log(0.01) + U * math.log(5000))


def test_log_normal_levels():
    sigma = LogNormal(-1.2, 1.2).quantile(U)
    assert torch.allclose(torch.special.ndtr((sigma.log() + 1.2) / 1.2), U)


def test_uniform_time_levels_are_those_of_the_vp_loss():
    recorded = reference("edm/loss-sigma-weight.safetensors")
    u, expected = recorded["in/uniform"].flatten().double(), recorded["vp/sigma"].flatten()
    sigma = UniformTime().quantile(1 - u)  # it counts time from its end
    # the recorded exp(.) - 1 was rounded in float32
    assert relative(sigma**2 + 1, expected.double() ** 2 + 1) < 2e-6
    assert relative(inverse_square_weight(expected), recorded["vp/weight"].flatten()) < 1e-6


def test_uniform_time_range():
    low, high = UniformTime().sigma_range
    assert (low, high) == pytest.approx((1.0005e-3, 152.167), rel=1e-4)


def test_each_of_a_list_of_levels_is_as_likely():
    levels = Levels((3.0, 2.0, 1.0))
    sigma = levels.quantile(torch.tensor([0.0, 0.3, 0.4, 0.6, 0.7, 1.0], dtype=torch.float64))
    assert sigma.tolist() == [1, 1, 2, 2, 3, 3]


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


def test_ncsn_weight_is_the_loss_of_ncsn():
    """sigma^2 / 2 |s + n / sigma|^2, here a mean over coordinates."""
    generator = torch.Generator().manual_seed(0)
    x0, n, s = torch.randn(3, 5, 2, generator=generator, dtype=torch.float64)
    sigma = torch.tensor([0.1, 0.5, 1, 2, 30], dtype=torch.float64)[:, None]
    expected = (sigma**2 / 2 * (s + n / sigma) ** 2).mean()
    found = denoising_loss(lambda x, _: x + sigma**2 * s, x0, sigma[:, 0], n, ncsn_weight(sigma[:, 0]))
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


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


def signs(d):
    """All vectors of signs: E[v v^T] = I exactly."""
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=d)), dtype=torch.float64)


def every(x0, n, v):
    """Each data point with each noise and each direction, and its share of the whole."""
    a, b, c = len(x0), len(n), len(v)
    return x0.repeat_interleave(b * c, 0), n.repeat_interleave(c, 0).repeat(a, 1), v.repeat(a * b, 1)


def value(loss, denoise, x0, sigma, n, v, weight):
    return LOSSES[loss](denoise, x0, sigma, n, weight, *((v,) if loss in SLICED else ()))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_minimiser_on_gaussian_data_is_the_exact_score(loss):
    """D = A x + b with the data's moments is stationary; noise and directions are such that their moments are exact."""
    generator, d, level = torch.Generator().manual_seed(0), 3, 0.7
    data = torch.randn(10, d, generator=generator, dtype=torch.float64)
    unit = torch.eye(d, dtype=torch.float64)
    corners = math.sqrt(d) * torch.cat([unit, -unit])
    x0, n, v = every(data, corners, signs(d))
    sigma = torch.full((len(x0),), level, dtype=torch.float64)
    mean, C = data.mean(0), torch.cov(data.T, correction=0)
    A = (C @ torch.linalg.inv(C + level**2 * unit)).requires_grad_()
    b = (mean - A.detach() @ mean).requires_grad_()

    def gradients(shift):
        found = value(loss, lambda x, _: x @ (A + shift).T + b, x0, sigma, n, v, 1 / sigma**2)
        return torch.cat([g.flatten() for g in torch.autograd.grad(found, (A, b))])

    assert gradients(0).norm().item() < 1e-12
    assert gradients(0.1 * unit).norm().item() > 0.01


def test_the_losses_differ_by_constants_on_random_quadratic_networks():
    """E[ssm] = E[ssm-vr] = ism for every noise; E[dsm] = E[ism] + w sigma^2, by a quadrature exact to degree 5."""
    generator, d, level, w = torch.Generator().manual_seed(1), 3, 0.6, 2.5
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    n = torch.tensor(list(itertools.product(nodes, repeat=d)))
    share = torch.tensor([math.prod(p) for p in itertools.product(weights / weights.sum(), repeat=d)])
    Q = torch.randn(d, d, d, generator=generator, dtype=torch.float64)
    A = torch.randn(d, d, generator=generator, dtype=torch.float64)
    point = torch.randn(1, d, generator=generator, dtype=torch.float64)

    def quadratic(x, _):
        return torch.einsum("bi,ijk,bk->bj", x, Q, x) + x @ A.T

    found = {}
    for loss in LOSSES:
        each = []
        for noise in n:
            x0, noises, v = every(point, noise[None], signs(d))
            sigma = torch.full((len(x0),), level, dtype=torch.float64)
            each.append(value(loss, quadratic, x0, sigma, noises, v, torch.full_like(sigma, w)).detach())
        found[loss] = torch.stack(each)
    assert torch.allclose(found["ssm-vr"], found["ism"], rtol=1e-12, atol=1e-12)
    assert torch.allclose(found["ssm"], found["ism"], rtol=1e-12, atol=1e-12)
    dsm, ism = ((share * found[loss]).sum().item() for loss in ("dsm", "ism"))
    assert dsm == pytest.approx(ism + w * level**2, rel=1e-12)
    assert (found["dsm"] - found["ism"]).std() > 1  # at one noise they are different numbers


def test_the_variance_reduced_form_varies_less():
    generator = torch.Generator().manual_seed(0)
    x0, n = torch.randn(2, 1, 20, generator=generator, dtype=torch.float64)
    v = 2.0 * torch.randint(2, (300, 20), generator=generator) - 1
    sigma = torch.ones(1, dtype=torch.float64)
    spread = {}
    for loss in (sliced_loss, sliced_loss_vr):
        values = [loss(lambda x, _: x.sin(), x0, sigma, n, sigma, row[None].double()) for row in v]
        spread[loss] = torch.stack(values).std().item()
    assert spread[sliced_loss_vr] < 0.1 * spread[sliced_loss]


def test_gradients_reach_the_weights_through_the_second_derivative():
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, 1, dtype=torch.float64)

    def found(value):
        return implicit_loss(lambda x, _: (value * x).sin(), one, one[:, 0], 0 * one, one[:, 0])

    (gradient,) = torch.autograd.grad(found(scale), scale)
    step = 1e-6
    difference = (found(scale + step) - found(scale - step)) / (2 * step)
    assert gradient.item() == pytest.approx(difference.item(), rel=1e-8)


def test_the_trace_of_many_coordinates_is_refused():
    x = torch.zeros(1, 257)
    with pytest.raises(PrescoreError, match=r"loss: ism needs one backward pass for each of 257 .* take ssm-vr"):
        implicit_loss(lambda x, _: x, x, torch.ones(1), x, torch.ones(1))
