"""Operators that are diagonal in the pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from prescore.errors import PrescoreError
from prescore.operators.base import LinearOperator, broadcasts, check_weights


@dataclass(frozen=True, eq=False)
class Pixel(LinearOperator):
    """A x = weights * x, elementwise. Symmetric.

    Args:
        weights: real, broadcastable to an event: shape (C, H, W), (H, W), (C, 1, 1), () and so on.

    Raises:
        PrescoreError: weights are not real and finite.

    Cost: one multiplication a number.
    """

    weights: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", check_weights("weights of Pixel", self.weights))

    def mv(self, x: Tensor) -> Tensor:
        return self._like("weights", x) * x

    @property
    def T(self) -> "Pixel":
        return self

    def map(self, f: Callable[[Tensor], Tensor]) -> "Pixel":
        return Pixel(f(self.weights))

    def merge(self, right: LinearOperator) -> "Pixel | None":
        return Pixel(self.weights * right.weights.to(self.weights)) if isinstance(right, Pixel) else None

    @property
    def eigenvalues(self) -> Tensor:
        return self.weights

    def largest_gain(self, event_shape: Sequence[int]) -> float:
        return self.weights.abs().max().item()

    def check(self, event_shape: Sequence[int]) -> None:
        if not broadcasts(self.weights.shape, event_shape):
            raise PrescoreError(
                f"the pixel weights have shape {tuple(self.weights.shape)}, the model's events {tuple(event_shape)}"
            )
