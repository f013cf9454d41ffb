import json
import resource
import struct
import sys
import time
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from support import relative

from prescore.checkpoints.native import (
    FORMAT,
    VERSION,
    ModelDescription,
    load_model,
    read,
    read_description,
    read_safetensors,
    save_model,
)
from prescore.checkpoints.stored import NETWORKS
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
# As it comes back: JSON has no tuples.
DESCRIPTION_READ = replace(DESCRIPTION, arguments=json.loads(json.dumps(ARGUMENTS)))
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


def test_version_1_is_read(path):
    """It knew the EDM preconditioning alone, and had its sigma_data beside the other fields."""
    header = {k: v for k, v in HEADER.items() if k != "preconditioning_arguments"} | {"version": 1, "sigma_data": 0.3}
    write(path, header)
    old = load_model(path)
    write(path, HEADER)
    assert read_description(path) == DESCRIPTION_READ
    x, sigma = torch.ones(1, 1, 4, 4), torch.tensor(1.0)
    assert torch.equal(old(x, sigma), load_model(path)(x, sigma))
    write(path, {k: v for k, v in header.items() if k != "sigma_data"})
    assert_refused(path, "its description lacks 'sigma_data'")


def test_what_is_asked_for_is_in_the_file(path):
    write(path, HEADER)
    with pytest.raises(PrescoreError, match="weights: the file holds the ema weights only"):
        read(path, weights="raw")
    with pytest.raises(PrescoreError, match="config: a prescore model holds its own"):
        read(path, config="cifar10")
    write(path, HEADER | {"weights": "raw"})
    assert read(path, weights="raw").description.weights == read(path).description.weights == "raw"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_constants_keep_their_precision(path, dtype):
    """Fourier frequencies in half precision would turn every angle of this network by radians."""
    arguments = ARGUMENTS | {"embedding_type": "fourier"}
    original = SongUNet(**arguments, generator=torch.Generator().manual_seed(0))
    save_model(path, replace(DESCRIPTION, arguments=arguments), original.state_dict(), dtype)
    stored = read(path).state
    assert torch.equal(stored["map_noise.freqs"], original.map_noise.freqs)
    assert stored["map_layer0.weight"].dtype == dtype
    half = load_model(path, dtype=dtype)
    assert half.function.model.map_noise.freqs.dtype == torch.float32
    assert {p.dtype for p in half.function.parameters()} == {dtype}
    x, sigma = torch.ones(1, 1, 4, 4), torch.tensor(40.0)
    original.load_state_dict({name: value.float() for name, value in stored.items()})
    with torch.no_grad():
        embedding = original.map_noise(torch.tensor([4.0]))
        assert torch.equal(half.function.model.map_noise(torch.tensor([4.0])), embedding)
        assert relative(half(x, sigma), EDMPrecond(original.eval(), 0.3)(x, sigma)) < 0.02


def test_tables_of_the_preconditioning_are_kept(path):
    sigmas = torch.tensor([5.0, 1.0, 0.1], dtype=torch.float64)
    description = replace(DESCRIPTION, preconditioning="score-labels", preconditioning_arguments={})
    save_model(path, description, network().state_dict() | {"precond.sigmas": sigmas})
    assert torch.equal(load_model(path).function.sigmas, sigmas)
    save_model(
        path, replace(description, preconditioning_arguments={"sigmas": [5.0, 1.0, 0.1]}), network().state_dict()
    )
    assert torch.equal(load_model(path).function.sigmas, sigmas)


def test_weights_of_a_compiled_network_are_saved(path):
    state = network().state_dict()
    save_model(path, DESCRIPTION, {f"module._orig_mod.{name}": value for name, value in state.items()}, None)
    assert load_file(path).keys() == state.keys()


