"""How unequal the coordinates of a state are.

Source: Ma et al., "Preconditioned score-based generative models", IJCV 2025, https://arxiv.org/abs/2302.06504,
Section 8.1 (Fig. 10): the variation V_coo = sum_i (x_i - mean x)^2 and the range R_coo = max x - min x, both averaged
over the samples and the steps of the sampler. Smaller is better conditioned.
"""

from typing import Protocol

from torch import Tensor


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
        variation, range: the averages so far; NaN before the first state.
    """

    def __init__(self) -> None:
        self.count = 0
        self._variation = self._range = 0.0

    def __call__(self, progress: HasState) -> None:
        self.count += len(progress.x)
        self._variation += coordinate_variation(progress.x).sum().item()
        self._range += coordinate_range(progress.x).sum().item()

    @property
    def variation(self) -> float:
        return self._variation / self.count if self.count else float("nan")

    @property
    def range(self) -> float:
        return self._range / self.count if self.count else float("nan")
