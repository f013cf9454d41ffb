"""Masks and the preconditioners made of them."""

import math

import pytest
import torch
from support import reference

from prescore import calibrate
from prescore.errors import PrescoreError
from prescore.operators.frequency import mirror
from prescore.precondition import (
    frequency_preconditioner,
    log_power,
    normalise,
    pixel_preconditioner,
    radial_mask,
    radial_preconditioner,
)
from prescore.statistics import in_range


def images(count=9, shape=(3, 6, 8), seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wave(k, shape=(1, 16, 16)):
    """A diagonal wave with k periods along each axis."""
    h, w = (torch.arange(n, dtype=torch.float64) / n for n in shape[-2:])
    return torch.cos(2 * math.pi * k * (h[:, None] + w))[None, None]


@pytest.mark.parametrize("alpha", [1.0, 1.5, 5.0, 100.0])
def test_normalise(alpha):
    R = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(normalise(R, alpha), (R / 4 + alpha - 1) / alpha, rtol=1e-14, atol=0)
    assert normalise(R, alpha).max() == 1


def test_infinite_alpha_is_the_identity():
    assert torch.equal(normalise(torch.tensor([0.0, 1.0, 3.0]), math.inf), torch.ones(3))


def test_log_power_keeps_small_powers():
    assert log_power(torch.tensor(1e-20, dtype=torch.float64)).item() == 1e-20
    assert log_power(torch.tensor(math.e - 1, dtype=torch.float64)).item() == pytest.approx(1, rel=1e-15)


@pytest.mark.parametrize("alpha", [1.0, 3.0])
@pytest.mark.parametrize("centred", [False, True])
def test_frequency_preconditioner_by_its_definition(alpha, centred):
    """M = F^-1[F[x] / Rf] with complex transforms of the full spectrum."""
    x, y = images(), images(2, seed=1)
    spectrum = torch.fft.fft2(x - x.mean(0) if centred else x)
    R = torch.log((spectrum * spectrum.conj()).real.mean(0) + 1)
    R = (R / R.max() + alpha - 1) / alpha
    expected = torch.fft.ifft2(torch.fft.fft2(y) / R).real
    M = frequency_preconditioner(calibrate(x), alpha, centred=centred)
    torch.testing.assert_close(M.noise(y), expected, rtol=1e-10, atol=1e-10)
    assert M.alpha == alpha
    assert M.label == f"frequency, alpha {alpha:g}"


@pytest.mark.parametrize("log", [True, False])
def test_pixel_preconditioner_by_its_definition(log):
    x, y = images(), images(2, seed=1)
    R = (x * x).mean(0)
    R = torch.log(R + 1) if log else R
    R = (R / R.max() + 2) / 3
    M = pixel_preconditioner(calibrate(x), 3, log=log)
    torch.testing.assert_close(M.noise(y), y / R, rtol=1e-12, atol=0)
    assert (M.alpha, M.label) == (3.0, "pixel, alpha 3")


@pytest.mark.parametrize("make", [frequency_preconditioner, pixel_preconditioner])
def test_weights_lie_between_1_and_the_bound_of_alpha(make):
    """1 where the data are strongest, at most alpha / (alpha - 1): weak components take larger steps."""
    weights = make(calibrate(images()), 3.0).M.weights
    assert weights.min() == 1
    assert 1 < weights.max() <= 1.5


@pytest.mark.parametrize("make", [frequency_preconditioner, pixel_preconditioner])
def test_the_range_of_the_data_does_not_matter(make):
    s = calibrate(images())
    for data_range in ((-1.0, 1.0), (0.0, 255.0)):
        other = make(in_range(s, data_range), 2.0)
        torch.testing.assert_close(other.M.weights, make(s, 2.0).M.weights, rtol=1e-9, atol=0)


@pytest.mark.parametrize("make", [frequency_preconditioner, pixel_preconditioner])
@pytest.mark.parametrize("alpha", [0.99, 0.0, -1.0, math.nan])
def test_alpha_below_1_is_refused(make, alpha):
    with pytest.raises(PrescoreError, match=r"alpha: .* it must be at least 1"):
        make(calibrate(images()), alpha)


def test_alpha_1_needs_power_everywhere():
    x = images()
    x[:, :, 0, 0] = 0
    pixel_preconditioner(calibrate(x), 1.01)
    with pytest.raises(PrescoreError, match=r"alpha: 1 given, but 3 entries of the data are always 0 .* use alpha > 1"):
        pixel_preconditioner(calibrate(x), 1)


@pytest.mark.parametrize("make", [frequency_preconditioner, pixel_preconditioner])
def test_black_images_are_refused(make):
    with pytest.raises(PrescoreError, match="the data are zero everywhere"):
        make(calibrate(torch.zeros(2, 1, 4, 4)), 3)


def test_preconditioners_work_on_signals_and_volumes():
    for shape in ((2, 9), (1, 4, 3, 5)):
        s = calibrate(images(shape=shape))
        M = frequency_preconditioner(s, 2) @ pixel_preconditioner(s, 2)
        M.check(shape)
        assert M.noise(images(2, shape)).shape == (2, *shape)


@pytest.mark.parametrize("shape", [(8, 8), (8, 6), (7, 9)])
def test_radial_mask_entry_by_entry(shape):
    H, W = shape
    mask = radial_mask((3, *shape), r=2.0, lam=1.6)
    for h in range(1, H + 1):
        for w in range(1, W + 1):
            inside = (h - H / 2) ** 2 + (w - W / 2) ** 2 <= 8
            assert mask[h - 1, w - 1] == (1.0 if inside else 1.6)
    assert mask.dtype == torch.float64


def test_erratum_3_the_disc_keeps_high_frequencies_and_divides_low_ones():
    """In unshifted order the disc lies on the Nyquist frequency; a shifted mask would do the opposite."""
    lam = 1.6
    low, high = wave(1), wave(7)
    M = radial_preconditioner((1, 16, 16), r=0.2 * 16, lam=lam)
    torch.testing.assert_close(M.noise(low), low / lam, rtol=0, atol=1e-13)
    torch.testing.assert_close(M.noise(high), high, rtol=0, atol=1e-13)
    shifted = torch.fft.ifftshift(radial_mask((16, 16), r=0.2 * 16, lam=lam))
    for x, factor in ((low, 1.0), (high, 1 / lam)):
        filtered = torch.fft.ifft2(torch.fft.fft2(x) / shifted).real
        torch.testing.assert_close(filtered, x * factor, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (8, 6), (7, 9)])
