"""Second-order statistics of data: what a preconditioner is built from.

About 200 samples are enough, since a preconditioner needs only the scale of each frequency or pixel. They are read
once, batch by batch, and the batches' statistics are merged by the formula of Chan, Golub & LeVeque (1983, "Algorithms
for computing the sample variance", https://doi.org/10.1080/00031305.1983.10483115): the centred power never comes out
as a difference of two large numbers.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from math import prod

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.operators.frequency import multiplicity, symmetric_part

Batch = Tensor | tuple[Tensor, ...] | list[Tensor]
PIECE = 2**22  # numbers transformed at once: 64 MiB with their spectrum


def library_version() -> str:
    # The package imports this module before it defines its version.
    from prescore import __version__

    return __version__


@dataclass(frozen=True, eq=False, kw_only=True)
class Statistics:
    """Moments of a data set in its own coordinates. Tensors are float64.

    Attributes:
        count: number of samples.
        event_shape: shape of one sample, such as (C, H, W).
        axes: number of trailing axes over which spectra are taken.
        data_range: (lowest, highest) value the data may have.
        mean, mean_square: of each entry, shape `event_shape`.
        power: E|F x|^2, F the unnormalised discrete Fourier transform over the last `axes` axes; half spectrum in
            the layout of `torch.fft.rfftn`, exactly symmetric in k and -k.
        power_centred: E|F x|^2 - |F E x|^2, in the same layout. Divided by `size_transformed` it is the variance of
            each coefficient of the orthonormal transform.
        minimum, maximum: found in the data.
        version: of the library that measured it.
    """

    count: int
    event_shape: tuple[int, ...]
    axes: int
    data_range: tuple[float, float]
    mean: Tensor
    mean_square: Tensor
    power: Tensor
    power_centred: Tensor
    minimum: float
    maximum: float
    version: str = field(default_factory=library_version)

    @property
    def transformed_dims(self) -> tuple[int, ...]:
        """The transformed axes, counted from the end."""
        return tuple(range(-self.axes, 0))

    @property
    def size_transformed(self) -> int:
        """Number of entries of the transformed axes."""
        return prod(self.event_shape[-self.axes :])

    @property
    def length(self) -> int:
        """Length of the last axis, of which the spectra hold length // 2 + 1 columns."""
        return self.event_shape[-1]

    @property
    def multiplicity(self) -> Tensor:
        """Entries of the full spectrum that each column of the half spectrum stands for, shape (length // 2 + 1,)."""
        return multiplicity(self.length)


def calibrate(
    data: Tensor | Iterable[Batch], *, data_range: tuple[float, float] = (0.0, 1.0), axes: int | None = None
) -> Statistics:
    """Measure the statistics of data.

    Args:
        data: samples as the model sees them, (N, *event), or an iterable of such batches or of tuples that start with
            one, such as a DataLoader. Floating point inside `data_range`, or uint8, which is taken as 0..255 and
            mapped onto `data_range`.
        data_range: (lowest, highest) value the data may have.
        axes: number of trailing axes to take spectra over, 1 to 3; by default all but the first (the channels), or
            the one that there is.

    Raises:
        PrescoreError: no samples, mixed shapes, values that are not finite or outside `data_range`, or axes that
            the samples do not have.

    Cost: one real transform a sample, in one pass; no more than one batch is held.
    """
    low, high = data_range
    if not -float("inf") < low < high < float("inf"):
        raise PrescoreError(f"data_range: {data_range} given; two finite numbers, the lower first, are needed")
    total: Statistics | None = None
    for batch in _batches(data):
        for piece in _pieces(batch):
            part = _measure(piece, (float(low), float(high)), axes)
            total = part if total is None else merge(total, part)
    if total is None:
        raise PrescoreError("data: no samples given")
    return total


