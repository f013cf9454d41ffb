"""The rules by which samplers use a preconditioner."""

from dataclasses import FrozenInstanceError

import pytest
import torch

from prescore.errors import PrescoreError
from prescore.operators import PCA, Composed, Dense, Frequency, Identity, OddFrequency, Pixel, RollSkew
from prescore.precondition import Preconditioner

SHAPE = (2, 4, 5)
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def frequency(seed=0):
    power = torch.fft.rfftn(random(*SHAPE, seed=seed), dim=(-2, -1)).abs()
    return Frequency(1 + power / power.max(), axes=2, length=5)


def pixel(seed=1):
    return Pixel(1 + random(*SHAPE, seed=seed).abs())


OPERATORS = {
    "identity": Identity(),
    "pixel": pixel(),
    "frequency": frequency(),
    "dense": Dense(torch.eye(40, dtype=torch.float64) + 0.1 * random(40, 40)),
    "PCA": PCA(torch.linalg.qr(random(40, 4))[0], torch.full((4,), 2.0, dtype=torch.float64)),
    "frequency @ pixel": frequency() @ pixel(),
    "pixel @ frequency": pixel() @ frequency(),
}
SKEWS = {"no skew": None, "roll": RollSkew((1, 1)), "derivative": OddFrequency.derivative(-1, SHAPE[-2:])}
each_operator = pytest.mark.parametrize("M", OPERATORS.values(), ids=OPERATORS.keys())
each_skew = pytest.mark.parametrize("skew", SKEWS.values(), ids=SKEWS.keys())


def make(M, skew):
    return Preconditioner(M, skew, 0.7 if skew else 0.0)


@each_operator
@each_skew
def test_noise_drift_and_prior_are_the_matrices(M, skew):
    P, matrix = make(M, skew), M.as_matrix(SHAPE)
    S = 0.7 * skew.as_matrix(SHAPE) if skew else torch.zeros(40, 40, dtype=torch.float64)
    x = random(3, *SHAPE)
    flat = x.flatten(1)
    torch.testing.assert_close(P.noise(x).flatten(1), flat @ matrix.T, **EXACT)
    torch.testing.assert_close(P.prior(x).flatten(1), flat @ matrix.T, **EXACT)
    torch.testing.assert_close(P.drift(x).flatten(1), flat @ (matrix @ matrix.T + S).T, **EXACT)
    torch.testing.assert_close(P.drift(x, skew=False).flatten(1), flat @ (matrix @ matrix.T).T, **EXACT)


@each_operator
@each_skew
@pytest.mark.parametrize("use_skew", [True, False])
@pytest.mark.parametrize("per_sample", [False, True])
def test_one_step_is_the_sum_of_drift_and_noise(M, skew, use_skew, per_sample):
    P, g, z = make(M, skew), random(3, *SHAPE, seed=2), random(3, *SHAPE, seed=3)
    a = torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64) if per_sample else 0.3
    b = torch.tensor([1.0, 0.2, 0.4], dtype=torch.float64) if per_sample else 1.7
    a_wide, b_wide = (v.reshape(3, 1, 1, 1) if per_sample else v for v in (a, b))
    expected = a_wide * P.drift(g, skew=use_skew) + b_wide * P.noise(z)
    torch.testing.assert_close(P.combine(a, g, b, z, skew=use_skew), expected, **EXACT)
    G, Z = P.analyse(g, z, skew=use_skew)
    torch.testing.assert_close(P.synthesise(a_wide * G + b_wide * Z), expected, **EXACT)


