"""Subspace diffusion: the projection, the scaling of noise, and exact moments of the samples on Gaussian data."""

import math
from dataclasses import replace

import pytest
import torch
from support import relative

from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.noise import NoiseSource
from prescore.samplers import make_sampler, sample
from prescore.samplers.adaptive import GGF
from prescore.samplers.ode import AdaptiveODE
from prescore.samplers.subspace import (
    DRAWS,
    BlockMeans,
    Stage,
    add_detail,
    orthonormal,
    subspace_denoiser,
    subspace_sample,
)

LOW, SWITCH, HIGH, V = 0.01, 0.5, 20.0, 0.02
FINE, COARSE = (1, 4, 4), (1, 2, 2)
BLOCKS = BlockMeans(FINE, COARSE)
generator = torch.Generator().manual_seed(0)
ROOT = torch.randn(4, 4, generator=generator, dtype=torch.float64) / 2
MEAN = torch.randn(FINE, generator=generator, dtype=torch.float64)
# Covariance of the data: any in the subspace, v in the detail.
U = torch.stack([BLOCKS.embed(e.reshape(COARSE)).flatten() for e in torch.eye(4, dtype=torch.float64)], 1)
P = torch.eye(16, dtype=torch.float64) - U @ U.T
COVARIANCE = U @ ROOT @ ROOT.T @ U.T + V * P


def gaussian(mean, covariance, low=LOW, high=HIGH):
    """Exact denoiser of N(mean, covariance) for any sigma of each sample."""
    values, vectors = torch.linalg.eigh(covariance)

    def denoise(x, sigma):
        r = (x - mean).flatten(1) @ vectors
        gain = values / (values + torch.as_tensor(sigma).reshape(-1, 1) ** 2)
        return mean + ((gain * r) @ vectors.T).reshape(x.shape)

    return Denoiser(denoise, tuple(mean.shape), low, high, dtype=torch.float64)


full = gaussian(MEAN, COVARIANCE)
half = gaussian(BLOCKS.project(MEAN), U.T @ COVARIANCE @ U)
DETAIL = {"variance": V, "mean": MEAN}
GRID = torch.tensor([HIGH, SWITCH, LOW], dtype=torch.float64)


def stages(sampler, coarse_sampler=None):
    return [Stage(half, coarse_sampler or sampler), Stage(full, sampler, SWITCH, **DETAIL)]


def ode(**options):
    return AdaptiveODE(rtol=1e-9, atol=1e-9, **options)


@pytest.mark.parametrize(
    ("fine", "coarse"),
    [(FINE, COARSE), ((2, 6), (2, 2)), ((1, 4, 8), (1, 1, 4)), ((1, 4, 4, 4), (1, 2, 2, 2)), ((8,), (2,))],
)
def test_the_projection_is_orthonormal(fine, coarse):
    blocks, g = BlockMeans(fine, coarse), torch.Generator().manual_seed(1)
    x, y = torch.randn(5, *fine, generator=g), torch.randn(5, *coarse, generator=g)
    x, y = x.double(), y.double()
    torch.testing.assert_close(blocks.project(blocks.embed(y)), y)
    torch.testing.assert_close((blocks.embed(y) * x).sum(), (y * blocks.project(x)).sum())
    torch.testing.assert_close(blocks.project(blocks.detail(x)), torch.zeros_like(y))
    # It is the block mean times sqrt(b), and embeds as a constant block.
    flat = blocks.embed(blocks.project(x))
    torch.testing.assert_close(flat.sum(), x.sum())
    torch.testing.assert_close(blocks.project(torch.ones(fine)), torch.full(coarse, math.sqrt(blocks.size)))


def test_block_means_are_those_of_pooling():
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(BlockMeans((3, 8, 8), (3, 4, 4)).project(x), 2 * torch.nn.functional.avg_pool2d(x, 2))


