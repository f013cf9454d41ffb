import math

import pytest
import torch
from torch import Tensor

from prescore.denoiser import expand
from prescore.errors import PrescoreError
from prescore.gaussian import Gaussian
from prescore.operators import Dense, Frequency, Identity, Pixel
from prescore.operators.dense import PCA
from prescore.oracle import Diagonal, EmpiricalOracle, Full, LowRank, MixtureOracle

SHAPE, D, K = (2, 2, 3), 12, 5
SIGMA = torch.tensor(0.7, dtype=torch.float64)
LEVELS = torch.tensor([0.002, 0.7, 0.1, 1000.0, 0.7], dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=generator(seed))


def covariance_matrices(n: int) -> Tensor:
    factors = normal(n, D, D, seed=7) / math.sqrt(D)
    return factors @ factors.mT + 0.05 * torch.eye(D, dtype=torch.float64)


def symmetric_half_spectrum() -> Tensor:
    field = normal(2, 16, 2, 3, seed=3)
    return (torch.fft.rfftn(field, dim=(-2, -1)).abs() ** 2).mean(1) + 0.01


MATRIX = covariance_matrices(1)[0]
GAUSSIANS = {
    "identity": Identity(),
    "pixel": Pixel(uniform(*SHAPE) + 0.01),
    "frequency": Frequency(symmetric_half_spectrum(), axes=2, length=3),
    "dense": Dense(MATRIX),
    "pca": PCA(torch.linalg.eigh(MATRIX).eigenvectors[:, -4:], torch.linalg.eigvalsh(MATRIX)[-4:], 0.02),
}


@pytest.fixture(params=GAUSSIANS.values(), ids=GAUSSIANS.keys())
def gaussian(request) -> Gaussian:
    return Gaussian(normal(*SHAPE, seed=5), request.param)


def mixture(kind: str, chunk: int | None = None) -> MixtureOracle:
    covariances = {
        "diagonal": lambda: Diagonal(uniform(K, *SHAPE) * 0.3 + 0.01),
        "full": lambda: Full(covariance_matrices(K)),
        "low-rank": lambda: LowRank(normal(K, D, 3) * 0.3, uniform(K, D) * 0.1 + 0.01),
    }[kind]()
    return MixtureOracle(uniform(K, seed=1) + 0.1, normal(K, *SHAPE, seed=2), covariances, chunk)


def dense_covariances(oracle: MixtureOracle) -> Tensor:
    c = oracle.covariances
    if isinstance(c, Diagonal):
        return torch.diag_embed(c.variances)
    return c.matrices if isinstance(c, Full) else c.factors @ c.factors.mT + torch.diag_embed(c.diagonal)


