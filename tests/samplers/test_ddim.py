"""DDPM and DDIM: limits, variances, the last step, bad input."""

from itertools import pairwise

import pytest
import torch
from support import Replay, relative

from prescore.errors import PrescoreError
from prescore.noise import NoiseSource
from prescore.oracle import Diagonal, MixtureOracle
from prescore.samplers import PredictorCorrector, sample
from prescore.samplers.ddim import DDIM, DDPM
from prescore.schedule import VP

GRID = torch.tensor([5.0, 2.0, 0.7, 0.1, 0.0], dtype=torch.float64)
MIXTURE = MixtureOracle(
    torch.tensor([0.3, 0.7]),
    torch.tensor([[-1.0, 0.5], [1.2, -0.3]], dtype=torch.float64),
    Diagonal(torch.tensor([[0.04, 0.3], [0.1, 0.02]])),
)


def mixture(x, sigma):
    return MIXTURE(x, sigma)


mixture.dtype, mixture.event_shape, mixture.sigma_min, mixture.sigma_max = torch.float64, (2,), 0.01, 10.0


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(sampler, denoise=mixture, seeds=range(6), **options):
    return sample(denoise, sampler, seeds=seeds, progress=False, **options)


def test_eta_1_is_the_ancestral_predictor():
    ancestral = PredictorCorrector(predictor="ancestral", corrector="none", grid=GRID)
    for sampler in (DDIM(eta=1, grid=GRID), DDPM(grid=GRID)):
        assert relative(run(sampler), run(ancestral)) < 1e-12
    assert relative(run(DDIM(eta=0.9, grid=GRID)), run(ancestral)) > 1e-3


def test_eta_0_integrates_a_constant_noise_prediction_exactly():
    eps, x = normals(3, 2), normals(3, 2, seed=1)
    sampler = DDIM(grid=torch.tensor([5.0, 0.3], dtype=torch.float64))
    out, _ = sampler.step(lambda x, sigma: x - sigma * eps, x, *sampler.grid, sampler.start(sampler.grid), Replay([]))
    assert relative(out, x + (0.3 - 5.0) * eps) < 1e-14


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_given_x0_every_eta_keeps_the_marginal(eta):
    """With the true x0 as prediction the variance t^2 about it is reached exactly."""
    sampler = DDIM(eta=eta, grid=GRID)
    for (s, t), (kept, std) in zip(pairwise(GRID.tolist()), sampler.start(GRID), strict=True):
        assert kept**2 * s**2 + std**2 == pytest.approx(t**2, rel=1e-14)


def test_tiny_steps_and_tiny_levels_lose_no_digits():
    s, t = torch.tensor([100.0, 1.0]).double(), torch.tensor([1e-6, 1 - 1e-9]).double()
    assert torch.allclose(DDIM(eta=1, steps=1).kept(s, t), t**2 / s**2, rtol=1e-15, atol=0)


@pytest.mark.parametrize(("variance", "c"), [("small", 0.0), ("large", 1.0)])
def test_the_variance_is_exact_for_data_of_one_size(variance, c):
    sampler = DDPM(variance=variance, grid=GRID)
    v = c + GRID[0].item() ** 2
    for (s, t), (kept, std) in zip(pairwise(GRID[:-1].tolist()), sampler.start(GRID), strict=False):
        shrink = c / (c + s**2)  # D = shrink x
        v = (shrink + kept * (1 - shrink)) ** 2 * v + std**2
        assert v == pytest.approx(c + t**2, rel=1e-12)


@pytest.mark.parametrize("sampler", [DDIM(grid=GRID), DDIM(eta=0.5, grid=GRID), DDPM(variance="large", grid=GRID)])
def test_the_last_step_is_the_prediction_and_draws_nothing(sampler):
    x = normals(3, 2)
    out, state = sampler.step(mixture, x, GRID[-2], GRID[-1], sampler.start(GRID)[-1:], Replay([]))
    assert torch.equal(out, mixture(x, GRID[-2]))
    assert state == ()


def test_a_step_changes_nothing_that_it_was_given():
    sampler, x, D = DDIM(eta=0.5, grid=GRID), normals(3, 2), normals(3, 2, seed=1)
    before, state = (x.clone(), D.clone()), sampler.start(GRID)
    first, _ = sampler.step(lambda *_: D, x, GRID[0], GRID[1], state, Replay([normals(3, 2, seed=2)]))
    again, _ = sampler.step(lambda *_: D, x, GRID[0], GRID[1], state, Replay([normals(3, 2, seed=2)]))
    assert torch.equal(first, again)
    assert torch.equal(x, before[0])
    assert torch.equal(D, before[1])


@pytest.mark.parametrize("sampler", [DDIM(steps=7), DDIM(eta=0.5, steps=7), DDPM(variance="large", steps=7)])
def test_a_sample_depends_on_its_seed_alone(sampler):
    together, alone = run(sampler), run(sampler, batch_size=1)
    assert torch.equal(together, alone)
    assert torch.isfinite(together).all()


@pytest.mark.parametrize(("low", "high"), [(0.002, 80.0), (0.01, 152.0), (0.1, 1.0), (0.03, 500.0)])
def test_usual_levels_are_uniform_in_the_time_of_linear_betas(low, high):
    levels = DDIM(steps=10).levels(low, high)
    assert levels[-1] == 0
    assert levels[[0, -2]].tolist() == pytest.approx([high, low], rel=1e-12)
    assert torch.allclose(VP().t(levels[:-1]).diff().diff(), torch.zeros(8).double(), atol=1e-12)


def test_one_step_is_the_prediction_from_noise():
    x = 10 * NoiseSource(range(6), (2,))()
    assert relative(run(DDIM(steps=1)), mixture(x, torch.tensor(10.0))) < 1e-12


def test_what_they_declare():
    for sampler in (DDIM(), DDIM(eta=0.5), DDPM()):
        assert (sampler.order, sampler.total_calls(9)) == (1, 9)
    assert [s.strong_order for s in (DDIM(), DDIM(eta=0.5), DDPM())] == [None, 1, 1]
    assert [s.stochastic for s in (DDIM(), DDIM(eta=0.5), DDPM())] == [False, True, True]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDIM(eta=-0.1), "eta: -0.1 is outside 0"),
        (lambda: DDIM(eta=1.1), "eta: 1.1 is outside 0"),
        (lambda: DDIM(eta=float("nan")), "eta: nan is outside 0"),
        (lambda: DDPM(eta=0.5), "eta: 0.5 given, but DDPM is eta = 1"),
        (lambda: DDPM(variance="larg"), "variance: unknown value 'larg'; did you mean large"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(PrescoreError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
