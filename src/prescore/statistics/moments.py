"""Second-order moments of data: what a preconditioner and a Gaussian model are built from.

About 200 samples are enough, since a preconditioner needs only the scale of each frequency or pixel. They are read
once, batch by batch, and the batches' statistics are merged by the formula of Chan, Golub & LeVeque (1983, "Algorithms
for computing the sample variance", https://doi.org/10.1080/00031305.1983.10483115): the centred power never comes out
as a difference of two large numbers.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from prescore.errors import PrescoreError, check_choice
from prescore.operators.cosine import cosine_transform
from prescore.operators.frequency import multiplicity, symmetric_part
from prescore.statistics.batches import USUAL, Batch, batches, checked
from prescore.statistics.components import Scatter, leading
from prescore.statistics.scales import Scales, equal_parts

FULL = 512  # entries of an event of one axis up to which all of its components are found
PIECE = 2**22  # numbers transformed at once: 64 MiB with their spectrum


@dataclass(frozen=True, eq=False, kw_only=True)
class Moments:
    """Moments of a data set in its own coordinates. Tensors are float64.

    Attributes:
        count: number of samples.
        event_shape: shape of one sample, such as (C, H, W).
        axes: number of trailing axes over which spectra are taken.
        data_range: (lowest, highest) value the data may have; None where that is not known.
        mean, mean_square: of each entry, shape `event_shape`.
        power: E|F x|^2, F the unnormalised discrete Fourier transform over the last `axes` axes; half spectrum in
            the layout of `torch.fft.rfftn`, exactly symmetric in k and -k.
        power_centred: E|F x|^2 - |F E x|^2, in the same layout. Divided by `size_transformed` it is the variance of
            each coefficient of the orthonormal transform.
        cosine_variance: variance of each coefficient of the orthonormal cosine transform over the same axes,
            `event_shape`; None in files of earlier versions.
        minimum, maximum: found in the data.
        scales: how much the samples differ in scale (prescore/statistics/scales.py), increasing, of mean 1, (K,);
            None in files of earlier versions.
        components: the K leading principal components of the data about their mean, orthonormal, (K, *event_shape),
            or None. Signs are arbitrary.
        component_variances: variances along them, decreasing, (K,), or None.
    """

    count: int
    event_shape: tuple[int, ...]
    axes: int
    data_range: tuple[float, float] | None
    mean: Tensor
    mean_square: Tensor
    power: Tensor
    power_centred: Tensor
    minimum: float
    maximum: float
    cosine_variance: Tensor | None = None
    scales: Tensor | None = None
    components: Tensor | None = None
    component_variances: Tensor | None = None

    @property
    def remainder_variance(self) -> float | None:
        """Mean variance of the directions orthogonal to all components; None without components, 0 if none is left."""
        if self.component_variances is None:
            return None
        total = (self.power_centred * self.multiplicity).sum() / self.size_transformed  # Parseval
        left = prod(self.event_shape) - len(self.component_variances)
        return max((total - self.component_variances.sum()).item(), 0.0) / left if left else 0.0

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

    def in_range(self, data_range: tuple[float, float] | None) -> "Moments":
        """Those of the same data mapped affinely from their data range onto another, exact up to rounding; in the
        units that they have where one of the two is None."""
        if self.data_range is None or data_range is None:
            return replace(self, data_range=data_range)
        (low, high), (new_low, new_high) = self.data_range, data_range
        a = (new_high - new_low) / (high - low)
        b = new_low - a * low
        mean, power_centred, variances = a * self.mean + b, a**2 * self.power_centred, self.component_variances
        return replace(
            self,
            data_range=(float(new_low), float(new_high)),
            mean=mean,
            mean_square=a**2 * self.mean_square + 2 * a * b * self.mean + b**2,
            power=power_centred + mean_power(mean[None], self.transformed_dims),
            power_centred=power_centred,
            cosine_variance=None if self.cosine_variance is None else a**2 * self.cosine_variance,
            minimum=a * self.minimum + b,
            maximum=a * self.maximum + b,
            component_variances=None if variances is None else a**2 * variances,
        )

    def centred(self) -> "Moments":
        """Those of the data less their mean, as a model sees them whose data have their mean removed."""
        return replace(
            self,
            mean=torch.zeros_like(self.mean),
            mean_square=(self.mean_square - self.mean**2).clamp(min=0),
            power=self.power_centred,
            minimum=self.minimum - self.mean.max().item(),
            maximum=self.maximum - self.mean.min().item(),
        )


def measure_moments(
    data: Tensor | Iterable[Batch],
    *,
    data_range: tuple[float, float] | str | None = USUAL,
    axes: int | None = None,
    components: int | None = None,
) -> Moments:
    """Measure the moments of data.

    Args:
        data: samples as the model sees them, (N, *event), or an iterable of such batches or of tuples that start with
            one, such as a DataLoader. Floating point inside `data_range`, or uint8, which is taken as 0..255 and
            mapped onto `data_range`.
        data_range: (lowest, highest) value the data may have; None where any is possible. By default, "usual", it is
            (0, 1) for bytes and for pictures, events of three axes, and None for others.
        axes: number of trailing axes to take spectra over, 1 to 3; by default all but the first (the channels), or
            the one that there is.
        components: number K of leading principal components to find as well; by default none, but all of vectors,
            events of one axis with at most FULL entries. They are exact as long as 2^21 / d of them, or K if that is
            more, could hold the data, d numbers a sample (see `components.py`).

    Raises:
        PrescoreError: no samples, mixed shapes, values that are not finite or outside `data_range`, axes that the
            samples do not have, or more components than N - 1 or d.

    Cost: one real transform a sample (two for the first 1024), in one pass; no more than one batch and 16 MiB of
    coefficients are held. Components add 64 MiB (more if
    2 K d numbers are) and a singular value decomposition of that size each time it is full, and at the end.
    """
    if isinstance(data_range, str):
        check_choice("data_range", data_range, [USUAL])
    elif data_range is not None:
        low, high = data_range
        if not -float("inf") < low < high < float("inf"):
            raise PrescoreError(f"data_range: {data_range} given; two finite numbers, the lower first, are needed")
        data_range = (float(low), float(high))
    if components is not None and (not isinstance(components, int) or components < 1):
        raise PrescoreError(f"components: {components!r} is not a positive whole number")
    total: Moments | None = None
    scatter: Scatter | None = None
    scales = Scales()
    is_all = False
    for batch in batches(data):
        for piece in _pieces(batch):
            part, rows = _measure(piece, _range_of(piece, data_range), axes)
            if components is None and len(part.event_shape) == 1 and part.event_shape[0] <= FULL:
                components, is_all = part.event_shape[0], True
            if scales.left:
                scales.add(part.mean + rows.reshape(-1, *part.event_shape), part.transformed_dims)
            if components is not None:
                scatter = scatter or Scatter(rows.shape[1], max(components, PIECE // 2 // rows.shape[1]))
                scatter.add(rows if total is None else torch.cat([rows, _between(total, part)]))
            total = part if total is None else merge_moments(total, part)
    if total is None:
        raise PrescoreError("data: no samples given")
    c = total.power_centred / total.size_transformed
    total = replace(total, scales=scales.parts(total.mean, c, total.multiplicity, total.transformed_dims))
    if components is None or scatter is None:
        return total
    most = min(total.count - 1, prod(total.event_shape))
    if is_all and most < components:
        return _with_components(total, scatter.rows, most) if most else total
    if components > most:
        raise PrescoreError(
            f"components: {components} asked of {total.count} samples of {prod(total.event_shape)} numbers, "
            f"which have at most {most}"
        )
    return _with_components(total, scatter.rows, components)


def _range_of(x: Tensor, data_range: tuple[float, float] | str | None) -> tuple[float, float] | None:
    """The range of samples (N, *event): what is given, or the usual one; that of bytes is always known."""
    if isinstance(data_range, tuple):
        return data_range
    is_picture = data_range == USUAL and x.ndim == 4
    return (0.0, 1.0) if is_picture or x.dtype == torch.uint8 else None


def merge_moments(a: Moments, b: Moments) -> Moments:
    """The moments of both data sets together, exact up to rounding.

    Of the components as many are kept as the shorter list has; they are exact if each list holds all variance of its
    data (`remainder_variance` 0), else their variances are too small by at most the sum of the first variance that
    either list leaves out. The scales, each relative to the power of its own data, are weighted by count.

    Raises:
        PrescoreError: they are of different event shapes, axes or data ranges, or only one has components.
    """
    for name in ("event_shape", "axes", "data_range"):
        if getattr(a, name) != getattr(b, name):
            raise PrescoreError(f"data: {name} {getattr(b, name)} after {getattr(a, name)}; it must not change")
    count = a.count + b.count
    p, q = a.count / count, b.count / count
    between = mean_power((a.mean - b.mean)[None], a.transformed_dims)
    both = replace(
        a,
        count=count,
        mean=p * a.mean + q * b.mean,
        mean_square=p * a.mean_square + q * b.mean_square,
        power=p * a.power + q * b.power,
        power_centred=p * a.power_centred + q * b.power_centred + p * q * between,
        minimum=min(a.minimum, b.minimum),
        maximum=max(a.maximum, b.maximum),
        cosine_variance=_merged_variance(a, b),
        scales=_merged_scales(a, b),
    )
    of_a, of_b = _rows(a), _rows(b)
    if of_a is None and of_b is None:
        return both
    if of_a is None or of_b is None:
        raise PrescoreError("data: only one of two statistics has components; both or none are needed")
    return _with_components(both, torch.cat([of_a, of_b, _between(a, b)]), min(len(of_a), len(of_b)))


def mean_power(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Mean over the batch x, (N, *event), of |F x|^2, F the unnormalised transform over `dims`, the last halved.

    Exactly symmetric in k and -k, which the mean of the library's spectra is only up to rounding.
    """
    spectrum = torch.view_as_real(torch.fft.rfftn(x, dim=dims))
    return symmetric_part(spectrum.square().sum(-1).mean(0), len(dims), x.shape[-1])


