"""The preconditioners of PDS: masks R from statistics, M = F^-1[F[x] / R] for frequencies or x / R for pixels.

    R = log(E[F x conj(F x)] + 1)       frequency, F the unnormalised Fourier transform of data in [0, 1]
    R = log(E[x x] + 1)                 pixel
    R <- (R / max R + alpha - 1) / alpha

so 1 / R lies between 1, where the data are strongest, and at most alpha / (alpha - 1): weak components take larger
steps. alpha = 1 is the strongest preconditioner, alpha = infinity none.

Source: Ma et al., "Preconditioned score-based generative models", IJCV 2025, https://arxiv.org/abs/2302.06504,
Section 5.3 (Eq. 27-31) and, for the disc, Section 7.3 (Eq. 37).
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.operators.frequency import Frequency, mirror
from prescore.operators.pixel import Pixel
from prescore.precondition.preconditioner import Preconditioner
from prescore.statistics import Statistics


def log_power(power: Tensor) -> Tensor:
    """log(power + 1), natural; power >= 0."""
    return torch.log1p(power)


def normalise(R: Tensor, alpha: float) -> Tensor:
    """(R / max R + alpha - 1) / alpha, from (alpha - 1) / alpha to 1.

    Raises:
        PrescoreError: alpha < 1, or R is zero everywhere.
    """
    if not alpha >= 1:
        raise PrescoreError(f"alpha: {alpha} given; it must be at least 1 (infinity is no preconditioning)")
    if not R.max() > 0:
        raise PrescoreError("the data are zero everywhere: there is no scale to build a preconditioner from")
    return 1 - (1 - R / R.max()) / alpha


def radial_mask(shape: Sequence[int], r: float, lam: float) -> Tensor:
    """R of the NCSN experiments: 1 where (h - H/2)^2 + (w - W/2)^2 <= 2 r^2, else lam; h = 1..H, w = 1..W.

    In *unshifted* order (zero frequency first) the disc sits at the highest frequencies. They keep 1 and the low ones
    are divided by lam > 1; a mask shifted to have its zero frequency in the middle would do the opposite.

    Args:
        shape: (..., H, W).  r: in pixels, >= 0 (0.2 H for MNIST).  lam: > 0 (1.6 for MNIST).

    Returns:
        Full spectrum, (H, W), float64. It is not symmetric: counting from 1 puts its centre at index H/2 - 1, one
        below the Nyquist frequency. A filter of real signals has only its symmetric part, see `radial_preconditioner`.

    Raises:
        PrescoreError: shape has fewer than two axes, r < 0, or lam <= 0.
    """
    if len(shape) < 2:
        raise PrescoreError(f"shape: {tuple(shape)} given; the disc needs a height and a width")
    if not r >= 0 or not lam > 0:
        raise PrescoreError(f"r and lam: {r} and {lam} given; r must not be negative and lam must be positive")
    H, W = shape[-2:]
    h = torch.arange(1, H + 1, dtype=torch.float64).reshape(-1, 1)
    w = torch.arange(1, W + 1, dtype=torch.float64)
    outside = (h - H / 2) ** 2 + (w - W / 2) ** 2 > 2 * r**2
    return torch.ones(H, W, dtype=torch.float64).masked_fill(outside, lam)


def frequency_preconditioner(statistics: Statistics, alpha: float, *, centred: bool = False) -> Preconditioner:
    """M = F^-1[F[x] / R], R the normalised log power of each frequency and channel.

    Args:
        statistics: from `calibrate`; brought to the range (0, 1), as the papers have it.
        alpha: strength, >= 1; smaller is stronger (CIFAR-10 in the paper: 50 at T = 1000, 5 at T = 100).
        centred: use the power about the mean. The papers do not remove the mean.

    Raises:
        PrescoreError: alpha < 1, or it is 1 and a frequency has no power.
    """
    unit = statistics.moments.in_range((0.0, 1.0))
    R = normalise(log_power(unit.power_centred if centred else unit.power), alpha)
    M = Frequency(inverse(R, "frequencies"), unit.axes, unit.length)
    return Preconditioner(M, label=f"frequency, alpha {alpha:g}", alpha=float(alpha))


def pixel_preconditioner(statistics: Statistics, alpha: float, *, log: bool = True) -> Preconditioner:
    """M = x / R, R the normalised log mean square of each entry.

    Args:
        statistics, alpha: as for `frequency_preconditioner`.
        log: False takes the mean square itself, as the authors' code does; the papers print the logarithm.

    Raises:
        PrescoreError: alpha < 1, or it is 1 and an entry is always 0.
    """
    square = statistics.moments.in_range((0.0, 1.0)).mean_square
    R = normalise(log_power(square) if log else square, alpha)
    return Preconditioner(Pixel(inverse(R, "entries")), label=f"pixel, alpha {alpha:g}", alpha=float(alpha))


def mean_preconditioner(statistics: Statistics) -> Preconditioner:
    """M = x / R, R the mean image over its largest value (the conference version's supplement, Eq. 21).

    Raises:
        PrescoreError: the mean of an entry is not above 0.
    """
    mean = statistics.moments.in_range((0.0, 1.0)).mean
    if not (mean > 0).all():
        raise PrescoreError(
            "pixel_mask: the mean of some entries is not above 0; 'mean' cannot divide by it, take 'log'"
        )
    return Preconditioner(Pixel(mean.max() / mean), label="mean image")


# How a pixel part is made of statistics and alpha.
PIXEL_MASKS: Mapping[str, Callable[[Statistics, float], Preconditioner]] = MappingProxyType(
    {
        "log": pixel_preconditioner,
        "square": lambda statistics, alpha: pixel_preconditioner(statistics, alpha, log=False),
        "mean": lambda statistics, alpha: mean_preconditioner(statistics),
    }
)


def radial_preconditioner(shape: Sequence[int], r: float, lam: float) -> Preconditioner:
    """M = F^-1[F[x] / R], R the `radial_mask` of the NCSN experiments, over height and width.

    On real x, the real part of F^-1[F[x] / R] is the filter with the symmetric part of 1 / R, and this is M: 1 or
    1 / lam, except on the rim of the off-centre disc, where it is their mean.

    Raises:
        PrescoreError: as `radial_mask`.
    """
    weights = 1 / radial_mask(shape, r, lam)
    symmetric = (weights + mirror(weights, (-2, -1))) / 2
    return Preconditioner(Frequency.from_full(symmetric, 2), label=f"radial, r {r:g}, lam {lam:g}")


def inverse(R: Tensor, what: str) -> Tensor:
    """1 / R. Raises PrescoreError if R is 0 for some of these entries of the data, which alpha = 1 alone leaves so."""
    if (R <= 0).any():
        raise PrescoreError(
            f"alpha: 1 given, but {int((R <= 0).sum())} {what} of the data are always 0 and would get an infinite "
            "weight; use alpha > 1"
        )
    return 1 / R
