"""Models of latents at the command line: trained, calibrated in their latent space, sampled as pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import prescore
from prescore.data import load_images
from prescore.models.latent import LatentDenoiser

BYTES = np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8)
SHORT = ("--steps", 2, "--batch-size", 8, "--warmup", 0, "--cooldown", 0, "--no-progress", "--no-tensorboard")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "a.npz", images=BYTES)
    return tmp_path / "a.npz"


@pytest.fixture
def latent(tmp_path: Path, data: Path, cli: Callable[..., Any]) -> Path:
    """A model of latents, trained by the two commands."""
    small = ("--model-channels", 4, "--num-blocks", 0)
    vae = cli("train", data, "--recipe", "vae", "--out", tmp_path / "vae", "--latent-channels", 2, *small, *SHORT)
    assert (vae.code, vae.err) == (0, "")
    autoencoder = ("--autoencoder", tmp_path / "vae" / "model.safetensors")
    small = ("--model-channels", 8, "--num-blocks", 1)
    made = cli("train", data, "--recipe", "latent", "--out", tmp_path / "latent", *autoencoder, *small, *SHORT)
    assert (made.code, made.err) == (0, "")
    return tmp_path / "latent" / "model.safetensors"


def test_train_calibrate_sample(tmp_path: Path, data: Path, latent: Path, cli: Callable[..., Any]) -> None:
    statistics = tmp_path / "s.safetensors"
    assert cli("calibrate", data, "--encode", latent, "--out", statistics, "--n", 30).code == 0
    model = prescore.load(latent)
    assert isinstance(model, LatentDenoiser)
    expected = prescore.calibrate(model.encode(load_images(data, n=30)), data_range=model.data_range)
    written = prescore.load_statistics(statistics)
    assert written.event_shape == (2, 4, 4)
    assert torch.allclose(written.moments.power, expected.moments.power, rtol=1e-5)
    pds = ("--sampler", "pds", "--steps", 3, "--statistics", statistics, "--n", 2)
    assert cli("sample", latent, "--out", tmp_path / "pictures", *pds).code == 0
    assert Image.open(tmp_path / "pictures" / "000001.png").size == (16, 16)
    assert cli("sample", latent, "--out", tmp_path / "a.png", "--steps", 2, "--sampler", "ddim", "--n", 4).code == 0
    assert Image.open(tmp_path / "a.png").size == (2 * 16 + 2, 2 * 16 + 2)


def test_pictures_are_the_decoded_latents(tmp_path: Path, latent: Path, cli: Callable[..., Any]) -> None:
    assert cli("sample", latent, "--out", tmp_path / "a.npz", "--sampler", "ddim", "--steps", 2, "--n", 3).code == 0
    model = prescore.load(latent)
    z = prescore.sample(model, prescore.make_sampler("ddim", steps=2), seeds=range(3), progress=False)
    images = np.load(tmp_path / "a.npz")["images"]
    assert images.shape == (3, 16, 16, 1)
    assert np.abs(images[..., 0] / 255 - model.decode(z)[:, 0].numpy()).max() < 0.6 / 255


def test_floats_are_scaled_before_they_are_encoded(
    tmp_path: Path, data: Path, latent: Path, cli: Callable[..., Any]
) -> None:
    np.save(tmp_path / "f.npy", BYTES.astype(np.float32) * 2 - 255)
    for name, options in {"a.npz": (), "f.npy": ("--range", -255, 255)}.items():
        assert cli("calibrate", tmp_path / name, "--encode", latent, "--out", tmp_path / name[0], *options).code == 0
    of_bytes, of_floats = (prescore.load_statistics(tmp_path / name) for name in ("a", "f"))
    assert torch.allclose(of_bytes.moments.mean, of_floats.moments.mean, atol=1e-5)
    assert of_bytes.data_range == of_floats.data_range


def test_refusals(
    tmp_path: Path, data: Path, latent: Path, model: Path, refused: Callable[..., str], cli: Callable[..., Any]
) -> None:
    out = ("--out", tmp_path / "s.safetensors")
    assert f"--encode: {model} is not a model of latents" in refused("calibrate", data, "--encode", model, *out)
    assert "the autoencoder is for (1, 16, 16)" in refused("calibrate", data, "--encode", latent, "--pad", 20, *out)
    vae = tmp_path / "vae" / "model.safetensors"
    assert "draws no samples by itself" in refused("sample", vae, "--out", tmp_path / "x.png")
    assert "autoencoder: is missing" in refused("train", data, "--recipe", "latent", "--out", tmp_path / "y")
    cli("calibrate", data, *out)
    assert "they are of events of shape" in refused(
        "sample", latent, "--sampler", "pds", "--statistics", tmp_path / "s.safetensors", "--out", tmp_path / "x.png"
    )


def test_info_names_the_autoencoder(latent: Path, cli: Callable[..., Any]) -> None:
    shown = cli("info", latent)
    assert shown.code == 0
    assert "ScoreMLP" in shown.out
    assert "autoencoder latent_channels" in shown.out