def test_saving_refuses_what_could_not_be_loaded(path):
    state = network().state_dict()
    state["map_layer0.weight"] = state["map_layer0.weight"].clone().fill_(1e6)
    with pytest.raises(PrescoreError, match=r"safetensors: the weight 'map_layer0.weight' .* not finite in float16$"):
        save_model(path, DESCRIPTION, state)
    assert not path.exists()
    with pytest.raises(PrescoreError, match="the weight 'extra' does not belong"):
        save_model(path, DESCRIPTION, network().state_dict() | {"extra": torch.zeros(1)})
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
    write(path, HEADER, state | {"map_layer1.bias": torch.zeros(32, dtype=torch.int64)})
    assert_refused(path, "the weight 'map_layer1.bias' has the type torch.int64")
    write(path, HEADER, state | {"precond.sigmas": torch.ones(3)})
    assert_refused(path, "the preconditioning 'edm' has no table 'sigmas'")
    write(path, HEADER, state | {"precond.model": torch.ones(3)})
    assert_refused(path, "the preconditioning 'edm' has no table 'model'")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (torch.ones(2, 2), "is not one row of 2 to 10000 noise levels"),
        (torch.ones(10_001), "is not one row of 2 to 10000 noise levels"),
        (torch.ones(3, dtype=torch.int64), "is not one row of 2 to 10000 noise levels"),
        (torch.tensor([1.0, torch.inf]), "sigmas: at least two finite noise levels"),
        (torch.tensor([1.0, -1.0]), "must be positive"),
    ],
)
def test_tables_that_are_wrong(path, table, message):
    header = HEADER | {"preconditioning": "score-labels", "preconditioning_arguments": {}}
    write(path, header, network().state_dict() | {"precond.sigmas": table})
    assert_refused(path, message)


def test_files_that_are_not_models(path):
    assert_refused(path, "cannot be read (No such file or directory)")
    path.write_bytes(b"short")
    assert_refused(path, "not a safetensors file, or truncated")
    path.write_bytes(struct.pack("<Q", 10**12) + b"{}")
    assert_refused(path, "it claims a header of 1000000000000 bytes")
    path.write_bytes(save({"a": torch.zeros(1)}))
    assert_refused(path, "its header has no entry 'prescore'")
    write(path, "{")
    assert_refused(path, "its description: it is not JSON")
    write(path, "[" * 100_000)
    assert_refused(path, "its description: it is nested too deep")
    write(path, json.dumps(HEADER)[:-1] + ', "name": "other"}')
    assert_refused(path, "its description: the name 'name' is given twice")
    write(path, [1])
    assert_refused(path, "its format is not 'prescore-model'")
    write(path, HEADER | {"format": "other"})
    assert_refused(path, "its format is not 'prescore-model'")
    write(path, HEADER | {"version": 3})
    assert_refused(path, "written in version 3 of the format, this prescore reads versions up to 2")
    write(path, HEADER | {"version": ["x" * 10**6]})
    assert_refused(path, "written in version ['xxx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "SongUnet"}, "unknown network 'SongUnet', did you mean SongUNet"),
        ({"network": ["os", "system"]}, "unknown network ['os', 'system']"),
        ({"network": "Module"}, "unknown network 'Module'"),
        ({"network": "os.system"}, "unknown network 'os.system'"),
        ({"network": None}, "unknown network None"),
        ({"unheard": 1}, "its description has an unknown entry 'unheard'"),
        ({"preconditioning": "vq"}, "unknown preconditioning 'vq'"),
        ({"preconditioning": {}}, "unknown preconditioning {}"),
        ({"preconditioning": "vp"}, "the preconditioning 'vp' has no argument 'sigma_data'"),
        ({"preconditioning_arguments": []}, "preconditioning_arguments = []"),
        ({"preconditioning_arguments": {"sigma_data": 0}}, "sigma_data = 0"),
        ({"preconditioning_arguments": {"sigma_data": float("nan")}}, "the argument sigma_data = nan"),
        ({"preconditioning_arguments": {"sigma_data": "1"}}, "the argument sigma_data = '1'"),
        ({"preconditioning_arguments": {"model": 1}}, "has no argument 'model'"),
        ({"sigma_min": "0"}, "sigma_min = '0'"),
        ({"sigma_min": 60}, "0 <= sigma_min < sigma_max < inf is needed"),
        ({"sigma_max": float("inf")}, "sigma_max = inf"),
        ({"event_shape": [1, 4]}, "img_resolution = 4 does not fit samples of the shape (1, 4)"),
        ({"event_shape": [1, 8, 8]}, "img_resolution = 4 does not fit samples of the shape (1, 8, 8)"),
        ({"event_shape": [2, 4, 4]}, "in_channels = 1 does not fit samples of the shape (2, 4, 4)"),
        ({"event_shape": [60000, 60000, 60000]}, "event_shape = [60000, 60000, 60000]"),
        ({"event_shape": [1, 0, 4]}, "event_shape = [1, 0, 4]"),
        ({"event_shape": []}, "event_shape = []"),
        ({"event_shape": "abc"}, "event_shape = 'abc'"),
        ({"data_range": [0]}, "data_range = [0]"),
        ({"data_range": [1, 0]}, "not an interval"),
        ({"data_mean_removed": 1}, "data_mean_removed = 1"),
        ({"weights": "best"}, "weights = 'best'"),
        ({"weights": []}, "weights = []"),
        ({"name": None}, "name = None"),
        ({"name": "two\nlines"}, "name = 'two\\nlines'"),
        ({"name": "x" * 10**6}, "name = 'xxx"),
        ({"training": []}, "training = []"),
        ({"training": {"\x1b[31m": 1}}, r"training = {'\x1b[31m': 1}, which is not valid"),
        ({"training": {"data": {"x" * 300: 1}}}, "training = {'data': {'xxx"),
        ({"arguments": []}, "arguments = []"),
    ],
)
def test_descriptions_that_are_wrong(path, changes, message):
    write(path, HEADER | changes)
    assert_refused(path, message)


