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

from collections.abc import Sequence
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
    return neighbours_of_parts([generated], true, 0, k=k)[0]


def neighbours_of_parts(parts: Sequence[Tensor], true: Tensor, blocks: int, *, k: int = 5) -> list[Neighbours]:
    """Of all parts together, and of all but each of the first `blocks`; every distance is computed once or twice.

    Args:
        parts: of the features of the generated samples, (n_i, d); more than k rows have to be left.
        true, k: as of `neighbour_metrics`, which has the errors too.
    """
    if k < 1:
        raise PrescoreError(f"k: {k} given; it must be at least 1")
    x, y = as_rows(torch.cat(list(parts)), true, least=k + 1)
    owner = torch.repeat_interleave(torch.tensor([len(part) for part in parts])).to(x.device)
    kept = torch.stack([owner != g for g in range(-1, blocks)])  # (sets, n); the first set has all rows
    (reach_y,) = _reach(y, torch.ones_like(y[None, :, 0], dtype=torch.bool), k)
    reach_x, m = _reach(x, kept, k), len(y)
    in_true, balls = torch.zeros_like(owner), torch.zeros_like(owner)
    covering = torch.zeros(len(parts), m, dtype=torch.long, device=x.device)
    in_generated = torch.zeros(len(kept), m, dtype=torch.bool, device=x.device)
    for rows in torch.arange(len(x), device=x.device).split(ROWS):
        distance = torch.cdist(x[rows], y, compute_mode="donot_use_mm_for_euclid_dist")
        inside = distance <= reach_y
        in_true[rows], balls[rows] = inside.any(1).long(), inside.sum(1)
        covering.index_add_(0, owner[rows], inside.long())
        for s in range(len(kept)):
            in_generated[s] |= ((distance <= reach_x[s, rows, None]) & kept[s, rows, None]).any(0)
    found = []
    for s, of in enumerate(kept):
        n, others = int(of.sum()), [part for part in range(len(parts)) if part != s - 1]
        covered = int(covering[others].any(0).sum())
        found.append(
            Neighbours(
                int(in_true[of].sum()) / n, int(in_generated[s].sum()) / m, int(balls[of].sum()) / (k * n), covered / m
            )
        )
    return found


def _reach(x: Tensor, kept: Tensor, k: int) -> Tensor:
    """Distance of every row to its k-th nearest other one among those kept, (sets, n), of rows that are kept."""
    reach = []
    for rows in x.split(ROWS):
        distance = torch.cdist(rows, x, compute_mode="donot_use_mm_for_euclid_dist")
        # The nearest is the row itself.
        reach.append(torch.stack([_kth(distance if of.all() else distance[:, of], k + 1) for of in kept]))
    return torch.cat(reach, 1)


def _kth(block: Tensor, k: int) -> Tensor:
    """The k-th smallest number of each row; the block is let go before the next one is made."""
    return block.kthvalue(k, dim=1).values
