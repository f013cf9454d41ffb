"""The skew-symmetric operators."""

import math

import pytest
import torch

from prescore.errors import PrescoreError
from prescore.operators import (
    Frequency,
    Identity,
    OddFrequency,
    Roll,
    RollSkew,
)
from prescore.precondition import Preconditioner

SHAPES = [(4, 4), (5, 6), (7, 5), (3, 4, 6)]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


@pytest.mark.parametrize("operator", [Roll((1, 1)), RollSkew((1, 1))])
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
