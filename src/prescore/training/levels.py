"""Noise levels of NCSNv2, chosen for the data.

Levels form a geometric sequence sigma_1 > ... > sigma_L. Technique 1: sigma_1 is the largest Euclidean distance between
two training examples, so that Langevin dynamics can pass from one to any other. Technique 2: the ratio gamma of two
neighbours is such that a sample of one level is likely at the next. The distance of x0 + sigma n from x0 is, for large
dimension D, close to N(sqrt(D) sigma, sigma^2 / 2), and gamma sets the mass that the smaller level has within three
deviations of the larger one's mean:

    Phi(sqrt(2 D) (gamma - 1) + 3 gamma) - Phi(sqrt(2 D) (gamma - 1) - 3 gamma) = `MASS`.

Source: Y. Song and S. Ermon, "Improved Techniques for Training Score-Based Generative Models", 2020,
https://arxiv.org/abs/2006.09011, techniques 1 and 2 and eq. 3. The text says that the mass is about 0.5. The numbers of
levels that it uses (232, 500, 788, 1086 and 2311 for D = 3072 to 196608) are those of 0.567; 0.5 would give 6 % fewer.
"""

import math

from prescore.errors import PrescoreError

MASS = 0.567


def ratio(dimension: int) -> float:
    """gamma > 1 of technique 2."""

    def overlap(gamma: float) -> float:
        centre = math.sqrt(2 * dimension) * (gamma - 1)
        return (math.erf((centre + 3 * gamma) / math.sqrt(2)) - math.erf((centre - 3 * gamma) / math.sqrt(2))) / 2

    low, high = 1.0, 10.0  # the overlap falls from 0.997
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if overlap(middle) > MASS else (low, middle)
    return low


def count_levels(sigma_min: float, sigma_max: float, dimension: int) -> int:
    """Number L of levels from sigma_max down to sigma_min whose ratio is about that of technique 2."""
    return max(2, int(math.log(sigma_max / sigma_min) / math.log(ratio(dimension))) + 1)


def geometric_levels(sigma_min: float, sigma_max: float, count: int) -> tuple[float, ...]:
    """`count` decreasing levels, both ends among them.

    Raises:
        PrescoreError: fewer than two levels.
    """
    if count < 2:
        raise PrescoreError(f"levels: {count} noise levels; at least 2 are needed")
    step = math.log(sigma_min / sigma_max) / (count - 1)
    return (*(sigma_max * math.exp(step * j) for j in range(count - 1)), sigma_min)
