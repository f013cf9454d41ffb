"""Filters on the half spectrum."""

import pytest
import torch

from prescore.errors import PrescoreError
from prescore.operators import Frequency
from prescore.operators.frequency import backward, forward, mirror, multiplicity, symmetric_part

SIZES = [(5,), (6,), (1,), (2,), (4, 6), (3, 5), (5, 4), (4, 3), (2, 3, 4), (3, 4, 5)]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def even(shape):
    mask = random(*shape).abs() + 1
    return mask + mirror(mask, tuple(range(-len(shape), 0)))


@pytest.mark.parametrize("length", range(1, 10))
def test_multiplicity_by_counting(length):
    """Each frequency of the full axis is in the half, or its negative is."""
    count = torch.zeros(length // 2 + 1, dtype=torch.float64)
    for k in range(length):
        count[min(k, length - k)] += 1
    assert torch.equal(multiplicity(length), count)


@pytest.mark.parametrize("shape", SIZES)
def test_a_full_mask_and_its_half_filter_alike(shape):
    mask, axes = even(shape), len(shape)
    x = random(3, *shape, seed=1)
    dims = tuple(range(-axes, 0))
    expected = torch.fft.ifftn(torch.fft.fftn(x, dim=dims) * mask, dim=dims)
    assert expected.imag.abs().max() < 1e-13
    torch.testing.assert_close(Frequency.from_full(mask, axes).mv(x), expected.real, rtol=1e-13, atol=1e-13)
    half = mask[..., : shape[-1] // 2 + 1]
    torch.testing.assert_close(Frequency(half, axes, shape[-1]).mv(x), expected.real, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shape", [(5,), (4, 6), (3, 5), (4, 4, 4)])
def test_an_asymmetric_filter_is_refused(shape):
    mask = even(shape)
    mask[(1,) * len(shape)] += 0.1
    with pytest.raises(PrescoreError, match=r"differ by up to 0\.1; the filter of a real signal must be symmetric"):
        Frequency.from_full(mask, len(shape))


def test_an_asymmetric_half_is_refused_where_it_is_ambiguous():
    """In the columns 0 and 3 of a half spectrum of length 6 both k and -k are present; inside, nothing can be wrong."""
    half = torch.ones(4, 4, dtype=torch.float64)
    inside = half.clone()
    inside[1, 1] = 2
    Frequency(inside, axes=2, length=6)
    for column in (0, 3):
        wrong = half.clone()
        wrong[1, column] = 2
        with pytest.raises(PrescoreError, match="w\\(k\\) and w\\(-k\\) differ by up to 1"):
            Frequency(wrong, axes=2, length=6)
    wrong = torch.ones(4, 3, dtype=torch.float64)
    wrong[1, 2] = 2
    Frequency(wrong, axes=2, length=5)  # an odd axis has no Nyquist column


def test_a_shifted_mask_of_odd_size_is_refused():
    """With the zero frequency in the middle it has another centre of symmetry (on even sizes it has the same one)."""
    mask = torch.fft.fftshift(even((5, 5)))
    with pytest.raises(PrescoreError, match="unshifted order"):
        Frequency.from_full(mask, axes=2)


def test_rounding_asymmetry_is_removed():
    """A spectrum measured in float32 is symmetric to rounding; the operator made of it is symmetric exactly."""
    x = random(6, 8, dtype=torch.float32)
    power = torch.fft.rfftn(x, dim=(-2, -1)).abs() ** 2 + 1
    operator = Frequency(power * (1 + 1e-7 * random(6, 5, dtype=torch.float32)), axes=2, length=8)
    assert torch.equal(operator.weights, symmetric_part(operator.weights, 2, 8))
    A = operator.to(dtype=torch.float64).as_matrix((6, 8))
    torch.testing.assert_close(A, A.T, rtol=0, atol=1e-12 * power.max().item())


@pytest.mark.parametrize(
    ("weights", "axes", "length", "message"),
    [
        (torch.ones(4, 4), 2, 4, r"last axis has 4 entries, half a spectrum of length 4 has 3; .* Frequency.from_full"),
        (torch.ones(3), 2, 4, "axes: 2 given for weights of 1 axes"),
        (torch.ones(3, 3, 3, 3), 4, 4, "use 1, 2 or 3"),
        (torch.full((3,), torch.nan), 1, 4, "not finite"),
    ],
)
def test_unfitting_weights_are_refused(weights, axes, length, message):
    with pytest.raises(PrescoreError, match=message):
        Frequency(weights, axes, length)


@pytest.mark.parametrize("event", [(1, 4, 6), (1, 4, 4), (1, 5, 5), (2, 4, 5), (5,), ()])
def test_a_wrong_event_shape_is_named(event):
    operator = Frequency(torch.ones(1, 4, 3, dtype=torch.float64), axes=2, length=5)
    operator.check((1, 4, 5))
    if event == (2, 4, 5):  # one filter serves every channel
        operator.check(event)
        return
    with pytest.raises(PrescoreError) as error:
        operator.check(event)
    assert "(1, 4, 5)" in str(error.value)
    assert str(event) in str(error.value)


def test_products_in_the_same_basis_multiply_and_others_do_not():
    one, two = Frequency.from_full(even((4, 6)), 2), Frequency.from_full(even((6,)), 1)
    assert isinstance(one @ one, Frequency)
    assert torch.equal((one @ one).weights, one.weights**2)
    assert one.merge(two) is None


@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 8), (1, 32, 32), (1, 28, 28), (1, 8, 8, 8), (1, 16, 16, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_sample_alone_is_bit_equal_to_itself_in_a_batch(shape, dtype):
    """The FFT library transforms a single signal by another route; without care its last digits differ."""
    axes = 3 if len(shape) == 4 else 2
    x = random(4, *shape, dtype=dtype)
    c = forward(x, axes)
    for k in range(4):
        assert torch.equal(forward(x[k : k + 1], axes), c[k : k + 1])
        assert torch.equal(backward(c[k : k + 1], axes, shape[-1]), backward(c, axes, shape[-1])[k : k + 1])
