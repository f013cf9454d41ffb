import math

import pytest
import torch
from metrics.test_kernel import normals

from prescore.errors import PrescoreError
from prescore.metrics.neighbours import Neighbours, neighbour_metrics


def by_hand(x, y, k):
    def distance(u, v):
        return float((u - v).norm())

    def reach(z):
        return [sorted(distance(u, v) for v in z)[k] for u in z]

    inside_true = [[distance(u, v) <= r for v, r in zip(y, reach(y), strict=True)] for u in x]
    inside_generated = [[distance(u, v) <= r for u, r in zip(x, reach(x), strict=True)] for v in y]
    return Neighbours(
        precision=sum(map(any, inside_true)) / len(x),
        recall=sum(map(any, inside_generated)) / len(y),
        density=sum(map(sum, inside_true)) / (k * len(x)),
        coverage=sum(map(any, zip(*inside_true, strict=True))) / len(y),
    )


@pytest.mark.parametrize("k", [1, 3])
def test_every_distance_by_hand(k, monkeypatch):
    monkeypatch.setattr("prescore.metrics.neighbours.ROWS", 7)
    x, y = normals(23, 3, 0), normals(17, 3, 1, shift=0.8)
    assert neighbour_metrics(x, y, k=k) == by_hand(x, y, k)


def test_true_samples():
    """Density 1 and coverage 1 - prod (m - i)/(n + m - i) on average, whatever the distribution."""
    n, m, k, draws = 40, 30, 3, 200
    found = [neighbour_metrics(normals(n, 2, 2 * i), normals(m, 2, 2 * i + 1), k=k) for i in range(draws)]
    expected = {"density": 1.0, "coverage": 1 - math.prod((m - i) / (n + m - i) for i in range(1, k + 1))}
    for name, value in expected.items():
        values = torch.tensor([getattr(f, name) for f in found])
        assert abs(values.mean() - value) < 4 * values.std() / draws**0.5, name


def test_what_each_one_sees():
    """A collapsed set is precise and covers little; one that is elsewhere is neither."""
    true = normals(300, 2, 0)
    collapsed = neighbour_metrics(0.05 * normals(300, 2, 1), true)
    assert collapsed.precision > 0.95
    assert collapsed.recall < 0.2
    assert collapsed.coverage < 0.2
    assert neighbour_metrics(normals(300, 2, 1, shift=50.0), true) == Neighbours(0.0, 0.0, 0.0, 0.0)


def test_bad_input_is_refused():
    with pytest.raises(PrescoreError, match="k: 0"):
        neighbour_metrics(torch.zeros(9, 1), torch.zeros(9, 1), k=0)
    with pytest.raises(PrescoreError, match="at least 6"):
        neighbour_metrics(torch.zeros(5, 1), torch.zeros(9, 1))
