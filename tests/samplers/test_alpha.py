"""The automatic alpha, on the power-law Gaussian of `test_recursion` in closed form, and the papers' relation."""

import functools
import math

import pytest
import torch
from samplers.test_recursion import SCALES, SIGMA, excess, make, surrogate
from support import with_moments

from prescore import calibrate
from prescore.errors import PrescoreError
from prescore.samplers import AlphaRelation, choose_alpha, make_sampler, statistics_recursion
from prescore.samplers.alpha import FARTHEST
from prescore.samplers.predictor_corrector import CHOICES

TABLE_1 = {
    "CIFAR-10": (1, {1000: 50, 400: 25, 200: 12, 100: 5, 50: 1.8}, 28.53, 0.895),
    "CelebA": (2, {1000: 300, 400: 40, 200: 15, 100: 6, 50: 2.5}, 50.67, 0.940),
}


def recursion(alpha, steps, **options):
    """The error by the recursion over every frequency, and how far the samples are from the marginals on the way."""
    run = statistics_recursion(make(alpha, steps=steps, **options), surrogate()[0], *SIGMA)
    distance = (run.variance[-1].sqrt() - run.target[-1].sqrt()).square() + run.bias[-1]
    error = (distance * run.multiplicity).sum() / (run.target[-1] * run.multiplicity).sum()
    return error.item(), run.log_ratio[run.sigma > 0].square().sum().item()


@pytest.mark.parametrize("options", [{}, {"first": "predictor"}, {"form": "marginal"}, {"predictor": "ancestral"}])
@pytest.mark.parametrize("steps", [10, 20, 50, 200])
def test_no_alpha_that_may_be_taken_is_better_on_a_gaussian(steps, options):
    choice = choose_alpha(make(None, steps=steps, **options), surrogate()[0], *SIGMA)
    plain, way_of_plain = recursion(None, steps, **options)
    assert choice.plain_error == pytest.approx(plain, rel=5e-3)
    others = [choice.least_stable * factor for factor in torch.logspace(0, 2, 15).tolist() if factor > 1]
    known = [recursion(alpha, steps, **options) for alpha in others]
    assert choice.error < 1.01 * min([plain, *(error for error, way in known if way <= FARTHEST * way_of_plain)])
    if math.isfinite(choice.alpha):
        error, way = recursion(choice.alpha, steps, **options)
        assert choice.error == pytest.approx(error, rel=5e-3)
        assert way < 1.005 * FARTHEST * way_of_plain


def test_with_few_steps_the_network_is_not_led_astray():
    """The least error is at an alpha with which the samples are far from the marginals on the way."""
    choice = choose_alpha(make(None, steps=10), surrogate()[0], *SIGMA)
    error, way = recursion(choice.alpha / 1.5, 10)
    assert choice.error > error
    assert way > FARTHEST * recursion(None, 10)[1]


@functools.cache
def scaled():
    return with_moments(surrogate()[0], scales=torch.tensor(SCALES, dtype=torch.float64))


@pytest.mark.parametrize("steps", [50, 150])
def test_with_the_scales_samples_are_nearer_to_the_power_of_the_data(steps):
    """Of a mixture over scales: than with the alpha for a Gaussian, and than with thrice the alpha."""
    plain = make(None, steps=steps)
    own, gaussian = (choose_alpha(plain, statistics, *SIGMA).alpha for statistics in (scaled(), surrogate()[0]))
    found = {alpha: abs(excess(round(alpha, 2), steps)[0]) for alpha in (own, gaussian, 3 * own)}
    assert found[own] == min(found.values()), found


def test_the_least_stable_alpha_is_where_the_diagnosis_begins():
    statistics = surrogate()[0]
    least = choose_alpha(make(None, steps=20), statistics, *SIGMA).least_stable
    for alpha, is_stable in ((least * 1.001, True), (least / 1.001, False)):
        sampler = make(alpha, steps=20)
        assert (sampler.diagnosis(statistics.event_shape, sampler.levels(*SIGMA)) == "") == is_stable


@functools.cache
def images(scales):
    """Statistics of few, small images."""
    data = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    statistics = calibrate(data.cumsum(-1).cumsum(-2) / 16)
    return with_moments(statistics, scales=torch.tensor([0.1, 3.0], dtype=torch.float64) if scales else None)


