"""Denoisers of azula, both ways."""

import pytest
import torch

from prescore import Denoiser, PrescoreError, draw, make_sampler, sample
from prescore.adapters.azula import from_azula, to_azula

pytest.importorskip("azula.denoise", reason="azula is not installed")
import azula.denoise
import azula.noise
import azula.sample

SCHEDULES = ("VESchedule", "VPSchedule", "CosineSchedule", "RectifiedSchedule")
MEAN, VARIANCE = torch.tensor([0.3, -1.0, 2.0]).double(), torch.tensor([0.25, 1.0, 4.0]).double()


class Exact(azula.denoise.Denoiser):
    """N(MEAN, VARIANCE) by azula's convention, with a shift as condition."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule
        self.register_buffer("like", torch.zeros(1).double())

    def forward(self, x_t, t, shift=0.0):
        alpha, sigma = self.schedule(t)
        alpha, sigma = (v.reshape(-1, 1) for v in (alpha, sigma))
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
        return azula.denoise.DiracPosterior(mean=MEAN + shift + gain * (x_t - alpha * (MEAN + shift)))


def exact(x, sigma, shift=0.0):
    s = sigma.reshape(-1, 1) if sigma.ndim else sigma
    return MEAN + shift + VARIANCE / (VARIANCE + s**2) * (x - MEAN - shift)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_denoiser_is_that_of_azula(name):
    model = from_azula(Exact(getattr(azula.noise, name)()), (3,))
    assert model.dtype == torch.float64
    assert model.sigma_min == pytest.approx(1e-3, rel=1e-3)
    assert model.sigma_max == pytest.approx(1e3, rel=1e-3)
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for sigma in (torch.tensor(0.7).double(), torch.tensor([0.01, 0.5, 3.0, 400.0]).double()):
        torch.testing.assert_close(model(x, sigma), exact(x, sigma), rtol=1e-9, atol=1e-9)
    shift = torch.ones(4, 1).double()
    torch.testing.assert_close(model(x, sigma, shift=shift), exact(x, sigma, shift), rtol=1e-9, atol=1e-9)


def test_samples_have_the_moments_of_the_data():
    model = from_azula(Exact(azula.noise.VPSchedule()), (3,), sigma_min=0.01, sigma_max=80.0)
    x = draw(model, n=4000, sampler="dpmpp-2m", calls=25, progress=False)
    torch.testing.assert_close(x.mean(0), MEAN, rtol=0, atol=0.15)
    torch.testing.assert_close(x.var(0), VARIANCE, rtol=0.15, atol=0.01)


def test_azula_samples_what_is_handed_back():
    """DDIM of azula on ours is DDIM of ours, on the same levels and noise."""
    model = Denoiser(exact, (3,), 0.01, 50.0, dtype=torch.float64)
    wrapped = to_azula(model)
    x1 = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    theirs = azula.sample.DDIMSampler(wrapped, steps=8, silent=True, dtype=torch.float64)(50.0 * x1)
    levels = wrapped.schedule.sigma(torch.linspace(1, 0, 9, dtype=torch.float64))
    ddim = make_sampler("ddim", grid=levels)
    ours = sample(model, ddim, seeds=range(5), initial=50.0 * x1, progress=False)
    torch.testing.assert_close(theirs, ours, rtol=1e-6, atol=1e-6)
    there_and_back = from_azula(to_azula(model), (3,))
    sigma = torch.tensor(0.7).double()
    torch.testing.assert_close(there_and_back(x1, sigma).double(), exact(x1, sigma), rtol=1e-5, atol=1e-5)


def test_what_is_none_of_azula_is_refused():
    with pytest.raises(PrescoreError, match=r"denoiser: a function given; one of azula\.denoise"):
        from_azula(lambda x, t: x, (3,))
    with pytest.raises(PrescoreError, match=r"the schedule has noise from 0\.001"):
        from_azula(Exact(azula.noise.VESchedule()), (3,), sigma_max=1e5)
