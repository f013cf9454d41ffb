import json
import struct
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from prescore.checkpoints.native import (
    FORMAT,
    VERSION,
    ModelDescription,
    load_model,
    read_description,
    save_model,
)
from prescore.errors import PrescoreError
from prescore.models import EDMPrecond, SongUNet

ARGUMENTS = {
    "img_resolution": 4,
    "in_channels": 1,
    "out_channels": 1,
    "model_channels": 8,
    "channel_mult": (1,),
    "num_blocks": 1,
    "attn_resolutions": (),
    "dropout": 0.1,
}
DESCRIPTION = ModelDescription(
    "SongUNet", ARGUMENTS, "edm", {"sigma_data": 0.3}, 0.01, 50.0, (1, 4, 4), name="dots", training={"steps": 3}
)
HEADER = json.loads(json.dumps({"format": FORMAT, "version": VERSION} | asdict(DESCRIPTION)))


def network():
    return SongUNet(**ARGUMENTS, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def write(path, header, state=None):
    """A model file with a header of one's own; weights in single precision."""
    text = header if isinstance(header, str) else json.dumps(header)
    save_file(network().state_dict() if state is None else state, path, metadata={"prescore": text})


def assert_refused(path, message):
    with pytest.raises(PrescoreError) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).count(str(path)) == 1
    assert "\n" not in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_round_trip(path, dtype):
    original = network()
    save_model(path, DESCRIPTION, original.state_dict(), dtype)
    loaded = load_model(path)
    assert read_description(path).training == {"steps": 3}
    assert (loaded.name, loaded.event_shape) == ("dots", (1, 4, 4))
    assert (loaded.sigma_min, loaded.sigma_max, loaded.data_range) == (0.01, 50.0, (0.0, 1.0))
    assert (loaded.data_mean_removed, loaded.dtype, loaded.device) == (False, torch.float32, torch.device("cpu"))
    original.load_state_dict({name: value.to(dtype) for name, value in original.state_dict().items()})
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    sigma = torch.tensor([0.1, 5.0])
    with torch.no_grad():
        assert torch.equal(loaded(x, sigma), EDMPrecond(original.eval(), 0.3)(x, sigma))


def test_other_precision(path):
    save_model(path, DESCRIPTION, network().state_dict())
    x, sigma = torch.ones(1, 1, 4, 4, dtype=torch.float64), torch.tensor(1.0)
    double, single = load_model(path, dtype=torch.float64), load_model(path)
    assert {p.dtype for p in double.function.parameters()} == {torch.float64}
    assert torch.allclose(double(x, sigma), single(x.float(), sigma).double(), atol=1e-5)


def test_weights_need_no_gradient_but_inputs_may(path):
    save_model(path, DESCRIPTION, network().state_dict())
    x = torch.ones(1, 1, 4, 4, requires_grad=True)
    denoise = load_model(path)
    assert not denoise(x.detach(), torch.tensor(1.0)).requires_grad
    denoise(x, torch.tensor(1.0)).sum().backward()
    assert x.grad.any()


def test_saving_refuses_what_could_not_be_loaded(path):
    state = network().state_dict()
    state["map_layer0.weight"] = state["map_layer0.weight"].clone().fill_(1e6)  # infinite in half precision
    with pytest.raises(PrescoreError, match=r"model.safetensors: the weight 'map_layer0.weight' has values"):
        save_model(path, DESCRIPTION, state)
    assert not path.exists()
    with pytest.raises(PrescoreError, match="cannot be written"):
        save_model(path.parent / "nowhere" / "model.safetensors", DESCRIPTION, network().state_dict())


def test_weights_that_do_not_fit(path):
    state = network().state_dict()
    write(path, HEADER, {name: value for name, value in state.items() if name != "map_layer1.bias"})
    assert_refused(path, "the weight 'map_layer1.bias' is missing")
    write(path, HEADER, state | {"extra": torch.zeros(1)})
    assert_refused(path, "the weight 'extra' does not belong to this network")
    write(path, HEADER, state | {"map_layer1.bias": torch.zeros(3)})
    assert_refused(path, "the weight 'map_layer1.bias' has shape (3,), the network needs (32,)")
    write(path, HEADER, state | {"map_layer1.bias": torch.full((32,), torch.nan)})
    assert_refused(path, "the weight 'map_layer1.bias' has values that are not finite")


