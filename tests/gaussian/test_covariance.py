"""Vectors: parameters of unlike scale and any correlation, whose Gaussian model is their full covariance."""

import pytest
import torch

from prescore import calibrate, draw
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.gaussian import Gaussian, covariance_gaussian, error_share, gaussian
from prescore.operators import Dense

SCALES = torch.tensor([1e-2, 0.1, 1.0, 10.0, 100.0], dtype=torch.float64)


def parameters(n, seed=0):
    """n samples of a Gaussian of five correlated parameters, its mean and covariance."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    R = A @ A.T
    C = SCALES[:, None] * R / R.diag().sqrt() / R.diag().sqrt()[:, None] * SCALES
    mean = SCALES * torch.randn(5, generator=generator, dtype=torch.float64)
    z = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    return mean + z @ torch.linalg.cholesky(C).T, mean, C


def measured(n, **options):
    data, mean, C = parameters(n)
    bound = 1.5 * data.abs().max().item()
    return calibrate(data, data_range=(-bound, bound), **options), mean, C


def test_many_samples_give_their_own_covariance():
    statistics, _, _ = measured(4000)
    data = parameters(4000)[0]
    known = covariance_gaussian(statistics)
    own = known.covariance.mv(torch.eye(5, dtype=torch.float64))
    exact = torch.cov(data.T, correction=0)
    w = (5 / 4000) ** 2
    expected = (1 - w) * exact + w * exact.diag().diag()
    scale = exact.diag().sqrt()
    torch.testing.assert_close(own / scale / scale[:, None], expected / scale / scale[:, None], rtol=0, atol=1e-9)


def test_fewer_samples_than_entries_keep_the_entries_alone():
    data = torch.randn(4, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    known = gaussian(calibrate(data, data_range=(-9, 9)))
    assert known.label == "covariance"
    own = known.covariance.mv(torch.eye(9, dtype=torch.float64))
    torch.testing.assert_close(own, data.var(0, correction=0).diag(), rtol=0, atol=1e-12)


def test_the_share_of_the_error_is_that_of_the_covariance():
    """An exact network of the Gaussian leaves all of it, though the cosines know much less."""
    statistics, mean, C = measured(4000)
    exact = Denoiser(Gaussian(mean, Dense(C)), (5,), 1e-3, 1e3, statistics.data_range, dtype=torch.float64)
    data = parameters(4000)[0]
    share = error_share(calibrate(data, data_range=statistics.data_range, model=exact, levels=5, trajectories=0))
    torch.testing.assert_close(share.shares, torch.ones(5, dtype=torch.float64), rtol=0, atol=0.05)


@pytest.mark.parametrize("sampler", ["p-ode-2m", "p-ode-3m"])
def test_five_calls_are_enough_for_parameters_of_unlike_scale(sampler):
    statistics, mean, C = measured(1000)
    exact = Denoiser(Gaussian(mean, Dense(C)), (5,), 1e-4, 1e3, statistics.data_range, dtype=torch.float64)
    x = draw(exact, 2000, sampler=sampler, calls=5, statistics=statistics, progress=False)
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(C), (x - mean).T, upper=False)
    torch.testing.assert_close(torch.cov(z), torch.eye(5, dtype=torch.float64), rtol=0, atol=0.15)
    cosine = draw(exact, 2000, sampler=sampler, calls=5, statistics=statistics, basis="cosine", progress=False)
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(C), (cosine - mean).T, upper=False)
    assert torch.cov(z).diag().max() > 10


def test_longer_vectors_and_those_asked_for_fewer_components_have_cosines():
    generator = torch.Generator().manual_seed(0)
    assert gaussian(calibrate(torch.rand(9, 513, generator=generator))).label == "cosine"
    statistics = calibrate(torch.rand(9, 5, generator=generator), components=2)
    assert gaussian(statistics).label == "cosine"
    with pytest.raises(PrescoreError, match="they have no principal components"):
        covariance_gaussian(calibrate(torch.rand(9, 1, 4, 4, generator=generator)))