every_mixture = pytest.mark.parametrize("kind", ["diagonal", "full", "low-rank"])


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def autograd_score(log_prob, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(log_prob(x).sum(), x)[0]


# Gaussian


def normal_density(mean: Tensor, matrix: Tensor, sigma: Tensor) -> torch.distributions.MultivariateNormal:
    return torch.distributions.MultivariateNormal(mean, matrix + sigma**2 * torch.eye(D, dtype=torch.float64))


def test_gaussian_denoiser_and_score_are_those_of_the_density(gaussian):
    x, matrix = normal(4, *SHAPE, seed=9), gaussian.covariance.as_matrix(SHAPE)
    density = normal_density(gaussian.mean.flatten(), matrix, SIGMA)
    score = autograd_score(lambda y: density.log_prob(y.flatten(1)), x)
    close(gaussian.score(x, SIGMA), score)
    close(gaussian(x, SIGMA), x + SIGMA**2 * score)


def test_gaussian_levels_of_a_batch_are_its_rows_one_by_one(gaussian):
    x = normal(5, *SHAPE, seed=9) * (1 + expand(LEVELS, normal(5, *SHAPE)))
    for method in (gaussian, gaussian.score, lambda y, s: gaussian.ode_solution(y, s, 0.1)):
        rows = torch.cat([method(x[i : i + 1], sigma) for i, sigma in enumerate(LEVELS)])
        close(method(x, LEVELS), rows, 1e-12)


def test_gaussian_samples_have_the_mean_and_covariance(gaussian):
    n = 10_000
    x = gaussian.sample(n, generator()).flatten(1)
    matrix = gaussian.covariance.as_matrix(SHAPE)
    spread = (torch.outer(matrix.diag(), matrix.diag()) + matrix**2).sqrt()  # std of a covariance entry, times sqrt(n)
    assert (((x.mT.cov() - matrix).abs() / spread).max() < 5 / math.sqrt(n)).item()
    assert ((x.mean(0) - gaussian.mean.flatten()).abs() / matrix.diag().sqrt()).max() < 5 / math.sqrt(n)


def test_ode_solution_follows_the_probability_flow(gaussian):
    """dx/dsigma = (x - D(x, sigma)) / sigma along it, checked by central differences; and there and back again."""
    start, s = normal(3, *SHAPE, seed=9) * 5, torch.tensor(4.0, dtype=torch.float64)
    t, h = 0.6, 1e-4
    x = gaussian.ode_solution(start, s, t)
    ahead, behind = (gaussian.ode_solution(start, s, t + d) for d in (h, -h))
    level = torch.tensor(t, dtype=torch.float64)
    close((ahead - behind) / (2 * h), (x - gaussian(x, level)) / t, 1e-7)
    close(gaussian.ode_solution(x, level, 4.0), start)
    assert gaussian.ode_solution(start, s, 0.0).isfinite().all()


def test_gaussian_limits(gaussian):
    x = normal(3, *SHAPE, seed=9)
    close(gaussian(x, torch.tensor(0.0)), x)
    close(gaussian(x, torch.tensor(1e-9)), x)
    close(gaussian(x, torch.tensor(1e9)), gaussian.mean.expand(3, *SHAPE))


@pytest.mark.parametrize("level", [0.002, 0.05, 1.0, 30.0, 1000.0])
def test_gaussian_in_float32_is_as_accurate_as_its_input(gaussian, level):
    sigma = torch.tensor(level, dtype=torch.float64)
    x = (gaussian.sample(6, generator()) + sigma * normal(6, *SHAPE)).float()
    exact = gaussian(x.double(), sigma.float().double())
    assert gaussian(x, sigma.float()).dtype == torch.float32
    # D never stretches, so that one float32 rounding of x (and a few in the transforms) is all there is.
    assert (gaussian(x, sigma.float()) - exact).abs().max() < 1e-6 * x.abs().max()


def test_power_law_field_has_the_stated_moments_and_slope():
    oracle = Gaussian.power_law((1, 64, 48), exponent=2.5, mean=0.5, rms=0.2)
    x = oracle.sample(200, generator())
    assert x.shape == (200, 1, 64, 48)
    assert x.var(0, correction=0).mean().item() + (x.mean(0) - 0.5).square().mean().item() == pytest.approx(
        0.04, rel=0.05
    )
    power = oracle.covariance.weights
    assert (power[8, 0] / power[16, 0]).item() == pytest.approx(2**2.5)  # along the first axis
    assert (power[0, 6] / power[0, 12]).item() == pytest.approx(2**2.5)  # along the second
    assert (power[16, 0] / power[0, 12]).item() == pytest.approx(1)  # both 1/4 cycle per pixel
    assert (power[0, 0] / power[1, 0]).item() == pytest.approx(1)
    measured = (torch.fft.rfftn(x - 0.5, dim=(-2, -1), norm="ortho").abs() ** 2).mean((0, 1))
    assert (measured / power).log().abs().median() < 0.1


@pytest.mark.parametrize("shape", [(3, 33), (2, 8, 6), (1, 4, 6, 5)])
def test_power_law_pixels_have_the_stated_variance_in_1_2_and_3_dimensions(shape):
    oracle = Gaussian.power_law(shape, rms=0.2)
    assert oracle.event_shape == shape
    variances = oracle.covariance.as_matrix(shape).diag()
    close(variances, torch.full_like(variances, 0.04))


def test_a_large_field_is_denoised_by_one_transform_with_the_least_error_there_is(monkeypatch):
    oracle, sigma = Gaussian.power_law((1, 1024, 1024)), torch.tensor(0.1)
    x0 = oracle.sample(1, generator()).float()
    x = x0 + sigma * torch.randn(x0.shape, generator=generator(1))
    calls, rfftn = [], torch.fft.rfftn
    monkeypatch.setattr(torch.fft, "rfftn", lambda *args, **options: calls.append(1) or rfftn(*args, **options))
    denoised = oracle(x, sigma)
    assert len(calls) == 1
    c = oracle.covariance.weights
    least = (c * 0.01 / (c + 0.01) * oracle.covariance.multiplicity).sum().item() / 1024**2
    # Relative fluctuation of a mean over about a million squares: 0.14 %.
    assert (denoised - x0).square().mean().item() == pytest.approx(least, rel=0.01)


@pytest.mark.parametrize("shape", [(3,), (1, 2, 2, 2, 2)])
def test_power_law_shapes_that_are_none(shape):
    with pytest.raises(PrescoreError, match="1 to 3 spatial axes"):
        Gaussian.power_law(shape)


def test_gaussians_that_are_none():
    with pytest.raises(PrescoreError, match=r"\(2, 2\)"):
        Gaussian(torch.zeros(SHAPE), Pixel(torch.ones(2, 2)))
    with pytest.raises(PrescoreError, match="a variance is not negative"):
        Gaussian(torch.zeros(3), Pixel(torch.tensor([1.0, -1.0, 1.0])))


# Mixture


@every_mixture
def test_mixture_is_brute_force_bayes(kind):
    oracle, x = mixture(kind), normal(6, *SHAPE, seed=9)
    matrices, mu = dense_covariances(oracle), oracle.means.flatten(1)
    densities = [normal_density(m, c, SIGMA) for m, c in zip(mu, matrices, strict=True)]
    joint = oracle.weights.log() + torch.stack([p.log_prob(x.flatten(1)) for p in densities], 1)
    gains = matrices @ torch.linalg.inv(matrices + SIGMA**2 * torch.eye(D, dtype=torch.float64))
    each = mu + torch.einsum("kde,bke->bkd", gains, x.flatten(1)[:, None] - mu)
    denoised = (joint.softmax(1)[..., None] * each).sum(1).reshape(x.shape)
    close(oracle(x, SIGMA), denoised)
    close(oracle.log_prob(x, SIGMA), joint.logsumexp(1))


@every_mixture
@pytest.mark.parametrize("sigma", [SIGMA, LEVELS], ids=["scalar", "batch"])
def test_mixture_score_is_the_gradient_of_its_log_density(kind, sigma):
    oracle = mixture(kind)
    x = oracle.sample(5, generator()) + expand(sigma, normal(5, *SHAPE)) * normal(5, *SHAPE)
    score = autograd_score(lambda y: oracle.log_prob(y, sigma), x)
    torch.testing.assert_close(oracle.score(x, sigma), score, rtol=1e-8, atol=1e-8)
    close(oracle(x, sigma), x + expand(sigma, x) ** 2 * oracle.score(x, sigma))


@every_mixture
def test_mixture_levels_of_a_batch_are_its_rows_one_by_one(kind):
    oracle, x = mixture(kind), normal(5, *SHAPE, seed=9)
    for method in (oracle, oracle.score, oracle.log_prob):
        rows = torch.cat([method(x[i : i + 1], sigma) for i, sigma in enumerate(LEVELS)])
        torch.testing.assert_close(method(x, LEVELS), rows, rtol=1e-9, atol=1e-12)


@every_mixture
@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_mixture_does_not_depend_on_its_chunks(kind, chunk):
    x = normal(5, *SHAPE, seed=9)
    for sigma in (SIGMA, LEVELS):
        close(mixture(kind, chunk)(x, sigma), mixture(kind)(x, sigma), 1e-12)
        close(mixture(kind, chunk).log_prob(x, sigma), mixture(kind).log_prob(x, sigma), 1e-12)


@every_mixture
def test_mixture_limits(kind):
    oracle, x = mixture(kind), normal(5, *SHAPE, seed=9)
    close(oracle(x, torch.tensor(0.0)), x)
    mean = torch.einsum("k,k...->...", oracle.weights, oracle.means).expand_as(x)
    close(oracle(x, torch.tensor(1e7)), mean, 1e-5)


@every_mixture
@pytest.mark.parametrize("level", [0.002, 0.05, 1.0, 30.0, 1000.0])
def test_mixture_in_float32_is_rounded_only_at_the_end(kind, level):
    oracle, sigma = mixture(kind), torch.tensor(level)
    x = (oracle.sample(6, generator()) + sigma * normal(6, *SHAPE)).float()
    denoised = oracle(x, sigma)
    assert denoised.dtype == torch.float32
    assert torch.equal(denoised, oracle(x.double(), sigma.double()).float())
    assert denoised.isfinite().all()
    assert torch.equal(oracle.score(x, sigma), oracle.score(x.double(), sigma.double()).float())
    assert torch.equal(oracle.log_prob(x, sigma), oracle.log_prob(x.double(), sigma.double()))


@every_mixture
def test_mixture_samples_have_the_mean_and_covariance(kind):
    oracle, n = mixture(kind), 10_000
    x = oracle.sample(n, generator()).flatten(1)
    mu, w = oracle.means.flatten(1), oracle.weights
    mean = w @ mu
    expected = torch.einsum("k,kde->de", w, dense_covariances(oracle) + mu[:, :, None] * mu[:, None]) - mean.outer(mean)
    spread = expected.diag().sqrt()
    assert ((x.mean(0) - mean).abs() / spread).max() < 5 / math.sqrt(n)
    assert ((x.mT.cov() - expected).abs() / spread.outer(spread)).max() < 10 / math.sqrt(n)


def test_mixture_of_one_is_the_gaussian():
    matrix, mean, x = covariance_matrices(1), normal(*SHAPE, seed=5), normal(4, *SHAPE, seed=9)
    one = MixtureOracle(torch.ones(1), mean[None], Full(matrix))
    other = Gaussian(mean, Dense(matrix[0]))
    close(one(x, SIGMA), other(x, SIGMA))
    close(one.score(x, SIGMA), other.score(x, SIGMA))


def test_singular_covariances_are_fine():
    """Components on a plane: the rest of the space is noise alone."""
    factor = normal(K, D, 2)
    oracle = MixtureOracle(torch.ones(K), torch.zeros(K, *SHAPE), Full(factor @ factor.mT))
    x = normal(4, *SHAPE, seed=9)
    assert oracle(x, torch.tensor(1e-3)).isfinite().all()
    close(oracle.score(x, SIGMA), autograd_score(lambda y: oracle.log_prob(y, SIGMA), x))


def test_mixture_memory_is_bounded(monkeypatch):
    """No temporary exceeds the limit: with K = 200 and d = 12 a whole B x K x d is far above it."""
    monkeypatch.setattr("prescore.oracle.CHUNK", 500)
    sizes = []
    solve = Diagonal.solve
    monkeypatch.setattr(Diagonal, "solve", lambda self, part, r, u: sizes.append(r.numel()) or solve(self, part, r, u))
    oracle = MixtureOracle(torch.ones(200), normal(200, *SHAPE), Diagonal(uniform(200, *SHAPE) + 0.1))
    oracle(normal(8, *SHAPE), SIGMA)
    assert max(sizes) <= 500
    assert sum(sizes) == 8 * 200 * D


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Diagonal(torch.tensor([[-0.1, 1.0]])), "variances: -0.1"),
        (lambda: Full(torch.tensor([[[1.0, 2.0], [2.0, 1.0]]])), "negative eigenvalue -1"),
        (lambda: Full(torch.tensor([[[1.0, 2.0], [0.0, 1.0]]])), "not symmetric"),
        (lambda: LowRank(torch.ones(2, 3, 1), torch.zeros(2, 3)), "diagonal: 0"),
        (lambda: LowRank(torch.ones(2, 3, 1), torch.ones(2, 4)), "factors"),
        (lambda: MixtureOracle(torch.ones(2), torch.zeros(3, 4), Diagonal(torch.ones(3, 4))), r"weights \(2,\)"),
        (lambda: MixtureOracle(torch.ones(3), torch.zeros(3, 4), Diagonal(torch.ones(3, 5))), r"\(3, 4\) covariances"),
        (lambda: MixtureOracle(torch.tensor([1.0, 0.0]), torch.zeros(2, 4), Diagonal(torch.ones(2, 4))), "positive"),
        (lambda: EmpiricalOracle(torch.zeros(0, 3)), "holds no samples"),
    ],
)
def test_mixtures_that_are_none(make, message):
    with pytest.raises(PrescoreError, match=message):
        make()


