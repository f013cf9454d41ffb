from dataclasses import replace

import pytest
import torch

import prescore
from prescore.checkpoints.autoencoder import save_autoencoder
from prescore.checkpoints.native import read_description
from prescore.errors import PrescoreError
from prescore.models.latent import LatentDenoiser, encode
from prescore.models.vae import VAE
from prescore.samplers import PredictorCorrector
from prescore.training.config import TrainingConfig
from prescore.training.data import TrainingData
from prescore.training.latent import MARGIN
from prescore.training.loop import RunOptions, train
from prescore.training.recipes import find_recipe, with_options

ARGUMENTS = {"img_resolution": 16, "in_channels": 1, "latent_channels": 2, "model_channels": 4, "num_blocks": 0}
SHORT = TrainingConfig(steps=3, batch_size=8, warmup=0, cooldown=0)
NETWORKS = {
    "mlp": {"model_channels": 8, "num_blocks": 1},
    "ncsnv2": {"network": "ncsnv2", "preconditioning": "score-labels", "noise": "levels", "model_channels": 4},
    "ncsnpp": {"network": "ncsnpp", "preconditioning": "ve", "channel_mult": (1,), "model_channels": 8},
}
NETWORKS["ncsnpp"] |= {"attn_resolutions": (), "num_blocks": 1}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=40):
    return (torch.rand(count, 1, 16, 16, generator=generator(5)) * 255).to(torch.uint8)


@pytest.fixture
def autoencoder(tmp_path):
    vae = VAE(**ARGUMENTS, generator=generator())
    save_autoencoder(tmp_path / "vae", ARGUMENTS, vae.state_dict(), dtype=torch.float32)
    return vae.requires_grad_(False)


def task(tmp_path, network="mlp", data=None):
    given = NETWORKS[network] | {"autoencoder": str(tmp_path / "vae")}
    settings, _ = with_options(find_recipe("latent"), given)
    return settings.task(TrainingData(images()) if data is None else data)


@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_learned_is_stored_with_its_autoencoder(tmp_path, autoencoder, network):
    options = RunOptions(progress=False, name="dots", sample_every=3)
    drawn = []
    made = task(tmp_path, network)
    result = train(made, SHORT, tmp_path / "run", options, save_picture=lambda *given: drawn.append(given))
    model = prescore.load(result.model)
    assert isinstance(model, LatentDenoiser)
    assert (model.event_shape, model.picture_shape) == ((2, 4, 4), (1, 16, 16))
    assert model.sigma_min == 0.01
    assert model.sigma_max == pytest.approx(made.sigma_max)
    z = prescore.sample(model, PredictorCorrector(steps=3), seeds=range(2), progress=False)
    assert torch.allclose(model.decode(z), autoencoder.decode(z.float()).double(), atol=0.02)  # half precision
    [(_, pictures, data_range)] = drawn
    assert pictures.shape == (16, 1, 16, 16)
    assert data_range == made.data_range
    low, high = data_range
    assert ((pictures > low) & (pictures < high)).all()


def test_the_data_are_the_means_of_the_posteriors(tmp_path, autoencoder):
    made, z = task(tmp_path), encode(autoencoder, images())
    assert torch.allclose(made.data.examples, z, atol=1e-6)
    assert made.data_range[1] == pytest.approx(MARGIN * z.abs().max().item())
    batch = made.batch(made.draw(4, generator(1)).part(0, 4))
    assert all((x0 - z).flatten(1).norm(dim=1).min() < 1e-5 for x0 in batch["x0"])


def test_images_in_other_units(tmp_path, autoencoder):
    floats = TrainingData(images().float() / 255 * 4 - 2, data_range=(-2.0, 2.0))
    assert torch.allclose(task(tmp_path, data=floats).data.examples, encode(autoencoder, images()), atol=1e-5)


def test_a_run_goes_on_only_with_the_same_autoencoder(tmp_path, autoencoder):
    options = RunOptions(progress=False)
    train(task(tmp_path), replace(SHORT, steps=2), tmp_path / "run", options)
    (tmp_path / "vae").rename(tmp_path / "elsewhere")
    settings, _ = with_options(find_recipe("latent"), NETWORKS["mlp"] | {"autoencoder": str(tmp_path / "elsewhere")})
    result = train(settings.task(TrainingData(images())), SHORT, tmp_path / "run", options)
    assert str(tmp_path) not in str(read_description(result.model))
    other = VAE(**ARGUMENTS, generator=generator(7))
    save_autoencoder(tmp_path / "vae", ARGUMENTS, other.state_dict())
    with pytest.raises(PrescoreError, match="data"):
        train(task(tmp_path), replace(SHORT, steps=4), tmp_path / "run", options)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"flip": True}, "flip: belongs to recipes for images"),
        ({"data_range": (0.0, 1.0)}, "data_range: belongs to recipes for images"),
        ({"channel_mult": (1, 2)}, "channel_mult: belongs to the networks ddpmpp and ncsnpp"),
        (
            {"preconditioning": "score-labels"},
            "score-labels does not go with the network mlp; give edm or ve or vp or flow",
        ),
    ],
)
def test_settings_that_do_nothing_here(given, message):
    with pytest.raises(PrescoreError, match=message):
        with_options(find_recipe("latent"), given)


def test_without_an_autoencoder_or_with_images_of_another_size(tmp_path, autoencoder):
    settings, _ = with_options(find_recipe("latent"), {})
    with pytest.raises(PrescoreError, match="autoencoder: is missing; train one with --recipe vae"):
        settings.task(TrainingData(images()))
    with pytest.raises(PrescoreError, match=r"images: \(1, 6, 6\); the autoencoder is for \(1, 16, 16\)"):
        task(tmp_path, data=TrainingData(torch.zeros(4, 1, 6, 6)))
