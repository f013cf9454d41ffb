"""Simplification of products."""

import torch

from prescore.operators import Composed, Dense, Frequency, Identity, Pixel, compose


def frequency(value, axes=2):
    return Frequency(torch.full((4, 3) if axes == 2 else (3,), value, dtype=torch.float64), axes=axes, length=4)


def pixel(value):
    return Pixel(torch.full((4, 4), value, dtype=torch.float64))


def kinds(operator):
    factors = operator.factors if isinstance(operator, Composed) else (operator,)
    return [type(factor).__name__ for factor in factors]


def test_identities_disappear():
    assert kinds(Identity() @ Identity()) == ["Identity"]
    assert kinds(Identity() @ pixel(2.0)) == ["Pixel"]
    assert kinds(pixel(2.0) @ Identity() @ frequency(3.0)) == ["Pixel", "Frequency"]
    assert kinds(compose()) == ["Identity"]


def test_neighbours_in_the_same_basis_merge_across_products():
    left, right = frequency(2.0) @ pixel(3.0), pixel(5.0) @ frequency(7.0)
    product = left @ right
    assert kinds(product) == ["Frequency", "Pixel", "Frequency"]
    assert product.factors[1].weights[0, 0] == 15


def test_merging_goes_on_until_nothing_is_left_to_merge():
    """compose(F, P, I, P, F) has F P^2 F; with a dense operator in between nothing else merges."""
    assert kinds(compose(frequency(2.0), pixel(2.0), Identity(), pixel(2.0), frequency(2.0))) == [
        "Frequency",
        "Pixel",
        "Frequency",
    ]
    dense = Dense(torch.eye(16, dtype=torch.float64))
    assert kinds(compose(pixel(2.0), dense, dense, pixel(2.0))) == ["Pixel", "Dense", "Pixel"]


def test_different_bases_do_not_merge():
    assert kinds(frequency(2.0) @ frequency(2.0, axes=1)) == ["Frequency", "Frequency"]


def test_the_gram_operator_of_frequency_and_pixel_is_three_factors():
    """M M^T = Mf Mp^2 Mf for M = Mf Mp: erratum 1 of the paper, which prints Mp Mf^2 Mp."""
    M = frequency(2.0) @ pixel(3.0)
    A = M @ M.T
    assert kinds(A) == ["Frequency", "Pixel", "Frequency"]
    assert A.factors[1].weights[0, 0] == 9


def test_coefficients_are_those_of_the_outermost_factor():
    """analyse ends in the spectrum, so synthesise needs one inverse transform only."""
    product = frequency(2.0) @ pixel(3.0)
    x = torch.ones(2, 4, 4, dtype=torch.float64)
    assert product.analyse(x).shape == (2, 4, 3)
    assert product.analyse(x).is_complex()
    assert (pixel(3.0) @ frequency(2.0)).analyse(x).shape == x.shape