def test_a_denoiser_of_block_means_becomes_one_of_orthonormal_coordinates():
    plain = gaussian(BLOCKS.project(MEAN) / 2, U.T @ COVARIANCE @ U / 4, LOW / 2, HIGH / 2)
    y = torch.randn(3, *COARSE, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    turned = orthonormal(replace(plain, data_range=(0.0, 1.0)), BLOCKS)
    for sigma in (torch.tensor(0.7, dtype=torch.float64), torch.tensor([0.1, 1.0, 9.0], dtype=torch.float64)):
        torch.testing.assert_close(turned(y, sigma), half(y, sigma))
    assert (turned.sigma_min, turned.sigma_max, turned.data_range) == (LOW, HIGH, (0.0, 2.0))


def test_noise_keeps_its_level_in_the_subspace():
    n = 20000
    noise = torch.randn(n, *FINE, generator=torch.Generator().manual_seed(4))
    assert BLOCKS.project(noise).std().item() == pytest.approx(1, abs=0.02)
    detail = BLOCKS.detail(noise).flatten(1)
    torch.testing.assert_close(detail.T @ detail / n, P.float(), atol=0.04, rtol=0)


def test_moments_of_the_detail():
    g, n = torch.Generator().manual_seed(5), 20000
    data = MEAN + (torch.randn(n, 16, generator=g, dtype=torch.float64) @ torch.linalg.cholesky(COVARIANCE).T).reshape(
        n, *FINE
    )
    mean, variance = BLOCKS.moments(data)
    torch.testing.assert_close(mean, BLOCKS.detail(MEAN), atol=0.01, rtol=0)
    assert variance == pytest.approx(V, rel=0.02)


def affine(run, draws):
    """x = c + A n with n the draws of each sample: c and the covariance A A^T, without Monte Carlo error."""
    n = torch.cat([d.flatten(1) for d in draws], 1)
    design = torch.cat([torch.ones(len(n), 1, dtype=torch.float64), n], 1)
    solution = torch.linalg.lstsq(design, run.flatten(1))
    assert relative(design @ solution.solution, run.flatten(1)) < 1e-6
    return solution.solution[0].reshape(FINE), solution.solution[1:].T @ solution.solution[1:]


def test_samples_have_the_mean_and_covariance_of_the_data():
    """Exactly those of the full model's ODE in the subspace, and N(P mu, v + sigma^2) in the detail."""
    seeds = range(40)
    draws = [NoiseSource(seeds, COARSE, draw=1)(), NoiseSource(seeds, FINE, draw=DRAWS)()]
    found = subspace_sample(stages(ode(grid=GRID)), seeds=seeds, progress=False)
    mean, covariance = affine(found.x, draws)
    # The prior N(0, sigma_max^2) of the subspace is not quite the data's: what the flow makes of it is known.
    c = ROOT @ ROOT.T
    values, vectors = torch.linalg.eigh(c)
    shrink = ((values + LOW**2) / (values + HIGH**2)).sqrt()
    y_mean = BLOCKS.project(MEAN).flatten()
    expected_y = y_mean - vectors @ (shrink * (vectors.T @ y_mean))
    expected = U @ vectors @ ((shrink * HIGH) ** 2).diag() @ vectors.T @ U.T + (V + LOW**2) * P
    torch.testing.assert_close(covariance, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(mean, BLOCKS.embed(expected_y.reshape(COARSE)) + BLOCKS.detail(MEAN), rtol=0, atol=1e-6)
    # And near the data's own, as sigma_min -> 0 and sigma_max -> inf.
    left = values.max().item() ** 2 / HIGH**2 + LOW**2
    torch.testing.assert_close(covariance, COVARIANCE, rtol=0, atol=left)


def test_without_the_datas_variance_the_detail_is_too_small():
    """The term v in v + sigma^2 matters: leaving it out ends at ((sigma^2) / (v + sigma^2)) of the variance."""
    seeds = range(40)
    bare = [Stage(half, ode()), Stage(full, ode(grid=GRID), SWITCH, mean=MEAN)]
    found = subspace_sample(bare, seeds=seeds, progress=False)
    draws = [NoiseSource(seeds, COARSE, draw=1)(), NoiseSource(seeds, FINE, draw=DRAWS)()]
    covariance = affine(found.x, draws)[1]
    ratio = (P @ covariance @ P).trace() / 12 / (V + LOW**2)
    assert ratio.item() == pytest.approx(SWITCH**2 / (SWITCH**2 + V), rel=1e-5)


def test_a_stochastic_sampler_converges_to_the_same():
    n, error = 600, []
    for steps in (40, 160):
        grid = HIGH * (LOW / HIGH) ** torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        found = subspace_sample(stages(make_sampler("ancestral", grid=grid)), seeds=range(n), progress=False)
        r = (found.x - MEAN).flatten(1) @ torch.linalg.inv(torch.linalg.cholesky(COVARIANCE)).T
        assert (r.mean(0).abs() < 4 / n**0.5 + 0.02).all()
        error.append(abs(r.var(0).mean().item() - 1))
    assert error[1] < error[0] / 2
    assert error[1] < 0.02 + 3 * (2 / (16 * n)) ** 0.5


def test_the_denoiser_in_the_full_space_is_the_full_one_on_such_data():
    both = subspace_denoiser(full, half, SWITCH, **DETAIL)
    assert (both.sigma_min, both.sigma_max) == (LOW, HIGH)
    x = torch.randn(4, *FINE, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    for sigma in ([5.0] * 4, [0.1] * 4, [0.1, 5.0, 0.5, 0.6]):
        level = torch.tensor(sigma, dtype=torch.float64)
        torch.testing.assert_close(both(x, level), full(x, level))
    torch.testing.assert_close(both(x, torch.tensor(5.0)), full(x, torch.tensor(5.0, dtype=torch.float64)))


def test_the_denoiser_asks_each_model_for_its_levels_and_rows():
    asked = {}

    def record(name, denoiser):
        def f(x, sigma, label):
            asked[name] = (tuple(x.shape), sigma.tolist(), label.tolist())
            return denoiser(x, sigma)

        return Denoiser(f, denoiser.event_shape, LOW, HIGH, dtype=torch.float64)

    both = subspace_denoiser(record("full", full), record("half", half), SWITCH, **DETAIL)
    x, sigma = torch.zeros(3, *FINE, dtype=torch.float64), torch.tensor([2.0, 0.5, 3.0], dtype=torch.float64)
    both(x, sigma, label=torch.arange(3))
    assert asked == {"half": ((2, *COARSE), [2.0, 3.0], [0, 2]), "full": ((1, *FINE), [0.5], [1])}


def test_any_sampler_takes_the_denoiser():
    """Adaptive steps, each sample with its own level: equal to the full model's up to rounding."""
    both = subspace_denoiser(full, half, SWITCH, **DETAIL)
    for sampler in (GGF(eps_rel=0.1), make_sampler("pc", steps=10)):
        a, b = (sample(d, sampler, seeds=range(3), progress=False) for d in (both, full))
        assert relative(a, b) < 1e-7


def test_a_chain_of_three_spaces():
    smallest = BlockMeans(COARSE, (1, 1, 1))
    v1 = 0.05
    u1 = torch.full((4, 1), 0.5, dtype=torch.float64)
    y_covariance = 2.0 * u1 @ u1.T + v1 * (torch.eye(4, dtype=torch.float64) - u1 @ u1.T)
    y_mean = BLOCKS.project(MEAN)
    x_covariance = U @ y_covariance @ U.T + V * P
    models = [
        gaussian(smallest.project(y_mean), torch.full((1, 1), 2.0, dtype=torch.float64)),
        gaussian(y_mean, y_covariance),
        gaussian(MEAN, x_covariance),
    ]
    grid = torch.tensor([HIGH, 2.0, SWITCH, LOW, 0.0], dtype=torch.float64)
    chain = [
        Stage(models[0], ode()),
        Stage(models[1], ode(), 2.0, v1, y_mean),
        Stage(models[2], ode(grid=grid), SWITCH, V, MEAN),
    ]
    found = subspace_sample(chain, seeds=range(60), progress=False)
    shapes = [(1, 1, 1), COARSE, FINE]
    assert list(found.calls) == shapes
    draws = [NoiseSource(range(60), s, draw=d)() for s, d in zip(shapes, (1, DRAWS, 2 * DRAWS), strict=True)]
    covariance = affine(found.x, draws)[1]
    torch.testing.assert_close(covariance, x_covariance, rtol=0, atol=0.02)
    nested = subspace_denoiser(
        models[2], subspace_denoiser(models[1], models[0], 2.0, variance=v1, mean=y_mean), SWITCH, **DETAIL
    )
    x = torch.randn(3, *FINE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    for sigma in (9.0, 1.0, 0.1):
        level = torch.tensor(sigma, dtype=torch.float64)
        torch.testing.assert_close(nested(x, level), models[2](x, level))


def test_calls_at_each_resolution():
    grid = torch.tensor([HIGH, 3.0, 1.0, 0.4, 0.1, LOW, 0.0], dtype=torch.float64)
    coarse, fine = make_sampler("ancestral"), make_sampler("pc", grid=grid)
    found = subspace_sample(stages(fine, coarse), seeds=range(5), batch_size=2, progress=False)
    assert found.calls == {COARSE: 3, FINE: 6}
    assert found.x.shape == (5, *FINE)


def test_a_sample_is_a_function_of_its_seed():
    grid = HIGH * (LOW / HIGH) ** torch.linspace(0, 1, 9, dtype=torch.float64)

    def run(seeds, **options):
        return subspace_sample(stages(make_sampler("ancestral", grid=grid)), seeds=seeds, progress=False, **options).x

    together = run([4, 5, 6])
    torch.testing.assert_close(run([5])[0], together[1], rtol=1e-12, atol=1e-12)
    assert torch.equal(run([4, 5, 6]), together)
    # The stages share no draw: the detail is not a function of the first stage's noise.
    assert not torch.equal(run([4])[0], run([5])[0])


def test_the_added_detail_leaves_the_subspace_alone():
    y = torch.randn(3, *COARSE, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    z = torch.randn(3, *FINE, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    x = add_detail(BLOCKS, y, torch.tensor(0.7), z, V, MEAN)
    torch.testing.assert_close(BLOCKS.project(x), y)
    torch.testing.assert_close(BLOCKS.detail(x), BLOCKS.detail(MEAN + math.sqrt(V + 0.49) * z), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: BlockMeans((1, 4, 4), (1, 3, 2)), r"shapes: \(1, 3, 2\) are not block means of"),
        (lambda: BlockMeans((1, 4, 4), (4, 4)), r"shapes: \(4, 4\) are not block means of"),
        (lambda: BlockMeans((1, 4, 4), (1, 4, 4)), "shapes: .* are not block means of"),
        (lambda: subspace_denoiser(full, half, 0.001, variance=V), "switch: sigma = 0.001 is not where both"),
        (lambda: subspace_denoiser(full, half, SWITCH, variance=-1.0), "variance: -1.0 of the detail"),
        (lambda: subspace_sample([], seeds=[0]), "stages: at least one"),
        (lambda: subspace_sample(stages(ode())[1:], seeds=[0]), "stages: at least one .* the first starts"),
        (
            lambda: subspace_sample([Stage(half, ode()), Stage(full, ode(grid=GRID), 100.0)], seeds=[0]),
            "no step is left for stage 1 of 2",
        ),
        (
            lambda: subspace_sample([Stage(half, ode()), Stage(full, ode(grid=GRID), LOW / 2)], seeds=[0]),
            "no step is left for stage 2 of 2",
        ),
    ],
)
def test_bad_input_is_one_clear_line(run, message):
    with pytest.raises(PrescoreError, match=message) as caught:
        run()
    assert "\n" not in str(caught.value)


def test_a_run_that_goes_on_from_a_state():
    """`initial` and `draw` of `sample`: two halves are the whole, and a wrong shape is refused."""
    sampler = make_sampler("ancestral", grid=torch.tensor([HIGH, 2.0, 0.5, LOW], dtype=torch.float64))
    whole = sample(full, sampler, seeds=[1, 2], progress=False)
    first = sample(full, make_sampler("ancestral", grid=sampler.grid[:3]), seeds=[1, 2], progress=False)
    second = make_sampler("ancestral", grid=sampler.grid[2:])
    assert torch.equal(sample(full, second, seeds=[1, 2], initial=first, draw=3, progress=False, batch_size=2), whole)
    with pytest.raises(PrescoreError, match=r"initial: shape \(1, 1, 4, 4\) instead of \(2, 1, 4, 4\)"):
        sample(full, second, seeds=[1, 2], initial=first[:1], progress=False)
