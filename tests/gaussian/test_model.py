"""Gaussian models of the data are diagonal where they say so, with the variances of the data that they are made of."""

from dataclasses import replace

import pytest
import torch
from scipy.fft import dctn
from support import with_moments

from prescore import calibrate
from prescore.errors import PrescoreError
from prescore.gaussian import (
    Gaussian,
    cosine_gaussian,
    frequency_gaussian,
    pca_gaussian,
    pixel_gaussian,
)
from prescore.gaussian import gaussian as default_gaussian
from prescore.operators import Dense, Frequency, Pixel
from prescore.statistics import ModelStatistics, in_range
from prescore.statistics.score import ScoreStatistics

EXACT = {"rtol": 1e-10, "atol": 1e-12}
SHAPES = [(2, 4, 5), (1, 5, 4)]  # an odd and an even number of frequencies
MAKE = {"cosine": cosine_gaussian, "frequency": frequency_gaussian, "pixel": pixel_gaussian, "pca": pca_gaussian}


def data(shape, n=30):
    x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = x.cumsum(-1) + torch.arange(shape[-1])
    return (x - x.min()) / (x.max() - x.min())  # statistics are of data in [0, 1]


@pytest.fixture(params=SHAPES, ids=str)
def shape(request):
    return request.param


@pytest.fixture(params=MAKE)
def gaussian(request, shape):
    return MAKE[request.param](calibrate(data(shape), components=6))


def test_analyse_and_synthesise_are_inverse(gaussian, shape):
    x = data(shape)
    c = gaussian.analyse(x)
    assert not c.is_complex()
    assert (gaussian.variances * c).shape == c.shape
    assert gaussian.variances.dtype == torch.float64
    torch.testing.assert_close(gaussian.synthesise(c), x, **EXACT)
    mean = gaussian.mean.expand(1, *shape)
    torch.testing.assert_close(gaussian.synthesise(torch.zeros_like(c[:1])), mean, **EXACT)
    single = gaussian.synthesise(gaussian.analyse(x.float()))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), x, rtol=1e-5, atol=1e-5)


