"""The samplers of EDM against runs recorded from the authors' code, and against those of diffusers."""

import json
from itertools import pairwise

import pytest
import torch
from safetensors import safe_open
from support import REFERENCE, Replay, reference, relative

from prescore import grid
from prescore.denoiser import denoised_from_edm, edm_from_denoised
from prescore.samplers.edm import EDMChurn, EDMFlow
from prescore.schedule import EDM, IDDPM, VE, VP

RUNS = [
    *("edm-deterministic", "edm-churn4", "edm-churn40", "edm-rounded-deterministic", "edm-rounded-churn40"),
    *(f"ablation-edm-linear-none-{solver}" for solver in ("euler", "heun", "heun-alpha0.5")),
    *(f"ablation-iddpm-linear-none-{solver}" for solver in ("euler", "heun")),
    *(f"ablation-ve-ve-none-{solver}" for solver in ("euler", "heun", "heun-churn2")),
    *(f"ablation-vp-vp-vp-{solver}" for solver in ("euler", "heun", "heun-churn40")),
    "ablation-vp-linear-none-heun",
]


def metadata(name):
    with safe_open(REFERENCE / name, "pt") as file:
        return {key: json.loads(value) if key == "kwargs" else value for key, value in file.metadata().items()}


def schedule_of(facts, recorded):
    """The schedule that a run was recorded in."""
    if "u" in recorded:

        class Rounding(IDDPM):
            u = recorded["u"].double()  # float32 recursion in the original: not ours

        return Rounding()
    if facts["kwargs"].get("schedule") == "vp":
        return VP(float(facts["vp_beta_d"]), float(facts["vp_beta_min"]))
    return VE() if facts["kwargs"].get("schedule") == "ve" else EDM()


def sampler_of(facts, recorded, levels):
    kwargs = facts["kwargs"]
    options = {
        "order": 1 if kwargs.get("solver") == "euler" else 2,
        "alpha": kwargs.get("alpha", 1.0),
        "schedule": schedule_of(facts, recorded),
        "grid": levels,
    }
    if "S_churn" not in kwargs:
        return EDMFlow(**options)
    churn = {ours: kwargs["S_" + name] for ours, name in (("S_tmin", "min"), ("S_tmax", "max"), ("S_noise", "noise"))}
    return EDMChurn(**options, **churn, S_churn=kwargs["S_churn"])


def test_every_recorded_run_is_here():
    if REFERENCE.exists():
        assert {f"sampler-{name}.safetensors" for name in RUNS} == {
            path.name for path in (REFERENCE / "edm").glob("sampler-*.safetensors")
        }


@pytest.mark.parametrize("name", RUNS)
def test_recorded_run(name):
    """The end, and the arguments of every network call in order."""
    file = f"edm/sampler-{name}.safetensors"
    recorded, facts = reference(file), metadata(file)
    levels = recorded["grid/sigma" if "grid/sigma" in recorded else "grid/t"]
    sampler = sampler_of(facts, recorded, levels)
    mu, c, calls = recorded["mu"], recorded["c"], []

    def denoise(x, sigma):
        calls.append((x, sigma))
        return mu + c / (c + sigma**2) * (x - mu)

    state = sampler.start(levels)
    # The original draws in every step, this sampler only where there is noise to add.
    raises = [isinstance(sampler, EDMChurn) and sampler.raised(s, state) > s for s in levels[:-1]]
    draws = Replay([z for z, used in zip(recorded["noise"], raises, strict=True) if used] if any(raises) else [])
    x = levels[0] * recorded["latents"]
    for sigma, sigma_next in pairwise(levels):
        x, state = sampler.step(denoise, x, sigma, sigma_next, state, draws)
    assert next(draws.draws, None) is None
    assert relative(x, recorded["out"]) < 1e-9
    assert len(calls) == sampler.total_calls(len(levels) - 1) == int(facts["calls"])
    for (x, sigma), expected, level in zip(calls, recorded["calls/x"], recorded["calls/sigma"], strict=True):
        assert relative(x, expected) < 1e-9
        assert sigma.item() == pytest.approx(level.item(), rel=1e-9)


def test_recorded_grids():
    """The usual grid, and the discretisations of Table 1 that go with the schedules."""
    deterministic = reference("edm/sampler-edm-deterministic.safetensors")["grid/t"]
    assert relative(EDMFlow(steps=18).levels(0.002, 80.0), deterministic) < 1e-14
    n = 12
    grids = {
        "edm-linear-none-heun": grid.karras(n),
        "ve-ve-none-heun": grid.geometric(n),
        "vp-vp-vp-heun": grid.uniform_t(VP(), n),
    }
    for name, ours in grids.items():
        recorded = reference(f"edm/sampler-ablation-{name}.safetensors")["grid/sigma_before_rounding"]
        assert relative(ours, recorded) < 1e-12


N, SHAPE = 12, (2, 3, 8, 8)
MU, C = 0.2, 0.09


def gaussian(x, sigma):
    return MU + C / (C + sigma**2) * (x - MU)


def normals(n):
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_heun_of_diffusers():
    """HeunDiscreteScheduler, predicting noise in unscaled coordinates, on the levels that it makes itself."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.HeunDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", use_karras_sigmas=True
    )
    scheduler.set_timesteps(N)
    levels = torch.unique_consecutive(scheduler.sigmas.double())
    x = y = levels[0] * normals(1)[0].double()
    for t in scheduler.timesteps:
        scheduler.scale_model_input(y, t)
        sigma = scheduler.sigmas[scheduler.step_index].double()
        y = scheduler.step((y - gaussian(y, sigma)) / sigma, t, y).prev_sample
    sampler = EDMFlow(grid=levels)
    for sigma, sigma_next in pairwise(levels):
        x, _ = sampler.step(gaussian, x, sigma, sigma_next, None, Replay([]))
    assert relative(x, y) < 1e-5


@pytest.mark.parametrize("S_churn", [0.0, 6.0])
def test_euler_of_diffusers(S_churn):
    """EDMEulerScheduler, whose churn comes after the network call.

    Its raw network output F thus belongs to the state without the noise, while its coefficients are those of
    sigma_hat. Here a denoiser that holds F fixed stands for that.
    """
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EDMEulerScheduler()
    scheduler.set_timesteps(N)
    levels = scheduler.sigmas.double()
    churn = {"s_churn": S_churn, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003}
    sampler = EDMChurn(order=1, grid=levels, **{name.replace("s_", "S_"): value for name, value in churn.items()})
    state, x, noisy_steps = sampler.start(levels), levels[0] * normals(1)[0].double(), 0
    y = x
    for i, t in enumerate(scheduler.timesteps):
        sigma = levels[i]
        F = edm_from_denoised(gaussian(x, sigma), x, sigma)
        z, generator = (torch.Generator().manual_seed(i) for _ in range(2))
        noise = torch.randn(SHAPE, generator=z, dtype=torch.float64)
        scheduler.scale_model_input(y, t)
        y = scheduler.step(F, t, y, **churn, generator=generator).prev_sample
        noisy_steps += bool(sampler.raised(sigma, state) > sigma)
        x, _ = sampler.step(
            lambda x, sigma, F=F: denoised_from_edm(F, x, sigma), x, sigma, levels[i + 1], state, Replay([noise])
        )
        assert relative(x, y) < 1e-5
    inside = ((levels >= 0.05) & (levels <= 50)).sum()
    assert noisy_steps == (inside if S_churn else 0) < len(scheduler.timesteps)
