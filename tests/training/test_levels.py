import itertools
import math

import pytest

from prescore.errors import PrescoreError
from prescore.training.levels import MASS, count_levels, geometric_levels, ratio


@pytest.mark.parametrize(
    ("side", "sigma_max", "levels"), [(32, 50, 232), (64, 90, 500), (96, 140, 788), (128, 190, 1086), (256, 348, 2311)]
)
def test_numbers_of_levels_of_the_paper(side, sigma_max, levels):
    assert count_levels(0.01, sigma_max, 3 * side**2) == levels


def test_ratio_solves_the_equation():
    gamma, D = ratio(784), 784
    centre = math.sqrt(2 * D) * (gamma - 1)
    mass = (math.erf((centre + 3 * gamma) / math.sqrt(2)) - math.erf((centre - 3 * gamma) / math.sqrt(2))) / 2
    assert mass == pytest.approx(MASS, abs=1e-9)


def test_geometric_levels():
    levels = geometric_levels(0.01, 1.0, 10)
    assert (levels[0], levels[-1], len(levels)) == (1.0, 0.01, 10)
    ratios = [a / b for a, b in itertools.pairwise(levels)]
    assert ratios == pytest.approx([100 ** (1 / 9)] * 9)
    with pytest.raises(PrescoreError, match="levels: 1 noise levels; at least 2"):
        geometric_levels(0.01, 1.0, 1)