@pytest.mark.parametrize("scales", [False, True])
@pytest.mark.parametrize("form", CHOICES["form"])
@pytest.mark.parametrize("first", CHOICES["first"])
@pytest.mark.parametrize("corrector", CHOICES["corrector"])
@pytest.mark.parametrize("predictor", CHOICES["predictor"])
def test_every_way_to_step_has_an_alpha_for_every_number_of_steps(predictor, corrector, first, form, scales):
    """Where the steps are so few that the predictor overshoots anyway, and where it never does."""
    if predictor == corrector == "none":
        pytest.skip("nothing would move the state")
    options = {"predictor": predictor, "corrector": corrector, "first": first, "form": form}
    for steps in (1, 3, 8) if scales else range(1, 21):
        choice = choose_alpha(make_sampler("pc", steps=steps, **options), images(scales), *SIGMA)
        assert choice.alpha >= 1
        assert choice.alpha > choice.least_stable * (1 - 1e-9) or choice.alpha == math.inf
        assert 0 <= choice.error <= choice.plain_error
        assert "nan" not in choice.reason


def test_nothing_is_chosen_where_the_predictor_overshoots_without_preconditioner():
    choice = choose_alpha(make_sampler("pc", steps=5, predictor="euler-maruyama"), images(False), *SIGMA)
    assert choice.alpha == choice.least_stable == math.inf
    assert choice.reason == "in so few steps the predictor overshoots without preconditioner already"


def test_from_30_steps_on_more_steps_want_less_preconditioning():
    chosen = {T: choose_alpha(make(None, steps=T), scaled(), *SIGMA).alpha for T in (30, 40, 50, 70, 100, 200)}
    assert list(chosen.values()) == sorted(chosen.values())
    relation = AlphaRelation.fit({T: chosen[T] for T in (50, 70, 100, 200)})
    assert relation.r_squared > 0.95
    predicted = AlphaRelation.fit({T: chosen[T] for T in (50, 200)}).alpha(100)
    assert predicted == pytest.approx(chosen[100], rel=0.25)


def test_a_frequency_that_never_varies_has_no_say():
    """Its variance is 0 or a rounding, and the power of its samples relative to that is no error."""
    statistics = surrogate()[0]
    constant = statistics.moments.power_centred.clone()
    constant[..., 5, 5] = 0
    rounding = torch.where(constant == 0, 1e-14 * constant.max(), constant)
    with_zero, with_rounding = (
        choose_alpha(make(None, steps=50), with_moments(statistics, power_centred=power), *SIGMA).alpha
        for power in (constant, rounding)
    )
    assert with_zero == pytest.approx(with_rounding)
    assert with_zero == pytest.approx(choose_alpha(make(None, steps=50), statistics, *SIGMA).alpha, rel=0.1)


def test_samples_that_are_the_mean_have_a_scale_too():
    blank = with_moments(surrogate()[0], scales=torch.tensor([0.0, 0.0, 2.0, 2.0], dtype=torch.float64))
    choice = choose_alpha(make(None, steps=50), blank, *SIGMA)
    assert math.isfinite(choice.alpha)
    assert choice.error < choice.plain_error < math.inf


def test_both_parts_share_a_weaker_alpha():
    """(1 + 1/alpha)^2 with the pixel part is 1 + 1/alpha without."""
    sampler, statistics = make(None, steps=50), surrogate()[0]
    one = choose_alpha(sampler, statistics, *SIGMA).alpha
    both = choose_alpha(sampler, statistics, *SIGMA, pixel=True).alpha
    assert (1 + 1 / both) ** 2 == pytest.approx(1 + 1 / one)


@pytest.mark.parametrize("name", TABLE_1)
def test_the_relation_of_table_1(name):
    """The slopes are those of the paper; its R^2 is 1 - 5 (1 - R^2)."""
    p, pairs, slope, printed = TABLE_1[name]
    relation = AlphaRelation.fit(pairs, p)
    assert relation.a == pytest.approx(slope, rel=2e-3)
    assert 1 - len(pairs) * (1 - relation.r_squared) == pytest.approx(printed, abs=5e-4)


def test_the_relation_predicts_what_it_was_made_from():
    for p in (1, 2):
        exact = {T: 1 / ((1 + 20 / T + 0.01) ** (1 / p) - 1) for T in (50, 100, 400)}
        relation = AlphaRelation.fit(exact, p)
        assert (relation.a, relation.b, relation.r_squared) == pytest.approx((20, 0.01, 1))
        assert relation.alpha(100) == pytest.approx(exact[100])
    assert AlphaRelation(a=1.0, b=-1.0, p=1, r_squared=1.0).alpha(10) == math.inf


@pytest.mark.parametrize(
    ("pairs", "p", "message"),
    [({50: 2.0}, 1, "at least 2"), ({50: 2.0, 100: 0.0}, 1, "positive"), ({50: 2.0, 100: 4.0}, 3, "p: 3 given")],
)
def test_bad_pairs_are_refused(pairs, p, message):
    with pytest.raises(PrescoreError, match=message):
        AlphaRelation.fit(pairs, p)