def nested(levels):
    return [nested(levels - 1)] if levels else 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_channels": 10**9}, "the argument model_channels = 1000000000 of"),
        ({"model_channels": 10**200}, "the argument model_channels = 1000"),
        ({"model_channels": 10**400}, "its description: it holds a number of 401 digits, 100000..."),
        ({"model_channels": 60_000}, "has shape"),
        ({"model_channels": True}, "the argument model_channels = True of"),
        ({"model_channels": 8.5}, "the argument model_channels = 8.5 of"),
        ({"model_channels": 0}, "model_channels: a layer of 0 channels"),
        ({"label_dim": -1}, "SongUNet cannot be built from its arguments"),
        ({"label_dim": 60_000}, "is missing"),
        ({"num_blocks": 1000}, "the network is much larger than the 70 weights that are there"),
        ({"num_blocks": 65_536, "channel_mult": [1] * 3}, "the network is much larger"),
        ({"channel_mult": [1] * 100}, "the argument channel_mult = [1, 1,"),
        ({"channel_mult": [1] * 64}, "img_resolution: 4 cannot be halved"),
        ({"channel_mult": [1.5]}, "the argument channel_mult = [1.5] of"),
        ({"channel_mult": []}, "img_resolution: 4 cannot be halved"),
        ({"channel_mult": nested(5)}, "the argument channel_mult = [[[[[1]]]]] of"),
        ({"channel_mult": nested(300)}, "its description: it is nested too deep"),
        ({"channel_mult": {"0": 1}}, "the argument channel_mult = {'0': 1} of"),
        ({"channel_mult": "11"}, "the argument channel_mult = '11' of"),
        ({"resample_filter": [1e9]}, "the argument resample_filter = [1000000000.0] of"),
        ({"resample_filter": []}, "resample_filter: [] is no filter"),
        ({"embedding_type": 3}, "the argument embedding_type = 3 of"),
        ({"embedding_type": "x"}, "embedding_type: unknown value 'x'"),
        ({"embedding_type": "x" * 10**6}, "the argument embedding_type = 'xxx"),
        ({"generator": 0}, "the argument generator = 0 of"),
        ({"self": 0}, "has no argument 'self'"),
        ({"__class__": "os"}, "has no argument '__class__'"),
        ({"x" * 10**6: 0}, "has no argument 'xxx"),
    ],
)
def test_network_arguments_that_are_wrong(path, changes, message):
    """Each is refused in one line, at once, and before memory is taken."""
    write(path, HEADER | {"arguments": HEADER["arguments"] | changes})
    start, memory = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert_refused(path, message)
    assert time.perf_counter() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # KiB


