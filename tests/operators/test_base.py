"""The parts that all operators share."""

import pytest
import torch

from prescore.errors import PrescoreError
from prescore.operators import Frequency, Identity, LinearOperator, Pixel
from prescore.operators.base import CHUNK, broadcasts, check_weights, sample_norm


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("size", [1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 5 * CHUNK + 17])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_sample_norm(size, dtype):
    x = random(3, size, dtype=dtype)
    torch.testing.assert_close(sample_norm(x), x.abs().square().sum(1).sqrt(), rtol=1e-13, atol=0)


def test_sample_norm_of_many_numbers_in_single_precision():
    """Chunks are summed separately, so a million float32 squares lose no more digits than a few thousand."""
    x = random(1, 2**20, dtype=torch.float32)
    assert sample_norm(x).double().item() == pytest.approx(x.double().norm().item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.float64])
def test_sample_norm_does_not_depend_on_the_batch_with_threads(two_threads, dtype):
    x = random(5, 200_001, dtype=dtype)
    norms = sample_norm(x)
    for start, stop in ((0, 1), (3, 4), (1, 3)):
        assert torch.equal(sample_norm(x[start:stop]), norms[start:stop])


def test_converted_weights_are_remembered_and_the_original_kept():
    pixel = Pixel(torch.full((4,), 1 / 3, dtype=torch.float64))
    pixel.mv(torch.ones(2, 4, dtype=torch.float32))
    assert pixel.weights.dtype == torch.float64
    assert len(pixel._casts) == 1
    cast = next(iter(pixel._casts.values()))
    pixel.mv(torch.zeros(1, 4, dtype=torch.float32))
    assert next(iter(pixel._casts.values())) is cast


def test_weights_are_a_copy():
    weights = torch.ones(3, dtype=torch.float64)
    pixel = Pixel(weights)
    weights.fill_(7)
    assert pixel.mv(torch.ones(1, 3)).tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.tensor([1.0, torch.nan]), "1 of the values are not finite"),
        (torch.tensor([torch.inf]), "not finite"),
        (torch.tensor([1, 2]), "torch.int64 given; a real floating-point tensor is needed"),
        (torch.tensor([1j]), "torch.complex64 given"),
        ([1.0], "list given"),
    ],
)
def test_weights_are_checked(weights, message):
    with pytest.raises(PrescoreError, match=message):
        check_weights("weights", weights)


def test_identity_is_free_and_exact():
    x = random(2, 3)
    assert Identity().mv(x) is x
    assert Identity().analyse(x) is x
    assert isinstance(Identity().inv, Identity)
    assert isinstance(Identity().sqrt, Identity)
    with pytest.raises(PrescoreError, match="functions with f\\(1\\) = 1"):
        Identity().map(lambda spectrum: 2 * spectrum)


def test_map_applies_a_function_of_the_spectrum():
    half = random(4, 3).abs()
    filtered = Frequency(half + half.flip(0).roll(1, 0), axes=2, length=4)
    cube = filtered.map(lambda spectrum: spectrum**3).as_matrix((4, 4))
    torch.testing.assert_close(cube, torch.linalg.matrix_power(filtered.as_matrix((4, 4)), 3))


def test_no_inverse_and_no_root_say_why():
    with pytest.raises(PrescoreError, match="Pixel operator is not invertible: 2 of its eigenvalues are 0"):
        _ = Pixel(torch.tensor([0.0, 1.0, 0.0])).inv
    with pytest.raises(PrescoreError, match="Pixel operator has no square root: its smallest eigenvalue is -2"):
        _ = Pixel(torch.tensor([1.0, -2.0])).sqrt


@pytest.mark.parametrize(
    ("shape", "event", "fits"),
    [
        ((3, 4), (3, 4), True),
        ((4,), (3, 4), True),
        ((), (3, 4), True),
        ((3, 1), (3, 4), True),
        ((1, 3, 4), (3, 4), False),  # it would add an axis
        ((2, 4), (1, 4), False),  # it would lengthen one
        ((3,), (3, 4), False),
    ],
)
def test_broadcasts(shape, event, fits):
    assert broadcasts(shape, event) == fits


def test_the_base_class_cannot_be_used():
    with pytest.raises(TypeError, match="abstract"):
        LinearOperator()
