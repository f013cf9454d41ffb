import numpy as np
import pytest
import torch

from prescore.errors import PrescoreError
from prescore.noise import NoiseSource


@pytest.mark.parametrize("draw", ["__call__", "uniform"])
def test_a_draw_depends_on_the_seed_and_the_index_alone(draw):
    """Whatever the batch, the order of the seeds and the draw the source was resumed at."""
    together = NoiseSource([5, 2**63 + 1, 7], (2, 3))
    first, second = (getattr(together, draw)() for _ in range(2))
    for k, seed in [(2, 7), (0, 5), (1, 2**63 + 1)]:
        alone = NoiseSource([seed], (2, 3))
        assert torch.equal(getattr(alone, draw)()[0], first[k])
        assert torch.equal(getattr(alone, draw)()[0], second[k])
        assert torch.equal(getattr(NoiseSource([seed], (2, 3), draw=1), draw)()[0], second[k])
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[2])


def test_seeds_use_all_64_bits():
    """Generators that keep the low 32 bits would make these two equal."""
    a, b = NoiseSource([1, 1 + 2**32], (16,))()
    assert not torch.equal(a, b)


def test_float32_and_float64_are_the_same_numbers():
    wide, narrow = (NoiseSource([3], (64,), dtype=dtype)() for dtype in (torch.float64, torch.float32))
    assert torch.equal(wide, narrow.double())


def test_moments_and_independence():
    """256 seeds x 4096 numbers: mean, variance, fourth moment and correlations of a standard normal (5 sigma)."""
    source = NoiseSource(range(256), (4096,))
    z, y = source(), source()
    n = z.numel()
    assert abs(z.mean()) < 5 / n**0.5
    assert abs(z.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((z**4).mean() - 3) < 5 * (96 / n) ** 0.5
    assert abs((z * y).mean()) < 5 / n**0.5  # from draw to draw
    assert abs((z[1:] * z[:-1]).mean()) < 5 / (n - 4096) ** 0.5  # from seed to seed
    u = source.uniform()
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 5 / (12 * n) ** 0.5


@pytest.mark.parametrize("bad", [-1, 2**64, 1.5, True, "3"])
def test_bad_seed(bad):
    with pytest.raises(PrescoreError, match="not an integer from 0"):
        NoiseSource([0, bad], (2,))


def test_no_seed():
    with pytest.raises(PrescoreError, match="none given"):
        NoiseSource([], (2,))


def test_numpy_and_tensor_seeds():
    assert NoiseSource(torch.arange(3), (1,)).seeds == NoiseSource(np.arange(3), (1,)).seeds == [0, 1, 2]
