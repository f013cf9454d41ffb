"""Power spectra of samples, beside those of the data."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.operators.frequency import multiplicity
from prescore.statistics import Statistics
from prescore.statistics.moments import mean_power


def power_spectrum_error(
    samples: Tensor, reference: Statistics | Tensor, *, axes: int | None = None, centred: bool = False
) -> float:
    """Root mean square over all frequencies and channels of log(power of samples / power of data), natural log.

    0.1 means that the power is off by about 10 %. Exact samples do not reach 0: with N of them the power of each
    frequency fluctuates, and the error is about 1 / sqrt(N) where the mean is small beside the spread.

    Args:
        samples: (N, *event), in the coordinates of the reference.
        reference: the data's `Statistics`, or its power E|F x|^2 as a half spectrum (`Moments.power`).
        axes: number of trailing axes that a reference given as a tensor is taken over.
        centred: compare the power about the mean, which is blind to a wrong mean image. The default is the raw
            power, the quantity of the papers' masks, in which a wrong brightness shows too.

    Returns:
        The error, over the full spectrum (each column of the half counts as often as it occurs). Frequencies in
        which the data have less than 1e-12 of their largest power are left out: that is rounding.

    Raises:
        PrescoreError: shapes differ, axes are missing or superfluous, or one sample is to be centred.
    """
    if isinstance(reference, Statistics) == (axes is not None):
        raise PrescoreError("axes: give it with a power tensor, and only then; Statistics know theirs")
    if isinstance(reference, Statistics):
        moments = reference.moments
        axes, data = moments.axes, moments.power_centred if centred else moments.power
    else:
        data = reference.double()
    assert axes is not None
    if centred and len(samples) < 2:
        raise PrescoreError("samples: the power about the mean needs at least two samples")
    x = samples.detach().cpu().double()
    own = mean_power(x - x.mean(0) if centred else x, tuple(range(-axes, 0)))
    return power_error(own, data, x.shape[-1])


def power_error(own: Tensor, data: Tensor, length: int) -> float:
    """`power_spectrum_error` from two half spectra of power, the last axis of which stands for `length` pixels."""
    if own.shape != data.shape:
        raise PrescoreError(f"samples: their spectrum has shape {tuple(own.shape)}, the data's {tuple(data.shape)}")
    weight = multiplicity(length) * (data > 1e-12 * data.max())
    squares = torch.where(weight > 0, (own / data).log() ** 2, 0.0)
    return ((weight * squares).sum() / weight.sum()).sqrt().item()


def radial_power(power: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A power spectrum averaged over rings of equal frequency, for plots.

    Args:
        power: half spectrum, (..., shape[0], ..., shape[-1] // 2 + 1), such as `Moments.power`.
        shape: lengths of the transformed axes.

    Returns:
        Frequencies of the rings in cycles a pixel, 0 to 1/2, shape (K,); and the mean power on each, (..., K), in
        the units of `power`. K = n // 2 + 1 rings, n the longest axis; the corners beyond 1/2 are left out.

    Raises:
        PrescoreError: power is not a half spectrum of that shape.
    """
    half = (*shape[:-1], shape[-1] // 2 + 1)
    if tuple(power.shape[-len(half) :]) != half:
        raise PrescoreError(
            f"power: shape {tuple(power.shape)} does not end in {half}, half a spectrum of {tuple(shape)}"
        )
    n = max(shape)
    axes = [torch.fft.fftfreq(m, dtype=torch.float64) for m in shape[:-1]]
    axes.append(torch.fft.rfftfreq(shape[-1], dtype=torch.float64))
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    ring = (radius * n).round().long().flatten()
    weight = multiplicity(shape[-1]).expand(half).flatten() * (ring <= n // 2)
    ring = ring.clamp(max=n // 2)
    rows = power.double().reshape(-1, prod(half))
    total = torch.zeros(len(rows), n // 2 + 1, dtype=torch.float64).index_add_(1, ring, rows * weight)
    count = torch.zeros(n // 2 + 1, dtype=torch.float64).index_add_(0, ring, weight)
    profile = (total / count).reshape(*power.shape[: -len(half)], n // 2 + 1)
    return torch.arange(n // 2 + 1, dtype=torch.float64) / n, profile
