import math

import numpy as np
import pytest
import torch
from support import reference
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.schedule import (
    EDM,
    IDDPM,
    VE,
    VP,
    Cosine,
    FunctionSchedule,
    GeometricVE,
    RectifiedFlow,
    Schedule,
    SubVP,
    Tabulated,
    TabulatedVE,
    VariancePreserving,
    as_schedule,
)
from prescore.schedule import SCHEDULES as NAMED

SCHEDULES: dict[str, Schedule] = {
    "vp": VP(),
    "vp-refitted": VP.between(0.002, 80.0),
    "subvp": SubVP(),
    "ve": VE(),
    "ve-geometric": GeometricVE(),
    "edm": EDM(),
    "iddpm": IDDPM(),
    "cosine": Cosine(),
    "flow": RectifiedFlow(t_max=0.99),
    "flow-shifted": RectifiedFlow(3.0, t_max=0.99),
    "tabulated": Tabulated.linear(),
    "tabulated-ve": TabulatedVE(torch.logspace(-2, 1.7, 40, dtype=torch.float64)),
}
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def times(schedule: Schedule, n: int = 20001) -> Tensor:
    return torch.linspace(schedule.t_min, schedule.t_max, n, dtype=torch.float64)


def interior(schedule: Schedule) -> Tensor:
    """Times inside the domain, and off the entries of a table, where its derivative jumps."""
    return times(schedule, 998)[1:-1] + 1e-4 * (schedule.t_max - schedule.t_min)


@every_schedule
def test_sigma_survives_the_way_to_time_and_back(schedule):
    sigma = torch.linspace(math.log(schedule.sigma_min), math.log(schedule.sigma_max), 20001).double().exp()
    sigma = sigma.clamp(schedule.sigma_min, schedule.sigma_max)
    torch.testing.assert_close(schedule.sigma(schedule.t(sigma)), sigma, rtol=1e-12, atol=0)


@every_schedule
def test_time_survives_the_way_to_sigma_and_back(schedule):
    t = times(schedule)
    # Where sigma(0) > 0 the smallest times are known to an absolute accuracy only.
    atol = 1e-15 * schedule.t_max if isinstance(schedule, GeometricVE | TabulatedVE) else 0
    torch.testing.assert_close(schedule.t(schedule.sigma(t)), t, rtol=1e-12, atol=atol)


@pytest.mark.parametrize("schedule", [VP(), SubVP(), VE(), Cosine(), EDM()], ids=lambda s: type(s).__name__)
def test_smallest_times_keep_all_digits(schedule):
    t = torch.logspace(-14, -2, 200, dtype=torch.float64)
    torch.testing.assert_close(schedule.t(schedule.sigma(t)), t, rtol=1e-12, atol=0)


@every_schedule
def test_noise_increases_with_time_between_the_stated_ends(schedule):
    sigma = schedule.sigma(times(schedule))
    assert (sigma.diff() > 0).all()
    assert sigma.dtype == torch.float64
    assert sigma[0].item() == pytest.approx(schedule.sigma_min, rel=1e-13)
    assert sigma[-1].item() == pytest.approx(schedule.sigma_max, rel=1e-13)


@every_schedule
def test_derivatives_are_those_of_autograd(schedule):
    t = interior(schedule).requires_grad_()
    (dsigma,) = torch.autograd.grad(schedule.sigma(t).sum(), t)
    torch.testing.assert_close(schedule.dsigma(t), dsigma, rtol=1e-12, atol=0)
    (ds,) = torch.autograd.grad((schedule.s(t) + 0 * t).sum(), t)
    torch.testing.assert_close(schedule.ds(t), ds, rtol=1e-12, atol=0)


@every_schedule
def test_the_inverse_has_the_inverse_derivative(schedule):
    sigma = schedule.sigma(interior(schedule)).requires_grad_()
    t = schedule.t(sigma)
    (dt,) = torch.autograd.grad(t.sum(), sigma)
    torch.testing.assert_close(dt * schedule.dsigma(t.detach()), torch.ones_like(dt), rtol=1e-11, atol=0)


