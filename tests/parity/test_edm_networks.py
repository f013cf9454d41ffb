"""Layers, networks, preconditioning and losses against numbers recorded from the EDM paper's own code."""

import json

import pytest
import torch
from safetensors import safe_open
from support import REFERENCE, relative

from prescore.models import EDMPrecond, IDDPMPrecond, SongUNet, VEPrecond, VPPrecond
from prescore.models.dhariwal_unet import DhariwalUNet
from prescore.models.layers import Block, BlockStyle, Conv2d, FourierEmbedding, PositionalEmbedding, group_norm
from prescore.training.losses import LogNormal, LogUniform, denoising_loss, edm_weight, inverse_square_weight

EDM = REFERENCE / "edm"
CLASSES = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}
NETWORKS = ["song-ddpmpp", "song-ncsnpp", "song-ddpmpp-label3-augment9", "song-skip-skip"]
NETWORKS += ["adm-label3", "adm-attention-label3-augment9"]
SHAPES = ["cifar10-32x32-uncond-ddpmpp", "cifar10-32x32-cond-ddpmpp", "cifar10-32x32-uncond-ncsnpp"]
SHAPES += ["ffhq-64x64-uncond-ddpmpp", "imagenet-64x64-cond-adm"]
PRECONDS = {"edm": EDMPrecond, "ve": VEPrecond, "vp": VPPrecond, "iddpm": IDDPMPrecond}
LIMIT, LIMIT_F64 = 1e-5, 1e-7  # attention and the positional frequencies are float32 even in the float64 runs
UNIT_LIMIT = 1e-5


def recorded(name):
    """Tensors and metadata of a file; the test is skipped where it is not."""
    path = EDM / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"no recorded numbers edm/{path.name} beside the repository")
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def parameters(tensors, prefix="param/"):
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def inputs(tensors, dtype=torch.float32):
    found = [tensors.get(f"in/{name}") for name in ("x", "noise_labels", "class_labels", "augment_labels")]
    return [None if value is None else value.to(dtype) for value in found]


def recorded_network(name):
    tensors, metadata = recorded(f"net-{name}")
    network = CLASSES[metadata["model_class"]](**json.loads(metadata["init_kwargs"])).eval()
    return network, tensors, metadata


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_networks(name):
    network, tensors, metadata = recorded_network(name)
    assert list(network.state_dict()) == json.loads(metadata["state_dict_order"])
    network.load_state_dict(parameters(tensors))
    assert relative(network(*inputs(tensors)), tensors["out"]) < LIMIT
    if "out_no_augment" in tensors:
        assert relative(network(*inputs(tensors)[:3]), tensors["out_no_augment"]) < LIMIT
    assert relative(network.double()(*inputs(tensors, torch.float64)), tensors["out_f64"]) < LIMIT_F64


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_every_layer_of_the_networks(name):
    network, tensors, metadata = recorded_network(name)
    network.load_state_dict(parameters(tensors))
    seen = {}
    for side, layers in (("enc", network.enc), ("dec", network.dec)):
        for key, layer in layers.items():
            layer.register_forward_hook(lambda _, __, out, key=f"{side}.{key}": seen.update({key: out[0]}))
    network(*inputs(tensors))
    assert list(seen) == json.loads(metadata["mid_order"])
    for key, value in seen.items():
        assert relative(value, tensors[f"mid/{key}"].squeeze(0)) < LIMIT, key


@pytest.mark.parametrize("name", SHAPES)
def test_full_size_names_shapes_and_order(name):
    path = EDM / f"shapes-{name}-edm.json"
    if not path.exists():
        pytest.skip(f"no recorded shapes edm/{path.name} beside the repository")
    facts = json.loads(path.read_text())
    with torch.device("meta"):
        network = EDMPrecond(CLASSES[facts["model_class"]](**facts["model_kwargs_resolved"]))
    found = [[key, list(value.shape)] for key, value in network.state_dict().items()]
    assert found == [row[:2] for row in facts["state_dict"]]
    assert sum(p.numel() for p in network.parameters()) == facts["parameter_count"]