def test_files_that_are_not_models(path):
    assert_refused(path, "cannot be read (No such file or directory)")
    path.write_bytes(b"short")
    assert_refused(path, "not a safetensors file, or truncated")
    path.write_bytes(struct.pack("<Q", 10**12) + b"{}")
    assert_refused(path, "it claims a header of 1000000000000 bytes")
    save_model(path, DESCRIPTION, network().state_dict())
    path.write_bytes(path.read_bytes()[:-100])
    assert_refused(path, "not a safetensors file, or truncated")
    path.write_bytes(save({"a": torch.zeros(1)}))
    assert_refused(path, "its header has no entry 'prescore'")
    write(path, "{")
    assert_refused(path, "its description is not JSON")
    write(path, "[" * 100_000)
    assert_refused(path, "its description is not JSON")
    write(path, [1])
    assert_refused(path, "its format is not 'prescore-model'")
    write(path, HEADER | {"format": "other"})
    assert_refused(path, "its format is not 'prescore-model'")
    write(path, HEADER | {"version": 2})
    assert_refused(path, "written in version 2 of the format, this prescore reads version 1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "SongUnet"}, "unknown network 'SongUnet', did you mean SongUNet?"),
        ({"network": ["os", "system"]}, "unknown network ['os', 'system']"),
        ({"unheard": 1}, "its description has an unknown entry 'unheard'"),
        ({"preconditioning": "vp"}, "preconditioning = 'vp'"),
        ({"sigma_data": 0}, "sigma_data = 0"),
        ({"sigma_data": float("nan")}, "sigma_data = nan"),
        ({"sigma_min": "0"}, "sigma_min = '0'"),
        ({"sigma_min": 60}, "0 <= sigma_min < sigma_max < inf is needed"),
        ({"event_shape": [1, 4]}, "event_shape = [1, 4]"),
        ({"event_shape": [1, 8, 8]}, "event_shape = [1, 8, 8]"),
        ({"data_range": [0]}, "data_range = [0]"),
        ({"data_range": [1, 0]}, "not an interval"),
        ({"data_mean_removed": 1}, "data_mean_removed = 1"),
        ({"weights": "best"}, "weights = 'best'"),
        ({"name": None}, "name = None"),
        ({"training": []}, "training = []"),
        ({"arguments": []}, "the network's arguments are not a mapping"),
    ],
)
def test_descriptions_that_are_wrong(path, changes, message):
    write(path, HEADER | changes)
    assert_refused(path, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_channels": 10**9}, "argument model_channels = 1000000000 is not valid"),
        ({"model_channels": True}, "argument model_channels = True is not valid"),
        ({"num_blocks": 1000}, "argument num_blocks = 1000 is not valid"),
        ({"channel_mult": [1] * 100}, "argument channel_mult = [1, 1,"),
        ({"channel_mult": [1.5]}, "argument channel_mult = [1.5] is not valid"),
        ({"channel_mult": []}, "img_resolution: 4 cannot be halved"),
        ({"embedding_type": 3}, "argument embedding_type = 3 is not valid"),
        ({"embedding_type": "x"}, "embedding_type: unknown 'x'"),
        ({"generator": 0}, "the network's arguments have an unknown entry 'generator'"),
    ],
)
def test_network_arguments_that_are_wrong(path, changes, message):
    write(path, HEADER | {"arguments": HEADER["arguments"] | changes})
    assert_refused(path, message)


@pytest.mark.parametrize("name", ["sigma_min", "arguments", "training"])
def test_missing_entries(path, name):
    write(path, {key: value for key, value in HEADER.items() if key != name})
    assert_refused(path, f"its description lacks '{name}'")
    write(path, HEADER | {"arguments": {k: v for k, v in HEADER["arguments"].items() if k != "in_channels"}})
    assert_refused(path, "the network's arguments lack 'in_channels'")


def test_weights_are_stored_under_the_network_s_own_names(path):
    save_model(path, DESCRIPTION, network().state_dict())
    assert list(load_file(path)) != []
    assert load_file(path).keys() == network().state_dict().keys()
