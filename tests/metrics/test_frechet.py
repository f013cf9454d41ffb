"""The Frechet distance, against closed forms and the textbook formula."""

import pytest
import scipy.linalg
import torch

from prescore.errors import PrescoreError
from prescore.metrics import Moments, feature_moments, frechet_distance


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(d, seed):
    A = normals(d, d + 3, seed=seed)
    return A @ A.mT / d


def textbook(m1, C1, m2, C2):
    root = scipy.linalg.sqrtm((C1 @ C2).numpy())
    return ((m1 - m2).square().sum() + C1.trace() + C2.trace()).item() - 2 * root.trace().real


def test_gaussians_that_share_their_axes():
    """sum (sqrt v_1 - sqrt v_2)^2 over the common axes, which the rotation Q hides."""
    Q = torch.linalg.qr(normals(6, 6)).Q
    v1 = torch.tensor([4.0, 1.0, 0.25, 9.0, 0.0, 1e-12], dtype=torch.float64)
    v2 = torch.tensor([1.0, 1.0, 4.0, 0.0, 0.0, 1e-2], dtype=torch.float64)
    m = normals(2, 6, seed=1)
    expected = (m[0] - m[1]).square().sum() + (v1.sqrt() - v2.sqrt()).square().sum()
    found = frechet_distance((m[0], Q @ v1.diag() @ Q.mT), (m[1], Q @ v2.diag() @ Q.mT))
    assert found == pytest.approx(expected.item(), rel=1e-7)


@pytest.mark.parametrize("seed", [0, 10, 20])
def test_two_by_two_in_closed_form(seed):
    """tr (C_1 C_2)^(1/2) = sqrt(tr C_1 C_2 + 2 sqrt det C_1 C_2) for matrices of two rows."""
    C1, C2 = covariance(2, seed), covariance(2, seed + 1)
    cross = ((C1 @ C2).trace() + 2 * torch.linalg.det(C1 @ C2).sqrt()).sqrt()
    zero = torch.zeros(2)
    expected = (C1.trace() + C2.trace() - 2 * cross).item()
    assert frechet_distance((zero, C1), (zero, C2)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("d", [1, 5, 40])
def test_it_is_the_textbook_formula(d):
    m1, m2, C1, C2 = *normals(2, d, seed=3), covariance(d, 4), covariance(d, 5)
    assert frechet_distance((m1, C1), (m2, C2)) == pytest.approx(textbook(m1, C1, m2, C2), rel=1e-9)
    assert frechet_distance((m2, C2), (m1, C1)) == pytest.approx(frechet_distance((m1, C1), (m2, C2)), rel=1e-12)


def test_features_are_summed_up_with_the_unbiased_covariance():
    x, y = normals(30, 4), 1 + 2 * normals(50, 4, seed=1)
    expected = textbook(x.mean(0), x.mT.cov(), y.mean(0), y.mT.cov())
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(x.reshape(30, 1, 2, 2), y) == frechet_distance(x, y)
    assert frechet_distance(x.float(), y) == pytest.approx(expected, rel=1e-5)


def test_equal_sets_have_no_distance_even_with_fewer_samples_than_features():
    x = normals(10, 50)
    assert frechet_distance(x, x) < 1e-12
    assert frechet_distance(x, x + 1) == pytest.approx(50, rel=1e-12)
    assert frechet_distance(x, 3 * x) == pytest.approx(4 * (x.mean(0).square().sum() + x.mT.cov().trace()).item())


@pytest.mark.parametrize("sizes", [(100,), (1, 99), (1,) * 100, (33, 60, 7)])
def test_batches_add_up(sizes):
    x = 1e3 + normals(100, 7)
    total = feature_moments(x.split(list(sizes)))
    assert total.count == 100
    torch.testing.assert_close(total.mean, x.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(total.covariance, x.mT.cov(), rtol=1e-9, atol=1e-12)
    assert frechet_distance(iter(x.split(list(sizes))), Moments.of(x)) < 1e-9


def test_the_bias_falls_as_one_over_n():
    """n d^2 = tr C + sum_ij (1 + delta_ij) w_i w_j / (2 (w_i + w_j)) to second order, against the exact moments."""
    w = torch.tensor([4.0, 1.0, 0.1], dtype=torch.float64)
    exact = torch.zeros(3), w.diag()
    expected = w.sum() + ((1 + torch.eye(3)) * torch.outer(w, w) / (2 * (w[:, None] + w))).sum()
    for n in (200, 800):
        found = [frechet_distance(w.sqrt() * normals(n, 3, seed=seed), exact) for seed in range(400)]
        assert n * sum(found) / len(found) == pytest.approx(expected.item(), rel=0.1)


def test_mistakes_are_refused():
    x = normals(5, 3)
    with pytest.raises(PrescoreError, match="1 sample; a covariance needs at least 2"):
        frechet_distance(x[:1], x)
    with pytest.raises(PrescoreError, match="3 a sample in one set and 2 in the other"):
        frechet_distance(x, x[:, :2])
    with pytest.raises(PrescoreError, match="2 a sample after 3"):
        feature_moments([x, x[:, :2]])
    with pytest.raises(PrescoreError, match="no samples given"):
        feature_moments([])
    with pytest.raises(PrescoreError, match="2 values are not finite"):
        frechet_distance(torch.where(x > x.flatten().topk(2).values.min() - 1e-9, torch.nan, x), x)
    with pytest.raises(PrescoreError, match=r"torch.int64 of shape \(5, 3\); floating point"):
        frechet_distance(x.long(), x)
    with pytest.raises(PrescoreError, match=r"mean \(3,\) and covariance \(2, 2\)"):
        frechet_distance((torch.zeros(3), torch.eye(2)), x)
    with pytest.raises(PrescoreError, match="it is not symmetric"):
        frechet_distance((torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])), x[:, :2])
    with pytest.raises(PrescoreError, match="negative eigenvalue -1"):
        frechet_distance((torch.zeros(2), torch.tensor([[1.0, 0.0], [0.0, -1.0]])), x[:, :2])
