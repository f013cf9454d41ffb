import pytest
import torch
from torch.nn.functional import avg_pool2d, instance_norm, max_pool2d

from prescore.models.refinenet import instance_norm_plus, max_pool, mean_pool


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rows", [(), (1,), (4,)])
def test_instance_norm_plus(rows):
    """Against the formula, term by term, and its gradients."""
    x = torch.randn(4, 6, 5, 3, generator=generator(), dtype=torch.float64) + torch.arange(6.0).reshape(6, 1, 1)
    x.requires_grad_()
    gamma, alpha, beta = torch.randn(3, *rows, 6, generator=generator(1), dtype=torch.float64).requires_grad_()
    m = x.mean((2, 3))
    z = (m - m.mean(1, keepdim=True)) / (m.var(1, keepdim=True) + 1e-5).sqrt()
    term = instance_norm(x) + (alpha * z)[..., None, None]
    expected = gamma[..., None, None] * term + beta[..., None, None]
    found = instance_norm_plus(x, gamma, alpha, beta)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)
    weights = torch.randn(found.shape, generator=generator(2), dtype=torch.float64)
    for a, b in zip(*(torch.autograd.grad((y * weights).sum(), x) for y in (found, expected)), strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)


def test_pools():
    x = torch.randn(2, 3, 9, 7, generator=generator())
    assert torch.equal(max_pool(x), max_pool2d(x, 5, stride=1, padding=2))
    assert max_pool(x).is_contiguous()
    assert torch.allclose(mean_pool(x), avg_pool2d(x, 5, stride=1, padding=2), atol=1e-6)
