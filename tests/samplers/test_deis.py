import pytest
import torch
from flow import MIXTURE, X, end
from scipy.integrate import quad
from support import relative

from prescore.errors import PrescoreError
from prescore.grid import append_zero, geometric, karras
from prescore.samplers.deis import CLOCKS, DEIS, TABLEAUX, WARMUPS, RungeKuttaDEIS, clock, lagrange_integrals
from prescore.schedule import Cosine, GeometricVE

EVERY = [DEIS(degree=q, variable=v, warmup=w) for q in range(4) for v in CLOCKS for w in WARMUPS]
EVERY += [RungeKuttaDEIS(method=method) for method in TABLEAUX]


def names(sampler):
    return "-".join(str(getattr(sampler, name, "")) for name in ("degree", "variable", "warmup", "method"))


@pytest.mark.parametrize("final_zero", [True, False])
@pytest.mark.parametrize("sampler", EVERY, ids=names)
def test_calls(sampler, final_zero):
    levels, calls = geometric(7, 0.1, 3.0, final_zero=final_zero), []

    def denoise(x, sigma):
        assert sigma > 0
        calls.append(sigma)
        return MIXTURE(x, sigma)

    assert end(sampler, levels, denoise=denoise).isfinite().all()
    assert len(calls) == sampler.total_calls(len(levels) - 1, final_zero)


@pytest.mark.parametrize("power", [0, -2])
@pytest.mark.parametrize("variable", CLOCKS)
def test_integrals_are_those_of_adaptive_quadrature(variable, power):
    levels = torch.tensor([40.0, 9.0, 2.5, 0.6], dtype=torch.float64)
    time, nodes = clock(variable, levels), levels[:3].flip(0)
    ours = lagrange_integrals(time, nodes[None], levels[2:3], levels[3:], power)[0]

    def integrand(sigma, j):
        v, others = time.t(sigma), [m for m in range(3) if m != j]
        L = [(v - time.t(nodes[m])) / (time.t(nodes[j]) - time.t(nodes[m])) for m in others]
        return sigma**power * (L[0] * L[1]).item()

    theirs = [quad(integrand, 2.5, 0.6, args=(j,), epsabs=1e-12, epsrel=1e-12)[0] for j in range(3)]
    assert ours.tolist() == pytest.approx(theirs, rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("variable", CLOCKS)
def test_degree_zero_is_ddim(variable):
    """x + (t - s) eps, whatever the variable."""
    levels, x = append_zero(karras(6, 0.1, 3.0)), X
    for i in range(6):
        x = x + (levels[i + 1] - levels[i]) * (x - MIXTURE(x, levels[i])) / levels[i]
    assert relative(end(DEIS(degree=0, variable=variable), levels), x) < 1e-13


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize(("variable", "time"), [("rho", lambda s: s), ("log-rho", torch.log), ("cosine", Cosine().t)])
def test_a_polynomial_of_this_degree_is_integrated_exactly(variable, time, degree, warmup):
    """After the warm-up: eps = v^q gives the integral of v^q, eps = v^(q + 1) does not give its own."""
    levels = geometric(9, 0.1, 3.0)

    def error(power):
        def eps(sigma):
            return float(time(torch.as_tensor(sigma, dtype=torch.float64))) ** power

        def denoise(x, sigma):
            return x - sigma * eps(sigma)

        # Both ends from the fourth level, so that the warm-up, exact to its own degree, leaves the difference.
        long = end(DEIS(degree=degree, variable=variable, warmup=warmup), levels, denoise=denoise)
        short = end(DEIS(degree=degree, variable=variable, warmup=warmup), levels[:5], denoise=denoise)
        exact = quad(eps, levels[4].item(), 0.1, epsabs=1e-13)[0]
        return abs((long - short).mean().item() - exact)

    assert error(degree) < 1e-11
    assert error(degree + 1) > 1e-6


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_in_log_sigma_the_step_to_zero_is_ddim(degree):
    levels = geometric(8, 0.1, 3.0)
    sampler = DEIS(degree=degree, variable="log-rho")
    x = end(sampler, levels)
    assert relative(end(sampler, append_zero(levels)), MIXTURE(x, levels[-1])) < 1e-13


def test_the_time_of_a_schedule_that_is_linear_in_log_sigma_is_log_rho():
    levels = karras(9, 0.1, 3.0)
    assert relative(end(DEIS(variable=GeometricVE(0.1, 3.0)), levels), end(DEIS(variable="log-rho"), levels)) < 1e-12


def test_usual_levels():
    tab, rho = (DEIS(variable=v, steps=9).levels(0.1, 50.0) for v in ("linear", "rho"))
    root = clock("linear", tab).t(tab[:-1]).sqrt()
    torch.testing.assert_close(root.diff(), root.diff().mean().expand(8), rtol=1e-9, atol=0)
    assert tab[-1] == rho[-1] == 0
    torch.testing.assert_close(rho, karras(9, 0.1, 50.0, final_zero=True))
    torch.testing.assert_close(RungeKuttaDEIS(steps=9).levels(0.1, 50.0), rho)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (DEIS, {"degree": 4}, "degree: 4 is not one of 0, 1, 2, 3"),
        (DEIS, {"variable": "rh"}, "variable: unknown value 'rh'; did you mean rho"),
        (DEIS, {"warmup": "none"}, "warmup: unknown value 'none'"),
        (RungeKuttaDEIS, {"method": "kutta"}, "method: unknown value 'kutta'; did you mean 3kutta"),
    ],
)
def test_bad_input(cls, arguments, message):
    with pytest.raises(PrescoreError, match=message):
        cls(**arguments)


def test_too_few_steps():
    DEIS(degree=3).check((4,), geometric(5))
    with pytest.raises(PrescoreError, match="steps: 3 given, but degree 3 needs at least 4"):
        DEIS(degree=3).check((4,), geometric(4))
