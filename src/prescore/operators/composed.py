"""Products of operators."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from prescore.operators.base import Identity, LinearOperator


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
