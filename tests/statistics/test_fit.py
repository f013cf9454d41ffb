"""Cross-validated ridge regression, group by group."""

import pytest
import torch

from prescore.statistics.fit import STRENGTHS, cross_fit, group_edges, groups_of, ridge

K, M, P = 12, 60, 3
FOLDS = [torch.arange(first, K, 4) for first in range(4)]
GROUPS = torch.arange(M) % 2


def columns(seed=0):
    return torch.randn(K, M, P, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_what_is_linear_is_found_group_by_group():
    phi, true = columns(), torch.tensor([[0.5, -2.0, 0.0], [3.0, 0.0, 0.1]], dtype=torch.float64)
    full, parts = cross_fit(phi, (phi * true[GROUPS]).sum(-1), GROUPS, 2, FOLDS)
    torch.testing.assert_close(full, true, rtol=0, atol=1e-3)
    torch.testing.assert_close(parts, true.expand(4, 2, P), rtol=0, atol=1e-3)


def test_a_fold_has_no_part_in_its_own_weights():
    phi, y = columns(), columns(1)[..., 0] + columns()[..., 0]
    parts = cross_fit(phi, y, GROUPS, 2, FOLDS)[1]
    other = y.clone()
    other[FOLDS[2]] *= 1.001
    changed = cross_fit(phi, other, GROUPS, 2, FOLDS)[1]
    same = [torch.equal(a, b) for a, b in zip(parts, changed, strict=True)]
    assert same == [False, False, True, False]


def test_what_does_not_generalise_is_the_textbook_step():
    """Each trajectory has a slope of its own, and their mean is nothing."""
    phi, folds = columns()[:8], list(torch.arange(8).split(4))
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat_interleave(4)
    full, parts = cross_fit(phi, signs[:, None] * phi[..., 0], GROUPS, 2, folds)
    assert full.count_nonzero() == 0
    assert parts.count_nonzero() == 0


def test_the_ridge_by_hand():
    A, b = torch.tensor([[2.0, 0.5], [0.5, 1.0]]), torch.tensor([1.0, -1.0])
    found = ridge(A, b)
    for w, strength in zip(found, STRENGTHS, strict=True):
        torch.testing.assert_close((A + strength * torch.eye(2)) @ w, b)


@pytest.mark.parametrize("seed", [0, 1])
def test_groups_are_of_like_variance(seed):
    C = 10 ** (4 * torch.rand(500, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    edges = group_edges(C, 8)
    group = groups_of(C, edges)
    assert (edges.diff() < 0).all()
    assert sorted(set(group.tolist())) == list(range(len(edges) + 1))
    assert len(edges) in (6, 7)
    order = C.argsort(descending=True)
    assert (group[order].diff() >= 0).all()
    assert torch.equal(groups_of(9 * C, 9 * edges), group)


def test_coordinates_that_are_all_alike_are_one_group():
    assert len(group_edges(torch.ones(5), 4)) == 0
    assert groups_of(torch.ones(3), torch.zeros(0)).tolist() == [0, 0, 0]
    assert len(group_edges(torch.zeros(5), 4)) == 0
