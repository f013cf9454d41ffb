"""What the papers claim of preconditioning, on Gaussian data, where every claim is a number.

The samplers are linear there, so their distribution after any number of steps follows from pushing a basis through
the sampler itself (not through a formula): no Monte Carlo error.
"""

from itertools import pairwise

import pytest
import torch
from support import Replay, filter_weights

from prescore.operators import PCA, Dense, Frequency, Identity, Pixel, RollSkew
from prescore.precondition import Preconditioner
from prescore.samplers import AnnealedLangevin, PredictorCorrector

SHAPE = (1, 4, 4)
SIZE = 16


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance():
    half = random(SIZE, SIZE) / 4
    return half @ half.T + 0.1 * torch.eye(SIZE, dtype=torch.float64)


def gaussian_denoiser(C):
    """D(x, sigma) = C (C + sigma^2)^-1 x for x of shape (B, *SHAPE)."""

    def denoise(x, sigma):
        gain = C @ torch.linalg.inv(C + sigma**2 * torch.eye(SIZE, dtype=C.dtype))
        return (x.flatten(1) @ gain.T).reshape(x.shape)

    return denoise


def push(step, cov):
    """Covariance after x <- step(x, z) with independent x ~ N(0, cov), z ~ N(0, I), `step` being linear."""
    basis = torch.eye(SIZE, dtype=torch.float64).reshape(SIZE, *SHAPE)
    F = step(basis, torch.zeros_like(basis)).flatten(1).T
    B = step(torch.zeros_like(basis), basis).flatten(1).T
    return F @ cov @ F.T + B @ B.T


OPERATORS = {
    "identity": Identity(),
    "pixel": Pixel(1 + random(*SHAPE, seed=1).abs()),
    "frequency": Frequency(filter_weights(*SHAPE), axes=2, length=4),
    "dense": Dense(torch.eye(SIZE, dtype=torch.float64) + 0.2 * random(SIZE, SIZE, seed=3)),
    "pca": PCA(torch.linalg.qr(random(SIZE, 5, seed=4))[0], torch.linspace(0.5, 2, 5, dtype=torch.float64), 1.0),
    "frequency @ pixel": Frequency(filter_weights(*SHAPE), axes=2, length=4) @ Pixel(1 + random(*SHAPE, seed=1).abs()),
}


@pytest.mark.parametrize("skew", [None, RollSkew((1, 1))], ids=["", "skew"])
@pytest.mark.parametrize("name", OPERATORS)
def test_theorem_2_preconditioned_langevin_keeps_a_gaussian(name, skew):
    """The stationary covariance of x + a (M M^T + w S) score + sqrt(2a) M z is C + O(a), for every operator."""
    C = covariance()
    sigma = torch.tensor(0.3, dtype=torch.float64)
    target = C + sigma**2 * torch.eye(SIZE, dtype=torch.float64)
    M = Preconditioner(OPERATORS[name], skew=skew, omega=0.5 if skew else 0.0)

    def stationary_error(a):
        sampler = AnnealedLangevin(level_steps=1, preconditioner=M)
        scale = a / sigma.item() ** 2
        denoise = gaussian_denoiser(C)
        basis = torch.eye(SIZE, dtype=torch.float64).reshape(SIZE, *SHAPE)

        def move(x, z):
            return sampler.step(denoise, x, sigma, sigma, scale, Replay([z]))[0].flatten(1).T

        F, B = move(basis, torch.zeros_like(basis)), move(torch.zeros_like(basis), basis)
        # The fixed point of V = F V F^T + B B^T.
        eye = torch.eye(SIZE * SIZE, dtype=torch.float64)
        V = torch.linalg.solve(eye - torch.kron(F, F), (B @ B.T).flatten()).reshape(SIZE, SIZE)
        return ((V - target).norm() / target.norm()).item()

    coarse, fine = stationary_error(1e-3), stationary_error(1e-4)
    assert fine < 2e-3
    assert coarse / fine == pytest.approx(10, rel=0.1)  # the bias is of the order of the step: it goes to 0 with it


