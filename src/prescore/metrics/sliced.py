"""The sliced Wasserstein distance: of two sets of samples, seen along random directions.

Along one direction the 2-Wasserstein distance of two sets is that of their sorted values. The root mean square over
directions u on the unit sphere compares the whole distributions, not their moments, at the cost of sorting:

    SW^2 = E_u W_2^2(u.x, u.y)

For two Gaussians that differ by a shift s in d dimensions it is |s| / sqrt(d).

Source: Rabin et al., "Wasserstein barycenter and its application to texture mixing", SSVM 2011,
https://doi.org/10.1007/978-3-642-24785-9_37; Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures",
Journal of Mathematical Imaging and Vision 2015, https://doi.org/10.1007/s10851-014-0506-3, Section 3.
"""

import torch
from torch import Tensor

from prescore.errors import PrescoreError
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
    x, y = as_rows(a, b, least=1)
    if directions < 1:
        raise PrescoreError(f"directions: {directions} given; at least 1 is needed")
    u = torch.randn(directions, x.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u = (u / u.norm(dim=1, keepdim=True)).to(x.device)
    # Where the numbers of samples differ, the quantile functions are steps that change at the levels of both.
    levels = torch.cat([torch.arange(1, len(z) + 1, dtype=torch.float64) / len(z) for z in (x, y)]).unique()
    widths = torch.diff(levels, prepend=torch.zeros(1, dtype=torch.float64)).to(x.device)
    middle = levels.to(x.device) - widths / 2
    total = 0.0
    for part in u.split(DIRECTIONS):
        quantiles = [(z @ part.mT).sort(dim=0).values[(middle * len(z)).long()] for z in (x, y)]
        total += ((quantiles[0] - quantiles[1]).square() * widths[:, None]).sum().item()
    return (total / directions) ** 0.5