# Data set


def test_empirical_is_the_mixture_without_width():
    data, x = normal(7, *SHAPE), normal(5, *SHAPE, seed=9)
    points = MixtureOracle(torch.ones(7), data, Diagonal(torch.zeros(7, *SHAPE)))
    oracle = EmpiricalOracle(data)
    for sigma in (SIGMA, torch.tensor([0.3, 0.7, 5.0, 1000.0, 0.7]).double()):
        close(oracle(x, sigma), points(x, sigma))
        close(oracle.score(x, sigma), points.score(x, sigma))
        close(oracle.log_prob(x, sigma), points.log_prob(x, sigma))


def test_empirical_score_is_the_gradient_of_its_log_density():
    oracle, x = EmpiricalOracle(normal(7, *SHAPE)), normal(5, *SHAPE, seed=9)
    close(oracle.score(x, SIGMA), autograd_score(lambda y: oracle.log_prob(y, SIGMA), x))


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_empirical_does_not_depend_on_its_chunks(chunk):
    data, x = normal(20, *SHAPE), normal(5, *SHAPE, seed=9)
    for sigma in (SIGMA, LEVELS):
        close(EmpiricalOracle(data, chunk)(x, sigma), EmpiricalOracle(data)(x, sigma), 1e-12)


def test_empirical_limits():
    data, x = normal(20, *SHAPE), normal(5, *SHAPE, seed=9)
    nearest = data[(x[:, None] - data).flatten(2).norm(dim=2).argmin(1)]
    for sigma in (0.0, 1e-120, 0.002):
        assert torch.equal(EmpiricalOracle(data)(x, torch.tensor(sigma, dtype=torch.float64)), nearest)
    close(EmpiricalOracle(data)(x, torch.tensor(1e9)), data.mean(0).expand(5, *SHAPE))


def test_empirical_levels_of_a_batch_are_its_rows_one_by_one():
    oracle, x = EmpiricalOracle(normal(20, *SHAPE)), normal(5, *SHAPE, seed=9)
    rows = torch.cat([oracle(x[i : i + 1], sigma) for i, sigma in enumerate(LEVELS)])
    close(oracle(x, LEVELS), rows, 1e-12)


@pytest.mark.parametrize("level", [0.002, 0.05, 1.0, 30.0, 1000.0])
def test_empirical_in_float32_is_rounded_only_at_the_end(level):
    data, sigma = uniform(50, *SHAPE).float(), torch.tensor(level)
    x = data[:4] + sigma * normal(4, *SHAPE).float()
    denoised = EmpiricalOracle(data)(x, sigma)
    assert torch.equal(denoised, EmpiricalOracle(data.double())(x.double(), sigma.double()).float())
    assert denoised.isfinite().all()


def test_empirical_samples_come_from_the_data():
    data = normal(6, *SHAPE)
    x = EmpiricalOracle(data).sample(50, generator())
    assert ((x[:, None] == data).flatten(2).all(2).sum(1) == 1).all()
