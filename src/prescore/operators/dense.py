"""Operators given by a matrix on the flattened event: dense, and of low rank plus a multiple of the identity."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.operators.base import LinearOperator, check_weights


@dataclass(frozen=True, eq=False)
class Dense(LinearOperator):
    """A x = matrix x on the flattened event. The basis is that of the event.

    Args:
        matrix: real, (n, n), n the number of entries of an event.

    Raises:
        PrescoreError: the matrix is not square, real and finite.

    Cost: n^2 multiplications a sample. `inv`, `sqrt`, `map` and the eigenbasis take O(n^3) once; all
        but the first need a symmetric matrix.
    """

    matrix: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", check_weights("matrix of Dense", self.matrix))
        if self.matrix.ndim != 2 or self.matrix.shape[0] != self.matrix.shape[1]:
            raise PrescoreError(f"matrix of Dense: shape {tuple(self.matrix.shape)} given; a square one is needed")

    def mv(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self._like("matrix", x).mT).reshape(x.shape)

    @property
    def T(self) -> "Dense":
        return Dense(self.matrix.mT)

    @property
    def inv(self) -> "Dense":
        """The inverse. Raises PrescoreError if the matrix is singular to working precision."""
        values = torch.linalg.svdvals(self.matrix)
        if values[-1] <= torch.finfo(values.dtype).eps * len(values) * values[0]:
            self._refuse(f"is not invertible: its singular values reach from {values[0]:.3g} to {values[-1]:.3g}")
        return Dense(torch.linalg.inv(self.matrix))

    def map(self, f: Callable[[Tensor], Tensor]) -> "Dense":
        return Dense(self.eigenvectors * f(self.eigenvalues) @ self.eigenvectors.mT)

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        difference = (self.matrix - self.matrix.mT).abs().max().item()
        if difference > 1e-6 * self.matrix.abs().max().item():
            self._refuse(f"is not symmetric: it differs from its transpose by up to {difference:.3g}")
        values, vectors = torch.linalg.eigh((self.matrix + self.matrix.mT) / 2)
        return values, vectors

    @property
    def eigenvalues(self) -> Tensor:
        return self._eigen[0]

    @property
    def eigenvectors(self) -> Tensor:
        """Q, whose columns are the eigenvectors, orthonormal."""
        return self._eigen[1]

    def to_eigenbasis(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self._like("eigenvectors", x)

    def from_eigenbasis(self, c: Tensor, event_shape: Sequence[int]) -> Tensor:
        return (c @ self._like("eigenvectors", c).mT).reshape(-1, *event_shape)

    def merge(self, right: LinearOperator) -> "Dense | None":
        return Dense(self.matrix @ right.matrix.to(self.matrix)) if isinstance(right, Dense) else None

    def largest_gain(self, event_shape: Sequence[int]) -> float:
        return torch.linalg.matrix_norm(self.matrix, 2).item()

    def check(self, event_shape: Sequence[int]) -> None:
        _check_size("matrix", len(self.matrix), event_shape)


@dataclass(frozen=True, eq=False)
class PCA(LinearOperator):
    """A = Q diag(spectrum) Q^T + rest (I - Q Q^T): k directions by their own weight, all others by `rest`. Symmetric.

    Args:
        basis: Q, real (n, k) with orthonormal columns, n the number of entries of an event.
        spectrum: real, (k,).
        rest: weight of the orthogonal complement.

    Raises:
        PrescoreError: shapes do not fit, or the columns are not orthonormal to 1e-4.

    Cost: 2 n k multiplications a sample. The basis is that of the event.
    """

    basis: Tensor
    spectrum: Tensor
    rest: float = 1.0

    def __post_init__(self) -> None:
        spectrum = check_weights("spectrum of PCA", self.spectrum)
        shape = tuple(self.basis.shape)
        if len(shape) != 2 or spectrum.shape != shape[1:] or shape[1] > shape[0]:
            raise PrescoreError(
                f"PCA: basis {shape} and spectrum {tuple(spectrum.shape)} given; (n, k) and (k,) with k <= n are needed"
            )
        error = (self.basis.mT @ self.basis - torch.eye(shape[1]).to(self.basis)).abs().max().item()
        if not error < 1e-4:
            raise PrescoreError(f"basis of PCA: its columns are not orthonormal, Q^T Q is off by {error:.3g}")
        object.__setattr__(self, "spectrum", spectrum)

    def mv(self, x: Tensor) -> Tensor:
        Q, flat = self._like("basis", x), x.flatten(1)
        inside = (flat @ Q) * (self._like("spectrum", x) - self.rest)
        return (inside @ Q.mT + self.rest * flat).reshape(x.shape)

    @property
    def T(self) -> "PCA":
        return self

    def map(self, f: Callable[[Tensor], Tensor]) -> "PCA":
        # A full basis leaves no complement; its weight is then not an eigenvalue that f would have to accept.
        if self.basis.shape[0] == self.basis.shape[1]:
            return PCA(self.basis, f(self.spectrum), self.rest)
        rest = f(self.spectrum.new_tensor([self.rest])).item()
        return PCA(self.basis, f(self.spectrum), rest)

    @property
    def eigenvalues(self) -> Tensor:
        return torch.cat([self.spectrum, self.spectrum.new_full((len(self.basis),), self.rest)])

    def to_eigenbasis(self, x: Tensor) -> Tensor:
        """The k coordinates along Q and, after them, the n entries of what is left, (I - Q Q^T) x: (B, k + n)."""
        Q, flat = self._like("basis", x), x.flatten(1)
        inside = flat @ Q
        return torch.cat([inside, flat - inside @ Q.mT], 1)

    def from_eigenbasis(self, c: Tensor, event_shape: Sequence[int]) -> Tensor:
        k = self.basis.shape[1]
        return torch.addmm(c[:, k:], c[:, :k], self._like("basis", c).mT).reshape(-1, *event_shape)

    def merge(self, right: LinearOperator) -> "PCA | None":
        if not isinstance(right, PCA) or right.basis is not self.basis:
            return None
        return PCA(self.basis, self.spectrum * right.spectrum, self.rest * right.rest)

    def largest_gain(self, event_shape: Sequence[int]) -> float:
        return max(self.spectrum.abs().max().item(), abs(self.rest) if self.basis.shape[1] < len(self.basis) else 0.0)

    def check(self, event_shape: Sequence[int]) -> None:
        _check_size("basis", len(self.basis), event_shape)


def _check_size(name: str, size: int, event_shape: Sequence[int]) -> None:
    if size != prod(event_shape):
        raise PrescoreError(
            f"the {name} is for events of {size} entries, the model's {tuple(event_shape)} have {prod(event_shape)}"
        )
