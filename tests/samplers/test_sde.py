import pytest
import torch
from support import Replay

from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.operators import Identity, Pixel
from prescore.precondition import Preconditioner
from prescore.samplers import PredictorCorrector, sample
from prescore.samplers.predictor_corrector import PREDICTORS as UNSCALED
from prescore.samplers.sde import PREDICTORS, ReverseSDE
from prescore.schedule import EDM, SCHEDULES, VP, GeometricVE, Tabulated

X, Z = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SIGMA, NEXT = torch.tensor([2.0, 1.5], dtype=torch.float64)


def denoise(x, sigma):
    return 0.2 + 0.3 / (0.3 + sigma**2) * (x - 0.2)


def close(a, b, tolerance=1e-13):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def predicted(sampler, sigma=SIGMA, sigma_next=NEXT, z=Z):
    return sampler.predict(denoise, X, sigma, sigma_next, Replay([z]))


def unscaled(predictor):
    return predicted(PredictorCorrector(predictor=predictor, corrector="none"))


@pytest.mark.parametrize("predictor", ["reverse-diffusion", "probability-flow"])
def test_without_a_scale_it_is_the_unscaled_predictor(predictor):
    assert torch.equal(predicted(ReverseSDE(predictor=predictor, schedule="edm")), unscaled(predictor))


def test_limits_of_the_others_without_a_scale():
    """Ancestral has the larger of two variances; Euler-Maruyama's time is log sigma in one, the variance in another."""
    assert torch.equal(predicted(ReverseSDE(predictor="ancestral", schedule=EDM())), unscaled("reverse-diffusion"))
    euler = ReverseSDE(predictor="euler-maruyama", schedule=GeometricVE())
    close(predicted(euler), unscaled("euler-maruyama"))
    close(predicted(ReverseSDE(predictor="euler-maruyama", schedule="ve")), unscaled("reverse-diffusion"))


def test_ancestral_is_the_step_of_ddpm():
    """(x_t - beta / sqrt(1 - alpha_bar) eps) / sqrt(1 - beta) + sqrt(beta) z (Ho et al., Algorithm 2)."""
    schedule = Tabulated.linear()
    sigma, sigma_next = schedule.levels[700], schedule.levels[699]
    beta, s, s_next = 1e-4 + (0.02 - 1e-4) * 700 / 999, schedule.scale(sigma), schedule.scale(sigma_next)
    eps = (X - denoise(X, sigma)) / sigma
    x_t = (s * X - beta / (1 - s**2).sqrt() * eps) / (1 - beta) ** 0.5 + beta**0.5 * Z
    out = predicted(ReverseSDE(predictor="ancestral", schedule=schedule), sigma, sigma_next)
    close(out, x_t / s_next, 1e-10)


def test_reverse_diffusion_reverses_the_discrete_forward_step():
    """x_t - f(x_t) + G^2 score_t + G z, f = (sqrt(1 - beta) - 1) x_t, G^2 = beta (Song et al., appendix E)."""
    schedule = VP()
    s, s_next = schedule.scale(SIGMA), schedule.scale(NEXT)
    beta = 1 - (s / s_next) ** 2
    score = (denoise(X, SIGMA) - X) / SIGMA**2 / s
    x_t = (2 - (1 - beta).sqrt()) * s * X + beta * score + beta.sqrt() * Z
    close(predicted(ReverseSDE(predictor="reverse-diffusion")), x_t / s_next)


@pytest.mark.parametrize("schedule", [*SCHEDULES, GeometricVE(), Tabulated.linear()], ids=str)
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_the_last_step_ends_at_the_denoised(predictor, schedule):
    if predictor == "none":
        sampler = ReverseSDE(predictor=predictor, schedule=schedule, corrector="langevin")
    else:
        sampler = ReverseSDE(predictor=predictor, schedule=schedule)
    close(predicted(sampler, sigma_next=torch.zeros(())), denoise(X, SIGMA))


