"""The kernel distance between two sets of features, unbiased.

The squared maximum mean discrepancy with the kernel k(x, y) = (x.y / d + 1)^3 compares means, covariances and third
moments at once. Its estimate from n and m samples,

    sum_{i != j} k(x_i, x_j) / (n (n - 1)) + sum_{i != j} k(y_i, y_j) / (m (m - 1)) - 2 mean_{ij} k(x_i, y_j),

has no bias: it may be below 0, and is 0 on average between two sets of true samples, whatever their number. This is
the advantage over the Frechet distance where there are few samples.

Source: Binkowski et al., "Demystifying MMD GANs", ICLR 2018, https://arxiv.org/abs/1801.01401, Section 4 (KID; there
the mean over subsets is taken, here all pairs are).
"""

from torch import Tensor

from prescore.errors import PrescoreError

ROWS = 1024  # of the kernel matrix held at a time


def kernel_distance(a: Tensor, b: Tensor, *, degree: int = 3) -> float:
    """Unbiased squared maximum mean discrepancy of the polynomial kernel.

    Args:
        a, b: features, (n, d) and (m, d), n and m at least 2; further axes are flattened.
        degree: of the kernel, at least 1.

    Raises:
        PrescoreError: features that do not fit each other, fewer than two samples, or a degree below 1.

    Cost: (n + m)^2 d operations.

    >>> import torch
    >>> x = torch.tensor([[0.0], [2.0]])
    >>> kernel_distance(x, x + 1, degree=1)
    -1.0
    """
    x, y = as_rows(a, b)
    if degree < 1:
        raise PrescoreError(f"degree: {degree} given; it must be at least 1")
    return _mean_of_pairs(x, degree) + _mean_of_pairs(y, degree) - 2 * _kernel_sum(x, y, degree) / (len(x) * len(y))


def as_rows(a: Tensor, b: Tensor, least: int = 2) -> tuple[Tensor, Tensor]:
    """Two sets of features as float64 matrices with one row a sample.

    Raises:
        PrescoreError: they are not (n, *feature) alike, a set has fewer than `least` samples, or a value is not finite.
    """
    if a.ndim < 2 or a.shape[1:] != b.shape[1:]:
        raise PrescoreError(f"features: shapes {tuple(a.shape)} and {tuple(b.shape)}; (n, d) and (m, d) are needed")
    if min(len(a), len(b)) < least:
        raise PrescoreError(f"features: {min(len(a), len(b))} samples in a set; at least {least} are needed")
    x, y = (features.detach().double().flatten(1) for features in (a, b))
    for rows in (x, y):
        if not rows.isfinite().all():
            raise PrescoreError(f"features: {int((~rows.isfinite()).sum())} values are not finite")
    return x, y.to(x.device)


def _mean_of_pairs(x: Tensor, degree: int) -> float:
    """Mean of k over the pairs of different samples."""
    n = len(x)
    diagonal = _kernel(x.square().sum(1), x.shape[1], degree).sum().item()
    return (_kernel_sum(x, x, degree) - diagonal) / (n * (n - 1))


def _kernel_sum(x: Tensor, y: Tensor, degree: int) -> float:
    return sum(_kernel(rows @ y.mT, x.shape[1], degree).sum().item() for rows in x.split(ROWS))


def _kernel(products: Tensor, d: int, degree: int) -> Tensor:
    return (products / d + 1) ** degree
