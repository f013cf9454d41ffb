"""Reading data as batches, and refusing what is not what it is said to be."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from prescore.errors import PrescoreError

USUAL = "usual"  # range of data of which nothing is said
Batch = Tensor | tuple[Tensor, ...] | list[Tensor]


def batches(data: Tensor | Iterable[Batch]) -> Iterator[Tensor]:
    """The samples of each batch, (n, *event): the batch itself, or the first entry of a tuple.

    Raises:
        PrescoreError: a batch is not a tensor with at least two axes.
    """
    for batch in [data] if isinstance(data, Tensor) else data:
        x = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(x, Tensor) or x.ndim < 2:
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise PrescoreError(f"data: a batch is {found}; a tensor of shape (N, *event) is needed")
        yield x


def checked(x: Tensor, data_range: tuple[float, float] | None) -> Tensor:
    """The samples in float64 on the CPU; uint8 is mapped from 0..255 onto the range, by default (0, 1).

    Raises:
        PrescoreError: other integers, values that are not finite, or values outside the range.
    """
    low, high = data_range or (0.0, 1.0)
    if x.dtype == torch.uint8:
        return x.cpu().double() / 255 * (high - low) + low
    if not x.is_floating_point():
        inside = f" inside {data_range}" if data_range else ""
        raise PrescoreError(f"data: {x.dtype} given; floating point{inside}, or uint8, is needed")
    x = x.detach().cpu().double()
    if not torch.isfinite(x).all():
        raise PrescoreError(f"data: {int((~torch.isfinite(x)).sum())} values are not finite")
    if data_range is None:
        return x
    least, most = x.min().item(), x.max().item()
    slack = 1e-5 * (high - low)  # float16 and float32 arithmetic may overshoot the ends by a rounding
    if least < low - slack or most > high + slack:
        raise PrescoreError(
            f"data: values from {least:.4g} to {most:.4g} found, outside data_range ({low:g}, {high:g}); "
            "scale the data to it, or name the range they have, such as data_range=(-1, 1), on the command line "
            "--range -1 1"
        )
    return x
