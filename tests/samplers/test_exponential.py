"""The exponential family: its weights, the methods that are members of it, its noise, its state and its errors."""

import math
from dataclasses import replace
from itertools import pairwise

import mpmath
import pytest
import torch
from flow import END, GAUSSIAN, MIXTURE, START, VARIANCES, X
from support import Replay, relative

from prescore import calibrate
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.gaussian import ErrorShare, Gaussian, GaussianFlow
from prescore.grid import append_zero
from prescore.operators import Frequency, Pixel
from prescore.operators.dense import PCA
from prescore.oracle import Diagonal, MixtureOracle
from prescore.samplers import DDIM, DDPM, EDMFlow, make_sampler
from prescore.samplers.base import sample
from prescore.samplers.exponential import Exponential

LEVELS = torch.tensor([START, 1.4, 0.9, 0.62, END, 0.12], dtype=torch.float64)
METHODS = [
    {"k": 1},
    {"k": 2},
    {"k": 2, "r1": 0.3, "weights": "published"},
    {"k": 3},
    {"k": 3, "r1": 0.25, "r2": 0.8},
    {"k": 2, "multistep": True},
    {"k": 3, "multistep": True},
    {"k": 3, "multistep": True, "weights": "published", "warm_up": False},
    {"k": 1, "corrector": True},
    {"k": 3, "multistep": True, "corrector": True},
]
EVERY_METHOD = pytest.mark.parametrize("method", METHODS, ids=str)
Z = torch.randn(40, *X.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
VARIED = Gaussian(torch.tensor([0.2, 0.0, 0.3, 0.1]), Pixel(torch.tensor([0.05, 0.6, 0.5, 2.0])))


def end(sampler, levels=LEVELS, x=X, denoise=MIXTURE, z=Z):
    noise, state = Replay(z), sampler.start(levels)
    for sigma, sigma_next in pairwise(levels):
        x, state = sampler.step(denoise, x, sigma, sigma_next, state, noise)
    return x


def isotropic(C):
    return Gaussian(torch.zeros(4, dtype=torch.float64), Pixel(torch.full((4,), C, dtype=torch.float64)))


# --- weights

CASES = [
    (C, s, t, l)
    for C in (0.0, 1e-9, 0.3, 7.0, 1e9, math.inf)
    for s, t in ((2.0, 1.999), (0.9, 0.3), (80.0, 0.5), (0.02, 0.001))
    for l in (0.0, 0.3, 1.0)  # noqa: E741
]


def exact_moments(C, s, t, l, n):  # noqa: E741
    """int 2p (v_t / v)^p sigma / sqrt(v) r^k dlam, v = a + b sigma^2, by adaptive quadrature in many digits."""
    with mpmath.workdps(30):
        a, b = (
            (mpmath.mpf(1), mpmath.mpf(0))
            if math.isinf(C)
            else (mpmath.mpf(C) / (1 + mpmath.mpf(C)), 1 / (1 + mpmath.mpf(C)))
        )
        s, t, p = mpmath.mpf(s), mpmath.mpf(t), (1 + mpmath.mpf(l) ** 2) / 2
        h = mpmath.log(s / t)

        def v(sigma):
            return a + b * sigma**2

        def kernel(r, k):
            sigma = s * mpmath.exp(-r * h)
            return 2 * p * h * (v(t) / v(sigma)) ** p * sigma / mpmath.sqrt(v(sigma)) * r**k

        moments = [mpmath.quad(lambda r, k=k: kernel(r, k), mpmath.linspace(0, 1, 9)) for k in range(n)]
        variance = v(t) * (1 - (v(t) / v(s)) ** (mpmath.mpf(l) ** 2)) / b if b else mpmath.mpf(l) ** 2 * (s**2 - t**2)
        return [float(m) for m in moments], float(mpmath.sqrt(variance)) if l else 0.0


@pytest.mark.parametrize(("C", "s", "t", "l"), CASES)
def test_weights(C, s, t, l):  # noqa: E741
    linear = GaussianFlow.of(torch.tensor(C, dtype=torch.float64))
    moments, std = exact_moments(C, s, t, l, 3)
    assert [m.item() for m in linear.moments(s, t, l, 3)] == pytest.approx(moments, rel=1e-10)
    # Where there is a closed form, it is what order 1 and the first moment use.
    assert linear.moments(s, t, l, 1)[0].item() == pytest.approx(moments[0], rel=1e-10)
    assert linear.std(s, t, l).item() == pytest.approx(std, rel=1e-10)


@pytest.mark.parametrize("s", [80.0, 0.3, 0.002])
@pytest.mark.parametrize("C", [0.0, 1e-9, 0.3, 1e9, math.inf])
def test_weight_of_the_step_to_zero(C, s):
    """The limit of the closed form; for C = 0 it is 1, where all of the weight lies at the end of the step."""
    linear = GaussianFlow.of(torch.tensor(C, dtype=torch.float64))
    a, b = linear.a.item(), linear.b.item()
    with mpmath.workdps(30):
        expected = mpmath.quad(
            lambda sigma: mpmath.sqrt(a) / (a + b * sigma**2), [0, *(s / 10**j for j in (6, 3, 1, 0))]
        )
    expected = 1.0 if C == 0 else float(expected)
    assert linear.moments(s, 0.0, 0.0, 1)[0].item() == pytest.approx(expected, rel=1e-10)
    kept = a / (a + b * s**2)
    assert linear.end(s, 1.0).item() == pytest.approx(math.sqrt(kept), rel=1e-12)
    assert linear.end(s, 0.0).item() == pytest.approx(kept, rel=1e-12)


# --- members of the family


@EVERY_METHOD
@pytest.mark.parametrize("prediction", ["noise", "data", "edm"])
def test_l_to_zero_is_the_ode(prediction, method):
    """Closed forms at l = 0, quadrature beside it."""
    ode = end(Exponential(prediction=prediction, l=0.0, **method))
    assert relative(end(Exponential(prediction=prediction, l=1e-7, **method)), ode) < 1e-6
    quiet = end(Exponential(prediction=prediction, l=1e-7, **method), z=torch.zeros_like(Z))
    assert relative(quiet, ode) < 1e-12


@EVERY_METHOD
@pytest.mark.parametrize("l", [0.0, 0.5, 1.0])
def test_limits_of_the_reference(l, method):  # noqa: E741
    """C -> 0 is data prediction, C -> infinity noise prediction, in proportion to C and to 1 / C."""
    for prediction, power in (("data", -1), ("noise", 1)):
        limit = end(Exponential(prediction=prediction, l=l, **method))
        near, far = (
            relative(end(Exponential(prediction="gaussian", reference=isotropic(C**power), l=l, **method)), limit)
            for C in (1e12, 1e5)
        )
        assert near < 1e-9
        assert 1e-8 < far < 1e-2


@EVERY_METHOD
@pytest.mark.parametrize("l", [0.0, 0.5, 1.0])
def test_an_isotropic_reference_is_edm(l, method):  # noqa: E741
    ours = end(Exponential(prediction="gaussian", reference=isotropic(0.7**2), l=l, **method))
    assert relative(ours, end(Exponential(prediction="edm", sigma_data=0.7, l=l, **method))) < 1e-13


@EVERY_METHOD
@pytest.mark.parametrize("l", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("last", [END, 0.0])
def test_the_data_s_own_gaussian_is_exact(last, l, method):  # noqa: E741
    """Whatever the steps: the distribution for any l, and each end point for l = 0."""
    levels = torch.tensor([START, 1.1, 0.6, last], dtype=torch.float64)
    sampler = Exponential(prediction="gaussian", reference=Gaussian(GAUSSIAN.mean, Pixel(VARIANCES)), l=l, **method)
    rows = torch.eye(12, dtype=torch.float64).unsqueeze(-1).expand(-1, -1, 4)
    out = end(
        sampler, levels, torch.cat([GAUSSIAN.mean.expand(11, 4), GAUSSIAN.mean + torch.ones(1, 4)]), GAUSSIAN, rows
    )
    gain, noise = out[11] - GAUSSIAN.mean, out[:11] - GAUSSIAN.mean
    variance = gain**2 * (VARIANCES + START**2) + noise.square().sum(0)
    torch.testing.assert_close(variance, VARIANCES + last**2, rtol=1e-12, atol=0)
    if l == 0:
        exact = GAUSSIAN.ode_solution(X, torch.tensor(START), last)
        assert relative(end(sampler, levels, denoise=GAUSSIAN), exact) < 1e-13


def scaled(sigma):
    """Scale s = alpha and noise level sigma_bar = s sigma of the VP form."""
    alpha = 1 / math.sqrt(1 + sigma**2)
    return alpha, alpha * sigma


def vp_step(order, l, x, s, t, z):  # noqa: E741
    """One step of SEEDS-1, -2 or -3, Algorithms 2 to 4, or of DPM-Solver (l = 0), in the VP coordinates, with the noise
    of the stages from the Brownian path; z are added, as they are symmetric."""
    h, (a_s, _) = math.log(s / t), scaled(s)
    c = 2 if l == 1 else 1

    def F(x_t, sigma):
        alpha, bar = scaled(sigma)
        return (x_t - alpha * MIXTURE(x_t / alpha, torch.tensor(sigma, dtype=torch.float64))) / bar

    def e(r):
        return math.expm1(r * h)

    def noise(*amounts):
        return l * sum(math.sqrt(amount) * draw for amount, draw in zip(amounts, z, strict=False))

    x = a_s * x
    F0, (a_t, b_t) = F(x, s), scaled(t)
    if order == 1:
        return (a_t / a_s * x - c * b_t * e(1) * F0 + b_t * noise(e(2))) / a_t
    if order == 2:
        s1 = math.sqrt(s * t)
        a1, b1 = scaled(s1)
        u = a1 / a_s * x - c * b1 * e(1 / 2) * F0 + b1 * noise(e(1))
        return (a_t / a_s * x - c * b_t * e(1) * F(u, s1) + b_t * noise(e(2) - e(1), e(1))) / a_t
    r1, r2 = 1 / 3, 2 / 3
    s1, s2 = s * math.exp(-r1 * h), s * math.exp(-r2 * h)
    (a1, b1), (a2, b2) = scaled(s1), scaled(s2)
    u1 = a1 / a_s * x - c * b1 * e(r1) * F0 + b1 * noise(e(2 * r1))
    u2 = a2 / a_s * x - c * b2 * e(r2) * F0 - c * b2 * r2 / r1 * (e(r2) / (r2 * h) - 1) * (F(u1, s1) - F0)
    u2 = u2 + b2 * noise(e(2 * r2) - e(2 * r1), e(2 * r1))
    x_t = a_t / a_s * x - c * b_t * e(1) * F0 - c * b_t / r2 * (e(1) / h - 1) * (F(u2, s2) - F0)
    return (x_t + b_t * noise(e(2) - e(2 * r2), e(2 * r2) - e(2 * r1), e(2 * r1))) / a_t


@pytest.mark.parametrize("l", [0.0, 1.0])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_noise_prediction_is_seeds_and_dpm_solver(order, l):  # noqa: E741
    sampler = Exponential(k=order, l=l, weights="published")
    x, z = X, iter(Z)
    for s, t in pairwise(LEVELS.tolist()):
        x = vp_step(order, l, x, s, t, [next(z) for _ in range(order)])
    assert relative(end(sampler), x) < 1e-13


@pytest.mark.parametrize("l", [0.0, 1.0])
def test_edm_form(l):  # noqa: E741
    """Prop. 3.2 of SEEDS, F the output of an EDM network."""
    sd, s, t = 0.7, 1.3, 0.4
    c, levels = sd**2, torch.tensor([s, t], dtype=torch.float64)
    v_s, v_t = s**2 + c, t**2 + c
    F = (MIXTURE(X, levels[0]) - c / v_s * X) * math.sqrt(v_s) / (s * sd)
    if l == 1:
        e_s, e_t = (sigma / (sd * math.sqrt(v)) for sigma, v in ((s, v_s), (t, v_t)))
        expected = v_t / v_s * X + 2 * v_t * (e_s - e_t) * F + v_t * math.sqrt(e_s**2 - e_t**2) * Z[0]
    else:
        expected = math.sqrt(v_t / v_s) * X + math.sqrt(v_t) * (math.atan(s / sd) - math.atan(t / sd)) * F
    assert relative(end(Exponential(prediction="edm", sigma_data=sd, l=l), levels), expected) < 1e-14


@pytest.mark.parametrize("prediction", ["noise", "data", "edm"])
def test_first_order_odes(prediction):
    """Noise and data prediction are DDIM, Euler's method in sigma; any other C is another method."""
    levels = append_zero(LEVELS)
    ours = end(Exponential(prediction=prediction, l=0.0), levels)
    same = prediction != "edm"
    assert (relative(ours, end(DDIM(eta=0.0), levels)) < 1e-14) == same
    assert (relative(ours, end(EDMFlow(order=1), levels)) < 1e-14) == same


def test_names():
    levels = append_zero(LEVELS)
    assert torch.equal(end(make_sampler("dpm-solver-1"), levels), end(Exponential(l=0.0), levels))
    assert torch.equal(
        end(make_sampler("seeds-1", prediction="data"), levels), end(Exponential(prediction="data"), levels)
    )


def test_ddpm_is_data_prediction():
    """With l = 1, the smaller of DDPM's variances."""
    assert relative(end(Exponential(prediction="data", l=1.0)), end(DDPM())) < 1e-14


@pytest.mark.parametrize("l", [0.0, 0.3, 1.0])
def test_gddim_of_an_isotropic_model_is_data_prediction(l):  # noqa: E741
    """gDDIM (Theorem 1 of https://arxiv.org/abs/2206.05564): the step of DDIM,

    x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t - var) eps + sqrt(var) z
    var = (1 - abar_t) (1 - ((1 - abar_t) / (1 - abar_s) abar_s / abar_t)^(lambda^2))
    """
    x = X
    for (s, t), z in zip(pairwise(LEVELS), Z, strict=False):
        abar_s, abar_t = 1 / (1 + s**2), 1 / (1 + t**2)
        x0 = MIXTURE(x, s)
        eps = (x - x0) / s
        var = (1 - abar_t) * (1 - ((1 - abar_t) / (1 - abar_s) * abar_s / abar_t) ** (l**2))
        x = (abar_t.sqrt() * x0 + (1 - abar_t - var).sqrt() * eps + var.sqrt() * z) / abar_t.sqrt()
    assert relative(end(Exponential(prediction="data", l=l)), x) < 1e-14


@EVERY_METHOD
def test_a_frequency_reference_is_that_of_the_basis_of_cosines_and_sines(method):
    n = torch.arange(4, dtype=torch.float64)
    waves = [torch.ones(4), torch.cos(math.pi / 2 * n), torch.sin(math.pi / 2 * n), torch.cos(math.pi * n)]
    Q = torch.stack([wave.double() / wave.double().norm() for wave in waves], 1)
    C = torch.tensor([3.0, 0.5, 0.1], dtype=torch.float64)
    mean = torch.tensor([0.2, 0.0, 0.3, 0.1], dtype=torch.float64)
    references = [Gaussian(mean, Frequency(C, axes=1, length=4)), Gaussian(mean, PCA(Q, C[[0, 1, 1, 2]], 0.0))]
    levels = append_zero(LEVELS)
    ends = [end(Exponential(prediction="gaussian", reference=r, **method), levels) for r in references]
    assert relative(*ends) < 1e-12


# --- noise of the stages


@pytest.mark.parametrize(("r1", "r2"), [(1 / 3, 2 / 3), (0.25, 0.8), (0.2, 0.5), (0.5, 0.75)])
def test_stages_see_one_brownian_path(r1, r2):
    """The coefficients of z1, z2, z3 at the stages and the end; Algorithm 4 prints others unless r1 = 1/3, r2 = 2/3."""
    s, t = 1.7, 0.4
    h, seen = math.log(s / t), []

    def no_remainder(x, sigma):
        seen.append(x)
        return x

    levels, draws = torch.tensor([s, t], dtype=torch.float64), torch.eye(3, dtype=torch.float64).unsqueeze(-1)
    last = end(Exponential(k=3, r1=r1, r2=r2), levels, torch.zeros(3, 1, dtype=torch.float64), no_remainder, draws)
    found = torch.stack([*seen[1:], last]).squeeze(-1)

    def level(r):
        return s * math.exp(-r * h)

    def rows(*amounts):
        return torch.tensor([math.sqrt(math.exp(2 * p * h) - math.exp(2 * q * h)) for p, q in amounts]).double()

    path = [
        rows((r1, 0), (0, 0), (0, 0)),
        rows((r2, r2 - r1), (r2 - r1, 0), (0, 0)),
        rows((1, 1 - r1), (1 - r1, 1 - r2), (1 - r2, 0)),
    ]
    printed = [path[0], rows((r2, r1), (r1, 0), (0, 0)), rows((1, r2), (r2, r1), (r1, 0))]
    at = torch.tensor([level(r1), level(r2), t], dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(found, at * torch.stack(path), rtol=1e-6, atol=1e-12)
    assert torch.allclose(found, at * torch.stack(printed), rtol=1e-6) == (r2 == 2 / 3)


# --- state, calls, errors

ALL = [(prediction, method) for prediction in ("noise", "data", "gaussian") for method in METHODS]


def make(prediction, method, **arguments):
    return Exponential(
        prediction=prediction, reference=VARIED if prediction == "gaussian" else None, **method, **arguments
    )


@pytest.mark.parametrize(("prediction", "method"), ALL, ids=str)
def test_two_runs_of_one_object_do_not_meet(prediction, method):
    """Steps of two runs on different grids in turn, one of them in float32 beside."""
    sampler = make(prediction, method, l=0.5)
    grids = LEVELS, LEVELS[[0, 2, 3, 4, 5]]
    alone = [end(make(prediction, method, l=0.5), grid) for grid in grids]
    end(sampler, x=X.float(), z=Z.float())
    runs = [[X, sampler.start(grid), Replay(Z), grid] for grid in grids]
    for i in range(len(LEVELS) - 1):
        for run in runs:
            x, state, noise, grid = run
            if i < len(grid) - 1:
                run[:2] = sampler.step(MIXTURE, x, grid[i], grid[i + 1], state, noise)
    assert all(torch.equal(run[0], expected) for run, expected in zip(runs, alone, strict=True))


@pytest.mark.parametrize(("prediction", "method"), ALL, ids=str)
def test_a_step_is_a_function_of_its_arguments(prediction, method):
    sampler = make(prediction, method)
    x, state = X.clone(), sampler.start(LEVELS)
    x, state = sampler.step(MIXTURE, x, LEVELS[0], LEVELS[1], state, Replay(Z))
    kept = x.clone()
    first, second = (sampler.step(MIXTURE, x, LEVELS[1], LEVELS[2], state, Replay(Z))[0] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(x, kept)


@pytest.mark.parametrize(("prediction", "method"), ALL, ids=str)
@pytest.mark.parametrize("levels", [LEVELS, append_zero(LEVELS)], ids=["positive", "to zero"])
def test_total_calls(levels, prediction, method):
    sampler, calls = make(prediction, method), 0

    def count(x, sigma):
        nonlocal calls
        calls += 1
        return MIXTURE(x, sigma)

    end(sampler, levels, denoise=count)
    assert calls == sampler.total_calls(len(levels) - 1, final_zero=levels[-1].item() == 0)


@EVERY_METHOD
def test_the_last_step_to_zero_is_the_denoiser(method):
    """With noise and data prediction, and without noise. With noise prediction a corrector adds what it has moved."""
    for prediction in ("noise", "data") if "corrector" not in method else ("data",):
        sampler = make(prediction, method)
        state = sampler.start(LEVELS)
        x, noise = X, Replay(Z)
        for sigma, sigma_next in pairwise(LEVELS):
            x, state = sampler.step(MIXTURE, x, sigma, sigma_next, state, noise)
        last, _ = sampler.step(MIXTURE, x, LEVELS[-1], torch.tensor(0.0), state, Replay([]))
        assert relative(last, MIXTURE(x, LEVELS[-1])) < 1e-14


@pytest.mark.parametrize("corrector", [False, True])
def test_a_state_that_was_changed_between_steps_is_where_the_next_one_begins(corrector):
    """As inpainting changes it; what is known of the remainder is kept."""
    sampler = make_sampler("p-ode-2m", reference=VARIED, corrector=corrector)
    x, state = sampler.step(MIXTURE, X, LEVELS[0], LEVELS[1], sampler.start(LEVELS), Replay([]))
    changed, after = sampler.step(MIXTURE, x + 1, LEVELS[1], LEVELS[2], state, Replay([]))
    plain = make_sampler("p-ode-2m", reference=VARIED, corrector=False)
    _, bare = plain.step(MIXTURE, X, LEVELS[0], LEVELS[1], plain.start(LEVELS), Replay([]))
    torch.testing.assert_close(changed, plain.step(MIXTURE, x + 1, LEVELS[1], LEVELS[2], bare, Replay([]))[0])
    assert len(after.past) == 1


@pytest.mark.parametrize("s", [0.3, 1.0])
def test_the_last_step_keeps_the_variance_that_the_network_leaves_missing(s):
    """Two narrow clusters: D has less variance than the data, the Gaussian solution more."""
    data = MixtureOracle(torch.ones(2), torch.tensor([[-1.0], [1.0]]), Diagonal(torch.full((2, 1), 0.01)))
    sigma, C = torch.tensor(s, dtype=torch.float64), 1.01
    generator = torch.Generator().manual_seed(0)
    x0 = data.sample(200_000, generator)
    x = x0 + sigma * torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    error, gaussian_error = (x0 - data(x, sigma)).square().mean(), C * s**2 / (C + s**2)
    measured = ErrorShare(torch.stack([2 * sigma, sigma / 2]), (error / gaussian_error).repeat(2))
    known_exactly = ErrorShare(measured.levels, torch.zeros(2))

    def variance(left):
        reference = Gaussian(torch.zeros(1), Pixel(torch.tensor([C])), error_share=left)
        sampler = make_sampler("p-ode-2m", reference=reference)
        return sampler.step(data, x, sigma, torch.tensor(0.0), sampler.start(LEVELS), Replay([]))[0].var().item()

    assert variance(measured) == pytest.approx(C, rel=0.01)
    assert variance(None) > 1.04 * C
    assert variance(known_exactly) == pytest.approx(data(x, sigma).var().item(), rel=1e-12)
    assert variance(known_exactly) == pytest.approx(C - error.item(), rel=0.01)


def test_draws_do_not_depend_on_the_batch():
    sampler = Exponential(prediction="gaussian", reference=VARIED, k=3, grid=append_zero(LEVELS))
    runs = [sample(MIXTURE, sampler, seeds=range(4), event_shape=(4,), batch_size=n, progress=False) for n in (1, 4)]
    assert torch.equal(*runs)


ONE = torch.ones((), dtype=torch.float64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prediction": "nois"}, "prediction: unknown value 'nois'; did you mean noise"),
        ({"weights": "exakt"}, "weights: unknown value 'exakt'; did you mean exact"),
        ({"k": 4}, "k: 4 points; there are solvers of 1, 2 and 3"),
        ({"l": -0.1}, "l: -0.1 is not between 0"),
        ({"l": 1.5}, "l: 1.5 is not between 0"),
        ({"l": math.nan}, "l: nan is not between 0"),
        ({"sigma_data": 0.5}, "sigma_data: prediction='noise' does not use it; use 'edm'"),
        ({"sigma_data": -1.0, "prediction": "edm"}, "sigma_data: -1.0 is not a positive number"),
        ({"prediction": "gaussian"}, "reference: prediction='gaussian' needs one"),
        ({"reference": VARIED}, "reference: prediction='noise' does not use it; use 'gaussian'"),
        ({"k": 1, "r1": 0.5}, "r1, r2: [0.5] given, but this solver has 0 stages inside a step"),
        ({"k": 2, "r1": 0.3, "r2": 0.5}, "r1, r2: [0.3, 0.5] given, but this solver has 1 stages inside a step"),
        ({"k": 2, "multistep": True, "r1": 0.5}, "r1, r2: [0.5] given, but this solver has 0 stages inside a step"),
        ({"k": 2, "r1": 1.0}, "0 < r1 < r2 < 1 is needed"),
        ({"k": 3, "r1": 0.7}, "0 < r1 < r2 < 1 is needed"),
        ({"k": 3, "r1": 0.0}, "0 < r1 < r2 < 1 is needed"),
        ({"k": 2, "corrector": True}, "corrector: it belongs to solvers without stages"),
        ({"k": 3, "r1": 2 / 3, "r2": 0.9}, "r1: with r1 = 2/3 no weights give order 3"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(PrescoreError) as error:
        Exponential(**arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "levels", "message"),
    [
        ({"k": 3, "multistep": True}, LEVELS[:3], "steps: 2 given; this solver of order 3 needs at least"),
        ({"k": 2, "multistep": True}, LEVELS[:2], "steps: 1 given; this solver of order 2 needs at least"),
        ({"k": 2}, append_zero(LEVELS[:1]), "steps: 1 given; this solver of order 2 needs at least"),
        (
            {"prediction": "gaussian", "reference": Gaussian(torch.zeros(5), Pixel(torch.ones(5)))},
            LEVELS,
            "the statistics are of events of shape (5,), the model's have (4,)",
        ),
    ],
)
def test_bad_runs(arguments, levels, message):
    with pytest.raises(PrescoreError) as error:
        Exponential(**arguments).check((4,), levels)
    assert message in str(error.value)


def test_the_usual_levels_of_a_reference():
    """Geometric, no ratio above 4.5, and no overflow in many steps."""
    sampler = Exponential(prediction="gaussian", reference=Gaussian(torch.zeros(1, 3), Pixel(torch.ones(1, 3))), k=1)
    few, many = sampler.usual_levels(0.002, 80.0, 5), sampler.usual_levels(0.002, 80.0, 1000)
    assert sampler.usual_levels(70.0, 80.0, 5)[-2] == pytest.approx(70)
    ratios = few[:-2] / few[1:-1]
    assert few[-1] == many[-1] == 0
    assert torch.allclose(ratios, ratios[:1])
    assert ratios[0].item() == pytest.approx(4.5)
    assert many[-2].item() == pytest.approx(0.002)


def test_the_usual_levels_of_vectors_reach_their_smallest_scale():
    """Four times below the smallest deviation, of a direction that is not constant."""

    def lowest(variances, steps=10):
        reference = Gaussian(torch.zeros(3), Pixel(torch.tensor(variances).double()))
        return Exponential(prediction="gaussian", reference=reference).usual_levels(1e-4, 10.0, steps)[-2].item()

    assert lowest([1.0, 100.0, 0.04]) == pytest.approx(0.05)
    assert lowest([1.0, 100.0, 0.04], steps=100) == pytest.approx(0.005)
    assert lowest([1.0, 100.0, 0.0]) == pytest.approx(0.25)
    assert lowest([0.0, 0.0, 0.0]) == pytest.approx(1e-4)


@pytest.mark.parametrize("C", [0.0, 1e-33, 1e-8])
@pytest.mark.parametrize("multistep", [False, True])
def test_a_coordinate_unlike_the_reference_ends_at_the_answer_of_the_network(C, multistep):
    """A constant network, a reference that knows (nearly) no variance and another mean."""
    reference = Gaussian(torch.zeros(3), Pixel(torch.full((3,), C, dtype=torch.float64)))
    sampler = Exponential(prediction="gaussian", reference=reference, k=1 + multistep, multistep=multistep, l=0.0)

    def constant(x, sigma):
        return torch.full_like(x, 0.3)

    constant.sigma_min, constant.sigma_max, constant.dtype = 0.002, 80.0, torch.float64
    x = sample(constant, replace(sampler, steps=5), seeds=range(4), event_shape=(3,), progress=False)
    torch.testing.assert_close(x, torch.full_like(x, 0.3), rtol=0, atol=1e-3)


def test_a_reference_of_other_data_is_refused():
    statistics = calibrate(torch.rand(9, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    sampler = make_sampler("p-ode-2m", steps=3, reference=statistics)
    narrow = Denoiser(lambda x, sigma: x, (1, 4, 4), 0.01, 50.0, data_range=(-1.0, 1.0))
    with pytest.raises(PrescoreError, match=r"reference: of data in \(0.0, 1.0\), the model's are in \(-1.0, 1.0\)"):
        sample(narrow, sampler, seeds=[0], progress=False)
    colour = Denoiser(lambda x, sigma: x, (3, 4, 4), 0.01, 50.0)
    with pytest.raises(PrescoreError, match=r"the statistics are of events of shape \(1, 4, 4\)"):
        sample(colour, sampler, seeds=[0], progress=False)
    with pytest.raises(PrescoreError, match=r"reference: str given; a prescore.Gaussian is needed"):
        make_sampler("p-ode-2m", steps=3, reference="mnist-ve")