@every_schedule
def test_f_and_g_rebuild_scale_and_noise(schedule):
    """s = exp(int f) and sigma^2 = int g^2 / s^2, by Gauss-Legendre quadrature over a tenth of the domain."""
    if isinstance(schedule, TabulatedVE):
        a, b = 500.0, 501.0  # one smooth piece
    else:
        a, b = (schedule.t_min + fraction * (schedule.t_max - schedule.t_min) for fraction in (0.45, 0.55))
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(40))
    t, w = (a + b) / 2 + (b - a) / 2 * nodes, (b - a) / 2 * weights
    log_scale = (w * schedule.f(t)).sum()
    assert (schedule.s(b) / schedule.s(a)).log().item() == pytest.approx(log_scale.item(), rel=1e-12, abs=1e-15)
    variance = (w * schedule.g(t) ** 2 / schedule.s(t) ** 2).sum().item()
    assert (schedule.sigma(b) ** 2 - schedule.sigma(a) ** 2).item() == pytest.approx(variance, rel=1e-11)


@every_schedule
def test_numbers_and_any_shape_are_accepted(schedule):
    t = 0.3 * schedule.t_min + 0.7 * schedule.t_max
    grid = torch.full((2, 3), t, dtype=torch.float64)
    for method in (schedule.sigma, schedule.dsigma, schedule.s, schedule.ds, schedule.f, schedule.g):
        assert method(grid).shape == (2, 3)
        assert (method(grid) == method(t)).all()
    assert schedule.t(torch.tensor(1.0, dtype=torch.float32)).dtype == torch.float64


def test_vp_has_the_drift_and_diffusion_of_its_betas():
    schedule, t = VP(), torch.linspace(1e-3, 1, 50, dtype=torch.float64)
    beta = 19.9 * t + 0.1
    torch.testing.assert_close(schedule.f(t), -beta / 2, rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.g(t) ** 2, beta, rtol=1e-12, atol=0)


def test_subvp_has_the_drift_and_the_smaller_noise_of_its_betas():
    """Song et al., eq. 12 and 29: f = -beta / 2, g^2 = beta (1 - exp(-2 B)), and the noise 1 - s^2 of x_t."""
    schedule, t = SubVP(), torch.linspace(1e-3, 1, 50, dtype=torch.float64)
    beta, B = 19.9 * t + 0.1, 19.9 * t**2 / 2 + 0.1 * t
    torch.testing.assert_close(schedule.s(t), torch.exp(-B / 2), rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.f(t), -beta / 2, rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.g(t) ** 2, -beta * torch.expm1(-2 * B), rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.s(t) * schedule.sigma(t), -torch.expm1(-B), rtol=1e-12, atol=0)


def test_ve_in_variance_has_unit_diffusion():
    t = torch.logspace(-3, 3, 20, dtype=torch.float64)
    torch.testing.assert_close(VE().g(t), torch.ones_like(t), rtol=1e-14, atol=0)
    assert (VE().f(t) == 0).all()


@pytest.mark.parametrize("schedule", [VP(), Cosine(), Tabulated.linear()], ids=lambda s: type(s).__name__)
def test_variance_preserving_scale(schedule):
    s, sigma = schedule.s(times(schedule, 50)), schedule.sigma(times(schedule, 50))
    assert isinstance(schedule, VariancePreserving)
    torch.testing.assert_close(s**2 + (s * sigma) ** 2, torch.ones_like(s), rtol=1e-13, atol=0)


def test_vp_between_spans_the_range_and_finds_the_original_betas():
    original = VP()
    fitted = VP.between(original.sigma_min, original.sigma_max)
    assert (fitted.beta_d, fitted.beta_min) == pytest.approx((19.9, 0.1), rel=1e-11)
    assert (fitted.sigma_min, fitted.sigma_max) == pytest.approx((original.sigma_min, original.sigma_max), rel=1e-12)


