"""Which of the paper's seven skew-symmetric operators are zero."""

import math

import pytest
import torch
from test_experiments import experiment

from prescore.operators import Roll

SHAPES = [(4, 4), (5, 6), (7, 5), (3, 4, 6)]
SKEWS = experiment("paper_skews")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["S", "S4", "S5", "S6"])
def test_four_of_the_papers_seven_are_zero(name, shape):
    matrix = SKEWS.paper_skews()[name].as_matrix(shape)
    assert matrix.abs().max() < 1e-14


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["S1", "S2", "S3"])
def test_the_other_three_are_skew_and_vanish_only_where_twice_the_shift_is_a_whole_turn(name, shape):
    places = {"S1": 1, "S2": 10, "S3": 100}[name]
    S = SKEWS.paper_skews()[name].as_matrix(shape)
    assert torch.equal(S, -S.T)
    whole = all(2 * places % n == 0 for n in shape[-2:])
    assert (S.abs().max() == 0) == whole


@pytest.mark.parametrize("n", [2, 3, 8, 9])
def test_the_dft_matrix_is_symmetric(n):
    """Why S = Re[F - F^T] is zero; and with the conjugate transpose in its place it is zero too."""
    F = torch.fft.fft(torch.eye(n, dtype=torch.complex128))
    torch.testing.assert_close(F, F.T, rtol=0, atol=1e-13)
    assert (F - F.mH).real.abs().max() < 1e-13
    assert (F - F.mH).imag.abs().max() > 0.5 or n == 2  # not because F were real


@pytest.mark.parametrize("places", [(1, 1), (2, 3), (10, 10)])
def test_conjugating_a_shift_with_the_fourier_transform_multiplies_by_an_imaginary_sine(places):
    """Why S4..S6 are zero: F (P - P^T) F^-1 x = -2 i sin(2 pi (m h / H + n w / W)) x, so its real part vanishes."""
    H, W = 5, 6
    x = random(1, H, W)
    inner = torch.fft.ifft2(x)
    shifted = Roll(places).mv(inner) - Roll(places).T.mv(inner)
    h, w = torch.arange(H, dtype=torch.float64)[:, None], torch.arange(W, dtype=torch.float64)
    sine = -2j * torch.sin(2 * math.pi * (places[0] * h / H + places[1] * w / W))
    torch.testing.assert_close(torch.fft.fft2(shifted), sine * x, rtol=0, atol=1e-12)
    assert SKEWS.FourierRollSkew(places).mv(x).abs().max() < 1e-12


def test_the_zero_operators_compute_what_the_formula_says():
    """On a complex state the same formulas are not zero, so the code does not return zeros by decree."""
    x = torch.complex(random(1, 4, 5), random(1, 4, 5, seed=1))
    assert SKEWS.FourierRollSkew((1, 1)).mv(x).abs().max() > 0.5
    y = random(1, 4, 5)
    full = torch.fft.fftn(y, dim=(-2, -1), norm="ortho")
    assert full.real.abs().max() > 0.5  # each half of F - F^T
    assert SKEWS.FourierSkew().mv(y).abs().max() < 1e-14  # but not their difference
