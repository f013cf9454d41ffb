"""Pixel weights."""

import pytest
import torch

from prescore.errors import PrescoreError
from prescore.operators import Pixel


def test_products_multiply_the_weights():
    a, b = torch.tensor([[1.0], [2.0]], dtype=torch.float64), torch.tensor([3.0, 5.0, 7.0], dtype=torch.float64)
    product = Pixel(a) @ Pixel(b)
    assert isinstance(product, Pixel)
    assert torch.equal(product.weights, a * b)


def test_a_wrong_shape_is_named():
    with pytest.raises(PrescoreError, match=r"pixel weights have shape \(3, 4, 4\), the model's events \(1, 4, 4\)"):
        Pixel(torch.ones(3, 4, 4)).check((1, 4, 4))
