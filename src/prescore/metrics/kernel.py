"""The kernel distance between two sets of features, unbiased.

The squared maximum mean discrepancy with the kernel k(x, y) = (x.y / d + 1)^3 compares means, covariances and third
moments at once. Its estimate from n and m samples,

    sum_{i != j} k(x_i, x_j) / (n (n - 1)) + sum_{i != j} k(y_i, y_j) / (m (m - 1)) - 2 mean_{ij} k(x_i, y_j),

has no bias: it may be below 0, and is 0 on average between two sets of true samples, whatever their number. This is
the advantage over the Frechet distance where there are few samples.

Source: Binkowski et al., "Demystifying MMD GANs", ICLR 2018, https://arxiv.org/abs/1801.01401, Section 4 (KID; there
the mean over subsets is taken, here all pairs are).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.jackknife import leave_out

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
    return kernel_distances([a], b, 0, degree=degree)[0]


def kernel_distances(parts: Sequence[Tensor], b: Tensor, blocks: int, *, degree: int = 3) -> list[float]:
    """The distance of all parts together, and that of all but each of the first `blocks`, at the cost of the first.

    Args:
        parts: of one set of features, (n_i, d); at least 2 rows have to be left.
        b, degree: as of `kernel_distance`, which has the errors too.
    """
    sizes = [len(part) for part in parts]
    x, y = as_rows(torch.cat(list(parts)), b)
    if degree < 1:
        raise PrescoreError(f"degree: {degree} given; it must be at least 1")
    rows, m = x.split(sizes), len(y)
    cross = [_kernel_sum(part, y, degree) for part in rows]
    within = [[_different(a, b, degree, a is b) for b in rows[: i + 1]] for i, a in enumerate(rows)]
    true = _different(y, y, degree, True) / (m * (m - 1))
    found = []
    for kept in leave_out(range(len(parts)), blocks):
        n = sum(sizes[i] for i in kept)
        pairs = sum(within[i][j] * (1 if i == j else 2) for i in kept for j in kept if j <= i)
        found.append(pairs / (n * (n - 1)) + true - 2 * sum(cross[i] for i in kept) / (n * m))
    return found


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


def _different(x: Tensor, y: Tensor, degree: int, is_same: bool) -> float:
    """Sum of k over the pairs of different samples."""
    diagonal = _kernel(x.square().sum(1), x.shape[1], degree).sum().item() if is_same else 0.0
    return _kernel_sum(x, y, degree) - diagonal


def _kernel_sum(x: Tensor, y: Tensor, degree: int) -> float:
    return sum(_kernel(rows @ y.mT, x.shape[1], degree).sum().item() for rows in x.split(ROWS))


def _kernel(products: Tensor, d: int, degree: int) -> Tensor:
    return (products / d + 1) ** degree
