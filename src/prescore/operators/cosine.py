"""Operators that are diagonal in the discrete cosine basis of the last axes.

The Fourier basis takes a signal as periodic: where the opposite borders of an image differ, the jump between them leaks
power into every frequency. The cosine basis continues it by its mirror image instead, without a jump, and is nearly the
basis of principal components of images whose pixels correlate with their neighbours (Ahmed, Natarajan & Rao, "Discrete
cosine transform", IEEE Trans. Computers 1974, https://doi.org/10.1109/T-C.1974.223784). This is DCT-II, orthonormal:

    c_k = a_k sum_j x_j cos(pi (j + 1/2) k / n),    a_0 = sqrt(1/n),  a_k = sqrt(2/n)
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.operators.base import LinearOperator, broadcasts, check_weights


@dataclass(frozen=True, eq=False)
class Cosine(LinearOperator):
    """A x = T^-1[weights * T[x]], T the orthonormal cosine transform over the last `axes` axes. Symmetric.

    Args:
        weights: real, broadcastable to an event, zero frequency first.
        axes: number d of trailing axes that are transformed: 1, 2 or 3.

    Raises:
        PrescoreError: weights are not real and finite, or axes is out of range.

    Cost of `mv`: two transforms; each is one product with an n x n matrix for each axis of length n. For images up to
    a few hundred pixels a side that is as fast as a real FFT or little slower.
    """

    weights: Tensor
    axes: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", check_weights("weights of Cosine", self.weights))
        if self.axes not in (1, 2, 3):
            raise PrescoreError(f"axes: {self.axes} given; use 1, 2 or 3 of them")

    def mv(self, x: Tensor) -> Tensor:
        return self.synthesise(self._like("weights", x) * self.coefficients(x))

    @property
    def T(self) -> "Cosine":
        return self

    def map(self, f: Callable[[Tensor], Tensor]) -> "Cosine":
        return Cosine(f(self.weights), self.axes)

    def merge(self, right: LinearOperator) -> "Cosine | None":
        if not isinstance(right, Cosine) or right.axes != self.axes:
            return None
        return Cosine(self.weights * right.weights.to(self.weights), self.axes)

    @property
    def eigenvalues(self) -> Tensor:
        return self.weights

    def coefficients(self, x: Tensor) -> Tensor:
        return cosine_transform(x, self.axes)

    def analyse(self, x: Tensor) -> Tensor:
        return self._like("weights", x) * self.coefficients(x)

    def synthesise(self, c: Tensor) -> Tensor:
        return cosine_transform(c, self.axes, inverse=True)

    def largest_gain(self, event_shape: Sequence[int]) -> float:
        return self.weights.abs().max().item()

    def check(self, event_shape: Sequence[int]) -> None:
        if self.axes > len(event_shape) or not broadcasts(self.weights.shape, event_shape):
            own = tuple(self.weights.shape)
            raise PrescoreError(
                f"the cosine weights are for events of shape {own}, the model's are {tuple(event_shape)}"
            )


def cosine_transform(x: Tensor, axes: int, inverse: bool = False) -> Tensor:
    """The orthonormal cosine transform of real x over the last `axes` axes, or its inverse."""
    for axis in range(-axes, 0):
        matrix = _matrix(x.shape[axis], x.dtype, x.device)
        matrix = matrix if inverse else matrix.mT
        # x_j T_jk for the last axis, T_kj x_j for the one before: no copy of x. Others are moved to the end.
        if axis == -1:
            x = x @ matrix
        elif axis == -2:
            x = matrix.mT @ x
        else:
            x = (x.movedim(axis, -1) @ matrix).movedim(-1, axis)
    return x


@cache
def _matrix(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Row k is the k-th cosine, (n, n)."""
    k, j = torch.meshgrid(torch.arange(n).double(), torch.arange(n).double(), indexing="ij")
    rows = torch.cos(math.pi * (j + 0.5) * k / n) * math.sqrt(2 / n)
    rows[0] /= math.sqrt(2)
    return rows.to(device, dtype)
