"""The seven skew-symmetric operators of Ma et al. (IJCV 2025, Section 8.4, Eq. 39-45), as their formulas are printed.

    S      = Re[F - F^T]                              F the discrete Fourier transform over height and width
    S1..S3 = P_{s,s} - P_{s,s}^T                      s = 1, 10, 100; P_{m,n} rolls by m and n places
    S4..S6 = Re[F (P_{s,s} - P_{s,s}^T) F^-1]         s = 1, 10, 100

Four of the seven are the zero operator on real signals:

- The DFT matrix exp(-2 pi i j k / n) is symmetric, so F - F^T = 0. Read as F - F^H the result is i times a real
  matrix, whose real part is 0 again.
- F P_{m,n} F^-1 is diagonal, with entries exp(-2 pi i (m h / H + n w / W)), so F (P - P^T) F^-1 multiplies by
  -2 i sin(2 pi (m h / H + n w / W)): imaginary, and the real part of its product with a real x is 0.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prescore.operators import LinearOperator, RollSkew


@dataclass(frozen=True, eq=False)
class FourierRollSkew(LinearOperator):
    """S4..S6: S = Re[F (P - P^T) F^-1], F the DFT over the shifted axes, the paper's Eq. 43-45. It is 0 on real x.

    Computed as the formula says, so the result is 0 up to rounding.

    Cost: two complex transforms of the event.
    """

    places: tuple[int, ...]

    def mv(self, x: Tensor) -> Tensor:
        dims = tuple(range(-len(self.places), 0))
        inner = RollSkew(self.places).mv(torch.fft.ifftn(x, dim=dims))
        return torch.fft.fftn(inner, dim=dims).real

    @property
    def T(self) -> "FourierRollSkew":
        return FourierRollSkew(tuple(-place for place in self.places))


@dataclass(frozen=True, eq=False)
class FourierSkew(LinearOperator):
    """S = sign Re[F - F^T], F the orthonormal DFT over the last `axes` axes, the paper's Section 8.4. It is 0.

    Computed as the formula says: F^T is the product of the transposed DFT matrices, one for each axis, and these
    matrices are symmetric.

    Cost: one complex transform, and one matrix product of the axis length for each entry and axis.
    """

    axes: int = 2
    sign: int = 1

    def mv(self, x: Tensor) -> Tensor:
        dims = tuple(range(-self.axes, 0))
        transposed = x.to(torch.promote_types(x.dtype, torch.complex64))
        for dim in dims:
            F = torch.fft.fft(torch.eye(x.shape[dim], dtype=x.dtype, device=x.device), norm="ortho")
            transposed = (transposed.movedim(dim, -1) @ F).movedim(-1, dim)
        return self.sign * (torch.fft.fftn(x, dim=dims, norm="ortho") - transposed).real

    @property
    def T(self) -> "FourierSkew":
        return replace(self, sign=-self.sign)


def paper_skews(axes: int = 2) -> dict[str, LinearOperator]:
    """The seven operators by the paper's names, S and S1 to S6, over the last `axes` axes."""
    shifts = [(1,) * axes, (10,) * axes, (100,) * axes]
    real = {f"S{i}": RollSkew(places) for i, places in enumerate(shifts, start=1)}
    zero = {f"S{i}": FourierRollSkew(places) for i, places in enumerate(shifts, start=4)}
    return {"S": FourierSkew(axes), **real, **zero}
