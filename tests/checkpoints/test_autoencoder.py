import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import prescore
from prescore.checkpoints.autoencoder import load_autoencoder, save_autoencoder
from prescore.checkpoints.native import ModelDescription, save_model
from prescore.errors import PrescoreError
from prescore.models import SongUNet
from prescore.models.latent import LatentDenoiser
from prescore.models.vae import VAE

VAE_ARGUMENTS = {"img_resolution": 8, "in_channels": 1, "latent_channels": 2, "model_channels": 4, "num_blocks": 0}
NETWORK_ARGUMENTS = {"img_resolution": 2, "in_channels": 2, "out_channels": 2, "model_channels": 8}
NETWORK_ARGUMENTS |= {"channel_mult": [1], "num_blocks": 0, "attn_resolutions": []}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def vae():
    return VAE(**VAE_ARGUMENTS, generator=generator())


def description(**changes):
    fields = {"data_range": (-4.0, 4.0), "autoencoder": VAE_ARGUMENTS} | changes
    edm = ("edm", {"sigma_data": 0.5})
    return ModelDescription("SongUNet", NETWORK_ARGUMENTS, *edm, 0.01, 50.0, (2, 2, 2), **fields)


def weights(arguments=NETWORK_ARGUMENTS):
    network = SongUNet(**arguments, generator=generator(1)).state_dict()
    return network | {f"autoencoder.{name}": value for name, value in vae().state_dict().items()}


def rewritten(path, **changes):
    """The file with other entries in its description."""
    header = json.loads(read_header(path)) | changes
    save_file(load_file(path), path, metadata={"prescore": json.dumps(header)})


def read_header(path):
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(size))["__metadata__"]["prescore"]


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, description(), weights(), torch.float32)
    return path


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "vae.safetensors"
    save_autoencoder(path, VAE_ARGUMENTS, vae().state_dict(), name="dots", training={"steps": 3}, dtype=torch.float32)
    return path


@torch.no_grad()
def test_a_model_of_latents_is_one_file(model):
    loaded = prescore.load(model)
    assert isinstance(loaded, LatentDenoiser)
    assert (loaded.event_shape, loaded.picture_shape, loaded.data_range) == ((2, 2, 2), (1, 8, 8), (-4.0, 4.0))
    assert not any(p.requires_grad for p in loaded.autoencoder.parameters())
    z = torch.randn(3, 2, 2, 2, generator=generator(2))
    assert torch.equal(loaded.decode(z), vae().decode(z))
    assert loaded(z, torch.tensor(1.0)).shape == z.shape
    x = torch.rand(3, 1, 8, 8, generator=generator(3))
    assert torch.equal(loaded.encode(x), vae().encode(x).mean)


@torch.no_grad()
def test_half_precision_in_the_file_and_at_work(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, description(), weights())
    assert {value.dtype for name, value in load_file(path).items() if "resample" not in name} == {torch.float16}
    loaded = prescore.load(path, dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.autoencoder.parameters()} == {torch.bfloat16}
    z = torch.randn(3, 2, 2, 2, generator=generator(2))
    assert loaded.decode(z).dtype == torch.float32
    assert torch.allclose(loaded.decode(z), vae().decode(z), atol=0.02)


def test_a_model_of_latents_that_does_not_fit_together(tmp_path, model):
    network = NETWORK_ARGUMENTS | {"img_resolution": 4}
    wrong = replace(description(), arguments=network, event_shape=(2, 4, 4))
    with pytest.raises(PrescoreError, match=r"makes latents of shape \(2, 2, 2\), the model needs \(2, 4, 4\)"):
        save_model(tmp_path / "a", wrong, weights(network))
    with pytest.raises(PrescoreError, match=r"the weight 'autoencoder.\S+ belongs to no autoencoder"):
        save_model(tmp_path / "a", description(autoencoder=None), weights())
    without = {name: value for name, value in weights().items() if name != "autoencoder.decoder.0.bias"}
    with pytest.raises(PrescoreError, match=r"the weight 'decoder.0.bias' is missing"):
        save_model(tmp_path / "a", description(), without)
    rewritten(model, autoencoder=VAE_ARGUMENTS | {"model_channels": 8})
    with pytest.raises(PrescoreError, match=r"model.safetensors: the weight 'encoder.0.conv.weight' has shape"):
        prescore.load(model)
    rewritten(model, autoencoder=VAE_ARGUMENTS | {"generator": 1})
    with pytest.raises(PrescoreError, match=r"generator"):
        prescore.load(model)
    rewritten(model, autoencoder=[1])
    with pytest.raises(PrescoreError, match=r"autoencoder = \[1\]"):
        prescore.load(model)


def test_an_autoencoder_by_itself(file):
    loaded, arguments = load_autoencoder(file)
    assert arguments == VAE_ARGUMENTS
    assert all(torch.equal(value, vae().state_dict()[name]) for name, value in loaded.state_dict().items())
    assert not loaded.training
    assert json.loads(read_header(file))["training"] == {"steps": 3}
    with pytest.raises(PrescoreError, match="an autoencoder, which draws no samples by itself; train a model"):
        prescore.load(file)


def test_files_that_are_no_autoencoder(tmp_path, file, model):
    cases = {"not an autoencoder": model, "cannot be read": tmp_path / "nowhere"}
    for message, path in cases.items():
        with pytest.raises(PrescoreError, match=message) as caught:
            load_autoencoder(path)
        assert str(caught.value).startswith(f"{path}: ")
    rewritten(file, version=2)
    with pytest.raises(PrescoreError, match="newer version"):
        load_autoencoder(file)
    rewritten(file, version=1, arguments={"img_resolution": 8})
    with pytest.raises(PrescoreError, match="the arguments of the autoencoder lack 'in_channels'"):
        load_autoencoder(file)
    rewritten(file, arguments=None)
    with pytest.raises(PrescoreError, match="not a mapping"):
        load_autoencoder(file)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(PrescoreError, match="not an autoencoder"):
        load_autoencoder(file)


def test_saving_refuses_weights_that_could_not_be_loaded(tmp_path):
    state = vae().state_dict()
    state["decoder.0.bias"] = torch.full_like(state["decoder.0.bias"], 1e6)
    with pytest.raises(PrescoreError, match=r"vae: the weight 'decoder.0.bias' has values"):
        save_autoencoder(tmp_path / "vae", VAE_ARGUMENTS, state)
    assert not (tmp_path / "vae").exists()