@each_operator
@each_skew
def test_norms_are_those_of_drift_and_noise(M, skew):
    P, g, z = make(M, skew), random(3, *SHAPE, seed=2), random(3, *SHAPE, seed=3)
    G, Z = P.analyse(g, z)
    torch.testing.assert_close(P.norm(G), P.drift(g).flatten(1).norm(dim=1), **EXACT)
    torch.testing.assert_close(P.norm(Z), P.noise(z).flatten(1).norm(dim=1), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_identity_is_plain_arithmetic_bit_for_bit(dtype):
    P = Preconditioner(Identity())
    g, z = random(3, *SHAPE, seed=2).to(dtype), random(3, *SHAPE, seed=3).to(dtype)
    a = torch.tensor([0.1, 0.5, 2.0], dtype=dtype)
    assert torch.equal(P.combine(0.3, g, 1.7, z), 0.3 * g + 1.7 * z)
    assert torch.equal(P.combine(a, g, 1.7, z), a.reshape(3, 1, 1, 1) * g + 1.7 * z)
    assert torch.equal(P.drift(g), g)
    assert torch.equal(P.noise(z), z)
    G, Z = P.analyse(g, z)
    assert torch.equal(P.synthesise(0.3 * G + 1.7 * Z), 0.3 * g + 1.7 * z)


def count_transforms(monkeypatch):
    calls = {"rfftn": 0, "irfftn": 0}
    for name in calls:
        original = getattr(torch.fft, name)

        def counted(*args, original=original, name=name, **kwargs):
            calls[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(torch.fft, name, counted)
    return calls


@pytest.mark.parametrize(
    ("name", "combined", "apart"),
    [("identity", (0, 0), (0, 0)), ("frequency", (2, 1), (2, 1)), ("frequency @ pixel", (2, 2), (3, 2))],
)
def test_the_number_of_transforms(name, combined, apart, monkeypatch):
    """As the docstring says: forward and inverse real transforms of one step."""
    P, g, z = Preconditioner(OPERATORS[name]), random(3, *SHAPE), random(3, *SHAPE)
    calls = count_transforms(monkeypatch)
    P.combine(0.3, g, 1.7, z)
    assert (calls["rfftn"], calls["irfftn"]) == combined
    calls.update(rfftn=0, irfftn=0)
    G, Z = P.analyse(g, z)
    P.synthesise(P.norm(G).reshape(3, 1, 1, 1) * G + Z)
    assert (calls["rfftn"], calls["irfftn"]) == apart


def test_the_drift_is_computed_once():
    P = Preconditioner(frequency())
    assert isinstance(P.A, Frequency)
    assert torch.equal(P.A.weights, P.M.weights**2)


def test_products_compose_the_operators_and_keep_one_skew():
    f, p = frequency(), pixel()
    skew = RollSkew((1, 1))
    left = Preconditioner(f, label="frequency, alpha 3", alpha=3.0)
    right = Preconditioner(p, skew, 0.5, label="pixel, alpha 3", alpha=3.0)
    for product in (left @ right, right @ left):
        assert product.skew is skew
        assert product.omega == 0.5
        assert product.alpha == 3.0
    product = left @ right
    assert product.label == "frequency, alpha 3 @ pixel, alpha 3"
    torch.testing.assert_close(product.M.as_matrix(SHAPE), f.as_matrix(SHAPE) @ p.as_matrix(SHAPE), **EXACT)
    assert (left @ Preconditioner(p, alpha=2.0)).alpha is None
    with pytest.raises(PrescoreError, match="only one of a product may have one"):
        right @ right
    with pytest.raises(TypeError):
        left @ 2


def test_the_order_of_the_factors_matters():
    """Erratum 1: with the noise M z, the drift M^T M that the paper's Eq. 25 prints belongs to another covariance."""
    M = frequency() @ pixel()
    matrix = M.as_matrix(SHAPE)
    A = Preconditioner(M).A.as_matrix(SHAPE)
    torch.testing.assert_close(A, matrix @ matrix.T, **EXACT)
    assert (A - matrix.T @ matrix).abs().max() > 0.1
    assert isinstance(Preconditioner(M).A, Composed)


@pytest.mark.parametrize(
    ("M", "message"),
    [
        (Pixel(torch.tensor([1.0, 0.0])), "must be invertible: the Pixel operator is not invertible"),
        (Dense(torch.ones(2, 2)), "must be invertible: the Dense operator is not invertible"),
        (Pixel(torch.tensor([1.0, 0.0])) @ Dense(torch.eye(2)), "must be invertible: the Pixel operator"),
        (RollSkew((1,)), "must be invertible: the RollSkew operator has no eigenbasis"),
    ],
)
def test_what_cannot_be_inverted_is_refused(M, message):
    with pytest.raises(PrescoreError, match=message):
        Preconditioner(M)


def test_omega_without_skew_is_refused():
    with pytest.raises(PrescoreError, match=r"omega: 0\.5 given without a skew operator"):
        Preconditioner(Identity(), omega=0.5)


@pytest.mark.parametrize("skew", [Identity(), frequency(), Dense(random(40, 40))], ids=["identity", "filter", "dense"])
def test_a_term_that_is_not_skew_is_refused(skew):
    with pytest.raises(PrescoreError, match="is not skew-symmetric"):
        Preconditioner(Identity(), skew, 1.0).check(SHAPE)


def test_skew_terms_of_every_kind_pass():
    half = random(40, 40)
    for skew in (*list(SKEWS.values())[1:], Dense(half - half.T)):
        Preconditioner(frequency(), skew, 1.0).check(SHAPE)


def test_another_shape_is_refused_naming_both():
    with pytest.raises(PrescoreError) as error:
        Preconditioner(frequency(), label="frequency, alpha 3").check((2, 4, 6))
    for part in ("frequency, alpha 3", "does not fit the model", "(2, 4, 5)", "(2, 4, 6)"):
        assert part in str(error.value)
    with pytest.raises(PrescoreError, match=r"RollSkew operator acts on 2 axes"):
        Preconditioner(Identity(), RollSkew((1, 1)), 1.0).check((5,))


def test_frozen():
    with pytest.raises(FrozenInstanceError):
        Preconditioner(Identity()).omega = 1.0


def test_largest_gain_is_the_spectral_norm():
    matrix = OPERATORS["frequency"].as_matrix(SHAPE)
    gain = Preconditioner(OPERATORS["frequency"]).largest_gain(SHAPE)
    assert gain == pytest.approx(torch.linalg.matrix_norm(matrix, 2).item(), rel=1e-12)
