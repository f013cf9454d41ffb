"""`original_steps`: where T0 steps are reduced to T, step sizes grow so that their sum stays (Section 7 of PDS)."""

import math

import pytest
import torch
from samplers.test_recursion import SIGMA, surrogate

from prescore import plan
from prescore.errors import PrescoreError
from prescore.precondition import frequency_preconditioner
from prescore.samplers import AnnealedLangevin, PredictorCorrector, choose_alpha, make_sampler, sample
from prescore.samplers.subspace import Stage, subspace_sample

LEVELS = torch.tensor([50.0, 10.0, 2.0, 0.5, 0.1, 0.0], dtype=torch.float64)


def drawn(sampler):
    statistics, denoise, *_ = surrogate()
    return sample(denoise, sampler, seeds=[0, 1], event_shape=statistics.event_shape, progress=False)


@pytest.mark.parametrize("how", [{"steps": 5}, {"grid": LEVELS}, {"grid": LEVELS[:-1]}])
def test_the_snr_grows_by_sqrt_c(how):
    T = 4 if len(how.get("grid", LEVELS)) == 5 else 5
    M = frequency_preconditioner(surrogate()[0], 5.0)
    by_rule = make_sampler("pds", **how, snr=0.1, original_steps=20, preconditioner=M)
    by_hand = make_sampler("pds", **how, snr=0.1 * math.sqrt(20 / T), preconditioner=M)
    assert by_rule.corrector_snr == by_hand.snr
    assert torch.equal(drawn(by_rule), drawn(by_hand))


@pytest.mark.parametrize("steps", [20, 50, 400, 1000, 2000])
def test_the_steps_of_a_run_add_up_to_the_same(steps):
    """eps is 2 r^2 times what does not depend on T: "consistent accumulative update" of T steps."""
    assert steps * PredictorCorrector(steps=steps, original_steps=1000).corrector_snr ** 2 == pytest.approx(
        1000 * 0.16**2
    )
    levels = make_sampler("ald", steps=steps).levels(0.01, 1.0)
    rule = make_sampler("ald", steps=steps, level_steps=3, step_size=2e-5, original_steps=1000)
    assert 3 * steps * rule.start(levels) == pytest.approx(1000 * 2e-5 / 0.01**2)


def test_by_the_rule_ncsn_is_unstable_below_100_steps():
    for level_steps, is_stable in ((10, True), (9, False), (2, False)):
        sampler = make_sampler("ald", steps=10, level_steps=level_steps, step_size=2e-5, original_steps=1000)
        levels = sampler.levels(0.01, 1.0)
        assert (sampler.diagnosis((1, 8, 8), levels) == "") == is_stable
    assert "unstable (step 10," in sampler.diagnosis((1, 8, 8), levels)


def test_by_default_and_at_the_original_steps_nothing_changes():
    assert torch.equal(drawn(make_sampler("pc", steps=6)), drawn(make_sampler("pc", steps=6, original_steps=6)))
    assert PredictorCorrector(original_steps=50).corrector_snr == PredictorCorrector().corrector_snr == 0.16


def test_alpha_is_chosen_for_the_steps_that_are_taken():
    statistics = surrogate()[0]
    by_rule = choose_alpha(PredictorCorrector(steps=50, original_steps=1000), statistics, *SIGMA)
    by_hand = choose_alpha(PredictorCorrector(steps=50, snr=0.16 * math.sqrt(20)), statistics, *SIGMA)
    assert by_rule == by_hand
    assert by_rule.alpha < 0.8 * choose_alpha(PredictorCorrector(steps=50), statistics, *SIGMA).alpha


def test_a_plan_counts_the_steps_that_calls_allow():
    statistics, denoise, *_ = surrogate()
    how = {"event_shape": statistics.event_shape, "sigma_min": SIGMA[0], "sigma_max": SIGMA[1], "original_steps": 1000}
    decided = plan(denoise, sampler="pds", calls=80, statistics=statistics, alpha=4.0, **how)
    assert decided.steps == 40
    assert decided.sampler.corrector_snr == pytest.approx(0.8)
    assert decided.settings["original_steps"] == 1000


@pytest.mark.parametrize("cls", [PredictorCorrector, AnnealedLangevin])
@pytest.mark.parametrize("value", [0, -5, 10.5, True])
def test_what_is_no_number_of_steps_is_refused(cls, value):
    with pytest.raises(PrescoreError, match=r"original_steps: .* is not a positive whole number"):
        cls(original_steps=value)
    with pytest.raises(PrescoreError, match="original_steps: "):
        cls(original_steps=10**400)


def test_what_it_would_do_nothing_for_is_refused():
    statistics, denoise, *_ = surrogate()
    how = {"event_shape": statistics.event_shape, "sigma_min": SIGMA[0], "sigma_max": SIGMA[1], "steps": 3}
    with pytest.raises(PrescoreError, match=r"original_steps: does nothing .* with the usual step_size"):
        plan(denoise, sampler="ald", original_steps=1000, **how)
    with pytest.raises(PrescoreError, match=r"original_steps: does nothing .* with corrector = none"):
        plan(denoise, sampler="pc", corrector="none", original_steps=1000, **how)
    with pytest.raises(PrescoreError, match="original_steps: counts the steps of a whole run"):
        subspace_sample([Stage(denoise, PredictorCorrector(steps=3, original_steps=1000))], seeds=[0])
