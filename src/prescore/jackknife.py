"""How far the metrics of a set of samples move with their seeds: a jackknife over ten blocks of samples.

The samples are cut into BLOCKS blocks of b = n // BLOCKS that follow each other; what is left of n is in none of them.
With t_g the metric of all samples but those of block g, and t their mean over g, the standard error is

    SE^2 = (n - b)^2 / (b n (BLOCKS - 1)) sum_g (t_g - t)^2,

which for a mean of independent samples has the variance of that mean as its expectation, and for a smooth function of
means in the limit of many samples. It is the spread of the value *at this n*, over draws of n other seeds beside the
same true samples: all t_g are of equally many samples, so that a bias that depends on n, as that of the Frechet
distance, is in neither SE nor differences at equal n. Where samples cannot be told from true ones, the distances are of
second order in what is random, and SE is then up to about sqrt(2) too large: an interval is too wide there, never too
narrow.

Two samplers that start from the same seeds are alike in much of what is random. The error of the difference of their
metrics is that of the differences of t_g, block by block, which is far smaller than the two errors suggest.

Source: Kunsch, "The jackknife and the bootstrap for general stationary observations", Annals of Statistics 1989,
https://doi.org/10.1214/aos/1176347265; Efron & Stein, "The jackknife estimate of variance", Annals of Statistics 1981,
https://doi.org/10.1214/aos/1176345462, for the direction of its bias.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import floor, fsum, hypot, isfinite, log10, sqrt
from typing import TypeVar

BLOCKS = 10
QUANTILE = 2.262  # 97.5 % of Student's t with BLOCKS - 1 degrees of freedom

Part = TypeVar("Part")
Name = TypeVar("Name", bound=Hashable)


def block_sizes(n: int) -> list[int]:
    """How many of n samples are in each block, and last what is left; one part of fewer than BLOCKS samples."""
    b, rest = divmod(n, BLOCKS)
    return [*[b] * BLOCKS, *([rest] if rest else [])] if b else [n]


def leave_out(parts: Sequence[Part], blocks: int) -> Iterator[Sequence[Part]]:
    """All parts; then all but each of the first `blocks`."""
    yield parts
    for g in range(blocks):
        yield [*parts[:g], *parts[g + 1 :]]


def deviations(values: Sequence[float], n: int) -> list[float]:
    """What each block adds to the error of a metric: (t_g - t) (n - b) / sqrt(b n (BLOCKS - 1)).

    The square root of the sum of their squares is the standard error.

    Args:
        values: t_g, of the samples without each of the blocks.
        n: samples, with all blocks.
    """
    b, mean = n // BLOCKS, fsum(values) / len(values)
    return [(value - mean) * (n - b) / sqrt(b * n * (BLOCKS - 1)) for value in values]


@dataclass(frozen=True)
class Estimate:
    """A metric, with what each block of seeds adds to its error; None where no error could be found."""

    value: float
    deviations: Sequence[float] | None

    @classmethod
    def of(cls, value: float, without: Sequence[float], n: int) -> "Estimate":
        """Of a value of n samples, and those without each of the blocks, which may be missing."""
        found = deviations(without, n) if without else None
        return cls(value, None if standard_error(found) is None else found)

    @property
    def error(self) -> float | None:
        """The standard error."""
        return standard_error(self.deviations)

    def is_told_from(self, other: "Estimate") -> bool:
        """Whether the two differ by more than chance, at 95 %, if they are of the same seeds."""
        if self.deviations is None or other.deviations is None:
            return False
        apart = standard_error([a - b for a, b in zip(self.deviations, other.deviations, strict=True)])
        return apart is not None and abs(self.value - other.value) > QUANTILE * apart


def standard_error(deviations: Sequence[float] | None) -> float | None:
    """Of what the blocks add to it; None without them."""
    error = None if deviations is None else hypot(*deviations)
    return error if error is not None and isfinite(error) else None


def indistinguishable(found: Mapping[Name, Estimate], higher: bool) -> list[Name]:
    """The best of some values of one metric, of the same seeds, and those that cannot be told from it.

    None is found where the best has no error. A value of a distance below 0, which the kernel distance has by chance
    alone, is as good as any other below 0.
    """
    if not found:
        return []
    best = (max if higher else min)(found.values(), key=lambda estimate: estimate.value)
    if best.deviations is None:
        return []
    return [
        name
        for name, estimate in found.items()
        if not estimate.is_told_from(best) or (not higher and estimate.value <= 0)
    ]


def with_error(value: float, error: float | None) -> str:
    """A value beside its standard error, with the digits that this allows.

    >>> with_error(0.123456, 0.0123), with_error(1234.5, 51.0), with_error(0.5, None)
    ('0.123 ± 0.012', '1234 ± 51', '0.5')
    """
    if not error:
        return f"{value:.4g}" if error is None else f"{value:.4g} ± 0"
    digits = max(0, 1 - floor(log10(error)))
    if digits > 6 or max(abs(value), error) >= 1e6:
        return f"{value:.4g} ± {error:.2g}"
    return f"{value:.{digits}f} ± {error:.{digits}f}"
