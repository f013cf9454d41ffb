"""The experiment in the latent space runs in a small setting, and its controls are what they are said to be."""

import numpy as np
import pytest
import torch
from test_experiments import experiment, quick

import prescore


@pytest.fixture(scope="module")
def latent():
    return experiment("latent_mnist")


@pytest.fixture
def digits(tmp_path):
    np.savez(tmp_path / "digits.npz", train=np.random.default_rng(0).integers(0, 256, (200, 28, 28), dtype=np.uint8))
    return tmp_path / "digits.npz"


def latents():
    """Smooth ones of two channels, one strong, one weak."""
    z = torch.randn(50, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return z.cumsum(-1).cumsum(-2) * torch.tensor([1, 0.01]).reshape(2, 1, 1)


def test_quick_run(latent, digits, tmp_path, monkeypatch):
    short = {"steps": 2, "batch_size": 8, "warmup": 0, "cooldown": 0}
    monkeypatch.setattr(latent, "HELD_OUT", 60)
    monkeypatch.setattr(latent, "QUICK_VAE", short | {"model_channels": 4, "num_blocks": 0})
    monkeypatch.setattr(latent, "QUICK_LATENT", short | {"model_channels": 8, "num_blocks": 1})
    arguments = ["--data", str(digits), "--trained", str(tmp_path / "run")]
    result = quick(latent, tmp_path / "first", *arguments)
    ours = ["p-ode-2m, 6 calls", "p-ode-2m, 2 calls"]
    names = {"true digits", "their reconstructions", "plain, T = 60", *(f"{m}, T = 3" for m in latent.METHODS), *ours}
    assert result["runs"].keys() == names
    assert result["runs"]["plain, T = 60"]["calls"] == 20 * result["runs"]["plain, T = 3"]["calls"]
    model = tmp_path / "run" / "latent" / "model.safetensors"
    again = quick(latent, tmp_path / "second", *arguments[:2], "--model", str(model))
    for run in (*result["runs"].values(), *again["runs"].values()):
        run.pop("seconds", None)
    assert again == result


def test_langevin_dynamics_on_latents(digits, tmp_path, monkeypatch):
    module = experiment("latent_langevin")
    short = {"steps": 2, "batch_size": 8, "warmup": 0, "cooldown": 0}
    monkeypatch.setattr(module, "QUICK_VAE", short | {"model_channels": 4, "num_blocks": 0})
    monkeypatch.setattr(module, "QUICK_LATENT", short | {"model_channels": 8, "num_blocks": 1})
    result = quick(module, tmp_path / "first", "--data", str(digits), "--trained", str(tmp_path / "run"))
    rows = [row for row in result["runs"].values() if "mask" in row]
    masks = ["plain", "PDS, alpha 1.75", "PDS, alpha 2.5", "PDS, alpha 5", "M = m"]
    dynamics = (module.LANGEVIN, module.OWN, module.CORRECTED)
    assert {(row["dynamics"], row["mask"]) for row in rows} == {
        *((d, mask) for d in dynamics for mask in masks),
        (module.LANGEVIN, "original"),
    }
    model = module.load_model(tmp_path / "run" / "latent" / "model.safetensors")
    setting = module.Setting(model, torch.zeros(9, 1, 32, 32, dtype=torch.uint8), 4, "pixels")
    few, original = setting.langevin(50, 1, None, 20), setting.langevin(200, 5, None)
    lengths = [s.start(s.levels(model.sigma_min, model.sigma_max)) for s in (few, original)]
    assert lengths[0] == pytest.approx(20 * lengths[1])
    in_colour = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "colour.npz", train=in_colour)
    words = ["--subject", "colour", "--data", str(tmp_path / "colour.npz"), "--features", "means-2x2"]
    found = quick(module, tmp_path / "second", *words, name="latent_colour")
    assert {row["mask"] for row in found["runs"].values() if "mask" in row} >= {"PDS, alpha 4", "plain"}


def test_the_control_lengthens_noise_as_pds_does(latent):
    statistics = prescore.calibrate(latents(), data_range=(-20.0, 20.0))
    impulses = torch.eye(32, dtype=torch.float64).reshape(32, 2, 4, 4)
    both = (latent.pds(statistics), latent.uniform(statistics))
    traces = [M.noise(impulses).square().sum().item() for M in both]
    assert traces[0] == pytest.approx(traces[1])
    assert traces[0] > 32


def test_the_formula_is_applied_to_latents_as_they_stand(latent):
    """R = log(E|F z|^2 + 1), whatever range the statistics name."""
    z = latents()
    statistics = prescore.calibrate(z, data_range=(-20.0, 20.0))
    R = torch.log1p(torch.fft.fft2(z).abs().square().mean(0))
    R = (R / R.max() + 0.75) / 1.75
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.fft.ifft2(torch.fft.fft2(x) / R).real
    assert torch.allclose(latent.pds(statistics).noise(x), expected, atol=1e-10)


def test_whiteness(latent):
    white = torch.randn(4000, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    found = latent.whiteness(white, -10.0, 10.0)
    assert found["largest_over_smallest_frequency_of_a_channel"] < 1.2
    assert found["effective_dimensions"] == pytest.approx(32, rel=0.05)
    found = latent.whiteness(latents(), -20.0, 20.0)
    assert found["largest_over_smallest_frequency_of_a_channel"] > 5
    strong, weak = found["power_of_channels"]
    assert strong > 1000 * weak
    assert found["effective_dimensions"] < 16
