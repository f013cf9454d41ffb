"""The experiments of the EDM and SEEDS papers run in a small setting, on subjects that are what they say."""

import math

import numpy as np
import pytest
import torch
from test_experiments import experiment, quick

import prescore
from prescore import PrescoreError
from prescore.gaussian import Gaussian
from prescore.noise import NoiseSource
from prescore.samplers.edm import EDMChurn


def smooth(n, channels, generator):
    """Images of bytes with neighbours alike."""
    x = generator.normal(size=(n, 32, 32, channels)).cumsum(1).cumsum(2)
    return (127.5 + 60 * np.tanh(x / 20)).astype(np.uint8)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    path, generator = tmp_path_factory.mktemp("data") / "photographs.npz", np.random.default_rng(0)
    np.savez(path, train=smooth(150, 3, generator), test=smooth(100, 3, generator))
    return path


@pytest.fixture(scope="module")
def subjects():
    return experiment("subjects")


@pytest.fixture(scope="module")
def patches(subjects, photographs):
    return subjects.patches(photographs, 300, True)


def test_quick_stochasticity(photographs, tmp_path):
    np.savez(tmp_path / "digits.npz", train=smooth(40, 1, np.random.default_rng(1))[..., 0])
    flags = ["--data", str(photographs), "--images", str(tmp_path / "digits.npz")]
    result = quick(experiment("edm_stochasticity"), tmp_path, *flags)["runs"].values()
    found = {(row["denoiser"], row["sampler"]) for row in result if "sampler" in row}
    assert {denoiser for denoiser, _ in found} == {"exact", "faulty", "mnist-ve"}
    assert len(found) == 3 * 9


@pytest.mark.parametrize("name", ["edm_schedules", "edm_training", "seeds_tables", "seeds_trajectories"])
def test_quick_run(name, photographs, tmp_path):
    result = quick(experiment(name), tmp_path, "--data", str(photographs))["runs"]
    ours = [row for key, row in result.items() if "p-ode" in key]
    assert ours or name == "edm_training"
    assert "p-ode-3m" in (tmp_path / f"{name}.md").read_text()


def test_where_a_patch_lies_matters_in_small_images(subjects, tmp_path):
    for size, patches in ((32, 1), (28, 4)):
        np.savez(tmp_path / "x.npz", test=np.zeros((3, size, size, 1), np.uint8))
        assert subjects.mixtures.held_out(tmp_path / "x.npz").shape == (3 * patches, 1, 16, 16)


def test_halved_mixture_is_that_of_the_means(subjects, photographs):
    mixtures = subjects.mixtures
    whole = mixtures.fit(mixtures.patches(photographs, "train")[::20], 2, 2)
    half = subjects.halved(whole)
    drawn = torch.nn.functional.avg_pool2d(whole.sample(range(4000)), 2).flatten(1)
    mean, covariance = half.moments
    assert torch.allclose(drawn.mean(0), mean, atol=5 * covariance.diagonal().max().sqrt().item() / math.sqrt(4000))
    assert torch.allclose(drawn.mT.cov(), covariance, atol=0.1 * covariance.diagonal().max().item())
    x, sigma = half.sample(range(10)), torch.tensor(0.3, dtype=torch.float64)
    noisy = x + sigma * NoiseSource(range(10), x.shape[1:], draw=2)()
    assert torch.allclose(half(noisy, sigma), half.oracle(noisy, sigma), rtol=1e-8)


def test_detail_and_distance_of_true_samples(patches):
    """Zero up to sampling; noise shows as excess of detail, blur as lack of it."""
    x = patches.sets[0]
    true = patches.measures(x)
    noise = NoiseSource(range(len(x)), x.shape[1:])()
    assert patches.measures(x + 0.1 * noise)["detail"] > true["detail"] + 0.1
    assert patches.measures(0.9 * x)["detail"] == pytest.approx(true["detail"] + 2 * math.log(0.9))
    assert patches.floor()["frechet"]["mean"] < patches.measures(0.5 * x)["frechet"]


def test_faulty_denoiser_ends_at_less_variance(subjects):
    """On a Gaussian: c / FAULT^2, whatever the sampler, as the docstring says."""
    module = experiment("edm_stochasticity")
    oracle = Gaussian.power_law((1, 8, 8), mean=0.0, rms=0.1)
    exact = prescore.Denoiser(oracle, (1, 8, 8), 0.002, 200.0, data_range=(-1.0, 1.0), dtype=torch.float64)
    known = {"sigma_min": 0.002, "sigma_max": 80.0, "sets": [torch.zeros(1500)], "batch_size": 1500}
    subject = subjects.Subject(denoiser=exact, statistics=None, measures=len, **known)
    power = torch.fft.fft2(module.faulty(subject).draw(subject.sampler("edm-heun", 79)), norm="ortho").abs().square()
    still = torch.fft.fft2(subject.draw(subject.sampler("edm-heun", 79)), norm="ortho").abs().square()
    ratio = (power.mean() / still.mean()).item()
    assert ratio == pytest.approx(module.FAULT**-2, rel=2e-3)


def test_churned_heun_is_the_stochastic_sampler_of_edm(patches):
    module = experiment("seeds_tables")
    solver = module.churned(patches, module.Solver("edm-heun"), 9, 3.0)
    own = EDMChurn(grid=solver.grid, S_churn=3.0, S_tmax=math.inf)
    assert solver.total_calls(5) == own.total_calls(5)
    assert torch.equal(patches.draw(solver), patches.draw(own))
    assert not isinstance(module.churned(patches, module.Solver("edm-heun"), 9, 0.0), EDMChurn)


def test_local_errors_fall_with_the_order(patches):
    """Twice as many steps of Heun's method have, at the same level, an eighth of the local error."""
    module = experiment("edm_schedules")
    measurement = module.Measurement(patches)
    method = module.Method("Heun", "VE", "σ = t")

    def error(steps):
        errors = measurement.local_errors(method.sampler(patches, 2 * steps - 1))
        return min(errors, key=lambda pair: abs(math.log(pair[0])))[1]

    assert 6 < error(33) / error(65) < 10


def test_a_model_is_brought_to_the_units_of_the_data(patches):
    """The exact denoiser of the data in [0, 1] becomes that of the data as they are."""
    module = experiment("edm_training")
    data = module.TrainingData(patches.sets[0], (-3.0, 3.0))
    mixture = patches.denoiser.function

    def in_unit_range(x, sigma):
        return (mixture(6 * x - 3, 6 * sigma) + 3) / 6

    model = prescore.Denoiser(in_unit_range, (1, 8, 8), 0.01, 50.0, data_range=(0.0, 1.0), dtype=torch.float64)
    x, sigma = patches.sets[1][:5] + 0.5, torch.tensor(0.7, dtype=torch.float64)
    assert torch.allclose(module.in_units_of(data, model)(x, sigma), mixture(x, sigma))


def test_too_few_images_are_refused(subjects, tmp_path):
    np.savez(tmp_path / "digits.npz", train=smooth(10, 1, np.random.default_rng(1))[..., 0])
    with pytest.raises(PrescoreError, match="at least 12"):
        subjects.network("mnist-ve", tmp_path / "digits.npz", "pixels", 6)
    with pytest.raises(PrescoreError, match="no such file"):
        subjects.patches(tmp_path / "none.npz", 6, True)
