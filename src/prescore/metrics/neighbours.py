"""Fidelity and diversity apart, from nearest neighbours: precision, recall, density and coverage.

Around every sample of a set lies a ball that reaches to its k-th nearest neighbour in the set; the union of the balls
stands for the support of the distribution.

    precision   share of the generated samples inside a ball of a true one
    recall      share of the true samples inside a ball of a generated one
    density     mean over the generated samples of (number of true balls it is in) / k: above 1 in crowded places,
                and not spoilt by one true sample far from the others
    coverage    share of the true samples whose ball holds a generated one

For n and m samples of one distribution the density is 1 on average, and the coverage is

    1 - product over i = 1..k of (m - i) / (n + m - i),

about 1 - 2^-k for n = m, whatever the distribution; precision and recall are below 1 and depend on n and on the
dimension. Compare at equal n only.

Sources: Kynkaanniemi et al., "Improved precision and recall metric for assessing generative models", NeurIPS 2019,
https://arxiv.org/abs/1904.06991 (eq. 1-2; k = 3); Naeem et al., "Reliable fidelity and diversity metrics for
generative models", ICML 2020, https://arxiv.org/abs/2002.09797 (eq. 3-4, 7; k = 5).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.metrics.kernel import as_rows

ROWS = 512  # of the distance matrix held at a time


@dataclass(frozen=True)
class Neighbours:
    """Precision, recall and coverage in [0, 1]; density >= 0, 1 for true samples."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbour_metrics(generated: Tensor, true: Tensor, *, k: int = 5) -> Neighbours:
    """Precision, recall, density and coverage of generated samples.

    Args:
        generated, true: features, (n, d) and (m, d), more than k samples each; further axes are flattened.
        k: which neighbour the balls reach to; the same for all four (the sources take 3 for the first two).

    Raises:
        PrescoreError: features that do not fit each other, k below 1, or a set of k samples or fewer.

    Cost: (n + m)^2 d operations; one block of 512 rows of the distances is held at a time.
    """
    if k < 1:
        raise PrescoreError(f"k: {k} given; it must be at least 1")
    x, y = as_rows(generated, true, least=k + 1)
    reach_x, reach_y = _reach(x, k), _reach(y, k)
    in_true = balls = 0
    covered = torch.zeros(len(y), dtype=torch.bool, device=x.device)
    in_generated = torch.zeros_like(covered)
    for rows, reach in zip(x.split(ROWS), reach_x.split(ROWS), strict=True):
        distance = torch.cdist(rows, y, compute_mode="donot_use_mm_for_euclid_dist")
        inside = distance <= reach_y
        in_true += int(inside.any(1).sum())
        balls += int(inside.sum())
        covered |= inside.any(0)
        in_generated |= (distance <= reach[:, None]).any(0)
    n, m = len(x), len(y)
    return Neighbours(in_true / n, int(in_generated.sum()) / m, balls / (k * n), int(covered.sum()) / m)


def _reach(x: Tensor, k: int) -> Tensor:
    """Distance of every row to its k-th nearest other one."""
    # The nearest is the row itself.
    return torch.cat(
        [_kth(torch.cdist(rows, x, compute_mode="donot_use_mm_for_euclid_dist"), k + 1) for rows in x.split(ROWS)]
    )


def _kth(block: Tensor, k: int) -> Tensor:
    """The k-th smallest number of each row; the block is let go before the next one is made."""
    return block.kthvalue(k, dim=1).values
