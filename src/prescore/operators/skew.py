"""Skew-symmetric operators, S.T = -S, for the solenoidal term omega S grad log p of preconditioned Langevin dynamics.

Such a term turns the state along the level sets of p and leaves p stationary. Ma et al. ("Preconditioned score-based
generative models", IJCV 2025, https://arxiv.org/abs/2302.06504, Section 8.4, Eq. 39-45; the conference supplement,
Section 6, Eq. 24) try seven of them and report that omega up to 1000 has no visible effect. Four are the zero operator
on real signals (`experiments/skew.py` shows it). The others are, P_{m,n} rolling by m and n places,

    S1..S3 = P_{s,s} - P_{s,s}^T                      s = 1, 10, 100

and are not zero except where 2 s is a multiple of both H and W. Explicit steps bound their weight: on Gaussian
data of precision lam a step of size a multiplies a mode by 1 - a lam (m^2 + i omega q), m^2 its eigenvalue of M M^T
and i q that of S, |q| <= 2, and is stable only while a lam (m^4 + omega^2 q^2) < 2 m^2. At the corrector's usual
a lam = 2 * 0.16^2 and m = 1 that is omega |q| < 6.2, so omega = 1000 diverges, unless the norm in the corrector's step
size is that of the whole drift (as here): then the steps are a million times smaller and the corrector stands still.

`OddFrequency` is every skew operator of frequency type that acts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.operators.base import LinearOperator, broadcasts, check_weights
from prescore.operators.frequency import ambiguous_columns, backward, forward


@dataclass(frozen=True, eq=False)
class Roll(LinearOperator):
    """P: rolls the last len(places) axes by that many places, x[..., h, w] -> x[..., h - m, w - n]. Orthogonal.

    Args:
        places: (m, n) for P_{m,n}; one integer for each of the last axes.

    Cost: one copy.
    """

    places: tuple[int, ...]

    def mv(self, x: Tensor) -> Tensor:
        return x.roll(self.places, tuple(range(-len(self.places), 0)))

    @property
    def T(self) -> "Roll":
        return Roll(tuple(-place for place in self.places))

    @property
    def inv(self) -> "Roll":
        return self.T

    def merge(self, right: LinearOperator) -> "Roll | None":
        if not isinstance(right, Roll) or len(right.places) != len(self.places):
            return None
        return Roll(tuple(a + b for a, b in zip(self.places, right.places, strict=True)))

    def largest_gain(self, event_shape: Sequence[int]) -> float:
        return 1.0

    def check(self, event_shape: Sequence[int]) -> None:
        _check_axes(self, len(self.places), event_shape)


@dataclass(frozen=True, eq=False)
class RollSkew(LinearOperator):
    """S1..S3: S = P - P^T with P the `Roll` by `places`, the paper's Eq. 40-42 for (1, 1), (10, 10), (100, 100).

    Cost: two copies and a subtraction.
    """

    places: tuple[int, ...]

    def mv(self, x: Tensor) -> Tensor:
        P = Roll(self.places)
        return P.mv(x) - P.T.mv(x)

    @property
    def T(self) -> "RollSkew":
        return RollSkew(tuple(-place for place in self.places))

    def check(self, event_shape: Sequence[int]) -> None:
        _check_axes(self, len(self.places), event_shape)


@dataclass(frozen=True, eq=False)
class OddFrequency(LinearOperator):
    """S x = F^-1[i q F[x]] with q real and odd, q(-k) = -q(k): every real skew operator that commutes with shifts.

    `OddFrequency.roll` gives P - P^T in this form (q = -2 sin), `OddFrequency.derivative` the spectral derivative.

    Args:
        q: real half spectrum in the layout of `torch.fft.rfftn`; axes before the transformed ones broadcast.
        axes, length: as of `Frequency`.

    Raises:
        PrescoreError: q is not real and finite, does not fit `axes` and `length`, or is not odd.

    Cost: one rfftn and one irfftn.
    """

    q: Tensor
    axes: int
    length: int

    def __post_init__(self) -> None:
        q = check_weights("q of OddFrequency", self.q)
        if self.axes not in (1, 2, 3) or q.ndim < self.axes or q.shape[-1] != self.length // 2 + 1:
            raise PrescoreError(
                f"q of OddFrequency: shape {tuple(q.shape)} given; half a spectrum over {self.axes} axes, the last of "
                f"length {self.length}, is needed"
            )
        ends, columns, mirrored = ambiguous_columns(q, self.axes, self.length)
        if not torch.allclose(columns, -mirrored, rtol=1e-5, atol=1e-10 * q.abs().max().item()):
            worst = (columns + mirrored).abs().max().item()
            raise PrescoreError(f"q of OddFrequency: q(k) and -q(-k) differ by up to {worst:.3g}; q must be odd")
        q[..., ends] = (columns - mirrored) / 2
        object.__setattr__(self, "q", q)

    @classmethod
    def roll(cls, places: Sequence[int], shape: Sequence[int]) -> "OddFrequency":
        """P - P^T for the `Roll` by `places` of the last axes, whose lengths are `shape`."""
        # Whole turns are taken out first, so that only rounding is below 1e-12.
        phase = sum((m % n) * k for m, n, k in zip(places, shape, _frequencies(shape), strict=True))
        q = -2 * torch.sin(torch.as_tensor(phase))
        q = torch.where(q.abs() < 1e-12, 0.0, q)
        return cls(q, len(shape), shape[-1])

    @classmethod
    def derivative(cls, axis: int, shape: Sequence[int]) -> "OddFrequency":
        """d/dx along one of the last axes, whose lengths are `shape`; axis is negative, the unit is one pixel.

        The Nyquist frequency of an even axis, which is its own negative, gets 0.
        """
        k = _frequencies(shape)[axis]
        q = torch.where(k.abs() > math.pi - 1e-9, 0.0, k)
        return cls(q.expand(*shape[:-1], shape[-1] // 2 + 1), len(shape), shape[-1])

    def mv(self, x: Tensor) -> Tensor:
        q = self._like("q", x, divisor=prod(x.shape[-self.axes :]))
        return backward(forward(x, self.axes) * (1j * q), self.axes, self.length)

    @property
    def T(self) -> "OddFrequency":
        return replace(self, q=-self.q)

    def check(self, event_shape: Sequence[int]) -> None:
        half = (*event_shape[:-1], self.length // 2 + 1)
        if tuple(event_shape)[-1:] != (self.length,) or not broadcasts(self.q.shape, half):
            own = (*self.q.shape[:-1], self.length)
            raise PrescoreError(f"the odd filter is for events of shape {own}, the model's are {tuple(event_shape)}")


def _frequencies(shape: Sequence[int]) -> list[Tensor]:
    """Angular frequency in radians a pixel along each axis, each shaped to broadcast over the half spectrum."""
    last = 2 * math.pi * torch.fft.rfftfreq(shape[-1], dtype=torch.float64)
    others = [2 * math.pi * torch.fft.fftfreq(n, dtype=torch.float64) for n in shape[:-1]]
    return [k.reshape(-1, *(1,) * (len(shape) - 1 - i)) for i, k in enumerate([*others, last])]


def _check_axes(operator: LinearOperator, axes: int, event_shape: Sequence[int]) -> None:
    if len(event_shape) < axes:
        name = type(operator).__name__
        raise PrescoreError(f"the {name} operator acts on {axes} axes, the model's events are {tuple(event_shape)}")
