"""Leading principal components of data that are read once, batch by batch.

The scatter S = sum_i (x_i - mean)(x_i - mean)^T is held as B^T B. The rows of B are the samples of each piece about
that piece's mean, and for each merge one row sqrt(n_a n_b / (n_a + n_b)) (mean_a - mean_b) (Chan, Golub & LeVeque,
see `prescore.statistics.moments`). The right singular vectors of B are the principal directions; the squares of
its singular values, over the count, are the variances along them.

Where B would have too many rows, its singular vectors, scaled, take their place, and the last ones are dropped. This
is exact while the rank of the data about their mean, at most min(count - 1, d), fits into the rows that are kept.
Beyond that every variance is too small, by at most the sum of the largest one dropped each time (Weyl's inequality).
"""

import torch
from torch import Tensor


class Scatter:
    """B of the module, row by row.

    Args:
        size: d, numbers in one row.
        keep: rows that are kept when B is shortened, which happens once there are more than twice as many.
    """

    def __init__(self, size: int, keep: int) -> None:
        self.rows, self.keep = torch.empty(0, size, dtype=torch.float64), keep

    def add(self, rows: Tensor) -> None:
        """More rows, (n, d)."""
        self.rows = torch.cat([self.rows, rows])
        if len(self.rows) > 2 * self.keep:
            directions, squares = leading(self.rows, self.keep)
            self.rows = squares.sqrt().unsqueeze(1) * directions


def leading(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Orthonormal directions (k, d) that hold most of rows^T rows, and what each holds, (k,), decreasing.

    Fewer than k where the rows, (n, d), have not as many; signs are arbitrary.
    """
    _, values, directions = torch.linalg.svd(rows, full_matrices=False)
    return directions[:k].clone(), values[:k].square()
