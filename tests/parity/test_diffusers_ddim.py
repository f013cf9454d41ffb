"""DDPM and DDIM against diffusers and azula: the same model, levels and noise, every state of the run."""

from itertools import pairwise

import pytest
import torch
from support import Replay, relative

from prescore.oracle import Diagonal, MixtureOracle
from prescore.samplers.ddim import DDIM, DDPM

MIXTURE = MixtureOracle(
    torch.tensor([0.4, 0.6]),
    torch.tensor([[-0.8, 0.3, 0.1], [0.9, -0.2, 0.6]], dtype=torch.float64),
    Diagonal(torch.tensor([[0.04, 0.3, 0.1], [0.1, 0.02, 0.2]])),
)
STEPS = 20


def start():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(STEPS + 1, 4, 3, generator=generator, dtype=torch.float64)


def states(sampler, levels, x, normals):
    """Our states after each step, from x at levels[0]."""
    noise, state, seen = Replay(normals), sampler.start(levels), []
    for sigma, sigma_next in pairwise(levels):
        x, state = sampler.step(MIXTURE, x, sigma, sigma_next, state, noise)
        seen.append(x)
    return seen


def scheduler_of(name, **options):
    diffusers = pytest.importorskip("diffusers")
    scheduler = getattr(diffusers, name)(clip_sample=False, timestep_spacing="leading", **options)
    scheduler.set_timesteps(STEPS)
    alpha_bar = scheduler.alphas_cumprod.double()
    scheduler.alphas_cumprod, scheduler.one = alpha_bar, torch.ones((), dtype=torch.float64)
    alpha_bar = torch.cat([alpha_bar[scheduler.timesteps], torch.ones(1)])
    return scheduler, alpha_bar, ((1 - alpha_bar) / alpha_bar).sqrt()


def noise_prediction(x_t, alpha_bar):
    sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
    x = x_t / alpha_bar.sqrt()
    return (x - MIXTURE(x, sigma)) / sigma


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim(beta_schedule, eta):
    scheduler, alpha_bar, levels = scheduler_of("DDIMScheduler", beta_schedule=beta_schedule)
    first, *normals = start()
    x_t, theirs = first, []
    for t, a, z in zip(scheduler.timesteps, alpha_bar, normals, strict=False):
        x_t = scheduler.step(noise_prediction(x_t, a), t, x_t, eta=eta, variance_noise=z if eta else None).prev_sample
        theirs.append(x_t)
    ours = states(DDIM(eta=eta), levels, first / alpha_bar[0].sqrt(), normals)
    for x, x_t, a in zip(ours, theirs, alpha_bar[1:], strict=True):
        assert relative(x, x_t / a.sqrt()) < 1e-5


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(beta_schedule, variance, monkeypatch):
    options = {"beta_schedule": beta_schedule, "variance_type": f"fixed_{variance}"}
    scheduler, alpha_bar, levels = scheduler_of("DDPMScheduler", **options)
    first, *normals = start()
    draws = iter(normals)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(draws))
    x_t, theirs = first, []
    for t, a in zip(scheduler.timesteps, alpha_bar, strict=False):
        x_t = scheduler.step(noise_prediction(x_t, a), t, x_t).prev_sample
        theirs.append(x_t)
    ours = states(DDPM(variance=variance), levels, first / alpha_bar[0].sqrt(), normals)
    for x, x_t, a in zip(ours, theirs, alpha_bar[1:], strict=True):
        assert relative(x, x_t / a.sqrt()) < 1e-5


@pytest.mark.parametrize(
    ("name", "theirs", "eta"), [("DDPM", {}, 1.0), ("DDIM", {"eta": 0.25}, 0.5), ("DDIM", {}, 0.0)]
)
def test_azula(name, theirs, eta, monkeypatch):
    """Its eta multiplies the variance: 0.25 is 0.5 here and in the paper."""
    azula_sample, azula_noise = pytest.importorskip("azula.sample"), pytest.importorskip("azula.noise")
    from azula.denoise import Denoiser, DiracPosterior

    class Mixture(Denoiser):
        def __init__(self):
            super().__init__()
            self.schedule = azula_noise.VPSchedule()

        def forward(self, x_t, t):
            alpha, sigma = self.schedule(t)
            return DiracPosterior(MIXTURE(x_t / alpha, sigma / alpha))

    first, *normals = start()
    draws = iter(normals)
    monkeypatch.setattr(torch, "randn_like", lambda _: next(draws))
    model = Mixture()
    sampler = getattr(azula_sample, f"{name}Sampler")(model, steps=STEPS, silent=True, dtype=torch.float64, **theirs)
    alpha, sigma = model.schedule(sampler.timesteps)
    x_t, seen = first, []
    for t, s in pairwise(sampler.timesteps):
        x_t = sampler.step(x_t, t, s)
        seen.append(x_t)
    ours = states(DDIM(eta=eta), sigma / alpha, first / alpha[0], normals)
    for x, x_t, a in zip(ours, seen, alpha[1:], strict=True):
        assert relative(x, x_t / a) < 1e-5
