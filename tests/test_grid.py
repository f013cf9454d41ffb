import json
import math

import pytest
import torch
from safetensors import safe_open
from support import REFERENCE, reference

from prescore import plan
from prescore.errors import PrescoreError
from prescore.grid import GRIDS as BY_NAME
from prescore.grid import append_zero, check_apart, check_grid, geometric, iddpm, karras, log_snr, uniform_t
from prescore.schedule import EDM, IDDPM, VE, VP, Cosine, Tabulated

GRIDS = {
    "karras": karras,
    "geometric": geometric,
    "log_snr": log_snr,
    "iddpm": iddpm,
    "uniform_t": lambda n, final_zero=False: uniform_t(VP(), n, final_zero=final_zero),
}
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())


@every_grid
@pytest.mark.parametrize("n", [2, 3, 18, 100])
def test_n_valid_levels_and_one_more_with_the_zero(grid, n):
    levels = grid(n)
    assert levels.shape == (n,)
    assert torch.equal(check_grid(levels), levels)
    with_zero = grid(n, final_zero=True)
    assert torch.equal(with_zero, torch.cat([levels, torch.zeros(1, dtype=torch.float64)]))
    assert torch.equal(append_zero(levels), with_zero)


@every_grid
def test_one_step_goes_from_the_highest_level_to_zero(grid):
    assert torch.equal(grid(1, final_zero=True), torch.stack([grid(2)[0], torch.zeros(()).double()]))


@every_grid
@pytest.mark.parametrize("n", [0, -3, 2.5, 1])
def test_a_number_of_levels_that_is_none(grid, n):
    with pytest.raises(PrescoreError, match=f"n: {n}"):
        grid(n)


@pytest.mark.parametrize("grid", [karras, geometric, iddpm])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (1.0, 1.0), (0.1, float("inf"))])
def test_a_range_that_is_none(grid, low, high):
    with pytest.raises(PrescoreError, match="1e-15 <= sigma_min < sigma_max"):
        grid(5, low, high)


@pytest.mark.parametrize("spread", BY_NAME)
def test_ranges_that_no_precision_holds_or_tells_apart(spread):
    """By every name that a user may give."""
    for low, high in ((1e-300, 1.0), (1.0, 1e300), (1.0, math.nextafter(1.0, 2.0)), (1.0, 1 + 1e-9)):
        with pytest.raises(PrescoreError):
            check_apart(check_grid(BY_NAME[spread](5, low, high, final_zero=True)))


def test_levels_that_were_asked_for_are_apart():
    for levels in ([2.0, 1.0, math.nextafter(1.0, 0.0), 0.0], [2.0, 1.0, 1.0 - 5e-7]):
        with pytest.raises(PrescoreError, match="levels 1 and 2, at 1, are closer than one part in a million"):
            check_apart(check_grid(levels))
        with pytest.raises(PrescoreError, match=r"^grid: noise levels 1"):
            plan(lambda x, sigma: x, sampler="ddim", grid=levels, event_shape=(2,), sigma_min=0.5, sigma_max=3)
    for how in ({}, {"grid": "karras"}, {"sampler": "pc", "steps": 3}):
        with pytest.raises(PrescoreError, match=r"^steps: noise levels 0 and 1, at 1, .* a wider range of noise"):
            plan(lambda x, sigma: x, event_shape=(2,), sigma_min=1, sigma_max=1 + 1e-9, **({"sampler": "ddim"} | how))
    assert check_apart(check_grid([1.0, 1.0 - 2e-6, 0.0])).tolist() == [1.0, 1.0 - 2e-6, 0.0]


def test_default_ranges_are_the_papers():
    ends = [(grid[0].item(), grid[-1].item()) for grid in (karras(9), geometric(9), uniform_t(VP(), 9))]
    assert ends[0] == pytest.approx((80, 0.002), rel=1e-14)
    assert ends[1] == pytest.approx((100, 0.02), rel=1e-14)
    assert ends[2] == pytest.approx((VP().sigma_max, VP().sigma_min), rel=1e-14)


def test_karras_is_uniform_in_the_root_and_rho_interpolates():
    levels = karras(10, 0.01, 50.0, rho=7.0)
    steps = (levels ** (1 / 7)).diff()
    torch.testing.assert_close(steps, steps.mean().expand(9), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        karras(10, 0.01, 50.0, rho=1.0).diff().diff(), torch.zeros(8).double(), atol=1e-13, rtol=0
    )
    torch.testing.assert_close(karras(10, 0.01, 50.0, rho=1e7), geometric(10, 0.01, 50.0), rtol=1e-5, atol=0)
    with pytest.raises(PrescoreError, match="rho"):
        karras(10, rho=0.0)


