"""Filters: operators that are diagonal in the discrete Fourier basis of the last axes.

With F the orthonormal discrete Fourier transform, A = F^-1 diag(w) F. On a real signal only a filter with
w(k) = w(-k) gives a real result and a symmetric operator. Half of the spectrum then says everything, and the real
transforms of that half cost half of the complex ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.operators.base import LinearOperator, broadcasts, check_weights, sample_norm


@dataclass(frozen=True, eq=False)
class Frequency(LinearOperator):
    """A x = F^-1[weights * F[x]], F the orthonormal real Fourier transform over the last `axes` axes. Symmetric.

    Args:
        weights: real half spectrum in the layout of `torch.fft.rfftn`, zero frequency first: its last axis has
            length // 2 + 1 entries, the axes before it are the other transformed ones, and those before them
            (channels) broadcast to the event.
        axes: number d of trailing axes that are transformed: 1, 2 or 3.
        length: length of the last axis of an event (the half spectrum does not tell 2n from 2n + 1).

    Raises:
        PrescoreError: weights are not real and finite, do not fit `axes` and `length`, or are not symmetric.

    Cost of `mv`: one rfftn and one irfftn; of `analyse` and `synthesise`: one of them each.
    """

    weights: Tensor
    axes: int
    length: int

    def __post_init__(self) -> None:
        weights = check_weights("weights of Frequency", self.weights)
        if self.axes not in (1, 2, 3) or weights.ndim < self.axes:
            raise PrescoreError(f"axes: {self.axes} given for weights of {weights.ndim} axes; use 1, 2 or 3 of them")
        if weights.shape[-1] != self.length // 2 + 1:
            raise PrescoreError(
                f"weights of Frequency: last axis has {weights.shape[-1]} entries, half a spectrum of length "
                f"{self.length} has {self.length // 2 + 1}; for a full spectrum use Frequency.from_full"
            )
        _require_equal(*ambiguous_columns(weights, self.axes, self.length)[1:])
        object.__setattr__(self, "weights", symmetric_part(weights, self.axes, self.length))

    @classmethod
    def from_full(cls, mask: Tensor, axes: int) -> "Frequency":
        """The filter whose full spectrum is given in the layout of `torch.fft.fftn`, zero frequency first (unshifted).

        Raises:
            PrescoreError: mask(k) differs from mask(-k): the filter of a real signal must be symmetric.
        """
        mirrored = mirror(mask, tuple(range(-axes, 0)))
        _require_equal(mask, mirrored)
        length = mask.shape[-1]
        return cls((mask + mirrored)[..., : length // 2 + 1] / 2, axes, length)

    @property
    def multiplicity(self) -> Tensor:
        """How many entries of the full spectrum each column of the half spectrum stands for, (length // 2 + 1,)."""
        return multiplicity(self.length)

    def mv(self, x: Tensor) -> Tensor:
        return self.synthesise(self.analyse(x))

    @property
    def T(self) -> "Frequency":
        return self

    def map(self, f: Callable[[Tensor], Tensor]) -> "Frequency":
        return Frequency(f(self.weights), self.axes, self.length)

    def merge(self, right: LinearOperator) -> "Frequency | None":
        if not isinstance(right, Frequency) or (right.axes, right.length) != (self.axes, self.length):
            return None
        return Frequency(self.weights * right.weights.to(self.weights), self.axes, self.length)

    @property
    def eigenvalues(self) -> Tensor:
        return self.weights

    def coefficients(self, x: Tensor) -> Tensor:
        return forward(x, self.axes) / self._size(x)

    def analyse(self, x: Tensor) -> Tensor:
        """Half spectrum of A x, divided by the number of transformed entries: then no transform needs to scale."""
        c = forward(x, self.axes)
        torch.view_as_real(c).mul_(self._like("_pairs", x, divisor=self._size(x)))
        return c

    @cached_property
    def _pairs(self) -> Tensor:
        """The weights, once for each real and imaginary part: a product without a complex copy of them."""
        return self.weights.unsqueeze(-1).repeat_interleave(2, -1)

    def synthesise(self, c: Tensor) -> Tensor:
        return backward(c, self.axes, self.length)

    def norm(self, c: Tensor) -> Tensor:
        """Parseval: every entry of the half spectrum counts twice, except in the columns that are their own mirror."""
        own = c[..., :: self.length // 2] if self.length % 2 == 0 else c[..., :1]
        return (self._size(c) * (2 * sample_norm(c) ** 2 - sample_norm(own) ** 2)).sqrt()

    def _size(self, x: Tensor) -> int:
        """Number of entries that are transformed together, from a batch or its half spectrum."""
        return prod(x.shape[-self.axes : -1]) * self.length

    def largest_gain(self, event_shape: Sequence[int]) -> float:
        return self.weights.abs().max().item()

    def check(self, event_shape: Sequence[int]) -> None:
        half = (*event_shape[:-1], self.length // 2 + 1)
        if tuple(event_shape)[-1:] != (self.length,) or not broadcasts(self.weights.shape, half):
            own = (*self.weights.shape[:-1], self.length)
            raise PrescoreError(
                f"the frequency weights are for events of shape {own}, the model's are {tuple(event_shape)}"
            )


def forward(x: Tensor, axes: int) -> Tensor:
    """Half spectrum of real x over the last `axes` axes, unnormalised."""
    return _batched(lambda y: torch.fft.rfftn(y, dim=tuple(range(-axes, 0))), x, axes)


def backward(c: Tensor, axes: int, length: int) -> Tensor:
    """The unnormalised inverse of `forward`: n times the signal, n the number of transformed entries."""
    sizes, dims = (*c.shape[-axes:-1], length), tuple(range(-axes, 0))
    return _batched(lambda y: torch.fft.irfftn(y, s=sizes, dim=dims, norm="forward"), c, axes)


def _batched(transform: Callable[[Tensor], Tensor], x: Tensor, axes: int) -> Tensor:
    # The FFT library takes another route, with another rounding, when it has only one signal to transform. Giving
    # it two then makes a sample independent of the size of its batch.
    return transform(x) if x.shape[:-axes].numel() > 1 else transform(torch.cat([x, x]))[:1]


def multiplicity(length: int) -> Tensor:
    """Entries of the full spectrum of `length` that each entry of its half stands for: 2 inside, 1 at both ends.

    The end at the Nyquist frequency exists for even lengths only. Shape (length // 2 + 1,), float64.
    """
    count = torch.full((length // 2 + 1,), 2.0, dtype=torch.float64)
    count[:: max(length // 2, 1) if length % 2 == 0 else length] = 1
    return count


def mirror(full: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The spectrum at -k: index j of every axis in `dims` goes to -j modulo its length."""
    return full.flip(dims).roll((1,) * len(dims), dims) if dims else full


def ambiguous_columns(half: Tensor, axes: int, length: int) -> tuple[list[int], Tensor, Tensor]:
    """The columns of a half spectrum that hold both k and -k: their indices, their values, and the values at -k.

    They are those of zero and (for even lengths) Nyquist frequency of the last axis; inside nothing is redundant.
    """
    ends = [0, length // 2] if length % 2 == 0 else [0]
    columns = half[..., ends]
    return ends, columns, mirror(columns, tuple(range(-axes, -1)))


def symmetric_part(half: Tensor, axes: int, length: int) -> Tensor:
    """The half spectrum with w(k) and w(-k) replaced by their mean: what is left of it on real signals."""
    ends, columns, mirrored = ambiguous_columns(half, axes, length)
    half = half.clone()
    half[..., ends] = (columns + mirrored) / 2
    return half


def _require_equal(weights: Tensor, mirrored: Tensor) -> None:
    # A spectrum measured in float32 is symmetric to about 1e-6; entries far below the largest are rounding.
    if not torch.allclose(weights, mirrored, rtol=1e-5, atol=1e-10 * weights.abs().max().item()):
        worst = (weights - mirrored).abs().max().item()
        raise PrescoreError(
            f"weights of Frequency: w(k) and w(-k) differ by up to {worst:.3g}; the filter of a real signal must be "
            "symmetric, in the unshifted order of torch.fft.fftn (zero frequency first)"
        )
