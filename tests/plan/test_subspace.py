"""Subspace diffusion in a plan and from the command line: two models, one of the means of blocks of pixels."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from prescore import calibrate, plan, sample
from prescore.checkpoints.native import ModelDescription, load_model, save_model
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.gaussian import Gaussian, cosine_gaussian
from prescore.models.song_unet import SongUNet
from prescore.operators import Cosine
from prescore.samplers.subspace import BlockMeans, orthonormal, subspace_denoiser
from prescore.statistics import save_statistics

FINE, COARSE = (2, 8, 12), (2, 4, 4)
BLOCKS = BlockMeans(FINE, COARSE)


def smooth(n=40):
    """Data whose cosine coefficients are independent, of falling variance, about a mean that is not constant."""
    k2 = torch.arange(8.0).reshape(-1, 1) ** 2 + torch.arange(12.0) ** 2
    mean = 0.5 + 0.1 * torch.linspace(0, 1, 12, dtype=torch.float64).expand(FINE)
    C = Cosine(0.02 / (1 + k2.double()).expand(FINE), 2)
    return Gaussian(mean, C).sample(n, torch.Generator().manual_seed(0))


DATA = smooth()
STATISTICS = calibrate(DATA, data_range=(-2.0, 3.0))
ORACLE = cosine_gaussian(STATISTICS)
MODEL = Denoiser(ORACLE, FINE, 0.01, 20.0, data_range=(-2.0, 3.0), dtype=torch.float64, statistics=STATISTICS)


def zero(y, sigma):
    return 0.5 + 0 * y


MEANS = Denoiser(zero, COARSE, 0.01, 20.0, data_range=(-2.0, 3.0), dtype=torch.float64, name="means")


def test_moments_of_statistics_are_those_of_data_with_such_cosines():
    mean, variance = BLOCKS.moments_of(STATISTICS)
    own_mean, own_variance = BLOCKS.moments(ORACLE.sample(4000, torch.Generator().manual_seed(1)))
    assert variance == pytest.approx(own_variance, rel=0.02)
    assert torch.allclose(mean, own_mean, atol=0.01)
    exact = BLOCKS.detail(ORACLE.mean)
    assert torch.allclose(mean, exact, atol=1e-12)
    # Exactly: the trace of P C over the coordinates of the detail.
    d = DATA[0].numel()
    projected = BLOCKS.detail(ORACLE.covariance.sqrt.mv(torch.eye(d, dtype=torch.float64).reshape(d, *FINE)))
    assert variance == pytest.approx(projected.square().sum().item() / (d - 32), rel=1e-10)
    with pytest.raises(PrescoreError, match="go beyond the last 2 axes"):
        BlockMeans(FINE, (1, 8, 12)).moments_of(STATISTICS)


@pytest.mark.parametrize("name", ["pc", "p-ode-2m", "dpmpp-2m"])
def test_a_plan_draws_what_the_denoiser_of_both_draws(name):
    decided = plan(MODEL, sampler=name, steps=8, subspace=MEANS)
    mean, variance = BLOCKS.moments_of(STATISTICS)
    switch = decided.settings["switch"]
    assert switch == pytest.approx(4 * variance**0.5, rel=1e-2)
    assert decided.settings["subspace"] == "means"
    assert "statistics" in decided.settings
    assert (decided.denoiser.sigma_min, decided.denoiser.sigma_max) == (0.01, 20.0)
    both = subspace_denoiser(MODEL, orthonormal(MEANS, BLOCKS), switch, variance=variance, mean=mean)
    expected = sample(replace(both, sigma_max=20.0), decided.sampler, seeds=range(3), progress=False)
    assert torch.equal(decided.sample(range(3), progress=False), expected)
    assert torch.equal(pickle.loads(pickle.dumps(decided)).sample(range(3), progress=False), expected)
    plain = plan(MODEL, sampler=name, steps=8).sample(range(3), progress=False)
    assert not torch.allclose(plain, expected)


def test_each_network_is_called_on_its_side_of_the_switch():
    seen = {"fine": [], "means": []}

    def recorded(function, name):
        def call(x, sigma):
            seen[name].append(sigma.item())
            return function(x, sigma)

        return call

    fine = replace(MODEL, function=recorded(ORACLE, "fine"))
    means = replace(MEANS, function=recorded(zero, "means"))
    decided = plan(fine, sampler="ddim", steps=10, subspace=means, switch=1.5)
    decided.sample(range(2), progress=False)
    levels = decided.levels[:-1]
    assert seen["fine"] == pytest.approx(levels[levels <= 1.5].tolist())
    # 2 x 3 pixels in a block: plain means see a noise smaller by their square root.
    assert seen["means"] == pytest.approx((levels[levels > 1.5] / 6**0.5).tolist())
    assert decided.calls == 10


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (MODEL, {"switch": 1.0}, "^switch: belongs to subspace"),
        (MODEL, {"subspace": zero}, "^subspace: function given; a Denoiser is needed"),
        (MODEL, {"subspace": replace(MEANS, data_range=(0.0, 1.0))}, "^subspace: its data_range is"),
        (MODEL, {"subspace": replace(MEANS, event_shape=(2, 3, 4))}, "^shapes: .* are not block means"),
        (MODEL, {"subspace": MEANS, "switch": 30.0}, "^switch: sigma = 30 is not where both models may be used"),
        (MODEL, {"subspace": MEANS, "switch": 0.5, "sigma_max": 0.1}, "^switch: .* may be used, 0.02449 to 0.1"),
        (replace(MODEL, statistics=None), {"subspace": MEANS}, "^subspace: .* comes without statistics"),
    ],
)
def test_what_does_not_fit_is_refused(model, options, message):
    with pytest.raises(PrescoreError, match=message):
        plan(model, sampler="ddim", steps=5, **options)


def test_a_switch_that_no_level_is_above_is_refused():
    with pytest.raises(PrescoreError, match=r"^switch: 1\.0 is above all noise levels of the run, up to 0\.5"):
        plan(MODEL, sampler="ddim", grid=[0.5, 0.1, 0.0], subspace=MEANS, switch=1.0)


def test_from_the_command_line(tmp_path):
    pytest.importorskip("typer")
    from prescore.cli import main

    for name, side in (("fine", 8), ("means", 4)):
        own = {"in_channels": 1, "out_channels": 1, "model_channels": 8, "channel_mult": [1], "num_blocks": 1}
        arguments = {"img_resolution": side, **own, "attn_resolutions": []}
        network = SongUNet(**arguments, generator=torch.Generator().manual_seed(0))
        description = ModelDescription("SongUNet", arguments, "edm", {"sigma_data": 0.5}, 0.01, 50.0, (1, side, side))
        save_model(tmp_path / f"{name}.safetensors", description, network.state_dict())
    data = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)).cumsum(-1) / 8
    save_statistics(calibrate(data), tmp_path / "s.safetensors")
    words = ["sample", tmp_path / "fine.safetensors", "--sampler", "dpmpp-2m", "--calls", 6, "--n", 2, "--float"]
    words += ["--subspace", tmp_path / "means.safetensors", "--switch", 0.7, "--statistics", tmp_path / "s.safetensors"]
    assert main([str(word) for word in [*words, "--out", tmp_path / "a.npz"]]) == 0
    with np.load(tmp_path / "a.npz") as file:
        settings, images = json.loads(str(file["settings"])), torch.from_numpy(file["images"]).movedim(-1, 1)
    assert (settings["switch"], len(settings["subspace_sha256"])) == (0.7, 16)
    fine, means = (load_model(tmp_path / f"{name}.safetensors") for name in ("fine", "means"))
    decided = plan(fine, sampler="dpmpp-2m", calls=6, subspace=means, switch=0.7, statistics=tmp_path / "s.safetensors")
    assert torch.allclose(decided.sample(range(2), progress=False).float(), images, atol=1e-5)
    assert main([str(word) for word in [*words[:8], "--switch", 0.7, "--out", tmp_path / "b.npz"]]) == 2
