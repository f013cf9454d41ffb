"""The calling convention of k-diffusion, on the exact denoiser of a Gaussian and against formulas."""

from itertools import pairwise

import pytest
import torch

from prescore.adapters.k_diffusion import sampler
from prescore.errors import PrescoreError
from prescore.plan import reference_of
from prescore.statistics import Statistics, measure_moments

C = 0.25


def model(x, sigma, gain=1.0):
    assert sigma.shape == (len(x),)
    return gain * C / (C + sigma.reshape(-1, 1, 1, 1) ** 2) * x


def flow(x, sigma):
    """The exact probability flow of N(0, C) from sigma to 0."""
    return x * (C / (C + sigma**2)) ** 0.5


@pytest.fixture
def statistics():
    data = torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * C**0.5
    return Statistics(moments=measure_moments(data, data_range=(-4, 4)))


def noise(sigma):
    return sigma * torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["p-ode-3m", "dpmpp-2m", "dpmpp-3m", "unipc", "edm-heun", "ddim"])
def test_lists_of_any_kind(name, statistics):
    f = sampler(name, statistics if name.startswith("p-") else None)
    fine = torch.cat([torch.logspace(1, -2, 60), torch.zeros(1)])
    x = noise(10.0)
    torch.testing.assert_close(f(model, x, fine, disable=True), flow(x, 10.0), rtol=0.02, atol=0.03)
    for sigmas in ([10.0, 0.0], [10.0, 1.0], [10.0, 3.0, 0.0], [10.0, 10.0, 3.0, 3.0, 1.0], [0.5, 0.2, 0.1, 0.0]):
        out = f(model, noise(sigmas[0]), torch.tensor(sigmas), disable=True)
        assert out.shape == x.shape
        assert out.dtype == x.dtype
        assert out.isfinite().all()
    assert f(model, x, torch.tensor([10.0]), disable=True) is x


def test_repeats_do_nothing_and_euler_is_euler():
    x, f = noise(10.0), sampler("ddim")
    euler, sigmas = x, [10.0, 4.0, 1.0, 0.0]
    for s, t in pairwise(sigmas):
        euler = euler + (t - s) * (euler - model(euler, torch.full((3,), s))) / s
    torch.testing.assert_close(f(model, x, torch.tensor(sigmas), disable=True), euler, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        f(model, x, torch.tensor([10.0, 10.0, 4.0, 1.0, 1.0, 0.0]), disable=True), euler, rtol=1e-5, atol=1e-5
    )


def test_callback_and_extra_arguments():
    told = []
    x = noise(10.0)
    sampler("ddim")(model, x, torch.tensor([10.0, 10.0, 1.0, 0.0]), {"gain": 0.5}, told.append, True)
    assert [set(one) for one in told] == [{"x", "i", "sigma", "sigma_hat", "denoised"}] * 2
    assert [one["i"] for one in told] == [1, 2]
    assert [one["sigma"].item() for one in told] == [10, 1]
    torch.testing.assert_close(told[0]["x"], x)
    torch.testing.assert_close(told[0]["denoised"], model(x, torch.full((3,), 10.0), gain=0.5))


def test_noise_depends_on_the_seed_alone():
    f, x, sigmas = sampler("dpmpp-sde-2m"), noise(10.0), torch.tensor([10.0, 3.0, 1.0, 0.0])
    one, again, other = (f(model, x, sigmas, disable=True, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    torch.testing.assert_close(one[1:2], f(model, x[1:2], sigmas, disable=True, seed=2))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", ["p-ode-2m", "dpmpp-2m"])
def test_a_start_from_noisy_data_and_from_noise(name, statistics):
    x, sigmas, seen = noise(3.0), torch.tensor([3.0, 1.0, 0.0]), []
    plain, by_noise = (sampler(name, statistics, **asked) for asked in ({}, {"start": "noise"}))
    assert torch.equal(by_noise(model, x, sigmas, disable=True), plain(model, x, sigmas, disable=True))
    sampler(name, statistics, start="gaussian")(model, x, sigmas, None, seen.append, True)
    start = reference_of(statistics).noisy(x.double() / 3, 3.0).float()
    assert (start - x).abs().max() > 0.01
    torch.testing.assert_close(seen[0]["x"], start)
    torch.testing.assert_close(seen[0]["denoised"], model(start, torch.full((3,), 3.0)))


def test_what_is_refused():
    with pytest.raises(PrescoreError, match="unknown name 'p-od'"):
        sampler("p-od")
    with pytest.raises(PrescoreError, match="sigmas: they rise"):
        sampler("ddim")(model, noise(1.0), torch.tensor([1.0, 2.0]))
    for start, message in {
        "gaussian": "start: the model comes without statistics",
        "no": "start: unknown value 'no'",
    }.items():
        with pytest.raises(PrescoreError, match=message):
            sampler("ddim", start=start)(model, noise(1.0), torch.tensor([1.0, 0.0]), disable=True)
