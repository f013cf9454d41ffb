"""The closed-form recursion against the sampler itself, on a power-law Gaussian of 32x32 in [0, 1]."""

import functools

import pytest
import torch

from prescore.errors import PrescoreError, SamplingError
from prescore.operators import Frequency, Identity, Pixel
from prescore.precondition import Preconditioner, frequency_preconditioner, pixel_preconditioner
from prescore.samplers import PredictorCorrector, make_sampler, sample, statistics_recursion
from prescore.samplers.recursion import GAUSSIAN, gaussian_recursion, recursion_steps
from prescore.statistics import Moments, Statistics

SIZE = 32
SIGMA = (0.01, 50.0)


@functools.cache
def surrogate():
    """Exact statistics of N(0.5, C) with power k^-2 and deviation 0.2, and its denoiser."""
    k = torch.hypot(torch.fft.fftfreq(SIZE)[:, None], torch.fft.rfftfreq(SIZE)[None]).double() * SIZE
    c = (1 / (k**2 + 1)).reshape(1, SIZE, -1)  # variance per orthonormal coordinate
    multiplicity = torch.full_like(c, 2.0)
    multiplicity[..., [0, -1]] = 1
    c = c * 0.04 * SIZE**2 / (c * multiplicity).sum()
    mean = torch.full((1, SIZE, SIZE), 0.5, dtype=torch.float64)
    power = c * SIZE**2
    raw = power + torch.fft.rfftn(mean, dim=(-2, -1)).abs() ** 2
    moments = Moments(
        count=200,
        event_shape=(1, SIZE, SIZE),
        axes=2,
        data_range=(0.0, 1.0),
        mean=mean,
        mean_square=mean**2 + 0.04,
        power=raw,
        power_centred=power,
        minimum=0.0,
        maximum=1.0,
    )

    def denoise(x, sigma):
        return mean + Frequency(c / (c + sigma**2), axes=2, length=SIZE).mv(x - mean)

    denoise.dtype, denoise.event_shape = torch.float64, (1, SIZE, SIZE)
    denoise.sigma_min, denoise.sigma_max = SIGMA
    return Statistics(moments=moments), denoise, c, multiplicity


def make(alpha, **options):
    M = frequency_preconditioner(surrogate()[0], alpha) if alpha else None
    return make_sampler("pc", **({"steps": 50} | options), preconditioner=M)


CASES = {
    "plain": (None, {}),
    "alpha 5": (5.0, {}),
    "alpha 3": (3.0, {}),
    "alpha 2": (2.0, {}),
    "alpha 2, two corrections": (2.0, {"corrector_steps": 2}),
    "alpha 2, predictor first": (2.0, {"first": "predictor"}),
    "alpha 2, marginal": (2.0, {"form": "marginal"}),
    "alpha 5, step rule": (5.0, {"original_steps": 200}),
    "alpha 2, ancestral": (2.0, {"predictor": "ancestral"}),
    "alpha 2, plain prior, flow": (2.0, {"precondition_prior": False, "predictor": "probability-flow"}),
    "corrector alone": (2.0, {"predictor": "none", "corrector_steps": 3}),
}


@pytest.mark.parametrize("name", CASES)
def test_recursion_and_sampling_agree(name):
    """Second moments per frequency from 400 samples: unbiased within 5 standard errors of their mean, and each
    ring of frequencies by itself within 5 of its own."""
    statistics, denoise, _, multiplicity = surrogate()
    alpha, options = CASES[name]
    sampler = make(alpha, **options)
    predicted = statistics_recursion(sampler, statistics, *SIGMA)
    n = 400
    x = sample(denoise, sampler, seeds=range(n), progress=False, batch_size=200)
    power = torch.fft.rfftn(x - statistics.moments.mean, dim=(-2, -1), norm="ortho").abs() ** 2
    ratio = power.mean(0) / (predicted.variance[-1] + predicted.bias[-1])
    error = (2 / (n * multiplicity)).sqrt()  # of a mean of n * multiplicity squared normals
    weight = 1 / error**2
    overall = ((ratio - 1) * weight).sum() / weight.sum()
    assert abs(overall) < 5 / weight.sum() ** 0.5
    assert (((ratio - 1) / error).abs() < 6).all()


def test_one_correction_of_noise_alone():
    """w <- w - 4 r^2 + 4 r^2 (1 + r^2) / w of the module on data that never vary, at rest at w = 1 + r^2."""
    for T0, r in ((None, 0.16), (1000, 0.16 * 20**0.5)):
        sampler = make_sampler("pc", grid=torch.ones(51).cumsum(0).flip(0), predictor="none", original_steps=T0)
        run = gaussian_recursion(sampler, sampler.grid, torch.full((8,), 1e-12))
        w = (run.variance / run.target)[:, 0].tolist()
        for sigma, before, after in zip(run.sigma.tolist()[:-1], w, w[1:], strict=False):
            level = (sigma / (sigma - 1)) ** 2  # the variance is kept, the level falls
            assert after / level == pytest.approx(before - 4 * r**2 + 4 * r**2 * (1 + r**2) / before, rel=1e-9)
        steady = gaussian_recursion(sampler, torch.linspace(1.0001, 1, 400).double(), torch.full((8,), 1e-12))
        assert (steady.variance / steady.target)[-1, 0].item() == pytest.approx(1 + r**2, rel=1e-4)


