"""The experiment with NCSN on MNIST: a small run, its masks, its closed form."""

import json

import numpy as np
import pytest
import torch
from test_experiments import experiment, quick

from prescore.checkpoints import ModelDescription, save_model
from prescore.errors import PrescoreError
from prescore.gaussian import Gaussian
from prescore.models.ncsn import NCSN
from prescore.operators import Frequency

SHAPE = (1, 28, 28)


@pytest.fixture(scope="module")
def ncsn():
    return experiment("ncsn_mnist")


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """A network that has learnt nothing, and pictures that are no digits."""
    folder = tmp_path_factory.mktemp("ncsn")
    generator = torch.Generator().manual_seed(0)
    arguments = {"channels": 1, "ngf": 2, "num_classes": 10}
    description = ModelDescription(
        network="NCSN",
        arguments=arguments,
        preconditioning="score-labels",
        preconditioning_arguments={"sigmas": torch.logspace(0, -2, 10).tolist()},
        sigma_min=0.01,
        sigma_max=1.0,
        event_shape=SHAPE,
    )
    save_model(folder / "model.safetensors", description, NCSN(**arguments, generator=generator).state_dict())
    pictures = torch.randint(256, (80, 28, 28), generator=generator).to(torch.uint8)
    np.savez(folder / "digits.npz", train=pictures.numpy())
    return ["--model", str(folder / "model.safetensors"), "--data", str(folder / "digits.npz")]


def test_ncsn_mnist(ncsn, flags, tmp_path):
    result = quick(ncsn, tmp_path, *flags)
    assert result["runs"].pop("true digits")["frechet"] > 0
    solver, spectra = (result["runs"].pop(name) for name in ("p-ode-2m, 20 calls", "spectra, 2 steps a level"))
    runs = result["runs"].values()
    assert spectra.keys() <= {"frequencies", *ncsn.DRAWN}
    assert {(r["method"], r["T"], r["h"]) for r in runs} == {(m, 20, h) for m in ncsn.METHODS for h in (0.2, 10.0)}
    assert all(r["frechet"] is None or r["frechet"] > 0 for r in runs)
    assert solver["calls"] == 20


def test_runs_of_other_settings_are_refused(ncsn, flags, tmp_path):
    settings = {"model": "another"}
    (tmp_path / "ncsn_mnist.json").write_text(json.dumps({"settings": settings, "runs": {}}))
    with pytest.raises(PrescoreError, match="its runs have other settings"):
        ncsn.main([*flags, "--folder", str(tmp_path), "--n", "16"])


def test_ncsnv2_steps(tmp_path, monkeypatch):
    module = experiment("ncsnv2_steps")
    pictures = tmp_path / "digits.npz"
    np.savez(pictures, train=np.random.default_rng(0).integers(0, 256, (60, 28, 28), dtype=np.uint8))
    monkeypatch.setattr(module, "QUICK", module.QUICK | {"model_channels": 2})
    monkeypatch.setattr(module, "SHOWN", 4)
    result = quick(module, tmp_path, "--data", str(pictures))
    rows = [row for row in result["runs"].values() if "T" in row]
    assert {(row["T"], row["method"]) for row in rows} == {
        *((T, method) for T in (3, 6) for method in module.methods()),
        (18, "plain"),
    }
    assert module.numbers_of(3152, (25, 20, 15)) == [126, 157, 210]
    assert module.numbers_of(3258, (50, 40, 30)) == [65, 81, 108]
    model = module.Denoiser(lambda x, sigma: 0 * x, SHAPE, 0.01, 10.0)
    setting = module.Setting(model, 40, torch.zeros(9, *SHAPE, dtype=torch.uint8), 4)
    few, original = setting.sampler(12, "plain"), setting.sampler(120, "plain")
    assert [s.total_calls(len(s.grid) - 1) for s in (few, original)] == [13, 121]
    lengths = [s.start(s.levels(model.sigma_min, model.sigma_max)) for s in (few, original)]
    assert lengths[0] == pytest.approx(10 * lengths[1])  # by the step rule


def test_the_masks_shrink_opposite_ends(ncsn):
    """Constant pictures and checkerboards are the lowest and the highest frequency."""
    low = torch.ones(1, *SHAPE, dtype=torch.float64)
    high = low * (-1) ** torch.arange(28).reshape(-1, 1) * (-1) ** torch.arange(28)
    gains = {name: make(SHAPE) for name, make in ncsn.METHODS.items()}
    assert gains.pop("plain") is None
    for name, (at_low, at_high) in {
        "PDS": (1 / 1.6, 1),
        "PDS, shifted mask": (1, 1 / 1.6),
        "PDS, multiplied": (1.6, 1),
        "M = 1/lam": (1 / 1.6, 1 / 1.6),
    }.items():
        torch.testing.assert_close(gains[name].noise(low), at_low * low)
        torch.testing.assert_close(gains[name].noise(high), at_high * high)


def test_equal_seeds_and_the_papers_step(ncsn):
    assert [ncsn.h_of_paper(n) for n in (2, 20, 100)] == pytest.approx([10, 1, 0.2])
    model = ncsn.Denoiser(lambda x, sigma: torch.full_like(x, 0.5), SHAPE, 0.01, 1.0)
    setting = ncsn.Setting(model, torch.zeros(9, *SHAPE, dtype=torch.uint8), 4, 3)
    x = setting.draw("plain", 20, 1.0, 4)
    # With all data at one point, a step of h = 1 leaves twice the variance of the level: sqrt(2) 0.01.
    assert (x - 0.5).std().item() == pytest.approx(0.01 * 2**0.5, rel=0.05)
    assert torch.equal(setting.draw("plain", 20, 1.0, 2), x[:2])
    assert not torch.equal(setting.draw("PDS", 20, 1.0, 2), x[:2])


@pytest.mark.parametrize("method", ["plain", "PDS"])
def test_the_closed_form_is_what_gaussian_data_give(ncsn, method):
    """The exact score of Gaussian data with the statistics of the pictures, which never leave [0, 1]."""
    noise = torch.randn(200, *SHAPE, generator=torch.Generator().manual_seed(0))
    pictures = (128 + 30 * torch.nn.functional.avg_pool2d(noise, 3, 1, 1)).to(torch.uint8)
    known = ncsn.Setting(ncsn.Denoiser(torch.add, SHAPE, 0.01, 1.0), pictures, 50, 100).statistics.moments
    covariance = known.power_centred / known.size_transformed
    oracle = Gaussian(known.mean, Frequency(covariance, axes=2, length=28))
    setting = ncsn.Setting(ncsn.Denoiser(oracle, SHAPE, 0.01, 1.0), pictures, 50, 100)
    n, level_steps, h = 100, 5, 0.7
    x = setting.draw(method, level_steps, h, n)
    power = (torch.fft.rfft2(x - known.mean, norm="ortho").abs() ** 2).mean(0)
    squares = (power / (covariance + 0.01**2)).log() ** 2
    weight = known.multiplicity.expand(squares.shape)
    found = ((weight * squares).sum() / weight.sum() - 1 / n).item()
    expected = setting.surrogate(method, level_steps, h)
    assert expected > 0.2
    assert found == pytest.approx(expected**2, rel=0.1)
