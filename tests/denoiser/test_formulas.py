import math

import pytest
import torch
from predictions import LEVELS, B, close, gaussian

from prescore.denoiser import (
    denoised_from_edm,
    denoised_from_noise,
    denoised_from_score,
    denoised_from_velocity,
    edm_coefficients,
    edm_from_denoised,
    expand,
    noise_from_denoised,
    score_from_denoised,
    velocity_from_denoised,
)
from prescore.errors import PrescoreError

CONVERSIONS = {
    "score": (denoised_from_score, score_from_denoised),
    "noise": (denoised_from_noise, noise_from_denoised),
    "velocity": (denoised_from_velocity, velocity_from_denoised),
    "edm": (denoised_from_edm, edm_from_denoised),
}


@pytest.mark.parametrize("sigma", LEVELS, ids=["scalar", "batch"])
@pytest.mark.parametrize(("to", "back"), CONVERSIONS.values(), ids=CONVERSIONS.keys())
def test_conversions_undo_each_other(x, sigma, to, back):
    prediction = torch.cos(3 * x)
    close(back(to(prediction, x, sigma), x, sigma), prediction, 1e-10)  # (x - D) / sigma^2 loses digits at 0.01


@pytest.mark.parametrize("sigma", LEVELS, ids=["scalar", "batch"])
@pytest.mark.parametrize("kind", CONVERSIONS)
def test_every_parameterisation_of_one_gaussian_has_the_same_denoised(x, sigma, kind):
    to, back = CONVERSIONS[kind]
    x = x * (1 + expand(sigma, x) ** 2).sqrt()
    prediction, denoised = getattr(gaussian, kind)(x, sigma), gaussian.denoised(x, sigma)
    close(to(prediction, x, sigma), denoised)
    close(back(denoised, x, sigma), prediction, 1e-10)


def test_velocity_is_the_derivative_of_the_rotation_from_data_to_noise(x):
    x0, n, phi = x, x.flip(0).sin(), torch.full_like(x, 0.6).requires_grad_()
    rotated = torch.cos(phi) * x0 + torch.sin(phi) * n
    (velocity,) = torch.autograd.grad(rotated.sum(), phi)
    sigma = torch.tan(torch.tensor(0.6, dtype=torch.float64))
    unscaled = rotated.detach() / math.cos(0.6)
    close(unscaled, x0 + sigma * n)
    close(velocity_from_denoised(x0, unscaled, sigma), velocity)
    close((n - sigma * x0) / (1 + sigma**2).sqrt(), velocity)  # the unscaled form of the docstring


def test_edm_coefficients_keep_unit_variance(x):
    """c_in normalises the input, c_out the target, for data of standard deviation sigma_data (EDM, appendix B.6)."""
    sigma, sd = torch.tensor([0.002, 0.5, 80.0]).double(), 0.5
    c = edm_coefficients(sigma, sd)
    close(c.c_in**2 * (sd**2 + sigma**2), torch.ones(3).double())
    close(((1 - c.c_skip) ** 2 * sd**2 + c.c_skip**2 * sigma**2) / c.c_out**2, torch.ones(3).double())
    close(c.c_noise, sigma.log() / 4)


def test_expand_takes_the_dtype_of_x_and_checks_the_shape(x):
    assert expand(torch.tensor(1.0), x).shape == ()
    assert expand(torch.ones(B), x.float()).shape == (B, 1, 1, 1)
    assert expand(torch.ones(B, dtype=torch.float64), x.float()).dtype == torch.float32
    for shape in [(B - 1,), (B, 1), (1,)]:
        with pytest.raises(PrescoreError, match=r"\(4,\), one for each sample"):
            expand(torch.ones(shape), x)
