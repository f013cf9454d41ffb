"""The samplers of the papers against their algorithms, written out in NumPy from the printed formulas.

Each run has the same draws in both, on Gaussian data whose score is known. The recorded numbers of the original
implementations, beside which the other tests of this folder stand, need files that a clone has not; these need none.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from support import Replay, relative

from prescore.checkpoints.ncsn import PUBLISHED as NCSN
from prescore.checkpoints.ncsn import Configuration as NCSNConfiguration
from prescore.checkpoints.score_sde import PUBLISHED as SCORE_SDE
from prescore.checkpoints.score_sde import _meaning
from prescore.grid import geometric, karras
from prescore.operators import Frequency, Pixel
from prescore.precondition import Preconditioner, load_mask, normalise, radial_preconditioner
from prescore.samplers import AnnealedLangevin, PredictorCorrector, make_sampler, sample

SHAPE, B = (3, 8, 6), 4
RANDOM = np.random.default_rng(0)
MU, C = RANDOM.uniform(0.2, 0.8, SHAPE), RANDOM.uniform(0.01, 0.2, SHAPE)
IMAGES = RANDOM.uniform(0, 1, (12, *SHAPE)).cumsum(-1) / 6
FREQUENCY = np.log1p((np.abs(np.fft.fft2(IMAGES)) ** 2).mean(0))
SQUARE = (IMAGES**2).mean(0)
CLOSE = 1e-11


def score(x, sigma):
    return -(x - MU) / (C + sigma**2)


def denoise(x, sigma):
    return x + sigma**2 * torch.from_numpy(score(x.numpy(), sigma.item()))


denoise.dtype = torch.float64


def weight(R, alpha):
    """What the authors' sampler multiplies with: alpha / (R / max R + alpha - 1)."""
    return alpha / (R / R.max() + alpha - 1)


class Masks:
    """M z = Re F^-1 f F (s z) and A g = Re F^-1 f F (s^2 F^-1 (f F g)), the masks f and s unshifted."""

    def __init__(self, kind, alpha):
        self.f = weight(FREQUENCY, alpha) if kind in ("frequency", "both") else np.ones(SHAPE)
        self.s = weight(SQUARE, alpha) if kind in ("pixel", "both") else np.ones(SHAPE)

    def noise(self, z):
        return np.fft.ifft2(self.f * np.fft.fft2(self.s * z)).real

    def drift(self, g):
        return np.fft.ifft2(self.f * np.fft.fft2(self.s**2 * np.fft.ifft2(self.f * np.fft.fft2(g)))).real

    @property
    def ours(self):
        return Preconditioner(Frequency.from_full(torch.from_numpy(self.f), 2)) @ Preconditioner(
            Pixel(torch.from_numpy(self.s))
        )


def run(sampler, draws, monkeypatch):
    """What the sampler makes of these draws, in order."""
    draws = torch.from_numpy(np.stack(draws))
    monkeypatch.setattr("prescore.samplers.base.NoiseSource", lambda *_, **__: Replay(draws))
    return sample(denoise, sampler, seeds=range(B), event_shape=SHAPE, progress=False)


def normals(n, seed=1):
    return list(np.random.default_rng(seed).normal(size=(n, B, *SHAPE)))


@pytest.mark.parametrize("kind", ["none", "frequency", "pixel", "both"])
@pytest.mark.parametrize("norm", ["sample", "batch"])
def test_pds_in_the_order_of_the_authors_code(kind, norm, monkeypatch):
    """Initial state sigma_max M n; at each level corrector, then predictor; at the end the predictor's mean."""
    T, snr, M = 8, 0.16, Masks(kind, 5.0)
    sigmas = [*(0.01 * 5000 ** (k / (T - 1)) for k in reversed(range(T))), 0.0]
    draws = normals(2 * T)  # the initial one, and two a level but for the last predictor, which draws none
    given = iter(draws)
    x = sigmas[0] * M.noise(next(given))
    for sigma, lower in pairwise(sigmas):
        g, z = M.drift(score(x, sigma)), M.noise(next(given))
        lengths = [np.sqrt((v**2).sum((1, 2, 3), keepdims=True)) for v in (z, g)]
        if norm == "batch":
            lengths = [v.mean() for v in lengths]
        eps = 2 * (snr * lengths[0] / lengths[1]) ** 2
        x = x + eps * g + np.sqrt(2 * eps) * z
        variance = sigma**2 - lower**2
        x = x + variance * M.drift(score(x, sigma))
        if lower > 0:
            x = x + math.sqrt(variance) * M.noise(next(given))
    grid = torch.tensor(sigmas, dtype=torch.float64)
    sampler = PredictorCorrector(grid=grid, snr=snr, norm=norm, preconditioner=None if kind == "none" else M.ours)
    assert relative(run(sampler, draws, monkeypatch), torch.from_numpy(x)) < CLOSE


