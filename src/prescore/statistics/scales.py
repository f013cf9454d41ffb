"""How much the samples of a data set differ in scale.

If the samples are a mixture over g of N(mu, g C), C diagonal in frequency, then each of the n real coordinates of a
sample tells its scale,

    g = mean over coordinates of |F x - F mu|^2 / c.

That g spreads even where all scales are 1: it is chi-squared over n. With v the variance of what is found, and mean 1,
the scales themselves have the variance V = (1 + v) / (1 + 2/n) - 1, and so

    g <- 1 + sqrt(V / v) (g - 1),    or 1 if V < 0.

What is kept of all g is their distribution: the means of `PARTS` equal parts of them in order.
"""

import torch
from torch import Tensor

PARTS = 8
SAMPLES, COEFFICIENTS = 1024, 1024  # that are looked at: the first ones, and ones that are evenly spread
CONSTANT = 1e-12  # variance over the largest below which it is rounding: a coordinate that never varies has no scale


class Scales:
    """Coefficients of the first samples, from which the scales follow once mean and variances are known.

    Attributes:
        left: number of samples that are still looked at.
    """

    def __init__(self) -> None:
        self.rows: list[Tensor] = []
        self.left = SAMPLES

    def add(self, x: Tensor, dims: tuple[int, ...]) -> None:
        """Keep coefficients of samples (n, *event), of the orthonormal transform over `dims`."""
        self.rows.append(_some(torch.fft.rfftn(x[: self.left], dim=dims, norm="ortho").flatten(1)))
        self.left -= len(self.rows[-1])

    def parts(self, mean: Tensor, variances: Tensor, multiplicity: Tensor, dims: tuple[int, ...]) -> Tensor:
        """The scales, increasing, (at most PARTS,).

        Args:
            mean: of the data, (*event).
            variances: of the coefficients, in the layout of the half spectrum.
            multiplicity: of its columns.
        """
        c = _some(variances.flatten()[None])[0]
        n = _some(multiplicity.expand(variances.shape).flatten()[None])[0] * (c > CONSTANT * c.max())
        if not n.any():
            return torch.ones(1, dtype=torch.float64)
        centred = torch.cat(self.rows) - _some(torch.fft.rfftn(mean, dim=dims, norm="ortho").flatten()[None])
        g = (centred.abs() ** 2 / c.where(n > 0, torch.ones(())) * n).sum(1) / n.sum()
        g = g / g.mean()
        v = g.var(correction=0)
        V = (1 + v) / (1 + 2 / n.sum()) - 1
        return equal_parts(1 + (V / v).clamp(min=0).sqrt().nan_to_num() * (g - 1), torch.ones_like(g))


def equal_parts(g: Tensor, weights: Tensor) -> Tensor:
    """Means of PARTS parts of equal weight of the values in order, or of as many as there are values; of mean 1.

    >>> equal_parts(torch.tensor([3.0, 1.0]), torch.ones(2)).tolist()
    [0.5, 1.5]
    """
    g, order = g.sort()
    edges = torch.cat([torch.zeros(1), weights[order].cumsum(0)]).double()
    edges = edges / edges[-1]
    cuts = torch.linspace(0, 1, min(PARTS, len(g)) + 1, dtype=torch.float64)
    # What of each value lies in each part.
    inside = torch.minimum(edges[1:], cuts[1:, None]) - torch.maximum(edges[:-1], cuts[:-1, None])
    means = (inside.clamp(min=0) * g.double()).sum(1)
    return means / means.mean()


def _some(rows: Tensor) -> Tensor:
    """Evenly spread columns of (n, m), all if there are no more than COEFFICIENTS."""
    m = rows.shape[1]
    return rows[:, torch.linspace(0, m - 1, min(m, COEFFICIENTS)).round().long()]
