import math

import pytest
import torch
from metrics.test_kernel import normals

from prescore.errors import PrescoreError
from prescore.metrics.sliced import sliced_wasserstein


def test_a_shift():
    """|s| / sqrt(d), up to the directions: 2 % with 2000 of them."""
    x = normals(100, 6, 0)
    shift = torch.tensor([1.0, 0.0, 2.0, 0.0, 0.0, -2.0])
    assert sliced_wasserstein(x, x + shift, directions=2000) == pytest.approx(3 / math.sqrt(6), rel=0.03)
    assert sliced_wasserstein(x, x) == 0


def test_one_dimension_is_exact_and_the_numbers_may_differ():
    """W_2 between {0, 1} and {0, 3, 3} along the line: quantiles 0-1/3: 0, 0; 1/3-1/2: 0, 3; 1/2-1: 1, 3."""
    a, b = torch.tensor([[1.0], [0.0]]), torch.tensor([[3.0], [0.0], [3.0]])
    assert sliced_wasserstein(a, b, directions=3) == pytest.approx(math.sqrt(9 / 6 + 4 / 2))
    assert sliced_wasserstein(b, a, directions=3) == sliced_wasserstein(a, b, directions=3)


def test_gaussians_of_other_scale():
    """W_2 of N(0, 1) and N(0, 4) along any direction is 1."""
    assert sliced_wasserstein(normals(20000, 3, 0), 2 * normals(20000, 3, 1)) == pytest.approx(1, abs=0.03)


def test_the_seed_decides_the_directions():
    x, y = normals(20, 4, 0), normals(20, 4, 1)
    assert sliced_wasserstein(x, y, seed=1) == sliced_wasserstein(x, y, seed=1) != sliced_wasserstein(x, y, seed=2)


def test_bad_input_is_refused():
    with pytest.raises(PrescoreError, match="directions: 0"):
        sliced_wasserstein(torch.zeros(2, 1), torch.zeros(2, 1), directions=0)
