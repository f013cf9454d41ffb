"""The sliced Wasserstein distance: of two sets of samples, seen along random directions.

Along one direction the 2-Wasserstein distance of two sets is that of their sorted values. The root mean square over
directions u on the unit sphere compares the whole distributions, not their moments, at the cost of sorting:

    SW^2 = E_u W_2^2(u.x, u.y)

For two Gaussians that differ by a shift s in d dimensions it is |s| / sqrt(d).

Source: Rabin et al., "Wasserstein barycenter and its application to texture mixing", SSVM 2011,
https://doi.org/10.1007/978-3-642-24785-9_37; Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures",
Journal of Mathematical Imaging and Vision 2015, https://doi.org/10.1007/s10851-014-0506-3, Section 3.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.jackknife import leave_out
from prescore.metrics.kernel import as_rows

DIRECTIONS = 32  # looked at together


def sliced_wasserstein(a: Tensor, b: Tensor, *, directions: int = 512, seed: int = 0) -> float:
    """SW of two sets, in the unit of the features.

    Args:
        a, b: features or samples, (n, *feature) and (m, *feature).
        directions: how many; the error of SW^2 falls as their inverse square root.
        seed: of the directions.

    Raises:
        PrescoreError: sets that do not fit each other, or no direction.

    Cost: `directions` products and sorts of n + m values.
    """
    return sliced_distances([a], b, 0, directions=directions, seed=seed)[0]


def sliced_distances(
    parts: Sequence[Tensor], b: Tensor, blocks: int, *, directions: int = 512, seed: int = 0
) -> list[float]:
    """SW of all parts together, and of all but each of the first `blocks`; the true samples are sorted once.

    Args:
        parts: of one set of features, (n_i, d); at least one row has to be left.
        b, directions, seed: as of `sliced_wasserstein`, which has the errors too.
    """
    x, y = as_rows(torch.cat(list(parts)), b, least=1)
    if directions < 1:
        raise PrescoreError(f"directions: {directions} given; at least 1 is needed")
    u = torch.randn(directions, x.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u = (u / u.norm(dim=1, keepdim=True)).to(x.device)
    rows = torch.arange(len(x), device=x.device).split([len(part) for part in parts])
    sets = [torch.cat(list(kept)) for kept in leave_out(rows, blocks)]
    steps = [_steps(len(kept), len(y), x.device) for kept in sets]
    totals = [0.0] * len(sets)
    for part in u.split(DIRECTIONS):
        along, true = x @ part.mT, (y @ part.mT).sort(dim=0).values
        for k, (kept, (middle, widths)) in enumerate(zip(sets, steps, strict=True)):
            own = along[kept].sort(dim=0).values
            quantiles = [z[(middle * len(z)).long()] for z in (own, true)]
            totals[k] += ((quantiles[0] - quantiles[1]).square() * widths[:, None]).sum().item()
    return [(total / directions) ** 0.5 for total in totals]


def _steps(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Middles and widths of the intervals of [0, 1] on which the quantile functions of n and of m samples are constant:
    where the numbers differ, these are steps that change at the levels of both."""
    levels = torch.cat([torch.arange(1, k + 1, dtype=torch.float64) / k for k in (n, m)]).unique()
    widths = torch.diff(levels, prepend=torch.zeros(1, dtype=torch.float64))
    return (levels - widths / 2).to(device), widths.to(device)
