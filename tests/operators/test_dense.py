"""Dense matrices and principal components."""

import pytest
import torch

from prescore.errors import PrescoreError
from prescore.operators import PCA, Composed, Dense


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def basis(n, k):
    return torch.linalg.qr(random(n, k))[0]


def test_products_of_dense_operators_are_dense():
    a, b = random(4, 4), random(4, 4, seed=1)
    product = Dense(a) @ Dense(b)
    assert isinstance(product, Dense)
    torch.testing.assert_close(product.matrix, a @ b)


@pytest.mark.parametrize("shape", [(3, 4), (3,), (2, 2, 2)])
def test_a_matrix_that_is_not_square_is_refused(shape):
    with pytest.raises(PrescoreError, match="a square one is needed"):
        Dense(torch.ones(shape))


def test_a_singular_matrix_has_no_inverse():
    """Singular in exact arithmetic, not quite so after rounding: the singular values decide."""
    matrix = torch.arange(1.0, 10.0, dtype=torch.float64).reshape(3, 3)
    with pytest.raises(PrescoreError, match=r"not invertible: its singular values reach from 16\.8"):
        _ = Dense(matrix).inv


def test_functions_need_a_symmetric_matrix():
    with pytest.raises(PrescoreError, match="not symmetric: it differs from its transpose by up to 1"):
        _ = Dense(torch.tensor([[1.0, 1.0], [0.0, 1.0]])).sqrt


def test_a_wrong_event_shape_is_named():
    with pytest.raises(PrescoreError, match=r"matrix is for events of 4 entries, the model's \(1, 3\) have 3"):
        Dense(torch.eye(4)).check((1, 3))
    with pytest.raises(PrescoreError, match=r"basis is for events of 4 entries, the model's \(5,\) have 5"):
        PCA(basis(4, 2), torch.ones(2)).check((5,))


@pytest.mark.parametrize(
    ("Q", "spectrum", "message"),
    [
        (basis(6, 2), torch.ones(3), r"basis \(6, 2\) and spectrum \(3,\) given"),
        (torch.ones(2, 3), torch.ones(3), "k <= n"),
        (2 * basis(6, 2), torch.ones(2), "not orthonormal, Q\\^T Q is off by 3"),
        (basis(6, 2) * torch.nan, torch.ones(2), "not orthonormal"),
        (basis(6, 2), torch.tensor([1.0, torch.nan]), "not finite"),
    ],
)
def test_unfitting_components_are_refused(Q, spectrum, message):
    with pytest.raises(PrescoreError, match=message):
        PCA(Q, spectrum)


def test_components_of_the_same_basis_multiply():
    Q = basis(6, 2)
    M = PCA(Q, torch.tensor([2.0, 3.0], dtype=torch.float64), 0.5)
    square = M @ M.T
    assert isinstance(square, PCA)
    assert square.spectrum.tolist() == [4, 9]
    assert square.rest == 0.25
    assert isinstance(M @ PCA(Q.clone(), M.spectrum), Composed)


def test_a_full_basis_has_no_rest():
    """With all n components the weight of the complement is nobody's eigenvalue."""
    M = PCA(basis(4, 4), torch.full((4,), 2.0, dtype=torch.float64), rest=0.0)
    torch.testing.assert_close(M.inv.as_matrix((4,)), torch.eye(4, dtype=torch.float64) / 2)
    assert M.largest_gain((4,)) == 2
    with pytest.raises(PrescoreError, match="PCA operator is not invertible"):
        _ = PCA(basis(4, 3), torch.ones(3), rest=0.0).inv
