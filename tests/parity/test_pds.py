"""The sampler against numbers recorded from the authors' own implementation of PDS (float32 and float64)."""

import pytest
import torch
from support import Replay, reference, relative

from prescore.operators import Frequency, Identity, Pixel
from prescore.precondition import Preconditioner
from prescore.samplers import PredictorCorrector, sample

MASKS = ["none", "freq", "space", "both"]
# (dtype of the state, what it is compared with, limit). Beside the recorded float32 run there is the same run
# in float64; the first limit is the rounding of a few float32 transforms.
PRECISIONS = [(torch.float32, "", 1e-5), (torch.float64, "_f64", 1e-9)]


def preconditioner(recorded, dtype):
    """M = Mf Mp from the masks in the file, an absent one being a single 1; the float64 runs had float64 masks."""
    M = Preconditioner(Identity())
    masks = reference("pds/masks.safetensors")
    for kind, make in (("space", Pixel), ("freq", lambda mask: Frequency.from_full(mask, axes=2))):
        if recorded[f"{kind}_mask"].numel() > 1:
            mask = masks[f"{kind}_alpha5_f64"] if dtype == torch.float64 else recorded[f"{kind}_mask"]
            M = Preconditioner(make(mask[0])) @ M
    return M


def gaussian(recorded, sigma_of=lambda sigma: sigma):
    """Denoiser with the recorded score -(x - mu) / (c + sigma_of(sigma)^2)."""
    mu, c = recorded["mu"], recorded["c"]

    def denoise(x, sigma):
        return x - sigma**2 * (x - mu.to(x)) / (c.to(x) + sigma_of(sigma) ** 2)

    return denoise


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize(("dtype", "suffix", "limit"), PRECISIONS)
def test_transforms(masks, dtype, suffix, limit):
    recorded = reference(f"pds/step-{masks}.safetensors")
    M, g = preconditioner(recorded, dtype), recorded["transform/in"].to(dtype)
    assert relative(M.noise(g), recorded["transform/noise" + suffix]) < limit
    assert relative(M.drift(g), recorded["transform/drift" + suffix]) < limit


def one_step(recorded, name, k, dtype, **options):
    where = f"{name}/{k}/"
    x, t = recorded[where + "x"].to(dtype), recorded[where + "t"][0].double()
    # The authors take the score at sigma(t), and the size of the predictor's step from the discrete levels.
    levels = torch.cat([torch.logspace(1, 0, 20, 5000, dtype=torch.float64) * 0.01, torch.zeros(1)])
    exact = 0.01 * 5000**t
    sampler = PredictorCorrector(
        preconditioner=preconditioner(recorded, dtype), snr=0.16, norm="batch", grid=levels, **options
    )
    noise = Replay(recorded[where + "noise"].to(dtype))
    return sampler, gaussian(recorded, lambda _: exact), x, levels[k], levels[k + 1], noise


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize(("dtype", "suffix", "limit"), PRECISIONS)
@pytest.mark.parametrize(
    ("name", "k", "predictor"),
    [("predictor", 0, "reverse-diffusion"), ("predictor", 10, "reverse-diffusion"), ("ode", 10, "probability-flow")],
)
def test_predictor(masks, dtype, suffix, limit, name, k, predictor):
    recorded = reference(f"pds/step-{masks}.safetensors")
    sampler, denoise, x, sigma, sigma_next, noise = one_step(recorded, name, k, dtype, predictor=predictor)
    out = sampler.predict(denoise, x, sigma, sigma_next, noise)
    assert relative(out, recorded[f"{name}/{k}/out{suffix}"]) < limit


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize(("dtype", "suffix", "limit"), PRECISIONS)
def test_last_step_is_the_mean(masks, dtype, suffix, limit):
    """At the last level the authors add noise and return the mean; here the step to 0 is the mean."""
    recorded = reference(f"pds/step-{masks}.safetensors")
    sampler, denoise, x, sigma, sigma_next, noise = one_step(recorded, "predictor", 19, dtype)
    assert sigma_next == 0
    out = sampler.predict(denoise, x, sigma, sigma_next, noise)
    assert relative(out, recorded[f"predictor/19/mean{suffix}"]) < limit


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize(("dtype", "suffix", "limit"), PRECISIONS)
@pytest.mark.parametrize(("name", "k", "steps"), [("corrector1", k, 1) for k in (0, 10, 19)] + [("corrector2", 10, 2)])
def test_corrector(masks, dtype, suffix, limit, name, k, steps):
    recorded = reference(f"pds/step-{masks}.safetensors")
    sampler, denoise, x, sigma, _, noise = one_step(recorded, name, k, dtype, corrector_steps=steps)
    out = sampler.correct(denoise, x, sigma, noise)
    assert relative(out, recorded[f"{name}/{k}/out{suffix}"]) < limit


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize(("dtype", "suffix", "limit"), PRECISIONS)
def test_whole_run(masks, dtype, suffix, limit, monkeypatch):
    """8 steps, corrector then predictor, from the recorded noise to the recorded samples."""
    recorded = reference(f"pds/pc-{masks}.safetensors")
    levels = 0.01 * 5000 ** torch.linspace(1, 0, 8, dtype=torch.float64)
    exact = 0.01 * 5000 ** torch.linspace(1, 1.25e-3, 8, dtype=torch.float64)
    denoise = gaussian(recorded, lambda sigma: exact[(levels - sigma).abs().argmin()])
    denoise.dtype = dtype
    sampler = PredictorCorrector(
        preconditioner=preconditioner(recorded, dtype), norm="batch", grid=torch.cat([levels, torch.zeros(1)])
    )
    draws = recorded["noise"].to(dtype)
    monkeypatch.setattr("prescore.samplers.base.NoiseSource", lambda *_, **__: Replay(draws))
    out = sample(denoise, sampler, seeds=range(4), event_shape=(3, 16, 16), dtype=dtype, progress=False)
    assert relative(out, recorded["out" + suffix]) < limit