def test_the_corrector_is_the_unscaled_one():
    corrected = [
        cls(corrector="langevin", corrector_steps=2).correct(denoise, X, SIGMA, Replay([Z, -Z]))
        for cls in (ReverseSDE, PredictorCorrector)
    ]
    assert torch.equal(*corrected)


def test_identity_preconditioner_changes_nothing():
    for form in ("paper", "marginal"):
        plain, identity = (ReverseSDE(form=form, preconditioner=M) for M in (None, Preconditioner(Identity())))
        assert torch.equal(predicted(plain), predicted(identity))


def test_the_marginal_form_preconditions_the_langevin_part():
    """The paper's form multiplies the whole drift by M M^T, this one that of the noise alone."""
    m = torch.tensor([1.0, 1.3, 0.8, 1.1], dtype=torch.float64)
    sampler = ReverseSDE(form="marginal", preconditioner=Preconditioner(Pixel(m)))
    keep, drift, std = sampler.weights(SIGMA.item(), NEXT.item())
    score = (denoise(X, SIGMA) - X) / SIGMA**2
    close(predicted(sampler), keep * X + (drift - std**2 / 2 + std**2 / 2 * m**2) * score + std * m * Z)


def test_the_usual_grid_is_uniform_in_time():
    levels = ReverseSDE(steps=11, schedule="vp").levels(0.01, 100.0)
    times = VP().t(levels[:-1])
    close(times.diff(), times.diff()[0].expand(10), 1e-11)
    assert (levels[0].item(), levels[-2].item(), levels[-1].item()) == pytest.approx((100.0, 0.01, 0.0), rel=1e-12)
    with pytest.raises(PrescoreError, match="sigma_min 0 and sigma_max"):
        ReverseSDE(steps=11).levels(0.0, 100.0)


@pytest.mark.parametrize("schedule", ["vp", "subvp", "cosine", "ve"])
@pytest.mark.parametrize("predictor", ["reverse-diffusion", "ancestral", "euler-maruyama"])
def test_many_steps_reach_the_data(predictor, schedule):
    """400 steps uniform in log sigma: mean and variance of 10000 numbers within 4 standard errors and 1.5 %."""
    grid = torch.cat([torch.logspace(1.3, -2, 400, dtype=torch.float64), torch.zeros(1)])
    model = Denoiser(denoise, (10000,), 0.01, 20.0, dtype=torch.float64)
    sampler = ReverseSDE(predictor=predictor, schedule=schedule, grid=grid)
    x = sample(model, sampler, seeds=[0], progress=False)
    assert abs(x.mean() - 0.2) < 4 * (0.3 / 10000) ** 0.5 + 0.003
    assert abs(x.var() / 0.3 - 1) < 4 * (2 / 10000) ** 0.5 + 0.015


def test_calls_and_seeds():
    calls = []
    model = Denoiser(lambda x, s: calls.append(s) or denoise(x, s), (4,), 0.01, 20.0)
    sampler = ReverseSDE(steps=5, corrector="langevin")
    together = sample(model, sampler, seeds=range(3), progress=False)
    assert len(calls) == sampler.total_calls(5) == 10
    assert torch.equal(together, sample(model, sampler, seeds=range(3), batch_size=1, progress=False))


def test_the_predictors_have_the_same_names_as_the_unscaled_ones():
    assert list(PREDICTORS) == list(UNSCALED)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "subvpp"}, "schedule: unknown value 'subvpp'; did you mean subvp"),
        ({"predictor": "ancestor"}, "predictor: unknown value 'ancestor'; did you mean ancestral"),
        ({"predictor": "none"}, "predictor and corrector are both 'none'"),
        ({"steps": 0}, "steps: 0 is not a positive whole number"),
    ],
)
def test_bad_input_is_one_clear_line(options, message):
    with pytest.raises(PrescoreError, match=message) as caught:
        ReverseSDE(**options)
    assert "\n" not in str(caught.value)
