"""Linear operators on events, matrix-free.

An operator maps a batch x of shape (B, *event) to another of the same shape, sample by sample. Operators are
immutable, compose with `@`, and know their adjoint and, where they exist, their inverse and square root.

Most of them are diagonal in an orthonormal basis. To do arithmetic in that basis without leaving it, each operator
A offers the pair

    c = A.analyse(x)           coefficients of A x in the basis of A (for Frequency: half a spectrum)
    A x = A.synthesise(c)      linear in c, and an isometry: A.norm(c) is the L2 norm of A x, sample by sample

so that a (A g) + b (B z) = A.synthesise(a A.analyse(g) + b B.analyse(z)) costs one inverse transform if A and B share
a basis. `coefficients` is the inverse of `synthesise`. By default the basis is that of the event itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from math import prod
from typing import NoReturn, Self

import torch
from torch import Tensor

from prescore.errors import PrescoreError


@dataclass(frozen=True, eq=False)
class LinearOperator(ABC):
    """What every operator offers. Subclasses define `mv` and `T`, and the rest where they can do better.

    Tensors of an operator are kept as they are given (float64 from `prescore.calibrate`) and used in the precision
    and on the device of x; the conversion is made once and remembered.
    """

    _casts: dict[tuple[str, int, torch.dtype, torch.device], Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @abstractmethod
    def mv(self, x: Tensor) -> Tensor:
        """A x for each sample of x, shape (B, *event)."""

    @property
    @abstractmethod
    def T(self) -> "LinearOperator":
        """The adjoint: <A x, y> = <x, A.T y>."""

    @property
    def inv(self) -> "LinearOperator":
        """The inverse. Raises PrescoreError if there is none, or none is known in closed form."""
        return self.map(self._reciprocal)

    @property
    def sqrt(self) -> "LinearOperator":
        """The symmetric B with B @ B = A. Raises PrescoreError unless A is symmetric with no negative eigenvalue."""
        return self.map(self._square_root)

    def map(self, f: Callable[[Tensor], Tensor]) -> "LinearOperator":
        """The operator in the same basis with eigenvalues f(eigenvalues); f acts elementwise on a real tensor.

        Raises:
            PrescoreError: the operator is not symmetric, or not known in its eigenbasis.
        """
        self._refuse("has no eigenbasis known here, so its inverse, square root or other functions are not available")

    def __matmul__(self, other: "LinearOperator") -> "LinearOperator":
        """The product A B, simplified: identities dropped, neighbours in the same basis multiplied."""
        if not isinstance(other, LinearOperator):
            return NotImplemented
        return compose(self, other)

    def merge(self, right: "LinearOperator") -> "LinearOperator | None":
        """The product A right as one operator of this kind, or None if it is not one."""
        return None

    @property
    def eigenvalues(self) -> Tensor:
        """The real numbers that multiply the coordinates of x in the eigenbasis: A x is
        `from_eigenbasis(eigenvalues * to_eigenbasis(x), event_shape)`.

        Raises:
            PrescoreError: the eigenbasis of this operator is not known.
        """
        self._refuse("has no eigenbasis known here, so it cannot be used coordinate by coordinate")

    def to_eigenbasis(self, x: Tensor) -> Tensor:
        """Coordinates of x, real or complex, that `eigenvalues` broadcasts to. Where the basis is not the eigenbasis,
        there may be more of them than entries of x."""
        return self.coefficients(x)

    def from_eigenbasis(self, c: Tensor, event_shape: Sequence[int]) -> Tensor:
        """The batch, shape (B, *event_shape), that has the coordinates c: the inverse of `to_eigenbasis`."""
        return self.synthesise(c)

    def coefficients(self, x: Tensor) -> Tensor:
        """x itself in the basis of this operator: the inverse of `synthesise`."""
        return x

    def analyse(self, x: Tensor) -> Tensor:
        """Coefficients of A x in the basis of this operator."""
        return self.coefficients(self.mv(x))

    def synthesise(self, c: Tensor) -> Tensor:
        """The batch, shape (B, *event), that has the coefficients c."""
        return c

    def norm(self, c: Tensor) -> Tensor:
        """L2 norm of each sample of `synthesise(c)`, shape (B,)."""
        return sample_norm(c)

    def largest_gain(self, event_shape: Sequence[int]) -> float:
        """Largest singular value: by how much A lengthens the vector that it lengthens most.

        Exact where the operator is diagonal in its basis; else from 50 power iterations on A.T A, which approach it
        from below (cost: 50 products with A and with A.T).
        """
        x = torch.cos(torch.arange(1.0, prod(event_shape) + 1, dtype=torch.float64)).reshape(1, *event_shape)
        for _ in range(50):
            size = x.norm()
            if size == 0:
                return 0.0
            y = self.mv(x / size)
            x = self.T.mv(y)
        return y.norm().item()

    def check(self, event_shape: Sequence[int]) -> None:  # noqa: B027 - most operators fit every shape
        """Raise PrescoreError, naming both shapes, unless the operator acts on events of this shape."""

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same operator with its tensors on another device or in another precision."""
        tensors = {
            f.name: getattr(self, f.name).to(device=device, dtype=dtype)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        return replace(self, **tensors)

    def as_matrix(self, event_shape: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
        """The n x n matrix on flattened events, n = prod(event_shape). For tests: n products and n^2 numbers."""
        n = prod(event_shape)
        columns = self.mv(torch.eye(n, dtype=dtype).reshape(n, *event_shape))
        return columns.reshape(n, n).mT

    def _like(self, name: str, x: Tensor, divisor: int = 1) -> Tensor:
        """The tensor field `name`, over `divisor`, in the precision and on the device of the real tensor x."""
        key = (name, divisor, x.dtype, x.device)
        if key not in self._casts:
            self._casts[key] = (getattr(self, name) / divisor).to(x.device, x.dtype)
        return self._casts[key]

    def _reciprocal(self, spectrum: Tensor) -> Tensor:
        if (spectrum == 0).any():
            self._refuse(f"is not invertible: {int((spectrum == 0).sum())} of its eigenvalues are 0")
        return spectrum.reciprocal()

    def _square_root(self, spectrum: Tensor) -> Tensor:
        if (spectrum < 0).any():
            self._refuse(
                f"has no square root: its smallest eigenvalue is {spectrum.min():.3g}, it must not be negative"
            )
        return spectrum.sqrt()

    def _refuse(self, why: str) -> NoReturn:
        raise PrescoreError(f"the {type(self).__name__} operator {why}")


@dataclass(frozen=True, eq=False)
class Identity(LinearOperator):
    """A x = x, exactly and at no cost. The basis is that of the event."""

    def mv(self, x: Tensor) -> Tensor:
        return x

    @property
    def T(self) -> "Identity":
        return self

    def map(self, f: Callable[[Tensor], Tensor]) -> "Identity":
        """Only functions with f(1) = 1 keep the identity; inverse and square root are such functions."""
        if f(torch.ones(1, dtype=torch.float64)).item() != 1:
            self._refuse("stays itself only under functions with f(1) = 1; use Pixel(weights) for a multiple of it")
        return self

    @property
    def eigenvalues(self) -> Tensor:
        return torch.ones((), dtype=torch.float64)

    def largest_gain(self, event_shape: Sequence[int]) -> float:
        return 1.0


@dataclass(frozen=True, eq=False)
class Composed(LinearOperator):
    """A = factors[0] factors[1] ... factors[-1]: the last acts first. The basis is that of factors[0].

    Made by `@`, which simplifies; at least two factors.

    Cost: the sum of the factors'. A product has no square root here, and its inverse is the inverses' product.
    """

    factors: tuple[LinearOperator, ...]

    def mv(self, x: Tensor) -> Tensor:
        for factor in reversed(self.factors):
            x = factor.mv(x)
        return x

    @property
    def T(self) -> LinearOperator:
        return compose(*(factor.T for factor in reversed(self.factors)))

    @property
    def inv(self) -> LinearOperator:
        return compose(*(factor.inv for factor in reversed(self.factors)))

    def coefficients(self, x: Tensor) -> Tensor:
        return self.factors[0].coefficients(x)

    def analyse(self, x: Tensor) -> Tensor:
        for factor in reversed(self.factors[1:]):
            x = factor.mv(x)
        return self.factors[0].analyse(x)

    def synthesise(self, c: Tensor) -> Tensor:
        return self.factors[0].synthesise(c)

    def norm(self, c: Tensor) -> Tensor:
        return self.factors[0].norm(c)

    def check(self, event_shape: Sequence[int]) -> None:
        for factor in self.factors:
            factor.check(event_shape)

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        return type(self)(tuple(factor.to(device=device, dtype=dtype) for factor in self.factors))


def compose(*operators: LinearOperator) -> LinearOperator:
    """Their product, simplified: nested products flattened, identities dropped, neighbours merged where possible."""
    product: list[LinearOperator] = []
    for operator in operators:
        for factor in operator.factors if isinstance(operator, Composed) else (operator,):
            merged = product[-1].merge(factor) if product else None
            if merged is not None:
                product[-1] = merged
            elif not isinstance(factor, Identity):
                product.append(factor)
    if not product:
        return Identity()
    return product[0] if len(product) == 1 else Composed(tuple(product))


CHUNK = 4096


def sample_norm(x: Tensor) -> Tensor:
    """L2 norm of each sample of x, real or complex, of shape (B, ...); returns (B,).

    A sum over one long row is split among threads, one over several rows is not, and the two round differently: a
    sample would depend on the size of its batch. Rows of at most CHUNK numbers are never split.
    """
    # Complex numbers go in as pairs of real ones: the library's norm of complex numbers takes 20 times as long.
    # Flattened first: where that copies, it copies whole complex numbers.
    rows = x.flatten(1)
    rows = torch.view_as_real(rows).flatten(1) if rows.is_complex() else rows
    while rows.shape[1] > CHUNK:
        whole = rows.shape[1] // CHUNK * CHUNK
        norms = torch.linalg.vector_norm(rows[:, :whole].unflatten(1, (-1, CHUNK)), dim=2)
        rest = torch.linalg.vector_norm(rows[:, whole:], dim=1, keepdim=True)
        rows = torch.cat([norms, rest], 1)
    return torch.linalg.vector_norm(rows, dim=1)


def check_weights(name: str, weights: Tensor) -> Tensor:
    """A private copy of real, finite weights. Raises PrescoreError if they are not."""
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        found = weights.dtype if isinstance(weights, Tensor) else type(weights).__name__
        raise PrescoreError(f"{name}: {found} given; a real floating-point tensor is needed")
    if not torch.isfinite(weights).all():
        raise PrescoreError(f"{name}: {int((~torch.isfinite(weights)).sum())} of the values are not finite")
    return weights.detach().clone()


def broadcasts(shape: Sequence[int], event_shape: Sequence[int]) -> bool:
    """Whether weights of `shape` multiply events of `event_shape` without changing their shape."""
    aligned = zip(reversed(shape), reversed(event_shape), strict=False)
    return len(shape) <= len(event_shape) and all(a in (1, b) for a, b in aligned)