def unit(case):
    """The layer of a recorded case."""
    a = case["kwargs"]
    if case["cls"] == "Conv2d":
        return Conv2d(
            a["in_channels"],
            a["out_channels"],
            a["kernel"],
            up=a.get("up", False),
            down=a.get("down", False),
            resample_filter=a["resample_filter"],
            fused=a["fused_resample"],
        )
    if case["cls"] == "GroupNorm":
        return group_norm(a["num_channels"], a["eps"])
    if case["cls"] == "PositionalEmbedding":
        return PositionalEmbedding(a["num_channels"], a["endpoint"])
    if case["cls"] == "FourierEmbedding":
        return FourierEmbedding(a["num_channels"])
    heads = a.get("num_heads") or a["out_channels"] // a.get("channels_per_head", 64)
    return Block(
        a["in_channels"],
        a["out_channels"],
        a["emb_channels"],
        BlockStyle(
            eps=a.get("eps", 1e-5),
            k=a.get("skip_scale", 1.0),
            adaptive_scale=a.get("adaptive_scale", True),
            projects_resampled=a.get("resample_proj", False),
            qkv_gain=1.0,
            out_gain=1.0,
        ),
        up=a.get("up", False),
        down=a.get("down", False),
        heads=heads if a.get("attention") else 0,
        resample_filter=a.get("resample_filter", (1, 1)),
    )


@torch.no_grad()
def test_single_layers():
    tensors, metadata = recorded("unit-layers")
    tested = set()
    for name, case in json.loads(metadata["cases"]).items():
        layer = unit(case)
        layer.load_state_dict(parameters(tensors, f"{name}/param/"))
        out = layer.eval()(*(tensors[f"{name}/in/{key}"] for key in case["inputs"]))
        assert relative(out, tensors[f"{name}/out"]) < UNIT_LIMIT, name
        tested.add(case["cls"])
    assert tested == {"Conv2d", "GroupNorm", "PositionalEmbedding", "FourierEmbedding", "UNetBlock"}


def preconditioned(kind):
    tensors, metadata = recorded(f"precond-{kind}")
    arguments = json.loads(metadata["init_kwargs"])
    channels = arguments.pop("img_channels")
    assert arguments.pop("model_type") == "SongUNet"
    network = SongUNet(in_channels=channels, out_channels=channels * (2 if kind == "iddpm" else 1), **arguments)
    denoiser = PRECONDS[kind](network).eval()
    assert list(denoiser.state_dict()) == json.loads(metadata["state_dict_order"])
    denoiser.load_state_dict(parameters(tensors))
    return denoiser, tensors


@pytest.mark.parametrize("kind", PRECONDS)
@torch.no_grad()
def test_preconditioning(kind):
    denoiser, tensors = preconditioned(kind)
    x, sigma = tensors["in/x"], tensors["in/sigma"]
    seen = []
    denoiser.model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    labels = {name: tensors[f"in/{name}"] for name in ("class_labels", "augment_labels") if f"in/{name}" in tensors}
    out = denoiser(x, sigma, **labels)
    # The output of a sample at sigma = 20291 would hide the others: each is compared with its own largest value.
    for k in range(len(x)):
        assert relative(out[k], tensors["out"][k]) < LIMIT, sigma[k]
    assert relative(seen[0][0], tensors["mid/model_in"]) < UNIT_LIMIT
    assert relative(seen[0][1], tensors["mid/noise_labels"].flatten()) < UNIT_LIMIT
    if "out_no_labels" in tensors:
        assert relative(denoiser(x, sigma), tensors["out_no_labels"]) < LIMIT


@pytest.mark.parametrize("kind", ["ve", "edm"])
def test_losses(kind):
    tensors, _ = recorded("loss-sigma-weight")
    if kind == "ve":
        sigma = LogUniform(0.02, 100).quantile(tensors["in/uniform"].flatten())
        weight = inverse_square_weight(sigma)
    else:
        sigma = LogNormal().quantile(torch.special.ndtr(tensors["in/normal"].flatten().double())).float()
        weight = edm_weight(sigma, 0.5)
    assert relative(sigma, tensors[f"{kind}/sigma"].flatten()) < UNIT_LIMIT
    assert relative(weight, tensors[f"{kind}/weight"].flatten()) < UNIT_LIMIT
    mu, c, x0, n = (tensors[name] for name in ("mu", "c", "images", "noise"))

    def gaussian(x, sigma):
        return mu + c / (c + sigma.reshape(-1, 1, 1, 1) ** 2) * (x - mu)

    found = denoising_loss(gaussian, x0, sigma, n, weight)
    assert found.item() == pytest.approx(tensors[f"{kind}/loss"].double().mean().item(), rel=UNIT_LIMIT)
