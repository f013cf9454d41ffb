"""What every linear operator must do, tried on each of them beside a matrix that was built without it."""

from dataclasses import FrozenInstanceError, dataclass, fields

import pytest
import torch
from scipy.fft import dctn
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.operators import (
    PCA,
    Cosine,
    Dense,
    Frequency,
    Identity,
    LinearOperator,
    OddFrequency,
    Pixel,
    Roll,
    RollSkew,
)

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dft(*sizes):
    """The unitary DFT matrix over axes of these sizes, events flattened in row-major order."""
    F = torch.ones(1, 1, dtype=torch.complex128)
    for n in sizes:
        jk = torch.arange(n, dtype=torch.float64).outer(torch.arange(n, dtype=torch.float64))
        F = torch.kron(F, torch.polar(torch.full((n, n), n**-0.5, dtype=torch.float64), -2 * torch.pi * jk / n))
    return F


def spectral(full, axes):
    """Re[F^-1 diag(full) F], a block for each entry of the axes before the transformed ones."""
    F = dft(*full.shape[-axes:])
    blocks = [(F.mH * w) @ F for w in full.reshape(-1, len(F)).to(F)]
    return torch.block_diag(*blocks).real


def even(shape, axes, seed):
    """A filter between 1 and 3 with w(k) = w(-k): the power of a real signal."""
    power = torch.fft.fftn(random(*shape, seed=seed), dim=tuple(range(-axes, 0))).abs() ** 2
    return 1 + 2 * power / power.max()


def odd(shape, seed):
    """q with q(-k) = -q(k): the imaginary part of the spectrum of a real signal."""
    return torch.fft.fftn(random(*shape, seed=seed), dim=tuple(range(-len(shape), 0))).imag


def roll_matrix(places, shape):
    """P of x[h, w] -> x[h - m, w - n], entry by entry; every axis before the last len(places) stays."""
    n = torch.Size(shape).numel()
    index = torch.arange(n).reshape(shape)
    P = torch.zeros(n, n, dtype=torch.float64)
    for target in torch.cartesian_prod(*(torch.arange(m) for m in shape)).reshape(n, -1):
        source = target.clone()
        source[-len(places) :] -= torch.tensor(places)
        source %= torch.tensor(shape)
        P[index[tuple(target)], index[tuple(source)]] = 1
    return P


@dataclass
class Case:
    operator: LinearOperator
    shape: tuple[int, ...]
    matrix: Tensor
    without: tuple[str, ...] = ()  # which of inv and sqrt it refuses
    exact_batches: bool = True  # False where a matrix product rounds differently for another number of rows


def frequency(shape, axes, seed=0):
    mask = even(shape, axes, seed)
    return Case(Frequency.from_full(mask, axes), shape, spectral(mask, axes))


def pixel(weights, shape, **facts):
    return Case(Pixel(weights), shape, torch.diag(weights.expand(shape).flatten()), **facts)


def product(*cases):
    operator, matrix = cases[0].operator, cases[0].matrix
    for case in cases[1:]:
        operator, matrix = operator @ case.operator, matrix @ case.matrix
    return Case(operator, cases[0].shape, matrix, without=("sqrt",))


def pca(n, k, shape):
    Q = torch.linalg.qr(random(n, k, seed=5))[0]
    spectrum = 1 + random(k, seed=6) ** 2
    complement = torch.eye(n, dtype=torch.float64) - Q @ Q.T
    return Case(PCA(Q, spectrum, 0.7), shape, Q * spectrum @ Q.T + 0.7 * complement, exact_batches=False)


def cosine(shape, axes):
    """The transform of the identity by SciPy, a row for each entry."""
    n, weights = torch.Size(shape).numel(), 1 + random(*shape, seed=9) ** 2
    rows = dctn(torch.eye(n).reshape(n, *shape).double().numpy(), axes=tuple(range(-axes, 0)), norm="ortho")
    Q = torch.from_numpy(rows).reshape(n, n)
    return Case(Cosine(weights, axes), shape, Q * weights.flatten() @ Q.T, exact_batches=False)