def mixture(scales):
    """The denoiser of samples that differ in scale, equally frequent: a mixture of N(0.5, g C)."""
    statistics, _, c, multiplicity = surrogate()
    g = torch.tensor(scales, dtype=torch.float64)

    def denoise(x, sigma):
        X = torch.fft.rfft2(x - statistics.moments.mean, norm="ortho").flatten(1)
        signal = g[:, None] * c.flatten()
        t, count = signal + sigma**2, multiplicity.flatten()
        log_p = -(X.abs() ** 2 @ (count / t).mT + (count * t.log()).sum(1)) / 2
        denoised = (log_p.softmax(1) @ (signal / t) * X).reshape(-1, *c.shape)
        return statistics.moments.mean + torch.fft.irfft2(denoised, s=(SIZE, SIZE), norm="ortho")

    denoise.dtype, denoise.event_shape = torch.float64, (1, SIZE, SIZE)
    denoise.sigma_min, denoise.sigma_max = SIGMA
    return denoise


SCALES = [0.1, 0.3, 1.0, 2.6]


@functools.cache
def excess(alpha, T):
    """Mean of ln(v / c) of samples of the mixture, and what the recursion over scales and the Gaussian one predict."""
    statistics, _, c, multiplicity = surrogate()
    sampler = make(alpha, steps=T)
    x = sample(mixture(SCALES), sampler, seeds=range(256), progress=False, batch_size=256)
    power = (torch.fft.rfft2(x - statistics.moments.mean, norm="ortho").abs() ** 2).mean(0)
    R = sampler.M.M.weights if alpha else torch.ones_like(c)
    arguments = sampler, sampler.levels(*SIGMA), c, torch.zeros_like(c), R, multiplicity
    moments = [power]
    for scales in (torch.tensor(SCALES, dtype=torch.float64), GAUSSIAN):
        *_, (v, e) = recursion_steps(*arguments, scales)
        moments.append((v + e).mean(0))
    return [(((v / c).log() * multiplicity).sum() / multiplicity.sum()).item() for v in moments]


@pytest.mark.parametrize(("alpha", "T"), [(None, 50), (8.0, 50), (None, 150), (14.0, 150)])
def test_samples_that_differ_in_scale_keep_noise_as_texture(alpha, T):
    """Two fifths of it or more are in the recursion over scales, next to nothing in the Gaussian one."""
    found, predicted, gaussian = excess(alpha, T)
    assert 0.4 * found < predicted < found
    assert gaussian < 0.1 * found


def test_the_alpha_that_leaves_no_noise_is_predicted():
    """By interpolation; the Gaussian recursion has none between them."""
    low, high = excess(8.0, 150), excess(14.0, 150)
    found, predicted = (8 * (14 / 8) ** (a / (a - b)) for a, b in list(zip(low, high, strict=True))[:2])
    assert predicted == pytest.approx(found, rel=0.3)
    assert low[2] > 0


def test_at_50_steps_preconditioning_brings_the_spectrum_closer_and_an_alpha_is_best():
    """Plain against PDS over alpha in closed form: the error falls from the plain sampler's and rises again."""
    statistics = surrogate()[0]
    final = {
        alpha: statistics_recursion(make(alpha), statistics, *SIGMA).log_ratio[-1].item()
        for alpha in (None, 50.0, 10.0, 5.0, 3.0, 2.0, 1.5)
    }
    best = min(final, key=final.__getitem__)
    assert best not in (None, 50.0, 1.5), final
    assert final[best] < 0.8 * final[None], final


def test_the_recursion_predicts_divergence():
    """Below the alpha where a step's gain passes 2 the variances grow along the run, and sampling says why."""
    statistics, denoise, *_ = surrogate()
    stable, wild = make(3.0, corrector="none"), make(1.01, corrector="none")
    assert not stable.diagnosis(statistics.event_shape, stable.levels(*SIGMA))
    message = wild.diagnosis(statistics.event_shape, wild.levels(*SIGMA))
    assert "raise alpha" in message
    growth = {s: statistics_recursion(s, statistics, *SIGMA).variance[-1].max().item() for s in (stable, wild)}
    assert growth[stable] < 10
    assert growth[wild] > 1e30
    denoise32 = functools.partial(denoise)
    denoise32.dtype, denoise32.event_shape = torch.float32, denoise.event_shape
    denoise32.sigma_min, denoise32.sigma_max = SIGMA
    with pytest.raises(SamplingError, match="raise alpha"):
        sample(denoise32, wild, seeds=[0], progress=False)


def test_the_recursion_refuses_what_is_not_diagonal_in_frequency():
    statistics = surrogate()[0]
    M = frequency_preconditioner(statistics, 5.0) @ pixel_preconditioner(statistics, 5.0)
    if isinstance(M.M, Frequency):
        pytest.fail("the pixel part was lost")
    with pytest.raises(PrescoreError, match="diagonal in frequency"):
        statistics_recursion(PredictorCorrector(steps=5, preconditioner=M), statistics, *SIGMA)


def test_identity_preconditioner_is_the_plain_sampler_bit_for_bit():
    """By the identity and by pixels of ones; a transform and its inverse would round."""
    denoise = surrogate()[1]
    plain = sample(denoise, make_sampler("pc", steps=5), seeds=range(2), progress=False)
    for operator in (Identity(), Pixel(torch.ones(1, SIZE, SIZE, dtype=torch.float64))):
        s = make_sampler("pds", steps=5, preconditioner=Preconditioner(operator))
        assert torch.equal(sample(denoise, s, seeds=range(2), progress=False), plain)
