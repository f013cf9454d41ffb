"""An invertible operator M, and the three rules by which a sampler uses it.

    noise   M z               z ~ N(0, I)
    drift   M M^T g + omega S g     g a score, S skew-symmetric
    prior   M n

Langevin dynamics dx = (M M^T + omega S) grad log p dt + sqrt(2) M dw has the stationary distribution p for every
invertible M and skew-symmetric S (Theorem 2 of Ma et al., "Preconditioned score-based generative models", IJCV 2025,
https://arxiv.org/abs/2302.06504). Note the order: with the noise M z the drift is M M^T. Equations 25 and 26 of the
paper print M^T M = Mp Mf^2 Mp for M = Mf Mp, which is stationary for another distribution; its Algorithm 2 and the
authors' code have M M^T = Mf Mp^2 Mf.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.operators.base import Composed, LinearOperator

Scalar = float | Tensor


@dataclass(frozen=True, eq=False)
class Preconditioner:
    """M, with an optional skew-symmetric term S of weight omega.

    Args:
        M: an invertible operator.
        skew: a skew-symmetric operator S (see `prescore.operators.skew`).
        omega: weight of S.
        label: what it is, for messages.
        alpha: strength it was built with, if one number says it.

    Attributes:
        A: M M^T, simplified.

    Raises:
        PrescoreError: M is not invertible, or omega is given without skew.

    Cost of one step, real transforms: for a frequency preconditioner 2 forward and 1 inverse; for frequency times
    pixel 2 and 2 by `combine`, 3 and 2 by `analyse` and `synthesise`.
    """

    M: LinearOperator
    skew: LinearOperator | None = None
    omega: float = 0.0
    label: str = ""
    alpha: float | None = None
    A: LinearOperator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.skew is None and self.omega != 0:
            raise PrescoreError(f"omega: {self.omega} given without a skew operator for it to weigh")
        try:
            _ = self.M.inv
        except PrescoreError as error:
            raise PrescoreError(f"a preconditioner must be invertible: {error}") from None
        object.__setattr__(self, "A", self.M @ self.M.T)

    def noise(self, z: Tensor) -> Tensor:
        """M z, the noise of a step; z of shape (B, *event)."""
        return self.M.mv(z)

    def prior(self, n: Tensor) -> Tensor:
        """M n, the start at unit noise level; n of shape (B, *event)."""
        return self.M.mv(n)

    def drift(self, g: Tensor, *, skew: bool = True) -> Tensor:
        """M M^T g, plus omega S g unless `skew` is False; g of shape (B, *event)."""
        drift = self.A.mv(g)
        return drift + self.omega * self.skew.mv(g) if skew and self.skew is not None else drift

    def combine(self, a: Scalar, g: Tensor, b: Scalar, z: Tensor, *, skew: bool = True) -> Tensor:
        """a * drift(g) + b * noise(z); a and b are numbers or tensors of shape () or (B,).

        With M the identity this is a * g + b * z, bit for bit. The arithmetic is done in the precision of z.
        """
        g, a, b = g.to(z.dtype), _for_samples(a, g), _for_samples(b, z)
        if not isinstance(self.M, Composed):
            G, Z = self.analyse(g, z, skew=skew)
            return self.synthesise((a * G).add_(b * Z))  # in place: a new buffer costs more than the sum
        # M (a M^T g + b z) takes one transform less than the coefficients of both terms.
        step = self.M.mv((a * self.M.T.mv(g)).add_(b * z))
        return step + a * self.omega * self.skew.mv(g) if skew and self.skew is not None else step

    def analyse(self, g: Tensor, z: Tensor, *, skew: bool = True) -> tuple[Tensor, Tensor]:
        """Coefficients (G, Z) of drift(g) and noise(z) in the basis of M: see `norm` and `synthesise`.

        For any a and b, a * drift(g) + b * noise(z) = synthesise(a * G + b * Z). They have the batch axis first and
        as many axes as g, so that a factor for each sample has shape (B, 1, ..., 1), and the precision of z.
        """
        g = g.to(z.dtype)
        G, Z = self.A.analyse(g), self.M.analyse(z)
        if skew and self.skew is not None:
            G = G + self.omega * self.M.coefficients(self.skew.mv(g))
        return G, Z

    def norm(self, coefficients: Tensor) -> Tensor:
        """L2 norm of each sample of `synthesise(coefficients)`, shape (B,)."""
        return self.M.norm(coefficients)

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """The batch, shape (B, *event), that has these coefficients."""
        return self.M.synthesise(coefficients)

    def largest_gain(self, event_shape: tuple[int, ...]) -> float:
        """The largest factor by which M lengthens a vector; its square bounds M M^T."""
        return self.M.largest_gain(event_shape)

    def check(self, event_shape: tuple[int, ...]) -> None:
        """Raise PrescoreError unless M and S act on events of this shape, and S is skew-symmetric there."""
        try:
            self.M.check(event_shape)
            if self.skew is not None:
                self.skew.check(event_shape)
        except PrescoreError as error:
            name = f" ({self.label})" if self.label else ""
            raise PrescoreError(f"the preconditioner{name} does not fit the model: {error}") from None
        if self.skew is not None and not _is_skew(self.skew, event_shape):
            raise PrescoreError(f"skew: {type(self.skew).__name__} is not skew-symmetric; S.T must be -S")

    def __matmul__(self, other: "Preconditioner") -> "Preconditioner":
        """M = M1 M2, the right one acting first, with the skew term of either.

        Raises:
            PrescoreError: both have a skew term.
        """
        if not isinstance(other, Preconditioner):
            return NotImplemented
        if self.skew is not None and other.skew is not None:
            raise PrescoreError("both preconditioners have a skew term; only one of a product may have one")
        skew, omega = (self.skew, self.omega) if self.skew is not None else (other.skew, other.omega)
        label = " @ ".join(part for part in (self.label, other.label) if part)
        alpha = self.alpha if self.alpha == other.alpha else None
        return Preconditioner(self.M @ other.M, skew, omega, label, alpha)


def _for_samples(factor: Scalar, x: Tensor) -> Scalar:
    """A factor for each sample, shape (B,), in the shape that multiplies a batch like x."""
    if isinstance(factor, Tensor) and factor.ndim == 1:
        return factor.reshape(-1, *(1,) * (x.ndim - 1))
    return factor


def _is_skew(operator: LinearOperator, event_shape: tuple[int, ...]) -> bool:
    size = torch.Size(event_shape).numel()
    x = torch.cos(torch.arange(1.0, size + 1, dtype=torch.float64) ** 2).reshape(1, *event_shape)
    y = operator.mv(x)
    return torch.allclose(operator.T.mv(x), -y, rtol=1e-9, atol=1e-9 * max(y.abs().max().item(), 1e-300))
