"""The skew-symmetric operators, and which of the paper's are zero."""

import math

import pytest
import torch

from prescore.errors import PrescoreError
from prescore.operators import (
    FourierRollSkew,
    FourierSkew,
    Frequency,
    Identity,
    OddFrequency,
    Roll,
    RollSkew,
    paper_skews,
)
from prescore.precondition import Preconditioner

SHAPES = [(4, 4), (5, 6), (7, 5), (3, 4, 6)]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["S", "S4", "S5", "S6"])
def test_four_of_the_papers_seven_are_zero(name, shape):
    matrix = paper_skews()[name].as_matrix(shape)
    assert matrix.abs().max() < 1e-14


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["S1", "S2", "S3"])
def test_the_other_three_are_skew_and_vanish_only_where_twice_the_shift_is_a_whole_turn(name, shape):
    places = {"S1": 1, "S2": 10, "S3": 100}[name]
    S = paper_skews()[name].as_matrix(shape)
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
    assert FourierRollSkew(places).mv(x).abs().max() < 1e-12


def test_the_zero_operators_compute_what_the_formula_says():
    """On a complex state the same formulas are not zero, so the code does not return zeros by decree."""
    x = torch.complex(random(1, 4, 5), random(1, 4, 5, seed=1))
    assert FourierRollSkew((1, 1)).mv(x).abs().max() > 0.5
    y = random(1, 4, 5)
    full = torch.fft.fftn(y, dim=(-2, -1), norm="ortho")
    assert full.real.abs().max() > 0.5  # each half of F - F^T
    assert FourierSkew().mv(y).abs().max() < 1e-14  # but not their difference


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("places", [(1, 1), (2, 3), (10, 10), (100, 100), (0, 1), (1_000_001, 7)])
def test_a_roll_skew_is_an_odd_frequency_operator(shape, places):
    expected = RollSkew(places).as_matrix(shape)
    actual = OddFrequency.roll(places, shape[-2:]).as_matrix(shape)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(8, 6), (7, 9), (6, 7)])
@pytest.mark.parametrize("axis", [-1, -2])
def test_the_derivative_of_a_wave(shape, axis):
    n = shape[axis]
    k = 2 * math.pi * 2 / n
    t = torch.arange(n, dtype=torch.float64).reshape((1, -1) if axis == -1 else (-1, 1)).expand(shape)[None]
    S = OddFrequency.derivative(axis, shape)
    torch.testing.assert_close(S.mv(torch.sin(k * t)), k * torch.cos(k * t), rtol=0, atol=1e-12)
    assert S.as_matrix(shape).abs().max() > 0.5


@pytest.mark.parametrize(
    ("q", "message"),
    [
        (torch.ones(4, 3), r"q\(k\) and -q\(-k\) differ by up to 2; q must be odd"),
        (torch.ones(4, 4), "half a spectrum over 2 axes"),
        (torch.full((4, 3), torch.nan), "not finite"),
    ],
)
def test_a_multiplier_that_is_not_odd_is_refused(q, message):
    with pytest.raises(PrescoreError, match=message):
        OddFrequency(q, axes=2, length=4)


@pytest.mark.parametrize("operator", [Roll((1, 1)), RollSkew((1, 1)), FourierRollSkew((1, 1)), FourierSkew()])
def test_events_need_the_axes(operator):
    with pytest.raises(PrescoreError, match=r"acts on 2 axes, the model's events are \(5,\)"):
        operator.check((5,))


def test_rolls_merge():
    assert (Roll((1, 2)) @ Roll((3, -1))).places == (4, 1)
    assert (Roll((1,)) @ Roll((1, 2))).as_matrix((3, 4)).sum() == 12


def test_omega_has_a_limit_of_stability():
    """a lam (m^4 + omega^2 q^2) < 2 m^2, checked by the largest eigenvalue of the linear step on N(0, 1 / lam)."""
    shape, m, step = (4, 5), 1.2, 2 * 0.16**2
    filtered = Frequency(torch.full((4, 3), m, dtype=torch.float64), axes=2, length=5)
    q = OddFrequency.roll((1, 1), shape).q.abs().max().item()
    limit = math.sqrt((2 * m**2 / step - m**4) / q**2)
    for omega, stable in ((0.99 * limit, True), (1.01 * limit, False), (1000.0, False)):
        M = Preconditioner(filtered, skew=RollSkew((1, 1)), omega=omega)
        basis = torch.eye(20, dtype=torch.float64).reshape(20, *shape)
        F = (basis - step * M.drift(basis)).flatten(1)
        assert (torch.linalg.eigvals(F).abs().max().item() < 1) == stable
    assert math.sqrt(2 / step - 1) == pytest.approx(6.17, abs=0.01)  # omega q at m = 1, as the module says


def test_a_large_omega_stops_a_corrector_whose_step_follows_the_whole_drift():
    """eps = 2 (r |M z| / |drift|)^2: with S1 and omega = 1000 the corrector's steps are 1e-6 of the usual ones."""
    g, z = random(3, 1, 32, 32), random(3, 1, 32, 32, seed=1)
    plain = Preconditioner(Identity())
    M = Preconditioner(Identity(), skew=RollSkew((1, 1)), omega=1000.0)
    ratio = (plain.norm(plain.analyse(g, z)[0]) / M.norm(M.analyse(g, z)[0])) ** 2
    assert ratio.max() < 1e-6
