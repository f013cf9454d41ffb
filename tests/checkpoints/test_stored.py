"""Networks that can be built, but not run."""

import json
import random

import pytest
import torch

from prescore.checkpoints.diffusers import CONFIG, read
from prescore.checkpoints.native import save_model
from prescore.checkpoints.stored import MAX_TEXT, ModelDescription, StoredModel, build, name_of, network_class
from prescore.errors import PrescoreError

LEVELS = [5.0, 1.0, 0.1]


def model(network, shape, preconditioning="edm", **arguments):
    """A stored model with random weights, of a network whose constructor takes these arguments."""
    given = {"sigmas": LEVELS} if preconditioning == "score-labels" else {}
    description = ModelDescription(network, arguments, preconditioning, given, 0.1, 5.0, shape, name="dots")
    weights = network_class(network)(**arguments, generator=torch.Generator().manual_seed(0))
    return StoredModel(description, weights.state_dict())


def unet(side, levels, **changes):
    """A `UNet2DModel` that halves the side once from each level to the next."""
    diffusers = pytest.importorskip("diffusers")
    arguments = {"sample_size": side, "in_channels": 1, "out_channels": 1, "block_out_channels": [4] * levels}
    arguments |= {"down_block_types": ["DownBlock2D"] * levels, "up_block_types": ["UpBlock2D"] * levels}
    arguments |= {"norm_num_groups": 2, "layers_per_block": 1, "attention_head_dim": 4} | changes
    description = ModelDescription("UNet2DModel", arguments, "edm", {}, 0.1, 5.0, (1, side, side), name="dots")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = diffusers.UNet2DModel(**arguments).state_dict()
    return StoredModel(description, weights)


def refused_everywhere(stored, tmp_path):
    """The line with which a model is refused when it is opened; it cannot be written either."""
    with pytest.raises(PrescoreError) as opened:
        build(stored)
    with pytest.raises(PrescoreError) as saved:
        save_model(tmp_path / "model.safetensors", stored.description, stored.state)
    assert str(saved.value) == f"{tmp_path / 'model.safetensors'}: {opened.value}"
    assert not list(tmp_path.iterdir())
    return str(opened.value)


def runs(stored):
    denoise = build(stored)
    x = torch.zeros(2, *denoise.event_shape)
    with torch.no_grad():
        return denoise(x, torch.tensor(1.0)).shape == x.shape


@pytest.mark.parametrize(("side", "levels"), [(28, 3), (32, 5), (7, 1)])
def test_sides_that_can_be_halved(side, levels):
    assert runs(unet(side, levels))


@pytest.mark.parametrize(
    ("side", "levels", "changes", "reason"),
    [
        (28, 5, {}, "Sizes of tensors must match"),
        (28, 4, {}, "Sizes of tensors must match"),
        (7, 2, {}, "Sizes of tensors must match"),
        (8, 2, {"norm_eps": None}, "TypeError: "),
        (8, 2, {"freq_shift": None}, "TypeError: "),
        (8, 2, {"down_block_types": ["DownEncoderBlock2D"] * 2}, "ValueError: "),
    ],
)
def test_networks_that_fail_when_they_are_called(side, levels, changes, reason, tmp_path):
    message = refused_everywhere(unet(side, levels, **changes), tmp_path)
    assert message.startswith(f"the network UNet2DModel cannot run on samples of the shape (1, {side}, {side}) (")
    assert reason in message


