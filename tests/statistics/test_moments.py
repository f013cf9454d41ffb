"""Streaming statistics."""

import dataclasses

import pytest
import torch
from scipy.fft import dctn

from prescore.errors import PrescoreError
from prescore.statistics import Moments, measure_moments, merge_moments

TENSORS = ("mean", "mean_square", "power", "power_centred", "cosine_variance", "scales")


def images(count=11, shape=(2, 5, 6), seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same(a, b, rtol=1e-12):
    for f in dataclasses.fields(Moments):
        left, right = getattr(a, f.name), getattr(b, f.name)
        if f.name in TENSORS:
            torch.testing.assert_close(left, right, rtol=rtol, atol=1e-12)
        elif f.name in ("minimum", "maximum"):
            assert left == pytest.approx(right, rel=1e-12, abs=1e-12)
        else:
            assert left == right, f.name


@pytest.mark.parametrize("shape", [(2, 5, 6), (1, 4, 4), (3, 7, 3)])
def test_definition(shape):
    x = images(shape=shape)
    s = measure_moments(x)
    spectrum = torch.fft.fft2(x)
    half = shape[-1] // 2 + 1
    raw = (spectrum * spectrum.conj()).real.mean(0)
    centred = (torch.fft.fft2(x - x.mean(0)).abs() ** 2).mean(0)
    torch.testing.assert_close(s.mean, x.mean(0))
    torch.testing.assert_close(s.mean_square, (x * x).mean(0))
    torch.testing.assert_close(s.power, raw[..., :half], rtol=1e-12, atol=0)
    torch.testing.assert_close(s.power_centred, centred[..., :half], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(s.power - torch.fft.rfft2(s.mean).abs() ** 2, s.power_centred, rtol=1e-9, atol=1e-9)
    cosines = dctn((x - x.mean(0)).numpy(), axes=(-2, -1), norm="ortho")
    torch.testing.assert_close(s.cosine_variance, torch.from_numpy(cosines**2).mean(0), rtol=1e-12, atol=0)
    assert (s.count, s.event_shape, s.axes, s.data_range) == (11, shape, 2, (0.0, 1.0))
    assert (s.minimum, s.maximum) == (x.min().item(), x.max().item())
    assert s.mean.dtype == s.power.dtype == torch.float64
    assert s.transformed_dims == (-2, -1)
    assert s.size_transformed == shape[-2] * shape[-1]


def test_the_power_is_the_variance_of_the_orthonormal_transform():
    """Parseval: summed over the full spectrum, power_centred / size is the summed variance of the entries."""
    x = images(50)
    s = measure_moments(x)
    total = (s.power_centred * s.multiplicity).sum() / s.size_transformed
    assert total.item() == pytest.approx(x.var(0, correction=0).sum().item(), rel=1e-12)


@pytest.mark.parametrize("sizes", [[11], [1] * 11, [5, 6], [1, 9, 1], [2, 2, 7]])
@pytest.mark.parametrize("labelled", [False, True])
def test_batches_do_not_matter(sizes, labelled):
    x = images()
    batches = ((part, torch.zeros(len(part))) if labelled else part for part in x.split(sizes))
    assert_same(measure_moments(batches), measure_moments(x))


def test_an_empty_last_batch_does_not_matter():
    assert_same(measure_moments([images(), images(0)]), measure_moments(images()))


def test_a_large_tensor_is_taken_in_pieces(monkeypatch):
    whole = measure_moments(images())
    monkeypatch.setattr("prescore.statistics.moments.PIECE", 130)
    assert_same(measure_moments(images()), whole)


def test_no_more_than_one_batch_is_read_ahead():
    """One pass: a generator is read once, a batch at a time."""
    alive = []

    def batches():
        for k in range(3):
            alive.append(k)
            yield images(2, seed=k)

    stream = batches()
    measure_moments(stream)
    assert alive == [0, 1, 2]
    assert next(stream, None) is None


def test_a_small_variance_on_a_large_mean_is_not_lost():
    """E|Fx|^2 - |F Ex|^2 loses all digits here; the merged moments keep ten."""
    noise = 1e-7 * (images(40) - 0.5)
    x = 0.5 + noise
    s = measure_moments(x.split(1))
    exact = (torch.fft.rfft2(noise - noise.mean(0)).abs() ** 2).mean(0)
    torch.testing.assert_close(s.power_centred, exact, rtol=1e-6, atol=0)
    naive = (torch.fft.rfft2(x).abs() ** 2).mean(0) - torch.fft.rfft2(x.mean(0)).abs() ** 2
    assert (naive[:, 0, 0] - exact[:, 0, 0]).abs().max() > 1e-3 * exact[:, 0, 0].max()


def test_power_is_exactly_symmetric_in_the_ambiguous_columns():
    s = measure_moments(images(shape=(1, 6, 8)))
    for power in (s.power, s.power_centred):
        for column in (0, 4):
            assert torch.equal(power[..., 1:, column], power[..., 1:, column].flip(-1))


@pytest.mark.parametrize("shape", [(9,), (2, 9), (1, 4, 5), (2, 3, 4, 5), (1, 2, 3, 2, 3)])
def test_default_axes_leave_out_the_channels(shape):
    s = measure_moments(images(shape=shape))
    assert s.axes == min(max(len(shape) - 1, 1), 3)
    assert s.power.shape == (*shape[:-1], shape[-1] // 2 + 1)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_axes_can_be_chosen(axes):
    x = images(shape=(3, 4, 5))
    s = measure_moments(x, axes=axes)
    expected = (torch.fft.rfftn(x, dim=tuple(range(-axes, 0))).abs() ** 2).mean(0)
    torch.testing.assert_close(s.power, expected, rtol=1e-12, atol=0)


def test_bytes_are_mapped_onto_the_range():
    x = torch.randint(256, (7, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert_same(measure_moments(x), measure_moments(x.double() / 255))
    assert_same(measure_moments(x, data_range=(-1, 1)), measure_moments(x.double() / 127.5 - 1, data_range=(-1, 1)))


def test_single_precision_data_are_accumulated_in_double():
    x = images().float()
    assert_same(measure_moments(x), measure_moments(x.double()))


@pytest.mark.parametrize("data_range", [(-1.0, 1.0), (0.0, 255.0), (-3.0, 5.0)])
def test_in_range_is_calibrating_the_mapped_data(data_range):
    low, high = data_range
    x = images()
    mapped = measure_moments(low + (high - low) * x, data_range=data_range)
    assert_same(measure_moments(x).in_range(data_range), mapped, rtol=1e-10)
    assert_same(mapped.in_range((0.0, 1.0)), measure_moments(x), rtol=1e-10)


def test_only_the_zero_frequency_of_the_raw_power_changes_with_the_offset():
    x = images(shape=(1, 4, 4)) / 2
    shifted = measure_moments(x).in_range((-1.0, 0.0))
    change = (shifted.power - measure_moments(x).power).abs()
    assert change[0, 0, 0] > 1
    change[0, 0, 0] = 0
    assert change.max() < 1e-12


def test_merge_is_calibrating_both():
    x = images()
    assert_same(merge_moments(measure_moments(x[:4]), measure_moments(x[4:])), measure_moments(x))
    with pytest.raises(PrescoreError, match=r"data: event_shape \(1, 4, 4\) after \(2, 5, 6\)"):
        merge_moments(measure_moments(x), measure_moments(images(shape=(1, 4, 4))))
    with pytest.raises(PrescoreError, match="data_range"):
        merge_moments(measure_moments(x), measure_moments(x, data_range=(-1, 1)))


NAN, INF = images(2), images(2)
NAN[1, 0, 0, 0], INF[0, 0, 0, 0] = torch.nan, torch.inf


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (2 * images() - 1, {}, r"values from -0\.9\d* to 0\.9\d* found, outside data_range \(0, 1\)"),
        (255 * images(), {}, r"to 25\d\.?\d* found, outside data_range \(0, 1\); scale the data to it, or name"),
        (NAN, {}, "1 values are not finite"),
        (INF, {}, "1 values are not finite"),
        (images(0), {}, "no samples"),
        ([], {}, "no samples"),
        ([images(2), images(2, (1, 4, 4))], {}, r"event_shape \(1, 4, 4\) after \(2, 5, 6\)"),
        (
            torch.ones(3, 4, dtype=torch.int64),
            {},
            r"torch\.int64 given; floating point, or uint8",
        ),
        (torch.ones(3), {}, r"a batch is \(3,\); a tensor of shape \(N, \*event\) is needed"),
        ([[1, 2]], {}, "a batch is int"),
        ([{"x": 1}], {}, "a batch is dict"),
        (images(2, (4,)), {"axes": 2}, r"spectra over 2 axes asked of samples of shape \(4,\)"),
        (images(), {"axes": 0}, "over 0 axes"),
        (images(2, (0, 4)), {}, r"samples of shape \(0, 4\)"),
        (images(), {"data_range": (1, 0)}, "the lower first"),
        (images(), {"data_range": (0, float("inf"))}, "two finite numbers"),
    ],
)
def test_bad_data_are_refused(data, options, message):
    with pytest.raises(PrescoreError, match=message):
        measure_moments(data, **options)


def test_rounding_at_the_ends_of_the_range_is_allowed():
    measure_moments(torch.tensor([[1.0 + 1e-7, -1e-7]]))


def test_a_range_is_supposed_of_pictures_and_bytes_alone():
    vectors = 50 * torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    assert measure_moments(vectors).data_range is None
    assert measure_moments(images()).data_range == (0.0, 1.0)
    assert measure_moments((vectors > 0).to(torch.uint8)).data_range == (0.0, 1.0)
    with pytest.raises(PrescoreError, match=r"outside data_range \(0, 1\)"):
        measure_moments(images() + 1)
    assert measure_moments(images() + 1, data_range=None).minimum > 1


def test_what_knows_no_range_keeps_its_units():
    moments = measure_moments(50 * torch.randn(20, 3, generator=torch.Generator().manual_seed(0)))
    turned = moments.in_range((-1.0, 1.0))
    assert turned.data_range == (-1.0, 1.0)
    assert torch.equal(turned.mean, moments.mean)
    assert torch.equal(turned.cosine_variance, moments.cosine_variance)
    assert torch.equal(turned.in_range(None).mean, moments.mean)
