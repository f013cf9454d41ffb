"""NCSN and NCSNv2 against numbers recorded from the papers' own code."""

import json

import pytest
import torch
from safetensors import safe_open
from support import REFERENCE, relative

from prescore.models.ncsn import NCSN, NCSNv2

FOLDER = REFERENCE / "ncsn"
NETWORKS = ["ncsn-28", "ncsn-16", "ncsnv2-16", "ncsnv2-28", "ncsnv2-deeper-32", "ncsnv2-deepest-32"]
SHAPES = {
    "mnist-ncsn": 7_638_657,
    "cifar10-ncsn": 30_117_635,
    "cifar10-ncsn-in-ncsnv2": 30_117_635,
    "cifar10-ncsnv2": 29_694_083,
    "celeba64-ncsnv2": 29_694_083,
    "church-ncsnv2-deeper": 83_445_379,
    "bedroom128-ncsnv2-deeper": 83_445_379,
    "ffhq256-ncsnv2-deepest": 94_132_611,
}
VARIANTS = {"NCSNv2": "ncsnv2", "NCSNv2Deeper": "deeper", "NCSNv2Deepest": "deepest"}
LIMIT, LIMIT_F64 = 2e-6, 1e-13  # the recorded float32 outputs are within 6e-7 of the float64 ones themselves


def network(model_class, config):
    """Our class for one of the original's, from the original's configuration."""
    model = config["model"]
    arguments = {"ngf": model["ngf"], "num_classes": model["num_classes"]}
    if model_class in VARIANTS:
        levels = {"sigma_begin": model["sigma_begin"], "sigma_end": model["sigma_end"]}
        return NCSNv2(config["data"]["channels"], variant=VARIANTS[model_class], **arguments, **levels)
    return NCSN(config["data"]["channels"], **arguments)


def recorded(name):
    """A network with recorded weights and what was recorded of it; the test is skipped where that is not."""
    path = FOLDER / f"net-{name}.safetensors"
    if not path.exists():
        pytest.skip(f"no recorded numbers ncsn/{path.name} beside the repository")
    with safe_open(path, "pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    found = network(metadata["model_class"], json.loads(metadata["config"])).eval()
    assert list(found.state_dict()) == json.loads(metadata["state_dict_order"])
    weights = {key.removeprefix("param/"): value for key, value in tensors.items() if key.startswith("param/")}
    if "sigmas" in weights:
        assert torch.equal(found.sigmas, weights["sigmas"])
    found.load_state_dict(weights)
    return found, tensors


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_output(name):
    found, tensors = recorded(name)
    x, labels = tensors["in/x"], tensors["in/labels"]
    assert relative(found(x, labels), tensors["out"]) < LIMIT
    assert relative(found.double()(x.double(), labels), tensors["out_f64"]) < LIMIT_F64


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_every_layer(name):
    found, tensors = recorded(name)
    recorded_layers = {key.removeprefix("mid/"): value for key, value in tensors.items() if key.startswith("mid/")}
    seen = {}
    for key in recorded_layers:
        found.get_submodule(key).register_forward_hook(lambda _, __, out, key=key: seen.update({key: out[:1]}))
    found(tensors["in/x"], tensors["in/labels"])
    for key, value in recorded_layers.items():
        assert relative(seen[key], value) < LIMIT, key


@pytest.mark.parametrize("name", SHAPES)
def test_full_size_names_shapes_and_order(name):
    path = FOLDER / f"shapes-{name}.json"
    if not path.exists():
        pytest.skip(f"no recorded shapes ncsn/{path.name} beside the repository")
    facts = json.loads(path.read_text())
    with torch.device("meta"):
        found = network(facts["model_class"], facts["config"])
    learned = {key: parameter.requires_grad for key, parameter in found.named_parameters()}
    rows = [
        [key, list(value.shape), learned.get(key, "buffer"), str(value.dtype).removeprefix("torch.")]
        for key, value in found.state_dict().items()
    ]
    assert rows == facts["state_dict"]
    assert sum(parameter.numel() for parameter in found.parameters()) == SHAPES[name] == facts["parameter_count"]
