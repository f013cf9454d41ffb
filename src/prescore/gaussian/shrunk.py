"""A network that is shrunk towards the Gaussian model of its data where it errs more than that model does.

`prescore.statistics.shrinkage` has the equation. In a group of coordinates where the network leaves less than TRUSTED
of the model's error it is used as it is, w = 1.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from prescore.denoiser import Denoise, Denoiser, per_sample
from prescore.denoiser.calling import given_dtype
from prescore.gaussian.model import Gaussian
from prescore.statistics.batches import Batch
from prescore.statistics.fit import group_edges, groups_of
from prescore.statistics.score import noised
from prescore.statistics.shrinkage import Shrinkage
from prescore.tuned import LEAST_WEIGHT, TRUSTED

GROUPS = 6


def measure_shrinkage(
    denoiser: Denoiser,
    reference: Gaussian,
    data: Tensor | Iterable[Batch],
    levels: Tensor,
    *,
    limits: tuple[float, float] | None = None,
    condition: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> Shrinkage | None:
    """Measure on data how much of a network to use, from the highest level at which that is more than LEAST_WEIGHT in
    some group. None if there is no such level, or only one.

    Args:
        denoiser, data, levels, condition, seed, batch_size, progress: as of `score_statistics`.
        reference: the Gaussian model of the data.
        limits: (lowest, highest) value of the data.

    Raises:
        PrescoreError, SamplingError: as `score_statistics`.

    Cost: one network call for each level and batch.
    """
    C = reference.variances.expand(reference.analyse(torch.zeros(1, *reference.event_shape)).shape).flatten()
    edges = group_edges(C, GROUPS)
    groups = groups_of(C, edges)
    sums = torch.zeros(4, len(levels), len(edges) + 1, dtype=torch.float64)
    how: dict[str, Any] = {
        "limits": limits,
        "condition": condition,
        "seed": seed,
        "batch_size": batch_size,
        "progress": progress,
    }
    for i, sigma, x0, x, D in noised(denoiser, data, levels, **how):
        X, D, X0 = (reference.analyse(y.double()).flatten(1) for y in (x, D, x0))
        own, true = D - C / (C + sigma**2) * X, X0 - C / (C + sigma**2) * X
        for total, y in zip(sums, (own * true, own.square(), (own - true).square(), true.square()), strict=True):
            total[i].index_add_(0, groups, y.sum(0))
    product, square, error, gaussian_error = sums
    w = (product / square.clamp(min=1e-300)).clamp(0, 1)
    weights = torch.where(error > TRUSTED * gaussian_error, w, 1.0)
    useful = (weights > LEAST_WEIGHT).any(1).nonzero()
    first = int(useful[0]) if len(useful) else len(levels)
    if len(levels) - first < 2:
        return None
    return Shrinkage(levels=levels[first:].double(), edges=edges, weights=weights[first:])


def shrunk(denoiser: Denoiser, reference: Gaussian, shrinkage: Shrinkage) -> Denoiser:
    """The denoiser D_G + w (D - D_G), which makes no more network calls.

    Args:
        reference: the Gaussian model of its data, in its own coordinates.
        shrinkage: measured on it.
    """
    return replace(denoiser, function=Shrunk(denoiser.function, reference, shrinkage))


@dataclass(frozen=True, eq=False)
class Shrunk:
    """What `shrunk` makes of the function of a denoiser."""

    model: Denoise
    reference: Gaussian
    shrinkage: Shrinkage

    @property
    def converts(self) -> bool:
        """Whether the model computes in single precision by itself."""
        return given_dtype(self.model, torch.float16) == torch.float32

    @cached_property
    def groups(self) -> Tensor:
        """Of the coordinates, like their variances."""
        return groups_of(self.reference.variances, self.shrinkage.edges)

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        D = self.model(x, sigma, **condition)
        single = torch.promote_types(x.dtype, torch.float32)
        X, mixture = (self.reference.analyse(y.to(single)) for y in (x, D))
        levels, C = per_sample(sigma, x), self.reference.variances
        for level in levels.unique():
            rows, w = levels == level, self.shrinkage.at(level.item())[self.groups]
            D_G = (C / (C + level.item() ** 2)).to(X) * X[rows]
            mixture[rows] = torch.lerp(D_G, mixture[rows], w.to(X))
        return self.reference.synthesise(mixture).to(D)