def test_noise_has_no_mean(gaussian, shape):
    x = data(shape)
    torch.testing.assert_close(gaussian.transform(x - gaussian.mean), gaussian.analyse(x), **EXACT)
    z = torch.randn(5, *shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    together = gaussian.synthesise(gaussian.analyse(x[:5]) + gaussian.transform(z))
    torch.testing.assert_close(together, x[:5] + z, **EXACT)


@pytest.mark.parametrize("name", MAKE)
def test_variances_are_those_of_the_data(name, shape):
    """The covariance, between unit vectors along each coordinate, is the sample covariance of the data."""
    x = data(shape)
    G = MAKE[name](calibrate(x, components=6))
    flat = (x - x.mean(0)).flatten(1)
    S = flat.mT @ flat / len(flat)
    C = G.covariance.as_matrix(shape)
    torch.testing.assert_close(G.mean, x.mean(0), **EXACT)
    torch.testing.assert_close(C.trace(), S.trace(), **EXACT)
    assert G.label == name
    if name == "pixel":
        torch.testing.assert_close(C, torch.diag(S.diagonal()), **EXACT)
    elif name == "pca":
        values = torch.linalg.eigvalsh(S).flip(0)
        torch.testing.assert_close(G.variances[:6], values[:6], **EXACT)
        left = values[6:].mean().expand(len(S))
        torch.testing.assert_close(G.variances[6:], left, **EXACT)
        inside = G.transform(x - x.mean(0))[:, :6].square().mean(0)
        torch.testing.assert_close(inside, G.variances[:6], **EXACT)
    elif name == "cosine":
        cosines = dctn((x - x.mean(0)).numpy(), axes=(-2, -1), norm="ortho")
        torch.testing.assert_close(G.variances, torch.from_numpy(cosines**2).mean(0), **EXACT)
    else:
        spectrum = torch.fft.rfft2(x - x.mean(0), norm="ortho").abs().square().mean(0)
        torch.testing.assert_close(G.variances, spectrum[..., None].expand(*spectrum.shape, 2), **EXACT)


@pytest.mark.parametrize("name", MAKE)
def test_its_denoiser_is_that_of_the_covariance_matrix(name, shape):
    """mu + C (C + sigma^2)^-1 (x - mu), coordinate by coordinate and by a matrix."""
    G, sigma = MAKE[name](calibrate(data(shape), components=6)), 0.3
    x = data(shape)[:4] + 0.1
    c, v = G.analyse(x), G.variances
    C = G.covariance.as_matrix(shape)
    gain = torch.linalg.solve(C + sigma**2 * torch.eye(len(C), dtype=C.dtype), C)
    expected = G.mean + ((x - G.mean).flatten(1) @ gain).reshape(x.shape)
    torch.testing.assert_close(G.synthesise(v / (v + sigma**2) * c), expected, **EXACT)


def test_events_of_another_shape_are_refused(gaussian, shape):
    gaussian.check(shape)
    for other in ((*shape[:-1], shape[-1] + 1), (shape[0], shape[1] + 1, shape[2]), shape[1:]):
        with pytest.raises(PrescoreError) as caught:
            gaussian.check(other)
        assert str(other) in str(caught.value)


def test_bad_covariances():
    mean = torch.zeros(4, dtype=torch.float64)
    for C in (Pixel(torch.tensor([1.0, -0.1, 1.0, 1.0])), Frequency(torch.tensor([1.0, -0.1, 1.0]), 1, 4)):
        with pytest.raises(PrescoreError, match=r"its smallest eigenvalue is -0\.1; a variance is not negative"):
            Gaussian(mean, C)
    with pytest.raises(PrescoreError, match="Dense operator is not symmetric"):
        Gaussian(mean, Dense(torch.eye(4).roll(1, 0)))
    with pytest.raises(PrescoreError, match=r"no principal components; measure them with `--components K`"):
        pca_gaussian(calibrate(data((2, 4, 5))))


def test_the_default_basis_is_the_cosines_where_the_statistics_have_them():
    statistics = calibrate(data(SHAPES[0]))
    early = with_moments(statistics, cosine_variance=None)
    assert default_gaussian(statistics).label == "cosine"
    assert default_gaussian(early).label == "frequency"
    with pytest.raises(PrescoreError, match="run `prescore calibrate` again"):
        cosine_gaussian(early)


@pytest.mark.parametrize("early", [False, True])
def test_what_a_network_leaves_of_the_error(shape, early):
    """Of a model that is wrong by 0.1 everywhere, by the definition; the same in every unit of the data."""
    statistics = calibrate(data(shape), components=6)
    C = frequency_gaussian(statistics).covariance.as_matrix(shape) if early else None
    C = default_gaussian(statistics).covariance.as_matrix(shape) if C is None else C
    levels = torch.tensor([2.0, 0.5, 0.1], dtype=torch.float64)
    residual = 0.01 / levels**2
    score = ScoreStatistics(levels=levels, score_square=residual, residual_square=residual, count=30)
    moments = replace(statistics.moments, **({"cosine_variance": None} if early else {}))
    statistics = replace(statistics, moments=moments, model=ModelStatistics(score=score))
    expected = [0.01 / (C @ torch.linalg.inv(C / u + torch.eye(len(C)))).diagonal().mean() for u in levels**2]
    for make in (frequency_gaussian, pixel_gaussian, pca_gaussian, default_gaussian):
        left = make(statistics).error_share
        torch.testing.assert_close(left.shares, torch.stack(expected), **EXACT)
    mapped = default_gaussian(in_range(statistics, (-1.0, 1.0))).error_share
    torch.testing.assert_close(mapped.shares, left.shares, **EXACT)
    torch.testing.assert_close(mapped.levels, 2 * left.levels, **EXACT)
    assert left.at(0.5) == pytest.approx(min(1, left.shares[1].item()))
    assert left.at(0.01) == left.at(0.1)
    assert left.at(5.0) == pytest.approx(left.shares[0].item())
    assert left.at(1.0) == pytest.approx(left.shares[:2].clamp(max=1).mean().item())  # halfway in log sigma


@pytest.mark.parametrize("residual", [0.0, 0.1])
def test_of_data_that_are_constant_a_share_is_a_number(residual):
    levels = torch.tensor([1.0, 0.1], dtype=torch.float64)
    score = ScoreStatistics(levels=levels, score_square=levels, residual_square=residual * levels, count=3)
    constant = replace(
        calibrate(torch.full((3, 1, 4, 4), 0.5, dtype=torch.float64)), model=ModelStatistics(score=score)
    )
    assert default_gaussian(constant).error_share.at(0.3) == (1.0 if residual else 0.0)


def test_without_a_network_nothing_is_left_out(gaussian):
    assert gaussian.error_share is None


def test_channels_of_unlike_scale_are_scaled_apart():
    """One variance for each cosine and channel: the network's part is the same in both, whatever the units."""
    scale = torch.tensor([1.0, 300.0])[:, None, None, None].double()
    field = Gaussian.power_law((2, 4, 5, 6), mean=0.0, rms=1.0).sample(300, torch.Generator().manual_seed(0))
    reference = cosine_gaussian(calibrate(scale * field))
    assert reference.variances.shape == (2, 4, 5, 6)
    plain = cosine_gaussian(calibrate(field))
    torch.testing.assert_close(reference.variances, scale**2 * plain.variances, rtol=1e-9, atol=1e-12)