def merge(a: Statistics, b: Statistics) -> Statistics:
    """The statistics of both data sets together, exact up to rounding.

    Raises:
        PrescoreError: they are of different event shapes, axes or data ranges.
    """
    for name in ("event_shape", "axes", "data_range"):
        if getattr(a, name) != getattr(b, name):
            raise PrescoreError(f"data: {name} {getattr(b, name)} after {getattr(a, name)}; it must not change")
    count = a.count + b.count
    p, q = a.count / count, b.count / count
    between = mean_power((a.mean - b.mean)[None], a.transformed_dims)
    return replace(
        a,
        count=count,
        mean=p * a.mean + q * b.mean,
        mean_square=p * a.mean_square + q * b.mean_square,
        power=p * a.power + q * b.power,
        power_centred=p * a.power_centred + q * b.power_centred + p * q * between,
        minimum=min(a.minimum, b.minimum),
        maximum=max(a.maximum, b.maximum),
    )


def in_range(statistics: Statistics, data_range: tuple[float, float]) -> Statistics:
    """The statistics of the same data mapped affinely from their data range onto another, exact up to rounding."""
    (low, high), (new_low, new_high) = statistics.data_range, data_range
    a = (new_high - new_low) / (high - low)
    b = new_low - a * low
    mean, power_centred = a * statistics.mean + b, a**2 * statistics.power_centred
    return replace(
        statistics,
        data_range=(float(new_low), float(new_high)),
        mean=mean,
        mean_square=a**2 * statistics.mean_square + 2 * a * b * statistics.mean + b**2,
        power=power_centred + mean_power(mean[None], statistics.transformed_dims),
        power_centred=power_centred,
        minimum=a * statistics.minimum + b,
        maximum=a * statistics.maximum + b,
    )


def mean_power(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Mean over the batch x, (N, *event), of |F x|^2, F the unnormalised transform over `dims`, the last halved.

    Exactly symmetric in k and -k, which the mean of the library's spectra is only up to rounding.
    """
    spectrum = torch.view_as_real(torch.fft.rfftn(x, dim=dims))
    return symmetric_part(spectrum.square().sum(-1).mean(0), len(dims), x.shape[-1])


def _measure(x: Tensor, data_range: tuple[float, float], axes: int | None) -> Statistics:
    """Statistics of one piece (n, *event) by themselves."""
    event_shape = tuple(x.shape[1:])
    axes = min(max(len(event_shape) - 1, 1), 3) if axes is None else axes
    if not 1 <= axes <= min(3, len(event_shape)) or 0 in event_shape:
        raise PrescoreError(f"axes: spectra over {axes} axes asked of samples of shape {event_shape}")
    x = _checked(x, data_range)
    mean, dims = x.mean(0), tuple(range(-axes, 0))
    power_centred = mean_power(x - mean, dims)
    return Statistics(
        count=len(x),
        event_shape=event_shape,
        axes=axes,
        data_range=data_range,
        mean=mean,
        mean_square=x.square().mean(0),
        power=power_centred + mean_power(mean[None], dims),
        power_centred=power_centred,
        minimum=x.min().item(),
        maximum=x.max().item(),
    )


def _batches(data: Tensor | Iterable[Batch]) -> Iterator[Tensor]:
    for batch in [data] if isinstance(data, Tensor) else data:
        x = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(x, Tensor) or x.ndim < 2:
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise PrescoreError(f"data: a batch is {found}; a tensor of shape (N, *event) is needed")
        yield x


def _pieces(batch: Tensor) -> Iterator[Tensor]:
    return (piece for piece in batch.split(max(1, PIECE // max(1, batch[:1].numel()))) if len(piece))


def _checked(x: Tensor, data_range: tuple[float, float]) -> Tensor:
    """The samples in float64 on the CPU, or a PrescoreError if they are not what data_range says."""
    low, high = data_range
    if x.dtype == torch.uint8:
        return x.cpu().double() / 255 * (high - low) + low
    if not x.is_floating_point():
        raise PrescoreError(f"data: {x.dtype} given; floating point inside {data_range}, or uint8, is needed")
    x = x.detach().cpu().double()
    if not torch.isfinite(x).all():
        raise PrescoreError(f"data: {int((~torch.isfinite(x)).sum())} values are not finite")
    least, most = x.min().item(), x.max().item()
    slack = 1e-5 * (high - low)  # float16 and float32 arithmetic may overshoot the ends by a rounding
    if least < low - slack or most > high + slack:
        raise PrescoreError(
            f"data: values from {least:.4g} to {most:.4g} found, outside data_range ({low:g}, {high:g}); "
            "scale the data to it, or name the range they have"
        )
    return x