def test_radial_preconditioner_is_the_real_part_of_the_papers_filter(shape):
    """The disc, centred on index H/2 - 1, is not symmetric; what it does to a real signal is its symmetric part."""
    mask = radial_mask(shape, r=0.2 * shape[0], lam=1.6)
    y = images(2, (1, *shape))
    expected = torch.fft.ifft2(torch.fft.fft2(y) / mask).real
    M = radial_preconditioner((1, *shape), r=0.2 * shape[0], lam=1.6)
    torch.testing.assert_close(M.noise(y), expected, rtol=0, atol=1e-13)
    rim = (1 / 1.6 + 1) / 2
    values = M.M.weights.unique()
    assert all(min(abs(v - a) for a in (1 / 1.6, rim, 1.0)) < 1e-12 for v in values.tolist())


def test_the_disc_is_not_symmetric_on_even_sizes():
    mask = radial_mask((28, 28), r=5.6, lam=1.6)
    assert not torch.equal(mask, mirror(mask, (-2, -1)))
    assert mask[13, 13] == 1  # the centre of the disc
    columns = (mask[:, 13] == 1).nonzero().flatten()
    assert columns.float().mean() == 13  # and not 14, the Nyquist frequency


@pytest.mark.parametrize(
    ("shape", "r", "lam", "message"),
    [
        ((5,), 1, 1.6, "needs a height and a width"),
        ((8, 8), -1, 1.6, "must not be negative"),
        ((8, 8), 1, 0, "positive"),
    ],
)
def test_a_senseless_disc_is_refused(shape, r, lam, message):
    with pytest.raises(PrescoreError, match=message):
        radial_preconditioner(shape, r, lam)


def test_parity_of_the_statistics():
    """The authors' mask script, in float32."""
    recorded = reference("pds/masks.safetensors")
    s = calibrate(recorded["images"])
    power = log_power(s.moments.power).float()
    raw = recorded["freq_raw"][..., :9]
    assert (power - raw).abs().max() / raw.max() < 1e-6
    assert (s.moments.mean_square.float() - recorded["space_raw"]).abs().max() / recorded["space_raw"].max() < 1e-6


@pytest.mark.parametrize("alpha", [5, 3, 1])
@pytest.mark.parametrize(("name", "raw"), [("freq", "freq_raw"), ("space", "space_raw")])
def test_parity_of_the_normalisation(alpha, name, raw):
    """What the authors' sampler multiplies with, 1 / R, from the same raw mask.

    In float32 they add alpha - 1 to R / max R, which rounds R <= 1 itself to about 1e-7.
    """
    recorded = reference("pds/masks.safetensors")
    R = normalise(recorded[raw].double(), alpha)
    exact, single = recorded[f"{name}_alpha{alpha}_f64"][0], recorded[f"{name}_alpha{alpha}"][0]
    torch.testing.assert_close(1 / R, exact, rtol=1e-10, atol=0)
    torch.testing.assert_close(R, 1 / single.double(), rtol=0, atol=2e-7)


@pytest.mark.parametrize("alpha", [5, 3])
def test_parity_from_images_to_weights(alpha):
    """The whole way. At alpha 1 the recorded weights 1 / R amplify the rounding of their float32 spectra."""
    recorded = reference("pds/masks.safetensors")
    s = calibrate(recorded["images"])
    frequency = frequency_preconditioner(s, alpha).M.weights
    pixel = pixel_preconditioner(s, alpha, log=False).M.weights
    torch.testing.assert_close(frequency.float(), recorded[f"freq_alpha{alpha}"][0, ..., :9], rtol=1e-6, atol=0)
    torch.testing.assert_close(pixel.float(), recorded[f"space_alpha{alpha}"][0], rtol=1e-6, atol=0)