def test_a_header_of_1_gb_is_not_read(path):
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 10**9) + b"{")
        file.truncate(10**9 + 100)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert_refused(path, "it claims a header of 1000000000 bytes")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 50_000


def test_too_many_weights(path, monkeypatch):
    monkeypatch.setattr("prescore.checkpoints.stored.MAX_TENSORS", 69)
    write(path, HEADER)
    assert_refused(path, "70 weights; at most 69 can be read")


def test_truncated_files(path):
    save_model(path, DESCRIPTION, network().state_dict())
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert_refused(path, "not a safetensors file, or truncated")


def test_flipped_bits_of_the_header(path):
    """A flip is refused in one line, or it has only changed a value to another valid one."""
    save_model(path, DESCRIPTION, network().state_dict())
    whole = path.read_bytes()
    size = 8 + struct.unpack("<Q", whole[:8])[0]
    messages, positions = [], 0
    for position in [*range(8), *range(8, size, 23)]:
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 7
        path.write_bytes(flipped)
        positions += 1
        try:
            load_model(path)
        except PrescoreError as error:
            messages.append(str(error))
    assert len(messages) > 0.8 * positions
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize("name", ["sigma_min", "arguments", "training"])
def test_missing_entries(path, name):
    write(path, {key: value for key, value in HEADER.items() if key != name})
    assert_refused(path, f"its description lacks '{name}'")
    write(path, HEADER | {"arguments": {k: v for k, v in HEADER["arguments"].items() if k != "in_channels"}})
    assert_refused(path, "the arguments of the network SongUNet lack 'in_channels'")


def test_a_network_of_a_package_that_is_not_there(path, monkeypatch):
    monkeypatch.setattr("prescore.checkpoints.stored.NETWORKS", dict(NETWORKS) | {"UNet2DModel": "no_such_package"})
    write(path, HEADER | {"network": "UNet2DModel"})
    assert_refused(path, "the network UNet2DModel needs no_such_package; pip install '.[no_such_package]' in the clone")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        (
            "def __getattr__(name):\n    raise RuntimeError('Failed:\\nbecause\\nof')",
            "RuntimeError: Failed: because of",
        ),
        ("", "AttributeError: module 'broken_package' has no attribute 'UNet2DModel'"),
    ],
)
def test_a_network_of_a_package_that_is_broken(path, tmp_path, monkeypatch, source, reason):
    (tmp_path / "broken_package.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_package", raising=False)
    monkeypatch.setattr("prescore.checkpoints.stored.NETWORKS", dict(NETWORKS) | {"UNet2DModel": "broken_package"})
    write(path, HEADER | {"network": "UNet2DModel"})
    assert_refused(path, f"needs broken_package, whose installation is broken ({reason}); pip install")


def test_weights_are_stored_under_the_network_s_own_names(path):
    save_model(path, DESCRIPTION, network().state_dict())
    assert list(load_file(path)) != []
    assert load_file(path).keys() == network().state_dict().keys()


def test_what_the_reader_quotes_of_a_file_is_cut(tmp_path):
    text = json.dumps("x" * 5000).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(PrescoreError, match="not a safetensors file, or truncated") as caught:
        read_safetensors(tmp_path / "a.safetensors")
    assert len(str(caught.value)) < len(str(tmp_path)) + 400
