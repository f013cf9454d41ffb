from itertools import pairwise

import pytest
import torch
from support import Replay, reference, relative

from prescore.operators import Frequency, Identity, Pixel
from prescore.precondition import Preconditioner
from prescore.samplers import AnnealedLangevin, make_sampler, sample
from prescore.samplers.langevin import PRIORS, usual_step_size


@pytest.mark.parametrize(("suffix", "dtype", "limit"), [("", torch.float32, 1e-5), ("_f64", torch.float64, 1e-6)])
def test_ncsnv2_run(suffix, dtype, limit):
    """The recorded sampler of NCSNv2: 3 levels x 2 steps and the denoising step."""
    recorded = reference("ncsn/ald-v2.safetensors")
    mu, c, levels = (recorded[k].to(dtype) for k in ("mu", "c", "sigmas"))
    sampler = AnnealedLangevin(
        level_steps=2,
        step_size=(recorded["step_size"].double().flatten()[-1]).item(),
        grid=torch.cat([levels.double(), torch.zeros(1)]),
    )

    def denoise(x, sigma):
        return x - sigma**2 * (x - mu) / (c + sigma**2)

    x, noise = recorded["x0"].to(dtype), Replay(recorded["noise"].to(dtype))
    state = sampler.start(sampler.grid)
    for sigma, sigma_next in pairwise(sampler.grid):
        x, state = sampler.step(denoise, x, sigma, sigma_next, state, noise)
    assert relative(x, recorded["images" + suffix][-1]) < limit


def test_ncsn_run():
    """NCSN leaves the noise of the lowest level in: `denoise=False` is the state after its last update."""
    recorded = reference("ncsn/ald-v1.safetensors")
    mu, c, levels = (recorded[k].float() for k in ("mu", "c", "sigmas"))
    step = 2e-5 if "step_size" not in recorded else recorded["step_size"].double().flatten()[-1].item()
    sampler = AnnealedLangevin(
        level_steps=2, step_size=step, denoise=False, grid=torch.cat([levels.double(), torch.zeros(1)])
    )
    x, noise = recorded["x0"], Replay(recorded["noise"])
    state = sampler.start(sampler.grid)
    for sigma, sigma_next in pairwise(sampler.grid):
        x, state = sampler.step(
            lambda x, sigma: x - sigma**2 * (x - mu) / (c + sigma**2), x, sigma, sigma_next, state, noise
        )
    assert relative(x, recorded["last"]) < 1e-5


@pytest.mark.parametrize("ratio", [1.1, 1.5, 2.5])
@pytest.mark.parametrize("n", [1, 3, 5, 20])
def test_usual_step_size_is_the_best_of_its_neighbours(ratio, n):
    """Brute force of the variance recursion v <- (1 - e)^2 v + 2 e from v = ratio^2."""

    def ends_at(e):
        v = ratio**2
        for _ in range(n):
            v = (1 - e) ** 2 * v + 2 * e
        return v

    e = usual_step_size(ratio, n)
    assert 0 < e <= 1
    assert ends_at(e) <= min(ends_at(0.97 * e), ends_at(min(1.03 * e, 1.0))) + 1e-12


def test_many_levels_reach_a_gaussian():
    """200 levels x 20 steps of 0.03 sigma^2 on N(0.4, 0.09): moments of 2000 numbers within 5 standard errors + 1 %."""

    def denoise(x, sigma):
        return 0.4 + 0.09 / (0.09 + sigma**2) * (x - 0.4)

    grid = torch.cat([torch.logspace(1, -2, 200, dtype=torch.float64), torch.zeros(1)])
    s = make_sampler("ald", grid=grid, level_steps=20, step_size=0.03 * 0.01**2)
    x = sample(denoise, s, seeds=[0], event_shape=(2000,), progress=False)
    assert abs(x.mean() - 0.4) < 5 * 0.3 / 2000**0.5 + 0.004
    assert abs(x.std() - 0.3) < 5 * 0.3 / 4000**0.5 + 0.003


def test_priors():
    double = Preconditioner(Pixel(torch.full((4,), 2.0)))
    s = {prior: make_sampler("ald", prior=prior, steps=1, preconditioner=double) for prior in PRIORS}
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = torch.tensor(5.0, dtype=torch.float64)
    assert torch.equal(s["gaussian"].initial(Replay([z]), sigma), 10 * z)
    assert torch.equal(s["uniform"].initial(Replay([z]), sigma), z)


def test_unstable_steps_are_named():
    M = Preconditioner(Frequency(torch.full((4, 3), 3.0, dtype=torch.float64), axes=2, length=4))
    s = make_sampler("ald", step_size=1e-4, steps=3, preconditioner=M)
    levels = s.levels(0.01, 1.0)
    assert "unstable (step 9" in s.diagnosis((4, 4), levels)
    calm = make_sampler("ald", step_size=1e-4, steps=3, preconditioner=Preconditioner(Identity()))
    assert calm.diagnosis((4, 4), levels) == ""