def _measure(x: Tensor, data_range: tuple[float, float] | None, axes: int | None) -> tuple[Moments, Tensor]:
    """Moments of one piece (n, *event) by themselves, and its samples about their mean, (n, d)."""
    event_shape = tuple(x.shape[1:])
    axes = min(max(len(event_shape) - 1, 1), 3) if axes is None else axes
    if not 1 <= axes <= min(3, len(event_shape)) or 0 in event_shape:
        raise PrescoreError(f"axes: spectra over {axes} axes asked of samples of shape {event_shape}")
    x = checked(x, data_range)
    mean, dims = x.mean(0), tuple(range(-axes, 0))
    centred = x - mean
    power_centred = mean_power(centred, dims)
    moments = Moments(
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
        cosine_variance=cosine_transform(centred, axes).square().mean(0),
    )
    return moments, centred.flatten(1)


def _pieces(batch: Tensor) -> Iterator[Tensor]:
    return (piece for piece in batch.split(max(1, PIECE // max(1, batch[:1].numel()))) if len(piece))


def _rows(moments: Moments) -> Tensor | None:
    """The scatter that the components hold, as rows (K, d) for `leading`."""
    if moments.components is None or moments.component_variances is None:
        return None
    sizes = (moments.count * moments.component_variances).sqrt()
    return sizes.unsqueeze(1) * moments.components.flatten(1)


def _between(a: Moments, b: Moments) -> Tensor:
    """The row, (1, d), that the distance of two means adds to the rows of both."""
    return (a.count * b.count / (a.count + b.count)) ** 0.5 * (a.mean - b.mean).reshape(1, -1)


def _with_components(moments: Moments, rows: Tensor, k: int) -> Moments:
    directions, squares = leading(rows, k)
    return replace(
        moments,
        components=directions.reshape(-1, *moments.event_shape),
        component_variances=squares / moments.count,
    )


def _merged_variance(a: Moments, b: Moments) -> Tensor | None:
    if a.cosine_variance is None or b.cosine_variance is None:
        return None
    p, q = a.count / (a.count + b.count), b.count / (a.count + b.count)
    between = cosine_transform(a.mean - b.mean, a.axes).square()
    return p * a.cosine_variance + q * b.cosine_variance + p * q * between


def _merged_scales(a: Moments, b: Moments) -> Tensor | None:
    if a.scales is None or b.scales is None:
        return None
    weights = [
        torch.full_like(part.scales, part.count / len(part.scales)) for part in (a, b) if part.scales is not None
    ]
    return equal_parts(torch.cat([a.scales, b.scales]), torch.cat(weights))