def test_cosine_is_the_published_alpha_bar():
    t = torch.linspace(0.01, 0.99, 30, dtype=torch.float64)

    def f(t):
        return torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    alpha_bar = f(t) / f(torch.zeros(()).double())
    torch.testing.assert_close(Cosine().s(t) ** 2, alpha_bar, rtol=1e-11, atol=0)
    assert Cosine().sigma_max == pytest.approx(118.82, abs=0.01)


def test_linear_betas_give_the_levels_of_ddpm():
    schedule = Tabulated.linear()
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alphas_cumprod = (1 - betas).cumprod(0)
    index = torch.arange(1000)
    torch.testing.assert_close(schedule.s(index) ** 2, alphas_cumprod, rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.t(schedule.levels), index.double(), rtol=1e-12, atol=1e-12)
    table = Tabulated.from_alphas_cumprod(alphas_cumprod)
    torch.testing.assert_close(table.levels, schedule.levels, rtol=1e-11, atol=0)


def test_tabulated_is_log_linear_between_entries_and_stays_in_the_table():
    schedule = Tabulated(torch.tensor([0.1, 1.0, 100.0]))
    torch.testing.assert_close(schedule.sigma(torch.tensor([0.5, 1.5])), torch.tensor([0.1**0.5, 10.0]).double())
    assert schedule.t(torch.tensor([0.0, 0.05, 1e4])).tolist() == [0.0, 0.0, 2.0]


def test_iddpm_levels_follow_the_recursion():
    schedule, M = IDDPM(), 1000
    alpha_bar = [math.sin(math.pi / 2 * j / (M * 1.008)) ** 2 for j in range(M + 1)]
    u = [0.0]
    for j in range(M, 0, -1):
        u.insert(0, math.sqrt((u[0] ** 2 + 1) / max(alpha_bar[j - 1] / alpha_bar[j], 0.001) - 1))
    torch.testing.assert_close(schedule.u, torch.tensor(u, dtype=torch.float64), rtol=1e-9, atol=0)
    assert schedule.u[0].item() == pytest.approx(20291.17, abs=0.01)
    assert schedule.u[1].item() == pytest.approx(641.66, abs=0.01)


def test_iddpm_index_is_the_nearest_level():
    schedule = IDDPM()
    sigma = torch.logspace(-4, 4.5, 3000, dtype=torch.float64)
    nearest = (sigma[:, None] - schedule.u).abs().argmin(1)
    assert torch.equal(schedule.index(sigma), nearest)
    assert torch.equal(schedule.index(schedule.u), torch.arange(1001))
    assert schedule.index(schedule.u[999] / 3).item() == 1000


def test_nearest_is_a_level_that_the_network_knows():
    schedule = IDDPM()
    sigma = torch.logspace(-4, 4.5, 3000, dtype=torch.float64)
    nearest = schedule.nearest(sigma)
    torch.testing.assert_close((nearest - sigma).abs(), (sigma[:, None] - schedule.u).abs().amin(1), rtol=0, atol=0)
    assert torch.isin(nearest, schedule.u).all()
    assert torch.equal(EDM().nearest(sigma), sigma)


def test_schedules_by_name():
    assert {name: type(s) for name, s in NAMED.items()} == {
        "edm": EDM,
        "ve": VE,
        "vp": VP,
        "iddpm": IDDPM,
        "cosine": Cosine,
        "subvp": SubVP,
    }
    assert as_schedule("vp") == VP()
    mine = VP(beta_d=10.0)
    assert as_schedule(mine) is mine
    with pytest.raises(PrescoreError, match=r"schedule: unknown name 'vpp'; did you mean vp"):
        as_schedule("vpp")


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (torch.tensor([1.0]), "at least two"),
        (torch.tensor([[1.0, 2.0]]), "one row"),
        (torch.tensor([0.0, 1.0]), "positive"),
        (torch.tensor([1.0, float("nan")]), "finite"),
        (torch.tensor([2.0, 1.0]), "increase"),
    ],
)
def test_tables_that_are_none(levels, message):
    with pytest.raises(PrescoreError, match=message):
        Tabulated(levels)


