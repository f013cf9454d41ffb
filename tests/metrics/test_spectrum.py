"""Power spectra of samples."""

import math

import pytest
import torch

from prescore import calibrate
from prescore.errors import PrescoreError
from prescore.metrics import power_spectrum_error, radial_power


def images(count=20, shape=(2, 5, 6), seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(2, 5, 6), (1, 4, 5), (1, 1, 8)])
@pytest.mark.parametrize("centred", [False, True])
def test_it_is_the_mean_over_the_full_spectrum(shape, centred):
    x, y = images(shape=shape), images(15, shape, seed=1)

    def power(z):
        return torch.fft.fft2(z - z.mean(0) if centred else z).abs().square().mean(0)

    expected = (power(y) / power(x)).log().square().mean().sqrt().item()
    assert power_spectrum_error(y, calibrate(x), centred=centred) == pytest.approx(expected, rel=1e-10)


def test_a_power_tensor_is_the_same_as_statistics():
    x, y = images(), images(seed=1)
    s = calibrate(x)
    assert power_spectrum_error(y, s.moments.power, axes=2) == power_spectrum_error(y, s)
    assert power_spectrum_error(y, s.moments.power_centred, axes=2, centred=True) == power_spectrum_error(
        y, s, centred=True
    )


def test_the_data_themselves_have_no_error_and_a_factor_is_its_logarithm():
    x = images()
    assert power_spectrum_error(x, calibrate(x)) < 1e-12
    assert power_spectrum_error(3 * x, calibrate(x)) == pytest.approx(2 * math.log(3), rel=1e-12)
    assert power_spectrum_error(x / 3, calibrate(x)) == pytest.approx(2 * math.log(3), rel=1e-12)


def test_raw_power_sees_a_wrong_brightness_and_centred_power_does_not():
    x = images()
    brighter = x + 0.5 * torch.ones(2, 5, 6)
    assert power_spectrum_error(brighter, calibrate(x), centred=True) < 1e-10
    assert power_spectrum_error(brighter, calibrate(x)) > 0.1


@pytest.mark.parametrize("count", [64, 400])
def test_exact_samples_reach_the_inverse_root_of_their_number(count):
    x = torch.randn(4000, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    error = power_spectrum_error(y, calibrate(x, data_range=(-10, 10)))
    assert error == pytest.approx(count**-0.5, rel=0.15)


def test_frequencies_that_the_data_do_not_have_are_left_out():
    """Rows that never vary in one direction have power in one line of the spectrum only."""
    x = images(shape=(1, 1, 6)).expand(-1, 1, 4, 6)
    y = images(shape=(1, 4, 6), seed=1)
    s = calibrate(x)
    spectrum = torch.fft.fft2(y).abs().square().mean(0)[0, 0]
    data = torch.fft.fft2(x).abs().square().mean(0)[0, 0]
    expected = (spectrum / data).log().square().mean().sqrt().item()
    assert power_spectrum_error(y, s) == pytest.approx(expected, rel=1e-10)


def test_mistakes_are_refused():
    x = images()
    s = calibrate(x)
    with pytest.raises(PrescoreError, match="axes: give it with a power tensor"):
        power_spectrum_error(x, s, axes=2)
    with pytest.raises(PrescoreError, match="axes: give it with a power tensor"):
        power_spectrum_error(x, s.moments.power)
    with pytest.raises(PrescoreError, match=r"their spectrum has shape \(2, 4, 3\), the data's \(2, 5, 4\)"):
        power_spectrum_error(images(shape=(2, 4, 4)), s)
    with pytest.raises(PrescoreError, match="at least two samples"):
        power_spectrum_error(x[:1], s, centred=True)


@pytest.mark.parametrize("shape", [(8, 8), (7, 7), (8, 6), (5, 9), (12,)])
def test_radial_power_by_counting(shape):
    """Every frequency of the full spectrum goes to the nearest ring; the corners beyond 1/2 go nowhere."""
    x = images(shape=(2, *shape))
    frequency, profile = radial_power(calibrate(x, axes=len(shape)).moments.power, shape)
    n = max(shape)
    assert torch.equal(frequency, torch.arange(n // 2 + 1, dtype=torch.float64) / n)
    dims = tuple(range(-len(shape), 0))
    full = torch.fft.fftn(x, dim=dims).abs().square().mean(0)
    rings = [[] for _ in frequency]
    for index in torch.cartesian_prod(*(torch.arange(m) for m in shape)).reshape(-1, len(shape)).tolist():
        k = [i / m if i <= m / 2 else i / m - 1 for i, m in zip(index, shape, strict=True)]
        ring = round(n * math.hypot(*k))
        if ring <= n // 2:
            rings[ring].append(full[(slice(None), *index)])
    expected = torch.stack([torch.stack(values).mean(0) for values in rings], dim=-1)
    torch.testing.assert_close(profile, expected, rtol=1e-10, atol=0)


def test_radial_power_of_a_power_law():
    k = torch.hypot(torch.fft.fftfreq(32, dtype=torch.float64)[:, None], torch.fft.rfftfreq(32, dtype=torch.float64))
    k[0, 0] = 1
    frequency, profile = radial_power(k**-2, (32, 32))
    slope = torch.diff(profile[4:].log()).sum() / (frequency[-1] / frequency[4]).log()
    assert slope.item() == pytest.approx(-2, abs=0.05)


def test_radial_power_names_the_shape_it_needs():
    with pytest.raises(PrescoreError, match=r"\(4, 4\) does not end in \(4, 3\), half a spectrum of \(4, 4\)"):
        radial_power(torch.ones(4, 4), (4, 4))