def test_algorithm_2_in_the_order_of_the_paper(monkeypatch):
    """Predict, then correct at the lower level."""
    T, snr, M = 6, 0.2, Masks("both", 3.0)
    sigmas = [*(0.01 * 5000 ** (k / (T - 1)) for k in reversed(range(T))), 0.0]
    draws = normals(2 * T - 1)
    given = iter(draws)
    x = sigmas[0] * M.noise(next(given))
    for sigma, lower in pairwise(sigmas):
        variance = sigma**2 - lower**2
        x = x + variance * M.drift(score(x, sigma))
        if lower > 0:
            x = x + math.sqrt(variance) * M.noise(next(given))
            g, z = M.drift(score(x, lower)), M.noise(next(given))
            eps = 2 * snr**2 * (z**2).sum((1, 2, 3), keepdims=True) / (g**2).sum((1, 2, 3), keepdims=True)
            x = x + eps * g + np.sqrt(2 * eps) * z
    sampler = PredictorCorrector(
        grid=torch.tensor(sigmas, dtype=torch.float64), snr=snr, first="predictor", preconditioner=M.ours
    )
    assert relative(run(sampler, draws, monkeypatch), torch.from_numpy(x)) < CLOSE


@pytest.mark.parametrize(("predictor", "ancestral"), [("ancestral", True), ("euler-maruyama", False)])
def test_predictors_of_score_sde(predictor, ancestral, monkeypatch):
    """Ancestral: std^2 = u' (u - u') / u. Euler-Maruyama in ln sigma, g^2 = 2 sigma^2 ln(sigma / sigma')."""
    sigmas = [20.0, 3.0, 0.5, 0.1]
    draws = normals(len(sigmas))
    given = iter(draws)
    x = sigmas[0] * next(given)
    for sigma, lower in pairwise(sigmas):
        if ancestral:
            drift = sigma**2 - lower**2
            std = math.sqrt(lower**2 * drift / sigma**2)
        else:
            drift = 2 * sigma**2 * math.log(sigma / lower)
            std = math.sqrt(drift)
        x = x + drift * score(x, sigma) + std * next(given)
    sampler = make_sampler(predictor, grid=torch.tensor(sigmas, dtype=torch.float64))
    assert relative(run(sampler, draws, monkeypatch), torch.from_numpy(x)) < CLOSE


