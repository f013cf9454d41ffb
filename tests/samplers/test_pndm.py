from itertools import pairwise

import pytest
import torch
from flow import GAUSSIAN, MIXTURE, START, X, end
from support import relative

from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.grid import append_zero, geometric, uniform_t
from prescore.samplers import make_sampler, sample
from prescore.samplers.deis import DEIS
from prescore.samplers.pndm import PNDM, VARIANTS
from prescore.schedule import EDM, VP, Cosine


@pytest.mark.parametrize("final_zero", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_calls(variant, final_zero):
    levels, calls = geometric(7, 0.1, 3.0, final_zero=final_zero), []

    def denoise(x, sigma):
        assert sigma > 0
        calls.append(sigma)
        return MIXTURE(x, sigma)

    sampler = PNDM(variant=variant)
    assert end(sampler, levels, denoise=denoise).isfinite().all()
    assert len(calls) == sampler.total_calls(len(levels) - 1, final_zero)


def test_f_pndm_on_equal_steps_in_sigma_is_rho_ab_with_the_runge_kutta_warmup():
    levels = torch.linspace(3.0, 0.3, 11, dtype=torch.float64)
    deis = DEIS(degree=3, variable="rho", warmup="runge-kutta")
    assert relative(end(PNDM(schedule=EDM()), levels), end(deis, levels)) < 1e-12


def test_other_steps_are_not():
    levels = geometric(11, 0.3, 3.0)
    deis = DEIS(degree=3, variable="rho", warmup="runge-kutta")
    assert relative(end(PNDM(schedule=EDM()), levels), end(deis, levels)) > 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_constant_noise_is_carried_exactly(variant):
    """phi is exact for it, whatever the levels: D = x - sigma e."""
    levels = append_zero(geometric(7, 0.1, 3.0))
    e = torch.ones_like(X)
    out = end(PNDM(variant=variant), levels, denoise=lambda x, sigma: x - sigma * e)
    torch.testing.assert_close(out, X - 3 * e, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("schedule", "times"), [("linear", VP.between(0.1, 50.0)), ("cosine", None)])
def test_usual_levels_are_uniform_in_time(schedule, times):
    levels = PNDM(schedule=schedule, steps=9).levels(0.1, 50.0)
    assert levels[-1] == 0
    assert len(levels) == 10
    t = (times or Cosine()).t(levels[:-1])
    torch.testing.assert_close(t.diff(), t.diff().mean().expand(8), rtol=1e-9, atol=0)
    assert levels[[0, -2]].tolist() == pytest.approx([50.0, 0.1])
    if times:
        torch.testing.assert_close(levels, uniform_t(times, 9, final_zero=True))


def test_samples():
    """The usual levels, from random numbers to a Gaussian."""
    denoiser = Denoiser(GAUSSIAN, (4,), 0.002, 80.0, dtype=torch.float64)
    out = sample(denoiser, PNDM(steps=100), seeds=range(4000), progress=False)
    assert (out.mean(0) - GAUSSIAN.mean).abs().max() < 0.15
    assert (out.var(0) / torch.tensor([0.1, 0.3, 1.0, 4.0])).log().abs().max() < 0.15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "fpndm"}, "variant: unknown value 'fpndm'; did you mean f-pndm"),
        ({"schedule": "lin"}, "schedule: unknown value 'lin'; did you mean linear"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(PrescoreError, match=message):
        PNDM(**arguments)


@pytest.mark.parametrize(("variant", "least"), [("f-pndm", 4), ("plms", 4), ("s-pndm", 2)])
def test_too_few_steps(variant, least):
    PNDM(variant=variant).check((4,), geometric(least + 1))
    with pytest.raises(PrescoreError, match=f"steps: {least - 1} given, but {variant} needs at least {least}"):
        PNDM(variant=variant).check((4,), geometric(least, 1.0, 2.0) if least > 2 else torch.tensor([1.0, 0.5]))


def test_ipndm_is_its_paper_s_formula():
    """Written out: order k + 1 at step k, up to 4, with the weights of equal steps."""
    levels, x, slopes = geometric(7, 0.05, START), X.double(), []
    weights = [[1], [3 / 2, -1 / 2], [23 / 12, -4 / 3, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -3 / 8]]
    for s, t in pairwise(levels.tolist()):
        slopes = [(x - MIXTURE(x, torch.tensor(s, dtype=torch.float64))) / s, *slopes][:4]
        x = x + (t - s) * sum(w * d for w, d in zip(weights[len(slopes) - 1], slopes, strict=True))
    assert torch.allclose(end(PNDM(variant="ipndm"), levels), x, rtol=1e-12)
    assert make_sampler("ipndm").total_calls(7) == 7