def dense(matrix, shape, **facts):
    return Case(Dense(matrix), shape, matrix, exact_batches=False, **facts)


def roll_skew(places, shape):
    P = roll_matrix(places, shape)
    return Case(RollSkew(places), shape, P - P.T, without=("inv", "sqrt"))


def odd_frequency(shape, seed=0):
    q = odd(shape, seed)
    half = q[..., : shape[-1] // 2 + 1]
    return Case(OddFrequency(half, len(shape), shape[-1]), shape, spectral(1j * q, len(shape)), ("inv", "sqrt"))


SHAPE = (2, 4, 5)
FREQUENCY, PIXEL = frequency(SHAPE, 2), pixel(1 + random(*SHAPE, seed=2).abs(), SHAPE)
HALF = random(6, 6, seed=3)
CASES = {
    "identity": Case(Identity(), SHAPE, torch.eye(40, dtype=torch.float64)),
    "pixel": PIXEL,
    "pixel of mixed sign": pixel(random(*SHAPE, seed=2), SHAPE, without=("sqrt",)),
    "pixel, one weight a row": pixel(1 + random(4, 1, seed=2).abs(), SHAPE),
    "pixel, one weight": pixel(torch.tensor(1.5, dtype=torch.float64), (3,)),
    "frequency 1-D even": frequency((2, 8), 1),
    "frequency 1-D odd": frequency((7,), 1),
    "frequency 1-D of length 2": frequency((2,), 1),
    "frequency 1-D of length 1": frequency((3, 1), 1),
    "frequency 2-D even even": frequency((1, 4, 6), 2),
    "frequency 2-D odd odd": frequency((2, 3, 5), 2),
    "frequency 2-D odd even": frequency((3, 3, 4), 2),
    "frequency 2-D even odd": FREQUENCY,
    "frequency 2-D without channels": frequency((4, 4), 2),
    "frequency 3-D": frequency((1, 2, 3, 4), 3),
    "frequency 3-D odd": frequency((2, 4, 3), 3),
    "cosine 1-D": cosine((2, 7), 1),
    "cosine 2-D": cosine((2, 4, 5), 2),
    "cosine 3-D": cosine((2, 3, 4), 3),
    "dense": dense(torch.eye(6, dtype=torch.float64) + 0.3 * HALF, (2, 3), without=("sqrt",)),
    "dense symmetric": dense(HALF @ HALF.T + torch.eye(6, dtype=torch.float64), (6,)),
    "PCA": pca(12, 4, (3, 4)),
    "frequency @ pixel": product(FREQUENCY, PIXEL),
    "pixel @ frequency": product(PIXEL, FREQUENCY),
    "pixel @ frequency @ pixel": product(PIXEL, FREQUENCY, PIXEL),
    "frequency @ pixel @ frequency over other axes": product(FREQUENCY, PIXEL, frequency(SHAPE, 1, seed=8)),
    "roll": Case(Roll((1, 2)), SHAPE, roll_matrix((1, 2), SHAPE), without=("sqrt",)),
    "roll of the last axis": Case(Roll((-3,)), (2, 5), roll_matrix((-3,), (2, 5)), without=("sqrt",)),
    "roll skew": roll_skew((1, 2), (3, 4, 5)),
    "odd frequency": odd_frequency((4, 5)),
    "odd frequency 3-D": odd_frequency((3, 2, 4), seed=4),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def batch(case, seed=10, size=3):
    return random(size, *case.shape, seed=seed)


@each_case
def test_it_is_its_matrix(case):
    torch.testing.assert_close(case.operator.as_matrix(case.shape), case.matrix, **EXACT)
    x = batch(case)
    torch.testing.assert_close(case.operator.mv(x).flatten(1), x.flatten(1) @ case.matrix.T, **EXACT)


@each_case
def test_adjoint(case):
    A, x, y = case.operator, batch(case), batch(case, seed=11)
    left, right = (A.mv(x) * y).flatten(1).sum(1), (x * A.T.mv(y)).flatten(1).sum(1)
    torch.testing.assert_close(left, right, **EXACT)
    torch.testing.assert_close(A.T.as_matrix(case.shape), case.matrix.T, **EXACT)
    torch.testing.assert_close(A.T.T.as_matrix(case.shape), case.matrix, **EXACT)


@each_case
def test_inverse(case):
    if "inv" in case.without:
        with pytest.raises(PrescoreError, match=type(case.operator).__name__):
            _ = case.operator.inv
        return
    x = batch(case)
    torch.testing.assert_close(case.operator.inv.mv(case.operator.mv(x)), x, **EXACT)
    torch.testing.assert_close(case.operator.inv.as_matrix(case.shape), torch.linalg.inv(case.matrix), **EXACT)


@each_case
def test_square_root(case):
    if "sqrt" in case.without:
        with pytest.raises(PrescoreError, match=type(case.operator).__name__):
            _ = case.operator.sqrt
        return
    root = case.operator.sqrt.as_matrix(case.shape)
    torch.testing.assert_close(root, root.T, **EXACT)
    torch.testing.assert_close(root @ root, case.matrix, **EXACT)
    assert torch.linalg.eigvalsh(root)[0] > 0


@each_case
@pytest.mark.parametrize("kind", ["identity", "pixel", "frequency", "dense", "itself", "its adjoint"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_product(case, kind, side):
    """A @ B, however simplified, is the product of the matrices."""
    n = len(case.matrix)
    weights = 1 + random(*case.shape, seed=20).abs()
    partner = {
        "identity": lambda: Case(Identity(), case.shape, torch.eye(n, dtype=torch.float64)),
        "pixel": lambda: pixel(weights, case.shape),
        "frequency": lambda: frequency(case.shape, 1, seed=21),
        "dense": lambda: dense(random(n, n, seed=22), case.shape),
        "itself": lambda: case,
        "its adjoint": lambda: Case(case.operator.T, case.shape, case.matrix.T),
    }[kind]()
    first, second = (case, partner) if side == "left" else (partner, case)
    result = first.operator @ second.operator
    expected = first.matrix @ second.matrix
    torch.testing.assert_close(result.as_matrix(case.shape), expected, **EXACT)
    torch.testing.assert_close(result.T.as_matrix(case.shape), expected.T, **EXACT)


@each_case
def test_linear(case):
    x, y = batch(case), batch(case, seed=11)
    combined = case.operator.mv(0.3 * x - 2 * y)
    torch.testing.assert_close(combined, 0.3 * case.operator.mv(x) - 2 * case.operator.mv(y), **EXACT)


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_does_not_depend_on_its_batch(case, dtype):
    x = batch(case, size=7).to(dtype)
    whole, coefficients = case.operator.mv(x), case.operator.analyse(x)
    norm = case.operator.norm(coefficients)
    for start, stop in ((0, 1), (1, 3), (2, 7)):
        parts = (
            (case.operator.mv(x[start:stop]), whole),
            (case.operator.analyse(x[start:stop]), coefficients),
            (case.operator.norm(case.operator.analyse(x[start:stop])), norm),
        )
        for part, of_all in parts:
            if case.exact_batches:
                assert torch.equal(part, of_all[start:stop])
            else:
                torch.testing.assert_close(part, of_all[start:stop], rtol=0, atol=20 * torch.finfo(dtype).eps)


@each_case
def test_analyse_synthesise_norm(case):
    A, x = case.operator, batch(case)
    c = A.analyse(x)
    assert c.shape[0] == 3
    assert c.ndim == x.ndim
    torch.testing.assert_close(A.synthesise(c), A.mv(x), **EXACT)
    torch.testing.assert_close(A.norm(c), A.mv(x).flatten(1).norm(dim=1), **EXACT)
    torch.testing.assert_close(A.synthesise(A.coefficients(x)), x, **EXACT)
    d = A.analyse(batch(case, seed=11))
    torch.testing.assert_close(A.synthesise(0.3 * c - 2 * d), 0.3 * A.synthesise(c) - 2 * A.synthesise(d), **EXACT)


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_that_of_x(case, dtype):
    """float64 tensors inside do not change the precision of x, and float32 results are those of float64, rounded."""
    x = batch(case)
    y = case.operator.mv(x.to(dtype))
    assert y.dtype == dtype
    assert case.operator.norm(case.operator.analyse(x.to(dtype))).dtype == dtype
    limit = {torch.float32: 1e-6, torch.float64: 1e-13}[dtype]
    exact = case.operator.mv(x)
    assert (y - exact).abs().max() <= limit * 10 * max(1, exact.abs().max().item())


DIAGONAL = (Cosine, Dense, Identity, Pixel, Frequency, PCA)  # which know their eigenbasis, Dense if symmetric


@each_case
def test_eigenbasis(case):
    """A x is a product in it, coordinate by coordinate; there and back is x."""
    A, x = case.operator, batch(case)
    symmetric = torch.allclose(case.matrix, case.matrix.mT, rtol=0, atol=1e-6 * case.matrix.abs().max().item())
    if not isinstance(A, DIAGONAL) or (isinstance(A, Dense) and not symmetric):
        reason = "is not symmetric" if isinstance(A, Dense) else "has no eigenbasis known here"
        with pytest.raises(PrescoreError, match=f"{type(A).__name__} operator {reason}"):
            _ = A.eigenvalues
        return
    c = A.to_eigenbasis(x)
    assert len(c) == len(x)
    assert not A.eigenvalues.is_complex()
    assert (A.eigenvalues * c).shape == c.shape
    torch.testing.assert_close(A.from_eigenbasis(A.eigenvalues * c, case.shape), A.mv(x), **EXACT)
    torch.testing.assert_close(A.from_eigenbasis(c, case.shape), x, **EXACT)
    found = A.eigenvalues.expand(c.shape[1:]).flatten()
    spectrum = torch.linalg.eigvalsh(case.matrix)
    for values, among in ((found, spectrum), (spectrum, found)):
        assert (values[:, None] - among).abs().min(1).values.max() < 1e-12
    for dtype in (torch.float32, torch.float64):
        assert A.from_eigenbasis(A.to_eigenbasis(x.to(dtype)), case.shape).dtype == dtype


@each_case
def test_to_another_precision(case):
    single = case.operator.to(dtype=torch.float32)
    torch.testing.assert_close(single.as_matrix(case.shape), case.matrix, rtol=1e-5, atol=1e-5)
    for f in fields(single):
        if isinstance(getattr(single, f.name), Tensor):
            assert getattr(single, f.name).dtype == torch.float32
            assert getattr(case.operator, f.name).dtype == torch.float64


@each_case
def test_immutable(case):
    x = batch(case)
    before = x.clone()
    first = case.operator.mv(x)
    case.operator.analyse(x)
    assert torch.equal(x, before)
    assert torch.equal(case.operator.mv(x), first)
    with pytest.raises(FrozenInstanceError):
        case.operator.weights = None


@each_case
def test_largest_gain(case):
    """The spectral norm; exact where the operator is known in its basis, from below where it is iterated."""
    expected = torch.linalg.matrix_norm(case.matrix, 2).item()
    gain = case.operator.largest_gain(case.shape)
    iterated = type(case.operator).largest_gain is LinearOperator.largest_gain
    if iterated:
        assert expected * 0.99 - 1e-12 <= gain <= expected * (1 + 1e-12) + 1e-12
    else:
        assert gain == pytest.approx(expected, rel=1e-12)


@each_case
def test_check(case):
    """It accepts its own shape; operators that are tied to a shape refuse others, naming both."""
    case.operator.check(case.shape)
    other = (*case.shape[:-1], case.shape[-1] + 1)
    free = isinstance(case.operator, Identity | Roll | RollSkew)
    one_weight = isinstance(case.operator, Pixel) and case.operator.weights.shape[-1:] in ((), (1,))
    if free or one_weight:
        case.operator.check(other)
    else:
        with pytest.raises(PrescoreError) as error:
            case.operator.check(other)
        assert str(tuple(other)) in str(error.value)


def test_a_mistaken_partner_is_refused_by_python():
    with pytest.raises(TypeError):
        Identity() @ 2