def test_uniform_in_log_snr_is_geometric_for_variance_preserving_models_too():
    """Half the log-SNR of a VP model, log(alpha / (alpha sigma)), is -log sigma."""
    schedule, levels = VP(), log_snr(12, 0.01, 100.0)
    t = schedule.t(levels)
    alpha = schedule.s(t)
    lam = torch.log(alpha / torch.sqrt(1 - alpha**2))
    torch.testing.assert_close(lam.diff(), lam.diff().mean().expand(11), rtol=1e-9, atol=0)


@pytest.mark.parametrize("schedule", [VP(), Cosine(), EDM(), VE(), Tabulated.linear()], ids=lambda s: type(s).__name__)
def test_uniform_t_is_uniform_in_time(schedule):
    t = schedule.t(uniform_t(schedule, 11))
    expected = torch.linspace(schedule.t_max, schedule.t_min, 11, dtype=torch.float64)
    torch.testing.assert_close(t, expected, rtol=1e-12, atol=1e-12)


def test_iddpm_takes_its_levels_from_the_table():
    u, levels = IDDPM().u, iddpm(20)
    assert torch.isin(levels, u).all()
    inside = u[(u >= 0.002) & (u <= 81)]
    assert (levels[0], levels[-1]) == (inside[0], inside[-1])
    assert torch.equal(iddpm(len(inside)), inside)
    with pytest.raises(PrescoreError, match=f"steps: .* only {len(inside)} of those of iddpm lie in"):
        iddpm(len(inside) + 1)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([1.0], "at least two"),
        ([], "at least two"),
        ([[2.0, 1.0]], "shape \\(1, 2\\)"),
        ([3.0, float("nan")], "level 1 is not a finite"),
        ([float("inf"), 1.0], "level 0 is not a finite"),
        ([1.0, -1.0], "level 1 is negative"),
        ([3.0, 1.0, 2.0], "level 1 is 1 and level 2 is 2"),
        ([1.0, 0.0, 0.0], "level 1 is 0 and level 2 is 0"),
        ([1e300, 1.0], "level 1e\\+300 is not between 1e-15 and 1e\\+15"),
        ([1.0, 1e-300, 0.0], "level 1e-300 is not between"),
        ([1.0, 5e-324], "is not between"),
        (["a", "b"], "not a row of numbers"),
        ([[1.0], [1.0, 2.0]], "not a row of numbers"),
    ],
)
def test_grids_that_are_none(grid, message):
    with pytest.raises(PrescoreError, match=message):
        check_grid(grid)


def test_given_grids_become_float64():
    levels = check_grid(torch.tensor([5, 2, 0]))
    assert levels.dtype == torch.float64
    assert levels.tolist() == [5, 2, 0]


def recorded(name):
    """Levels of a recorded run without the final 0, and the range that it used."""
    tensors = reference(f"edm/{name}.safetensors")
    with safe_open(REFERENCE / f"edm/{name}.safetensors", "pt") as file:
        facts = file.metadata()
    kwargs = json.loads(facts["kwargs"])
    levels = tensors.get("grid/sigma", tensors["grid/t"])
    return levels, kwargs["num_steps"], float(facts["sigma_min_used"]), float(facts["sigma_max_used"]), tensors


@pytest.mark.parametrize("name", ["sampler-edm-deterministic", "sampler-ablation-edm-linear-none-heun"])
def test_recorded_karras_grid(name):
    levels, n, low, high, _ = recorded(name)
    torch.testing.assert_close(karras(n, low, high, final_zero=True), levels, rtol=1e-14, atol=0)


def test_recorded_ve_grid():
    levels, n, low, high, tensors = recorded("sampler-ablation-ve-ve-none-heun")
    torch.testing.assert_close(geometric(n, low, high, final_zero=True), levels, rtol=1e-14, atol=0)
    torch.testing.assert_close(VE().t(levels), tensors["grid/t"], rtol=1e-13, atol=0)


def test_recorded_vp_grid():
    levels, n, low, high, tensors = recorded("sampler-ablation-vp-vp-vp-heun")
    # The original loses digits of the small levels: it subtracts 1 from an exponential, and refits its betas to them.
    torch.testing.assert_close(uniform_t(VP(), n, final_zero=True), levels, rtol=1e-11, atol=0)
    torch.testing.assert_close(uniform_t(VP.between(low, high), n, final_zero=True), levels, rtol=1e-11, atol=0)
    torch.testing.assert_close(VP().s(tensors["grid/t"][:-1]), tensors["grid/s"][:-1], rtol=1e-12, atol=0)


def test_recorded_iddpm_grid():
    levels, n, low, high, _ = recorded("sampler-ablation-iddpm-linear-none-heun")
    torch.testing.assert_close(iddpm(n, low, high, final_zero=True), levels, rtol=5e-4, atol=0)