@pytest.mark.parametrize(
    "make",
    [
        lambda: VP(t_min=1.0),
        lambda: VP(t_min=0.0),
        lambda: VP(beta_d=-30.0),
        lambda: VP.between(3.0, 1.0),
        lambda: VP.between(0.01, 50.0, t_min=0.0),
        lambda: VP.between(0.01, 50.0, t_min=1.0),
        lambda: Cosine(t_max=1.0081),
        lambda: EDM(80.0, 0.002),
        lambda: VE(0.0, 1.0),
        lambda: GeometricVE(0.0, 50.0),
        lambda: GeometricVE(0.01, float("inf")),
        lambda: IDDPM(C1=0.0),
    ],
)
def test_schedules_that_are_none(make):
    with pytest.raises(PrescoreError, match=r"its noise must rise|t_min: "):
        make()


def test_recorded_vp_schedule():
    recorded = reference("edm/precond-vp.safetensors")
    t, sigma = recorded["sched/t"], recorded["sched/sigma"]
    # The original subtracts 1 from an exponential: at t = 1e-5 that costs it 10 digits, at 1e-3 about 12.
    expected = 2e-16 / (19.9 / 2 * t**2 + 0.1 * t) + 1e-14
    assert ((VP().sigma(t) - sigma).abs() / sigma <= expected).all()
    torch.testing.assert_close(VP().t(sigma), t, rtol=1e-9, atol=0)


def test_recorded_iddpm_levels_and_indices():
    recorded = reference("edm/precond-iddpm.safetensors")
    u, mine = recorded["param/u"].double(), IDDPM().u
    torch.testing.assert_close(mine, u, rtol=5e-4, atol=0)
    assert ((mine - u).abs() / u)[:-1].max() > 4e-4  # float32 in the original, as documented
    assert torch.equal(IDDPM().index(recorded["round/in"]), recorded["round/index"])


@pytest.mark.parametrize(
    ("make", "right"),
    [
        (lambda: Tabulated(BETAS), "from_betas"),
        (lambda: Tabulated.from_betas(torch.cumprod(1 - BETAS, 0)), "from_alphas_cumprod"),
        (lambda: Tabulated.from_alphas_cumprod(BETAS), "from_betas"),
        (lambda: Tabulated.from_betas("linear"), "a row of numbers inside"),
        (lambda: Tabulated.from_betas(BETAS * 100), "at least two numbers inside"),
        (lambda: Tabulated.from_betas([0.1]), "at least two numbers inside"),
    ],
)
def test_a_table_of_another_quantity_is_noticed(make, right):
    with pytest.raises(PrescoreError, match=right):
        make()


def test_shifted_flow_spreads_the_same_levels_otherwise_and_reaches_pure_noise():
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    given = 3 * t / (1 + 2 * t)  # Esser et al., eq. 23
    torch.testing.assert_close(RectifiedFlow(3.0).sigma(t), RectifiedFlow().sigma(given))
    far = RectifiedFlow().sigma(1.0)
    assert far.isfinite()
    assert RectifiedFlow().t(far).float() == 1
    with pytest.raises(PrescoreError, match="shift: 0 is not a positive number"):
        RectifiedFlow(0)


def test_functions_make_the_schedule_that_they_are_of():
    vp = VP()
    made = FunctionSchedule(lambda t: torch.exp(-vp.integral(t) / 2), lambda t: (-torch.expm1(-vp.integral(t))).sqrt())
    t = torch.logspace(-3, 0, 50, dtype=torch.float64)
    sigma = vp.sigma(t)
    for name, at in (("sigma", t), ("dsigma", t), ("s", t), ("ds", t), ("f", t), ("g", t), ("t", sigma)):
        torch.testing.assert_close(getattr(made, name)(at), getattr(vp, name)(at), rtol=1e-9, atol=1e-13, msg=name)
    torch.testing.assert_close(made.scale(sigma), vp.scale(sigma))
