"""Where samples start: on data that are known exactly."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import prescore
from prescore.adapters import Given, plan_on
from prescore.errors import PrescoreError
from prescore.gaussian import Gaussian
from prescore.grid import geometric
from prescore.noise import NoiseSource
from prescore.operators import Pixel
from prescore.samplers.starting import STARTS, better_start, from_noise, measure_start
from prescore.statistics import ModelStatistics, Tuning

C = torch.tensor([[[9.0, 0.2], [0.5, 0.1]]], dtype=torch.float64)
MEAN = torch.full((1, 2, 2), 2.0, dtype=torch.float64)
REFERENCE = Gaussian(MEAN, Pixel(C))
LEVELS = geometric(6, 0.01, 6.0, final_zero=True)


def distances(offset: float) -> dict[str, float]:
    """Of a model that is exact, but for what it thinks of the mean at the highest noise."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return REFERENCE(x, sigma) + offset * (sigma > 5).double()

    model = prescore.Denoiser(denoise, (1, 2, 2), 0.01, 6.0, dtype=torch.float64)
    return measure_start(model, REFERENCE, LEVELS, samples=4000)


def test_an_exact_model_starts_from_noisy_data():
    """From noise alone the mean of the largest variance is short by C / (C + sigma^2) of it, and so is the variance."""
    found = distances(0.0)
    assert found["gaussian"] < 0.02
    v, root = C + 36, (C / (C + 36)).sqrt()
    exact = (root * MEAN).square().sum() + ((6 * root) - C.sqrt()).square().sum()
    assert found["noise"] == pytest.approx(exact.item(), rel=0.15)
    assert v.min() > 36


def test_a_model_that_errs_in_the_mean_starts_where_it_is_right():
    """What noise alone lacks of the mean makes up for a network that thinks it too high."""
    found = distances(2.0)
    assert better_start(found) == "noise"
    # A difference within its error is none.
    assert better_start({"gaussian": 2.0, "noise": 1.0, "error": 0.6}) == "gaussian"


def test_the_error_of_the_difference_is_its_spread():
    model = prescore.Denoiser(REFERENCE, (1, 2, 2), 0.01, 6.0, dtype=torch.float64)
    runs = [measure_start(model, REFERENCE, LEVELS, samples=200, seed=1000 * k) for k in range(60)]
    spread = torch.tensor([run["gaussian"] - run["noise"] for run in runs]).std().item()
    errors = torch.tensor([run["error"] for run in runs]).square().mean().sqrt().item()
    assert errors == pytest.approx(spread, rel=0.35)


def test_noise_alone():
    x = from_noise((1, 2, 2)).noisy(NoiseSource([3], (1, 2, 2))(), torch.tensor(6.0))
    assert torch.equal(x, 6 * NoiseSource([3], (1, 2, 2))())


@pytest.fixture
def digits() -> prescore.Denoiser:
    return prescore.load("mnist-edm")


def with_starts(model: prescore.Denoiser, **starts: float) -> prescore.Denoiser:
    statistics = prescore.load_statistics("mnist-edm")
    return replace(model, statistics=replace(statistics, tuning=replace(statistics.tuning, starts=starts)))


@pytest.mark.parametrize(("better", "label"), [("noise", "noise"), ("gaussian", None)])
def test_the_better_start_is_taken_and_said(digits, better, label):
    starts = {**{name: 1.0 if name == better else 2.0 for name in STARTS}, "error": 0.4}
    plan = prescore.plan(with_starts(digits, **starts), calls=5)
    assert plan.settings["start"] == better
    assert "squared distance" in plan.reasons["start"]
    assert (None if plan.start is None else plan.start.label) == label
    assert "start" not in prescore.plan(with_starts(digits, **starts), sampler="p-ode-3m", calls=5).settings
    # It was measured at the highest noise that the model knows, and says nothing of others.
    assert "start" not in prescore.plan(with_starts(digits, **starts), calls=5, sigma_max=20.0).settings


def test_a_start_by_name(digits):
    seeds = range(2)
    noise = 80 * NoiseSource(seeds, digits.event_shape)()
    plain = prescore.plan(digits, sampler="p-ode-3m", calls=3, start="noise")
    own = prescore.plan(digits, sampler="p-ode-3m", calls=3)
    first = plain.levels[0] / 80
    expected = own.sample(seeds, initial=(noise * first).float(), draw=1, progress=False)
    assert torch.allclose(plain.sample(seeds, progress=False), expected, atol=1e-5)
    gaussian = prescore.plan(digits, sampler="unipc", calls=3, start="gaussian")
    assert gaussian.start is not None
    assert gaussian.settings["start"] == "gaussian"
    with pytest.raises(PrescoreError, match="start"):
        prescore.plan(digits, start="data")
    with pytest.raises(PrescoreError, match="statistics"):
        prescore.plan(replace(digits, statistics=None), sampler="unipc", start="gaussian")


def test_starts_are_stored(tmp_path):
    statistics = prescore.load_statistics("mnist-edm")
    kept = replace(
        statistics, model=ModelStatistics(), tuning=Tuning(starts={"gaussian": 1.5, "noise": 0.5, "error": 0.1})
    )
    prescore.save_statistics(kept, tmp_path / "s.safetensors")
    again = prescore.load_statistics(tmp_path / "s.safetensors").tuning.starts
    assert again == {"gaussian": 1.5, "noise": 0.5, "error": 0.1}
    assert prescore.load_statistics("mnist-edm").tuning.scaled(2.0).starts == {
        name: 4 * value for name, value in statistics.tuning.starts.items()
    }


def test_a_pipeline_may_say_where_it_starts():
    model = prescore.Denoiser(lambda x, sigma: x, (1, 2, 2), 0.01, 6.0)
    found = plan_on(torch.tensor([6.0, 1.0, 0.1, 0.0]), model, "unipc", start="noise")
    z = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(found.initial(Given(z)), 6.0 * z)


def test_start_and_prior_say_the_same():
    with pytest.raises(PrescoreError, match="prior: says where samples start"):
        prescore.plan(prescore.load("mnist-ncsn"), sampler="ald", prior="uniform", start="noise")
