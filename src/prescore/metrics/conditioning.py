"""How unequal the coordinates of a state are.

Source: Ma et al., "Preconditioned score-based generative models", IJCV 2025, https://arxiv.org/abs/2302.06504,
Section 8.1 (Fig. 10): the variation V_coo = sum_i (x_i - mean x)^2 and the range R_coo = max x - min x, both averaged
over the samples and the steps of the sampler. Smaller is better conditioned.
"""

from typing import Protocol

import torch
from torch import Tensor

CONDITIONING = ("V_coo", "R_coo")  # the papers' names


def coordinate_variation(x: Tensor) -> Tensor:
    """V_coo = sum_i (x_i - mean x)^2 over the entries of each sample; x of shape (B, *event), returns (B,)."""
    flat = x.flatten(1)
    return (flat - flat.mean(1, keepdim=True)).square().sum(1)


def coordinate_range(x: Tensor) -> Tensor:
    """R_coo = max x - min x over the entries of each sample; x of shape (B, *event), returns (B,)."""
    low, high = x.flatten(1).aminmax(dim=1)
    return high - low


class HasState(Protocol):
    """What a callback of `prescore.sample` receives, as far as it matters here."""

    @property
    def x(self) -> Tensor: ...


class Conditioning:
    """V_coo and R_coo averaged over samples and steps, to be passed as the `callback` of `prescore.sample`.

    Attributes:
        count: states seen, samples times steps.
        variation, range: the averages so far, in the coordinates of the states; NaN before the first state.
        values: both by the names in `CONDITIONING`.
    """

    def __init__(self) -> None:
        self.count = 0
        # Sums that stay on the states' device: to read one at each step would wait for it.
        self._variation = self._range = torch.zeros((), dtype=torch.float64)

    def __call__(self, progress: HasState) -> None:
        self.add(progress.x)

    def add(self, states: Tensor) -> None:
        """Count states, (B, *event), such as those of a trajectory that was kept."""
        self.count += len(states)
        self._variation = coordinate_variation(states).double().sum() + self._variation
        self._range = coordinate_range(states).double().sum() + self._range

    @property
    def variation(self) -> float:
        return self._variation.item() / self.count if self.count else float("nan")

    @property
    def range(self) -> float:
        return self._range.item() / self.count if self.count else float("nan")

    @property
    def values(self) -> dict[str, float]:
        return dict(zip(CONDITIONING, (self.variation, self.range), strict=True))
