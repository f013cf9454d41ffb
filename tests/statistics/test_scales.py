"""How much samples differ in scale, on data whose scales are known."""

import pytest
import torch

from prescore.statistics import measure_moments, merge_moments
from prescore.statistics.scales import COEFFICIENTS, PARTS, SAMPLES, equal_parts

RANGE = (-100.0, 100.0)


def textures(scales, shape=(2, 16, 16), seed=0):
    """One sample for each scale: coloured noise times its square root, about a mean."""
    z = torch.randn(len(scales), *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    k = torch.hypot(torch.fft.fftfreq(shape[-2])[:, None], torch.fft.rfftfreq(shape[-1])[None]) + 0.05
    x = torch.fft.irfft2(torch.fft.rfft2(z) / k, s=shape[-2:])
    return 3 + scales.double().sqrt().reshape(-1, 1, 1, 1) * x / x.std()


def test_the_scales_of_a_mixture_are_found():
    true = torch.tensor([0.2, 1.0, 1.8]).repeat_interleave(80)
    found = measure_moments(
        textures(true[torch.randperm(240, generator=torch.Generator().manual_seed(1))]), data_range=RANGE
    )
    assert found.scales is not None
    torch.testing.assert_close(found.scales, equal_parts(true, torch.ones(240)), rtol=0.1, atol=0)
    assert found.scales.mean().item() == pytest.approx(1)


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 16, 16), (1, 64, 64)])
def test_a_gaussian_has_one_scale_however_few_its_coordinates(shape):
    """Sixteen squared normals by themselves spread by a third."""
    scales = measure_moments(textures(torch.ones(1000), shape), data_range=RANGE).scales
    assert (scales - 1).abs().max() < 0.2


def test_neither_unit_nor_a_constant_nor_batches_matter():
    x = textures(torch.rand(40, generator=torch.Generator().manual_seed(2)) + 0.1)
    scales = measure_moments(x, data_range=RANGE).scales
    torch.testing.assert_close(measure_moments(7 * x - 4, data_range=(-1000, 1000)).scales, scales)
    torch.testing.assert_close(measure_moments(list(x.split(7)), data_range=RANGE).scales, scales)
    doubled = x.repeat(1, 1, 2, 1)  # every second frequency is 0
    torch.testing.assert_close(measure_moments(doubled, data_range=RANGE).scales, scales, rtol=0.02, atol=0)


def test_many_samples_and_coefficients_are_looked_at_in_part():
    true = torch.tensor([0.5, 1.5]).repeat(SAMPLES)
    x = textures(true, (1, 48, 48))
    assert x[0].numel() // 2 > COEFFICIENTS
    found = measure_moments(x, data_range=RANGE).scales
    torch.testing.assert_close(found, torch.tensor([0.5] * 4 + [1.5] * 4).double(), rtol=0.1, atol=0)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_or_constant_samples_have_scales_too(count):
    assert measure_moments(textures(torch.ones(count)), data_range=RANGE).scales.shape == (count,)
    assert measure_moments(torch.ones(count, 1, 4, 4)).scales.tolist() == [1.0]


def test_scales_of_two_data_sets_are_those_of_both():
    """Each set is relative to its own power."""
    few, many = textures(torch.full((50,), 1.0)), textures(torch.tensor([0.4, 1.6]).repeat(75), seed=1)
    both = merge_moments(measure_moments(few, data_range=RANGE), measure_moments(many, data_range=RANGE)).scales
    assert both.shape == (PARTS,)
    # A quarter is of the first set, between the halves of the second.
    torch.testing.assert_close(both, torch.tensor([0.4] * 3 + [1.0] * 2 + [1.6] * 3).double(), rtol=0.2, atol=0)


def test_equal_parts_share_a_value_that_lies_across():
    assert equal_parts(torch.tensor([2.0, 0.0]), torch.tensor([3.0, 1.0])).tolist() == pytest.approx([2 / 3, 4 / 3])
