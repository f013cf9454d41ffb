import pytest
import torch

from prescore.errors import PrescoreError
from prescore.metrics.kernel import kernel_distance


def normals(n, d, seed, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def by_hand(x, y, degree):
    """Every pair, one by one."""

    def k(u, v):
        return (float(u @ v) / len(u) + 1) ** degree

    def pairs(z):
        return sum(k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j) / (len(z) * (len(z) - 1))

    return pairs(x) + pairs(y) - 2 * sum(k(u, v) for u in x for v in y) / (len(x) * len(y))


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_all_pairs_by_hand(degree):
    x, y = normals(7, 3, 0), normals(5, 3, 1, shift=0.5)
    assert kernel_distance(x, y, degree=degree) == pytest.approx(by_hand(x, y, degree), rel=1e-12)


def test_blocks_of_rows_change_nothing(monkeypatch):
    x, y = normals(50, 4, 0), normals(30, 4, 1)
    whole = kernel_distance(x, y)
    monkeypatch.setattr("prescore.metrics.kernel.ROWS", 7)
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-12)


def test_no_bias_on_two_sets_of_one_distribution():
    """The mean over 400 draws of 10 samples is 0 within 4 of its standard errors, and a draw may be negative."""
    values = torch.tensor([kernel_distance(normals(10, 4, 2 * i), normals(10, 4, 2 * i + 1)) for i in range(400)])
    assert abs(values.mean()) < 4 * values.std() / 20
    assert (values < 0).any()


def test_linear_kernel_is_the_squared_distance_of_the_means():
    """|m_1 - m_2|^2 / d in expectation, here 0.25, with a standard error of 2 * 0.5 * sqrt(2 / (4000 * 8))."""
    x, y = normals(4000, 8, 0), normals(4000, 8, 1, shift=0.5)
    assert kernel_distance(x, y, degree=1) == pytest.approx(0.25, abs=4 * 0.0079)


def test_torchmetrics_agrees():
    kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = normals(60, 5, 0).float(), normals(60, 5, 1, shift=0.3).float()
    assert kernel_distance(x, y) == pytest.approx(kid.poly_mmd(x, y).item(), rel=1e-4)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(3, 4), "shapes"),
        (torch.zeros(3), torch.zeros(3), "shapes"),
        (torch.zeros(1, 2), torch.zeros(3, 2), "at least 2"),
        (torch.zeros(3, 2), torch.full((3, 2), torch.nan), "not finite"),
    ],
)
def test_bad_features_are_refused(a, b, message):
    with pytest.raises(PrescoreError, match=message):
        kernel_distance(a, b)


def test_a_degree_below_one_is_refused():
    with pytest.raises(PrescoreError, match="degree: 0"):
        kernel_distance(torch.zeros(2, 1), torch.zeros(2, 1), degree=0)
