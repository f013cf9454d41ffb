import pytest
import torch

from prescore.errors import PrescoreError
from prescore.metrics import PixelMoments, pixel_errors


def images(n=40, shape=(2, 3, 4), seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("sizes", [(40,), (1, 39), (1,) * 40, (7, 30, 3)])
def test_parts_add_up(sizes):
    x = 100 + images()
    first, *others = (PixelMoments.of(part) for part in x.split(list(sizes)))
    total = sum(others, start=first)
    assert total.count == 40
    torch.testing.assert_close(total.mean, x.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(total.deviation, x.std(0), rtol=1e-10, atol=0)


def test_errors_are_root_mean_squares():
    x, y = images(), 0.2 + 3 * images(25, seed=1)
    expected = [(f(x) - f(y)).square().mean().sqrt().item() for f in (lambda z: z.mean(0), lambda z: z.std(0))]
    assert pixel_errors(PixelMoments.of(x), PixelMoments.of(y)) == pytest.approx(expected, rel=1e-12)


def test_exact_samples_of_gaussians():
    """The mean of n is off by the deviation over sqrt(n), and the deviation by itself over sqrt(2 n)."""
    x = 2 * torch.randn(200, 1, 60, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ones = torch.ones(1, 60, 60, dtype=torch.float64)
    exact = PixelMoments(10**9, 0 * ones, (10**9 - 1) * 4 * ones)
    assert pixel_errors(PixelMoments.of(x), exact) == pytest.approx((2 / 200**0.5, 2 / 400**0.5), rel=0.05)


def test_bad_input_is_refused():
    with pytest.raises(PrescoreError, match=r"shapes \(2, 3, 4\) and \(2, 4, 3\)"):
        pixel_errors(PixelMoments.of(images()), PixelMoments.of(images(shape=(2, 4, 3))))
    with pytest.raises(PrescoreError, match="1 given; a standard deviation needs at least 2"):
        pixel_errors(PixelMoments.of(images(1)), PixelMoments.of(images()))
