"""How much of a network to use where it errs more than the Gaussian model of the data does.

D_G, the denoiser of that model, costs no network call. Of all mixtures D_G + w (D - D_G), of a group of coordinates of
like variance at one noise level, the one of the least mean square error on data x0 has

    w = E (x0 - D_G) (D - D_G) / E (D - D_G)^2,

between 0, the Gaussian model, and 1, the network (`prescore.gaussian.shrunk` measures and uses it).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prescore.grid import interpolate


@dataclass(frozen=True, eq=False, kw_only=True)
class Shrinkage:
    """Weights of a network beside the Gaussian model of its data. Tensors are float64.

    Attributes:
        levels: decreasing positive noise levels, at the first of which a run starts, (L,).
        edges: decreasing variances between the groups of coordinates, as those of `FittedWeights`, (G - 1,).
        weights: w by level and group, from 0 to 1, (L, G).
    """

    levels: Tensor
    edges: Tensor
    weights: Tensor

    def at(self, sigma: float) -> Tensor:
        """The weights at a noise level, (G,): linear in log sigma, constant beyond the ends."""
        at, known = torch.tensor([sigma], dtype=torch.float64).log(), self.levels.log().flip(0)
        return torch.cat([interpolate(at, known, column.flip(0)) for column in self.weights.mT])

    def scaled(self, a: float) -> "Shrinkage":
        """Those for data that are multiplied by a, and so their noise."""
        return replace(self, levels=a * self.levels, edges=a**2 * self.edges)
