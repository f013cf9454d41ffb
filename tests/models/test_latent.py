from dataclasses import replace

import pytest
import torch

import prescore
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.models.latent import LatentDenoiser, encode
from prescore.models.vae import VAE
from prescore.samplers import PredictorCorrector


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def vae():
    return VAE(8, 1, 2, model_channels=4, generator=generator()).eval().requires_grad_(False)


@pytest.fixture
def model(vae):
    """The exact denoiser of latents N(0, 4 I)."""
    return LatentDenoiser(
        lambda x, sigma: 4 / (4 + sigma.reshape(-1, 1, 1, 1) ** 2) * x,
        vae.latent_shape,
        0.01,
        50.0,
        data_range=(-9.0, 9.0),
        autoencoder=vae,
    )


def images(count, seed=1):
    return torch.rand(count, 1, 8, 8, generator=generator(seed))


def test_what_samples_stand_for(model):
    assert (model.event_shape, model.picture_shape) == ((2, 2, 2), (1, 8, 8))
    assert (model.data_range, model.picture_range) == ((-9.0, 9.0), (0.0, 1.0))
    plain = Denoiser(model.function, (1, 8, 8), 0.01, 50.0, data_range=(-1.0, 1.0))
    x = images(2)
    assert (plain.picture_shape, plain.picture_range) == ((1, 8, 8), (-1.0, 1.0))
    assert plain.decode(x) is x


def test_any_sampler_draws_latents_and_decode_makes_pictures_of_them(model, vae):
    sampler = PredictorCorrector(steps=20)
    z = prescore.sample(model, sampler, seeds=range(3), progress=False)
    assert z.shape == (3, 2, 2, 2)
    pictures = model.decode(z)
    assert pictures.shape == (3, 1, 8, 8)
    assert pictures.dtype == z.dtype
    assert torch.allclose(pictures.float(), vae.decode(z.float()), atol=1e-6)
    assert ((pictures > 0) & (pictures < 1)).all()
    again = prescore.sample(model, sampler, seeds=[2], progress=False)
    assert torch.allclose(model.decode(again)[0], pictures[2], atol=1e-6)


def test_a_counted_model_is_still_one_of_latents(model):
    counted = replace(model, function=lambda x, sigma: model(x, sigma), sigma_max=3.0)
    assert counted.autoencoder is model.autoencoder
    assert counted.decode(torch.zeros(1, 2, 2, 2)).shape == (1, 1, 8, 8)


def test_latents_are_the_means_of_the_posteriors_whatever_the_batch(model, vae):
    x = images(VAE.at_once + 3)
    z = model.encode(x)
    assert z.shape == (VAE.at_once + 3, 2, 2, 2)
    assert torch.allclose(z[-3:], vae.encode(x[-3:]).mean, atol=1e-6)
    assert model.decode(z).shape == x.shape


def test_bytes_are_scaled_to_the_unit_range(vae):
    x = (images(4) * 255).round().to(torch.uint8)
    assert torch.allclose(encode(vae, x), encode(vae, x.float() / 255), atol=1e-6)


def test_an_autoencoder_in_half_precision(vae):
    half = VAE(8, 1, 2, model_channels=4, generator=generator()).to(torch.bfloat16).requires_grad_(False)
    z = encode(half, images(4))
    assert z.dtype == torch.float32
    assert torch.allclose(z, encode(vae, images(4)), atol=0.05)


def test_latents_of_another_shape(model, vae):
    with pytest.raises(PrescoreError, match=r"autoencoder: its latents are \(2, 2, 2\), the model's are \(2, 4, 4\)"):
        replace(model, event_shape=(2, 4, 4))
    with pytest.raises(PrescoreError, match=r"images: \(1, 6, 6\); the autoencoder is for \(1, 8, 8\)"):
        model.encode(torch.zeros(1, 1, 6, 6))