@pytest.mark.parametrize("churn", [0.0, 12.0])
def test_edm_algorithms_1_and_2(churn, monkeypatch):
    N, low, high, rho, S_noise, S_tmin, S_tmax = 9, 0.002, 80.0, 7.0, 1.007, 0.05, 50.0
    t = [(high ** (1 / rho) + i / (N - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(N)] + [0.0]
    draws = normals(N + 1)
    given = iter(draws)
    x = t[0] * next(given)
    for now, after in pairwise(t):
        gamma = min(churn / N, math.sqrt(2) - 1) if S_tmin <= now <= S_tmax else 0.0
        hat = now * (1 + gamma)
        if gamma > 0:
            x = x + math.sqrt(hat**2 - now**2) * S_noise * next(given)
        d = -hat * score(x, hat)
        trial = x + (after - hat) * d
        if after > 0:
            trial = x + (after - hat) * (d - after * score(trial, after)) / 2
        x = trial
    assert karras(N, low, high, final_zero=True).tolist() == pytest.approx(t, rel=1e-13)
    grid = torch.tensor(t, dtype=torch.float64)
    options = {"S_churn": churn, "S_tmin": S_tmin, "S_tmax": S_tmax, "S_noise": S_noise}
    sampler = make_sampler("edm-stochastic", grid=grid, **options) if churn else make_sampler("edm-heun", grid=grid)
    assert relative(run(sampler, draws, monkeypatch), torch.from_numpy(x)) < CLOSE


@pytest.mark.parametrize("denoising", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_langevin_dynamics_of_ncsn_and_ncsnv2(denoising, masked, monkeypatch):
    """alpha_i = eps sigma_i^2 / sigma_L^2, the weight of the score, and noise of the variance 2 alpha_i."""
    L, n, eps, lam, R = 5, 3, 2e-5, 1.6, 0.2
    sigmas = [math.exp(math.log(1.0) + i / (L - 1) * (math.log(0.01) - math.log(1.0))) for i in range(L)]
    H, W = SHAPE[-2:]
    disc = np.array(
        [
            [1.0 if (h - H / 2) ** 2 + (w - W / 2) ** 2 <= 2 * (R * H) ** 2 else lam for w in range(1, W + 1)]
            for h in range(1, H + 1)
        ]
    )

    def M(v):
        return np.fft.ifft2(np.fft.fft2(v) / disc).real if masked else v

    draws = [np.random.default_rng(7).uniform(size=(B, *SHAPE)), *normals(L * n)]
    given = iter(draws)
    x = next(given)
    for sigma in sigmas:
        a = eps * (sigma / sigmas[-1]) ** 2
        for _ in range(n):
            x = x + a * M(M(score(x, sigma))) + math.sqrt(2 * a) * M(next(given))
    if denoising:
        x = x + sigmas[-1] ** 2 * score(x, sigmas[-1])
    assert geometric(L, 0.01, 1.0).tolist() == pytest.approx(sigmas, rel=1e-13)
    sampler = AnnealedLangevin(
        grid=torch.tensor([*sigmas, 0.0], dtype=torch.float64),
        level_steps=n,
        step_size=eps,
        denoise=denoising,
        preconditioner=radial_preconditioner(SHAPE, R * H, lam) if masked else None,
    )
    assert relative(run(sampler, draws, monkeypatch), torch.from_numpy(x)) < CLOSE


def test_masks_from_files_are_the_authors_weights(tmp_path):
    for kind, R in (("frequency", FREQUENCY), ("pixel", SQUARE)):
        np.save(tmp_path / "a.npy", R)
        mask = load_mask(tmp_path / "a.npy", kind)
        for alpha in (1.0, 3.0, 5.0):
            expected = torch.from_numpy(weight(R, alpha))
            assert torch.allclose(1 / normalise(mask.R, alpha), expected, rtol=1e-13)
    M, z = Masks("both", 5.0), RANDOM.normal(size=(2, *SHAPE))
    for ours, theirs in ((M.ours.noise, M.noise), (M.ours.drift, M.drift)):
        assert relative(ours(torch.from_numpy(z)), torch.from_numpy(theirs(z))) < CLOSE


def test_noise_levels_of_published_models():
    """VE: sigma_j = sigma_min (sigma_max / sigma_min)^(j / (N - 1)); VP: betas linspace(0.1, 20, N) / N."""
    configuration = SCORE_SDE["cifar10-ddpm-discrete-vp"]
    arguments = {**configuration.arguments, "num_scales": 1000}
    _, _, tables, low, high = _meaning(configuration, arguments, {})
    kept = np.cumprod(1 - np.linspace(0.1 / 1000, 20 / 1000, 1000))
    sigmas = np.sqrt(1 / kept - 1)
    assert np.allclose(np.sort(tables["levels"].numpy()), sigmas, rtol=1e-9)
    assert (low, high) == pytest.approx((sigmas[0], sigmas[-1]), rel=1e-9)
    for name, ends in (("cifar10-ncsnv2", (50, 232)), ("church96-ncsnv2", (140, 788)), ("mnist-ncsn", (1, 10))):
        known: NCSNConfiguration = NCSN[name]
        assert (known.sigma_begin, known.num_classes, known.sigma_end) == (*ends, 0.01)
        expected = np.exp(np.linspace(np.log(known.sigma_begin), np.log(known.sigma_end), known.num_classes))
        assert np.allclose(geometric(known.num_classes, known.sigma_end, known.sigma_begin).numpy(), expected)