def test_without_invertibility_theorem_2_fails_visibly():
    """The test above can fail: with the drift M^T M (the papers' printed order) instead of M M^T it does."""
    C = covariance()
    target = C + 0.09 * torch.eye(SIZE, dtype=torch.float64)
    M = OPERATORS["frequency @ pixel"].as_matrix(SHAPE)
    a, eye = 1e-4, torch.eye(SIZE * SIZE, dtype=torch.float64)
    F = torch.eye(SIZE, dtype=torch.float64) - a * M.T @ M @ torch.linalg.inv(target)
    V = torch.linalg.solve(eye - torch.kron(F, F), 2 * a * (M @ M.T).flatten()).reshape(SIZE, SIZE)
    assert (V - target).norm() / target.norm() > 0.01


def final_variance(m, c, form, steps=20000, sigma_max=200.0):
    """Variance of one coordinate at sigma = 0 after the predictor alone with fixed gain m."""
    sampler = PredictorCorrector(
        corrector="none", form=form, precondition_prior=form == "paper", preconditioner=Preconditioner(Identity())
    )
    levels = torch.logspace(torch.tensor(sigma_max).log10(), -4, steps, dtype=torch.float64)
    v = (sigma_max * (m if form == "paper" else 1.0)) ** 2
    for s, t in pairwise(levels.tolist()):
        plain, langevin, std = sampler.predictor_weights(s, t)
        v = (1 - (plain + langevin * m**2) / (c + s**2)) ** 2 * v + (std * m) ** 2
    return v


@pytest.mark.parametrize("m", [0.9, 1.0, 1.2, 2.0])
@pytest.mark.parametrize("c", [0.05, 1.0, 4.0])
def test_theorem_3_the_published_predictor_ends_at_another_variance(m, c):
    """m^2 / (2 m^2 - 1) c within 1 %, and not c unless m = 1 (Theorem 3 claims c)."""
    assert final_variance(m, c, "paper") == pytest.approx(m**2 / (2 * m**2 - 1) * c, rel=0.01)


@pytest.mark.parametrize("m", [0.9, 1.0, 1.2, 2.0])
@pytest.mark.parametrize("c", [0.05, 1.0, 4.0])
def test_the_marginal_form_ends_at_the_variance_of_the_data(m, c):
    assert final_variance(m, c, "marginal") == pytest.approx(c, rel=0.01)


@pytest.mark.parametrize("predictor", ["reverse-diffusion", "ancestral", "euler-maruyama"])
def test_the_marginal_form_keeps_a_full_covariance(predictor):
    """With a composed operator that does not commute with C, through the sampler itself."""
    C, eye = covariance(), torch.eye(SIZE, dtype=torch.float64)
    M = Preconditioner(OPERATORS["frequency @ pixel"])
    denoise = gaussian_denoiser(C)

    def error(form, steps):
        sampler = PredictorCorrector(predictor=predictor, corrector="none", form=form, preconditioner=M)
        levels = torch.logspace(1, -2, steps, dtype=torch.float64)
        cov = C + levels[0] ** 2 * eye
        for s, t in pairwise(levels):
            cov = push(lambda x, z, s=s, t=t: sampler.predict(denoise, x, s, t, Replay([z])), cov)
        target = C + levels[-1] ** 2 * eye
        return ((cov - target).norm() / target.norm()).item()

    few, many = error("marginal", 400), error("marginal", 1600)
    assert many < 0.02
    assert few / many == pytest.approx(4, rel=0.2)  # first order to the right answer
    assert error("paper", 1600) > 0.1  # and the published form is not


@pytest.mark.parametrize("kind", ["permutation", "rotation"])
def test_theorem_1_orthogonal_invariance(kind):
    """Sampling rotated data from rotated noise is the rotated sample: steps and noise do not see the basis."""
    C = covariance()
    Q = (
        torch.eye(SIZE, dtype=torch.float64)[torch.randperm(SIZE, generator=torch.Generator().manual_seed(1))]
        if kind == "permutation"
        else torch.linalg.qr(random(SIZE, SIZE, seed=7))[0]
    )
    rotate = Dense(Q).mv
    sampler = PredictorCorrector(grid=torch.tensor([5.0, 1.0, 0.2, 0.0]))
    draws = random(7, 3, *SHAPE, seed=8)

    def run(C, draws):
        noise, levels = Replay(draws), sampler.grid
        x = sampler.initial(noise, levels[0])
        for s, t in pairwise(levels):
            x, _ = sampler.step(gaussian_denoiser(C), x, s, t, None, noise)
        return x

    plain, rotated = run(C, draws), run(Q @ C @ Q.T, torch.stack([rotate(z) for z in draws]))
    torch.testing.assert_close(rotated, rotate(plain), rtol=1e-10, atol=1e-10)