def test_a_folder_whose_network_cannot_run(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    stored = unet(28, 3)
    diffusers.UNet2DModel(**stored.description.arguments).save_pretrained(tmp_path / "unet")
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    assert runs(read(tmp_path))
    config = json.loads((tmp_path / "unet" / CONFIG).read_text())
    (tmp_path / "unet" / CONFIG).write_text(json.dumps(config | {"sample_size": 30}))
    with pytest.raises(PrescoreError, match="cannot run on samples of the shape"):
        build(read(tmp_path))


def test_an_operation_that_knows_no_shapes_says_nothing(monkeypatch):
    stored = unet(8, 2)
    forward = network_class("UNet2DModel").forward

    def on_devices_alone(self, x, *arguments, **more):
        if x.is_meta:
            raise NotImplementedError("no such operation on this device")
        return forward(self, x, *arguments, **more)

    monkeypatch.setattr(network_class("UNet2DModel"), "forward", on_devices_alone)
    assert runs(stored)


@pytest.mark.parametrize(
    ("network", "arguments", "least"),
    [
        ("NCSN", {}, 4),
        ("NCSNv2", {}, 4),
        ("NCSNv2", {"variant": "deeper"}, 8),
        ("NCSNv2", {"variant": "deepest"}, 16),
    ],
)
def test_the_least_sides_of_refine_nets(network, arguments, least, tmp_path):
    arguments = {"channels": 1, "ngf": 2, "num_classes": 3} | arguments
    assert runs(model(network, (1, least, least), "score-labels", **arguments))
    for shape in ((1, least - 1, least), (1, 1, 1), (1, least)):
        message = refused_everywhere(model(network, shape, "score-labels", **arguments), tmp_path)
        assert message == f"samples of the shape {shape}: the network {network} needs {least} x {least} pixels"
    message = refused_everywhere(model(network, (1, least, least), "edm", **arguments), tmp_path)
    assert message == f"the network {network} knows noise levels by number; it goes with 'score-labels' alone"


OWN = {
    "SongUNet": {
        "img_resolution": [1, 2, 4, 6],
        "out_channels": [1, 2],
        "model_channels": [0, 4, 6, 8],
        "channel_mult": [[1], [1, 2], [2, 1], [1, 1, 1], [1, 0], []],
        "num_blocks": [-1, 0, 1],
        "attn_resolutions": [[], [2]],
        "embedding_type": ["positional", "fourier"],
        "encoder_type": ["standard", "skip", "residual"],
        "decoder_type": ["standard", "skip"],
        "resample_filter": [[1, 1], [1, 3, 3, 1], [1, 2, 1]],
        "patch_size": [1, 2, 3],
    },
    "DhariwalUNet": {
        "img_resolution": [1, 2, 4, 6],
        "out_channels": [1, 2],
        "model_channels": [0, 4, 6, 8, 64],
        "channel_mult": [[1], [1, 2], [1, 1, 1], []],
        "num_blocks": [-1, 0, 1],
        "attn_resolutions": [[], [2]],
    },
    "NCSNpp": {
        "image_size": [1, 2, 4, 6],
        "nf": [0, 4, 6, 8],
        "ch_mult": [[1], [1, 2], [1, 1, 1], []],
        "num_res_blocks": [-1, 0, 1],
        "attn_resolutions": [[], [2]],
        "fir": [True, False],
        "fir_kernel": [[1, 3, 3, 1], [1, 2, 1], [1, 1, 1, 1, 1]],
        "resblock_type": ["biggan", "ddpm"],
        "progressive": ["none", "output_skip", "residual"],
        "progressive_input": ["none", "input_skip", "residual"],
        "progressive_combine": ["sum", "cat"],
        "embedding_type": ["fourier", "positional"],
        "scale_by_sigma": [False],
    },
    "ScoreMLP": {"img_resolution": [1, 2, 4], "width": [0, 1, 2, 4], "num_blocks": [-1, 0, 1]},
}
FIXED = {"NCSNpp": {"num_channels": 1}}


@pytest.mark.parametrize("network", OWN)
def test_what_can_be_opened_can_be_run(network):
    """Of this package's networks, with arguments drawn from those that fit and those that do not."""
    draw, built = random.Random(0), 0
    for _ in range(150):
        arguments = {name: draw.choice(values) for name, values in OWN[network].items()}
        arguments |= FIXED.get(network, {"in_channels": 1})
        side = arguments.get("img_resolution", arguments.get("image_size"))
        try:
            stored = model(network, (1, side, side), **arguments)
        except Exception:  # what cannot be made has no weights, and every file of it is refused
            description = ModelDescription(network, arguments, "edm", {}, 0.1, 5.0, (1, side, side))
            with pytest.raises(PrescoreError):
                build(StoredModel(description, {"weight": torch.zeros(1)}))
        else:
            assert runs(stored)
            built += 1
    assert built > 10


@pytest.mark.parametrize(
    ("text", "name"), [("dots", "dots"), ("a\n\x1b[31mb", r"a \x1b[31mb"), ("\udcff", r"\udcff"), ("x" * 300, None)]
)
def test_names_of_files_become_names_of_models(text, name):
    found = name_of(text)
    assert found == (name or found)
    assert len(found) <= MAX_TEXT
    ModelDescription("ScoreMLP", {}, "edm", {}, 0.1, 5.0, (1, 4, 4), name=found)
