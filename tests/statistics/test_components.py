"""Principal components, streamed, against one singular value decomposition of all data."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from prescore.errors import PrescoreError
from prescore.operators import PCA
from prescore.statistics import measure_moments, merge_moments

SHAPE = (2, 3, 4)
D = 24


def samples(count=40, seed=0):
    """Correlated, of decreasing variances, about a mean that is not zero; inside [0, 1]."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(9).standard_normal((D, D)))[0]
    x = 0.5 + rng.uniform(-1, 1, (count, D)) * 0.12 * 0.8 ** np.arange(D) @ basis.T
    return torch.from_numpy(x.reshape(count, *SHAPE))


def exact(x, k):
    """Directions (k, d) and variances (k,) by numpy."""
    flat = x.flatten(1).numpy()
    _, values, directions = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    return directions[:k], values[:k] ** 2 / len(flat)


def assert_found(statistics, x, k, rtol=1e-9):
    directions, variances = exact(x, k)
    found = statistics.components.flatten(1).numpy()
    assert statistics.components.shape == (k, *SHAPE)
    np.testing.assert_allclose(found @ found.T, np.eye(k), atol=1e-12)
    np.testing.assert_allclose(statistics.component_variances.numpy(), variances, rtol=rtol)
    np.testing.assert_allclose(np.abs((found * directions).sum(1)), 1, rtol=rtol)  # signs are arbitrary
    total = x.var(0, correction=0).sum().item()
    left = (total - variances.sum()) / (D - k) if k < D else 0
    assert statistics.remainder_variance == pytest.approx(left, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("k", [1, 5, 23, 24])
@pytest.mark.parametrize("sizes", [[40], [1] * 40, [30, 9, 1], [7, 33]])
def test_batches_do_not_matter(k, sizes):
    x = samples()
    assert_found(measure_moments(x.split(sizes), components=k), x, k)


def test_fewer_samples_than_numbers():
    x = samples(8)
    s = measure_moments(x.split(3), components=7)
    assert_found(s, x, 7)
    assert s.remainder_variance == pytest.approx(0, abs=1e-15)


def test_all_other_statistics_stay_the_same():
    x = samples()
    plain, with_components = measure_moments(x), measure_moments(x, components=3)
    for name in ("mean", "mean_square", "power", "power_centred"):
        assert torch.equal(getattr(plain, name), getattr(with_components, name))
    assert (plain.components, plain.component_variances, plain.remainder_variance) == (None, None, None)


def test_a_small_spread_on_a_large_mean():
    x = 0.5 + 1e-6 * (samples() - 0.5)
    assert_found(measure_moments(x.split(5), components=4), x, 4, rtol=1e-6)


def test_equal_samples_have_orthonormal_components_of_no_variance():
    s = measure_moments(torch.full((6, *SHAPE), 0.3), components=3)
    found = s.components.flatten(1)
    assert torch.allclose(found @ found.T, torch.eye(3).double(), atol=1e-12)
    assert s.component_variances.max() < 1e-20
    assert s.remainder_variance < 1e-20


def test_they_make_the_covariance():
    x = samples()
    s = measure_moments(x, components=24)
    C = PCA(s.components.flatten(1).T, s.component_variances, s.remainder_variance).as_matrix(SHAPE)
    np.testing.assert_allclose(C.numpy(), np.cov(x.flatten(1).numpy().T, bias=True), atol=1e-14)


def test_more_data_than_are_held(monkeypatch):
    """Shortened to 24 rows, the rank of the data, nothing is lost; to 4 rows the error has the stated bound."""
    x = samples(400)
    monkeypatch.setattr("prescore.statistics.moments.PIECE", 2 * 24 * D)
    assert_found(measure_moments(x, components=4), x, 4)
    monkeypatch.setattr("prescore.statistics.moments.PIECE", 2 * 4 * D)
    s = measure_moments(x, components=4)
    _, variances = exact(x, D)
    assert (s.component_variances.numpy() <= variances[:4] * (1 + 1e-12)).all()
    assert 0.8 * variances[0] < s.component_variances[0] < (1 - 1e-9) * variances[0]
    total = s.component_variances.sum().item() + (D - 4) * s.remainder_variance
    assert total == pytest.approx(variances.sum(), rel=1e-9)


def test_merge_of_complete_components_is_exact():
    a, b = samples(10), samples(12, seed=1)
    merged = merge_moments(measure_moments(a, components=9), measure_moments(b, components=11))
    assert_found(merged, torch.cat([a, b]), 9)


def test_merge_of_the_leading_ones_is_a_lower_bound_and_keeps_the_total():
    a, b = samples(100), samples(60, seed=1)
    first, second = measure_moments(a, components=6), measure_moments(b, components=5)
    merged, both = merge_moments(first, second), torch.cat([a, b])
    _, variances = exact(both, D)
    found = merged.component_variances.numpy()
    dropped = (100 * exact(a, D)[1][6] + 60 * exact(b, D)[1][5]) / 160
    assert len(found) == 5
    assert (found <= variances[:5] * (1 + 1e-12)).all()
    assert (found >= variances[:5] - dropped).all()
    assert found.sum() + (D - 5) * merged.remainder_variance == pytest.approx(variances.sum(), rel=1e-9)


def test_merge_needs_both_or_none():
    with pytest.raises(PrescoreError, match="only one of two statistics has components"):
        merge_moments(measure_moments(samples(), components=2), measure_moments(samples()))


def test_in_range_scales_the_variances():
    x = samples()
    mapped = measure_moments(x, components=4).in_range((-3.0, 5.0))
    assert_found(mapped, 8 * x - 3, 4)


def test_the_remainder_follows_a_changed_list():
    s = measure_moments(samples(), components=4)
    shorter = replace(s, components=s.components[:2], component_variances=s.component_variances[:2])
    assert_found(shorter, samples(), 2)


@pytest.mark.parametrize(
    ("count", "components", "message"),
    [
        (5, 5, "components: 5 asked of 5 samples of 24 numbers, which have at most 4"),
        (40, 25, "which have at most 24"),
        (1, 1, "which have at most 0"),
        (40, 0, "components: 0 is not a positive whole number"),
        (40, 2.0, r"components: 2\.0 is not"),
    ],
)
def test_bad_input(count, components, message):
    with pytest.raises(PrescoreError, match=message) as error:
        measure_moments(samples(count), components=components)
    assert "\n" not in str(error.value)
