"""`p-fit`: the preconditioned multistep solver with weights that were fitted to the network."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from prescore.samplers.exponential import Exponential, History
from prescore.statistics import FittedWeights, Statistics
from prescore.statistics.fit import groups_of

CLOSE = 1e-6  # relative, between levels that are called the same


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted(Exponential):
    """`Exponential` with weights that were fitted for its noise levels (`prescore.statistics.fit`).

    Args:
        statistics: with the fitted weights, in the data range of the model. On levels that none were fitted for, this
            is the textbook solver.
    """

    statistics: Statistics | None = None

    family: ClassVar[str] = "fitted weights"

    @cached_property
    def fit(self) -> FittedWeights | None:
        """What was fitted for its number of steps."""
        fits: Mapping[int, FittedWeights] = {} if self.statistics is None else self.statistics.tuning.fits
        return fits.get((self.steps or self.usual_steps) if self.grid is None else len(self.grid) - 1)

    def usual_levels(self, sigma_min: float, sigma_max: float, steps: int) -> Tensor:
        """Those that weights were fitted for, or those of the textbook solver."""
        if self.fit is not None and self.fit.is_for(sigma_min, sigma_max):
            return self.fit.levels
        return super().usual_levels(sigma_min, sigma_max, steps)

    def is_fitted(self, levels: Tensor) -> bool:
        """Whether weights were fitted for these levels."""
        return all(self._place(s, t) is not None for s, t in pairwise(levels.tolist()))

    def _earlier(self, state: History, t: float) -> tuple[tuple[float, Tensor], ...]:
        return state.past

    def _step_weights(
        self,
        s: float,
        t: float,
        levels: tuple[float, ...],
        l: float,  # noqa: E741
        published: bool,
    ) -> list[Tensor]:
        keep, *weights = super()._step_weights(s, t, levels, l, published)
        weights += [torch.zeros(())] * (len(levels) - len(weights))
        fit, i = self.fit, self._place(s, t)
        if fit is None or i is None:
            return [keep, *weights]
        assert self.reference is not None
        own = fit.weights[i, groups_of(self.reference.variances, fit.edges)]
        gain = fit.gains[groups_of(self.reference.variances, fit.edges)] if t == 0 else torch.ones(())
        added = [own[..., -1], *own[..., : len(weights)].unbind(-1)]
        return [gain * (w + a) for w, a in zip([keep, *weights], added, strict=True)]

    def _place(self, s: float, t: float) -> int | None:
        """Which step of the fit leads from s to t, if one does."""
        levels = [] if self.fit is None else self.fit.levels.tolist()
        return next((i for i, (a, b) in enumerate(pairwise(levels)) if _close(a, s) and _close(b, t)), None)


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=CLOSE)
