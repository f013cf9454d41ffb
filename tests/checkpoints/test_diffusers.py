import io
import json
import os
import pickle
import shutil
import struct
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from prescore.checkpoints.diffusers import CONFIG, FILE, SCHEDULER, matches, read
from prescore.checkpoints.stored import ModelDescription, StoredModel, build
from prescore.errors import PrescoreError

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def network():
    """The smallest network with every kind of layer."""
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=4,
        in_channels=1,
        out_channels=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=2,
        attention_head_dim=4,
    ).requires_grad_(False)


@pytest.fixture
def folder(tmp_path, network):
    """A pipeline's folder."""
    folder = tmp_path / "dots"
    network.save_pretrained(folder / "unet")
    diffusers.DDPMScheduler().save_pretrained(folder / "scheduler")
    return folder


def weights_file(folder):
    return folder / "unet" / f"{FILE}.safetensors"


def same(state, network):
    """Whether the weights that were read are the network's."""
    expected = network.state_dict()
    return state.weights.keys() == expected.keys() and all(
        torch.equal(state.weights[name], value) for name, value in expected.items()
    )


def change(file, **entries):
    """Sets entries of a JSON file; those that are ... are taken out."""
    content = json.loads(file.read_text()) | entries
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


def as_pickle(folder, state=None):
    """The weights of a folder as a file of torch.save; the safetensors file goes."""
    file = weights_file(folder)
    torch.save(load_file(file) if state is None else state, file.with_name(f"{FILE}.bin"))
    file.unlink()
    return file.with_name(f"{FILE}.bin")


def assert_refused(folder, message, **arguments):
    with pytest.raises(PrescoreError) as caught:
        build(read(folder, **arguments))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


# Layouts


def test_description(folder, network):
    stored = read(folder)
    description = stored.description
    assert matches(folder)
    assert same(stored, network)
    assert (description.name, description.event_shape, description.data_range) == ("dots", (1, 4, 4), (-1.0, 1.0))
    assert (description.weights, description.preconditioning) == ("raw", "noise")
    assert description.training["scheduler"] == "DDPMScheduler"
    assert len(stored.tables["levels"]) == 1000
    assert description.arguments["block_out_channels"] == [4, 8]
    assert not any(name.startswith("_") for name in description.arguments)
    json.dumps([description.arguments, description.preconditioning_arguments, description.training])


def test_description_builds_what_the_configuration_leaves_to_defaults(folder):
    change(folder / "unet" / CONFIG, flip_sin_to_cos=..., act_fn=...)
    arguments = read(folder).description.arguments
    assert (arguments["flip_sin_to_cos"], arguments["act_fn"]) == (True, "silu")


@pytest.mark.parametrize("sample_size", [[4, 8], (4, 8)])
def test_sides_that_differ(folder, sample_size):
    change(folder / "unet" / CONFIG, sample_size=sample_size)
    assert build(read(folder)).event_shape == (1, 4, 8)


def test_files_beside_each_other(tmp_path, network):
    network.save_pretrained(tmp_path)
    diffusers.ScoreSdeVeScheduler().save_pretrained(tmp_path)
    parts = {"model": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "ScoreSdeVeScheduler"]}
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "ScoreSdeVePipeline"} | parts))
    assert matches(tmp_path)
    assert same(read(tmp_path), network)
    assert read(tmp_path).description.preconditioning == "score"


def test_network_alone(folder, network):
    assert matches(folder / "unet")
    assert_refused(folder / "unet", "name the folder of its scheduler with --config")
    for config in (folder / "scheduler", folder, folder / "scheduler" / SCHEDULER):
        assert same(read(folder / "unet", config=str(config)), network)
    assert_refused(folder / "unet", f"--config nowhere: neither a {SCHEDULER} nor a folder with one", config="nowhere")


def test_scheduler_that_is_named_goes_before_the_folder_s(folder, tmp_path):
    diffusers.DDIMScheduler(prediction_type="sample").save_pretrained(tmp_path / "other")
    assert read(folder, config=str(tmp_path / "other")).description.preconditioning == "sample"


def test_average_by_default(folder, network):
    """As diffusers' training scripts leave it, EMAModel's own numbers among the network's arguments."""
    average = diffusers.training_utils.EMAModel(
        network.parameters(), decay=0.9, model_cls=diffusers.UNet2DModel, model_config=network.config
    )
    average.shadow_params = [parameter + 1 for parameter in average.shadow_params]
    average.save_pretrained(folder / "unet_ema")
    stored = read(folder)
    assert stored.description.weights == "ema"
    bias = network.state_dict()["conv_out.bias"]
    assert torch.equal(stored.weights["conv_out.bias"], bias + 1)
    raw = read(folder, weights="raw")
    assert raw.description.weights == "raw"
    assert torch.equal(raw.weights["conv_out.bias"], bias)
    shutil.rmtree(folder / "unet")
    assert same_names(read(folder), network)
    assert_refused(folder, "unet_ema/ holds an average", weights="raw")
    alone = read(folder / "unet_ema", config=str(folder))
    assert alone.description.weights == "ema"


def same_names(stored, network):
    return stored.weights.keys() == network.state_dict().keys()


# Weights


def test_pickled_weights(folder, network):
    as_pickle(folder)
    assert same(read(folder), network)


def test_safetensors_before_pickle_and_full_precision_before_half(folder, network):
    half = {name: value.half() for name, value in load_file(weights_file(folder)).items()}
    wrong = {name: torch.zeros_like(value) for name, value in half.items()}
    save_file(half, folder / "unet" / f"{FILE}.fp16.safetensors")
    torch.save(wrong, folder / "unet" / f"{FILE}.bin")
    assert same(read(folder), network)
    weights_file(folder).unlink()
    assert torch.equal(read(folder).weights["conv_in.weight"], wrong["conv_in.weight"])
    (folder / "unet" / f"{FILE}.bin").unlink()
    assert torch.equal(read(folder).weights["conv_in.weight"], half["conv_in.weight"])
    assert {value.dtype for value in build(read(folder)).function.model.state_dict().values()} == {torch.float32}
    (folder / "unet" / f"{FILE}.fp16.safetensors").unlink()
    assert_refused(folder, f"unet/ holds no {FILE}.safetensors and no {FILE}.bin")


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("size", ["1GB", "4KB"])
def test_weights_before_they_were_averaged(folder, network, safe, size):
    """The variant `non_ema`, which tells that those beside it are an average."""
    weights_file(folder).rename(folder / "average.safetensors")
    network.save_pretrained(folder / "unet", max_shard_size=size, variant="non_ema", safe_serialization=safe)
    assert_refused(folder, "unet/ holds no diffusion_pytorch_model.safetensors and no diffusion_pytorch_model.bin; it ")
    assert_refused(folder, ", the weights before they were averaged; take weights 'raw' (--raw)")
    assert same(read(folder, weights="raw"), network)
    save_file({name: value + 1 for name, value in network.state_dict().items()}, weights_file(folder))
    raw, average = read(folder, weights="raw"), read(folder)
    assert same(raw, network)
    assert (raw.description.weights, average.description.weights) == ("raw", "ema")
    assert average.description.training["stored_weights"] == "beside non_ema"
    assert torch.equal(average.weights["conv_out.bias"], network.state_dict()["conv_out.bias"] + 1)


def test_variants_that_are_not_known_are_named(folder):
    weights_file(folder).rename(folder / "unet" / f"{FILE}.int8.safetensors")
    assert_refused(folder, f"no {FILE}.bin; it holds {FILE}.int8.safetensors")


def test_a_weight_in_two_shards(folder):
    state = load_file(weights_file(folder))
    weights_file(folder).unlink()
    for name in ("a", "b"):
        save_file(state, folder / "unet" / f"{name}.safetensors")
    index = {"weight_map": {"conv_in.bias": "a.safetensors", "conv_in.weight": "b.safetensors"}}
    (folder / "unet" / f"{FILE}.safetensors.index.json").write_text(json.dumps(index))
    assert_refused(folder, "b.safetensors: the weight 'conv_in.bias' is in another file as well")


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("safe", [True, False])
def test_shards_as_diffusers_writes_them(folder, network, variant, safe):
    weights_file(folder).unlink()
    network.save_pretrained(folder / "unet", max_shard_size="4KB", variant=variant, safe_serialization=safe)
    assert len(list((folder / "unet").glob("*-of-*"))) > 1
    assert same(read(folder), network)


def test_old_names_of_attention(folder, network):
    """Files from before diffusers 0.15, which those of google/ddpm-* and google/ncsnpp-* are."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(weights_file(folder))
    for new, old in names.items():
        state = {name.replace(f".{new}.", f".{old}."): value for name, value in state.items()}
    assert sum("proj_attn" in name for name in state) == 8
    as_pickle(folder, state)
    assert same(read(folder), network)


def test_old_second_name_of_the_frequencies(tmp_path):
    torch.manual_seed(0)
    arguments = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (4,)}
    network = diffusers.UNet2DModel(sample_size=4, time_embedding_type="fourier", norm_num_groups=2, **arguments)
    network.save_pretrained(tmp_path)
    diffusers.ScoreSdeVeScheduler().save_pretrained(tmp_path)
    state = network.state_dict()
    torch.save(state | {"time_proj.W": state["time_proj.weight"]}, tmp_path / f"{FILE}.bin")
    (tmp_path / f"{FILE}.safetensors").unlink()
    assert same(read(tmp_path), network)


def test_links_of_the_hub_s_cache(folder, network, tmp_path):
    """snapshots/NAME/unet/FILE -> ../../../blobs/HASH"""
    (tmp_path / "blobs").mkdir()
    for number, file in enumerate([f for f in folder.rglob("*") if f.is_file()]):
        blob = tmp_path / "blobs" / str(number)
        file.rename(blob)
        file.symlink_to(os.path.relpath(blob, file.parent))
    assert matches(folder)
    assert same(read(folder), network)


def test_noise_range_that_is_none(folder):
    diffusers.ScoreSdeVeScheduler(sigma_min=2.0, sigma_max=1.0).save_pretrained(folder / "scheduler")
    assert_refused(folder, "0 <= sigma_min < sigma_max < inf is needed")


# Networks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "config.json: the network is a 'UNet2DConditionModel'"),
        ({"_class_name": ["os", "system"]}, "the network is a ['os', 'system']"),
        ({"_class_name": ...}, "the network is a None"),
        ({"sample_size": None}, "sample_size is null"),
        ({"sample_size": "4"}, "sample_size '4' are no shape of an image"),
        ({"sample_size": [4]}, "sample_size [4] are no shape of an image"),
        ({"sample_size": True}, "sample_size True are no shape of an image"),
        ({"sample_size": -4}, "sample_size -4 are no shape of an image"),
        ({"sample_size": 10**9}, "event_shape"),
        ({"in_channels": 2}, "in_channels 2 and out_channels 1; a network that takes the noisy image"),
        ({"out_channels": None}, "in_channels 1 and out_channels None"),
        ({"in_channels": [1]}, "in_channels [1]"),
        ({"block_out_channels": [10**9, 8]}, "block_out_channels"),
        ({"block_out_channels": 4}, "block_out_channels"),
        ({"block_out_channels": [60_000, 60_000]}, "has shape"),
        ({"block_out_channels": [4, 8, 8]}, "cannot be built from its arguments (ValueError"),
        ({"layers_per_block": 60_000}, "much larger than the"),
        ({"layers_per_block": -1}, "does not belong to this network"),
        ({"norm_num_groups": 0}, "cannot be built from its arguments"),
        ({"norm_num_groups": 3}, "cannot be built from its arguments"),
        ({"attention_head_dim": 0}, "cannot be built from its arguments (ZeroDivisionError"),
        ({"down_block_types": ["os.system", "DownBlock2D"]}, "cannot be built from its arguments"),
        ({"down_block_types": [["DownBlock2D"], 1]}, "down_block_types"),
        ({"down_block_types": ["KDownBlock2D", "DownBlock2D"]}, "K blocks have filters that are not among the weights"),
        ({"act_fn": "eval"}, "cannot be built from its arguments"),
        ({"act_fn": {}}, "act_fn"),
        ({"norm_eps": "small"}, "norm_eps"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type 'fourier' takes the logarithm of a noise level"),
        ({"time_embedding_type": "learned"}, "'learned' with num_train_timesteps None has no entry for each time"),
        ({"time_embedding_type": "learned", "num_train_timesteps": 10}, "num_train_timesteps 10 has no entry"),
        ({"time_embedding_type": "other"}, "cannot be built from its arguments"),
    ],
    ids=str,
)
def test_networks_that_are_refused(folder, changes, message):
    change(folder / "unet" / CONFIG, **changes)
    assert_refused(folder, message)


def test_blocks_with_constants_that_no_file_holds(tmp_path):
    arguments = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "down_block_types": ["KDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "block_out_channels": [32, 32],
        "layers_per_block": 1,
    }
    network = diffusers.UNet2DModel(**arguments)
    description = ModelDescription("UNet2DModel", arguments, "edm", {}, 0.01, 50.0, (1, 8, 8))
    with pytest.raises(
        PrescoreError, match=r"needs the constant 'down_blocks.0.downsamplers.0.kernel', which"
    ) as error:
        build(StoredModel(description, network.state_dict()))
    assert "\n" not in str(error.value)


def test_entries_that_are_not_the_network_s_are_left_out(folder, network):
    change(folder / "unet" / CONFIG, _name_or_path="/somewhere", decay=0.9, auto_map={"AutoModel": "evil.py"})
    assert same(read(folder), network)


@pytest.mark.parametrize("part", ["vqvae", "vae"])
def test_latents_are_refused(folder, part):
    index = {"_class_name": "LDMPipeline", part: ["diffusers", "VQModel"], "unet": ["diffusers", "UNet2DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    assert_refused(folder, "model = denoiser_of(pipe)")
    assert build(read(folder / "unet", config=str(folder)))


def test_a_flow_is_converted_in_single_precision_whatever_the_network(folder, network):
    diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    stored = read(folder)
    full, half = build(stored), build(stored, dtype=torch.bfloat16)
    assert full.sigma_min == half.sigma_min == pytest.approx(3 * 0.001 / 0.999)
    x = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for level in (0.05, 1.0, 30.0, 1e9):
        sigma = torch.tensor(level)
        exact, found = (model(x * (1 + level), sigma) for model in (full, half))
        assert found.dtype == torch.float32
        # x_t is exact, here x; rounded is what the network returns: t v = x_t - D, to some units of 2^-8.
        assert (found - exact).abs().max() < 0.06 * (x - exact).abs().max()


# Damaged and hostile files


def test_what_is_not_such_a_folder(tmp_path):
    assert not matches(tmp_path)
    assert not matches(tmp_path / "nowhere")
    assert not matches(tmp_path / ("x" * 10_000))
    (tmp_path / "file").write_text("{}")
    assert not matches(tmp_path / "file")
    (tmp_path / CONFIG).mkdir()
    assert not matches(tmp_path)
    assert_refused(tmp_path, f"holds no unet/{CONFIG} and no {CONFIG}")


@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json", "model_index.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b"\xff\xfe\x00", "it is not JSON"),
        (b"[1]", "not a mapping"),
        (b"null", "not a mapping"),
        (b"[" * 200_000, "it is nested too deep"),
        (b'{"a":' * 200_000, "it is nested too deep"),
        (b'{"a": ' + b"[" * 50 + b"]" * 50 + b"}", "it is nested too deep"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "it holds a number of 10000 digits, 999999..."),
        (b'{"_class_name": "UNet2DModel", "_class_name": "DDPMScheduler"}', "the name '_class_name' is given twice"),
    ],
    ids=lambda v: str(v)[:12],
)
def test_configurations_that_are_not(folder, name, content, message):
    (folder / name).write_bytes(content)
    assert_refused(folder, f"{name.split('/')[-1]}: {message}")


def test_configuration_of_a_gigabyte(folder):
    with open(folder / "unet" / CONFIG, "wb") as file:
        file.truncate(2**30)
    assert_refused(folder, "config.json: it is larger than 4000000 bytes")


def test_header_of_a_gigabyte(folder):
    weights_file(folder).write_bytes(struct.pack("<Q", 2**30) + b"{}")
    assert_refused(folder, "it claims a header of 1073741824 bytes")


@pytest.mark.parametrize("keep", [0, 4, 100, -1000])
def test_truncated_weights(folder, keep):
    content = weights_file(folder).read_bytes()
    weights_file(folder).write_bytes(content[:keep])
    assert_refused(folder, "not a safetensors file, or truncated")


@pytest.mark.parametrize("keep", [0, 4, 3000, -1000])
def test_truncated_pickle(folder, keep):
    file = as_pickle(folder)
    file.write_bytes(file.read_bytes()[:keep])
    assert_refused(folder, f"{FILE}.bin: ")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop("conv_in.bias"), "the weight 'conv_in.bias' is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "the weight 'extra' does not belong to this network"),
        (lambda s: s.update({"conv_in.bias": torch.zeros(3)}), "has shape (3,), the network needs (4,)"),
        (lambda s: s.update({"conv_in.bias": torch.full((4,), torch.nan)}), "values that are not finite"),
        (lambda s: s.update({"precond.levels": torch.ones(3)}), "'precond.levels' does not belong"),
        (lambda s: s.update({"precond.other": torch.ones(3)}), "'precond.other' does not belong"),
    ],
)
@pytest.mark.parametrize("pickled", [True, False])
def test_weights_that_do_not_fit(folder, edit, message, pickled):
    state = load_file(weights_file(folder))
    edit(state)
    if pickled:
        as_pickle(folder, state)
    else:
        save_file(state, weights_file(folder))
    assert_refused(folder, message)


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "plain"])
@pytest.mark.parametrize(
    "make",
    [
        lambda mark: Call(os.system, f"touch {mark}"),
        lambda mark: Call(eval, f"open({str(mark)!r}, 'w')"),
        lambda mark: Call(open, str(mark), "w"),
        lambda mark: {"conv_in.weight": Call(os.mkdir, str(mark))},
        lambda mark: Call(torch.load, io.BytesIO(pickle.dumps(Call(os.mkdir, str(mark))))),
        lambda mark: Call(torch.storage._load_from_bytes, pickle.dumps(Call(os.mkdir, str(mark)))),
        lambda mark: Call(bytearray, 10**12),
    ],
)
def test_pickles_that_run_something(folder, tmp_path, make, archive):
    file, mark = as_pickle(folder), tmp_path / "mark"
    attack = pickle.dumps(make(mark), protocol=2)
    if archive:
        with zipfile.ZipFile(file) as old:
            members = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(file, "w") as new:
            for name, content in members.items():
                new.writestr(name, attack if name.endswith("data.pkl") else content)
    else:
        head = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}]
        file.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in head) + attack + pickle.dumps([], 2))
    assert_refused(folder, f"{FILE}.bin: its pickle names ")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([torch.zeros(1)], "not a mapping"),
        ({1: torch.zeros(1)}, "not a mapping"),
        ({"conv_in.weight": 3}, "'conv_in.weight' is not a plain tensor"),
        ({"conv_in.weight": torch.zeros(1).expand(10**6, 10**6)}, "'conv_in.weight' is not stored in full"),
        ({"conv_in.weight": torch.zeros(3, device="meta")}, f"{FILE}.bin: "),
        ({"conv_in.weight": torch.eye(3).to_sparse()}, f"{FILE}.bin: "),
    ],
    ids=range(6),
)
def test_pickles_that_are_not_weights(folder, state, message):
    as_pickle(folder, state)
    assert_refused(folder, message)


def test_zip_bomb(folder):
    file = as_pickle(folder)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/99", bytes(10**7))
    assert_refused(folder, "its contents are larger than itself")


@pytest.mark.parametrize(
    "name", ["../../secret.safetensors", "/etc/passwd", "..", "", ".hidden", "a/b", "a\\b", "a\0b", "x" * 10_000]
)
def test_shards_elsewhere(folder, name):
    weights_file(folder).rename(folder.parent / "secret.safetensors")
    index = folder / "unet" / f"{FILE}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": name}}))
    assert_refused(folder, "is not the plain name of a file beside it")


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        *((value, "it has no weight_map") for value in (..., None, [], {}, "x")),
        *(({"a": value}, "cannot be read (No such file or directory)") for value in (1, None, "absent")),
        ({"a": ["b"]}, "is not the plain name of a file beside it"),
    ],
)
def test_indexes_that_are_not(folder, weight_map, message):
    weights_file(folder).unlink()
    index = folder / "unet" / f"{FILE}.safetensors.index.json"
    index.write_text("{}")
    change(index, weight_map=weight_map)
    assert_refused(folder, message)


@pytest.mark.parametrize("target", ["/etc/passwd", "/dev/zero", "/dev/full", "nowhere", "itself", "fifo"])
@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json", f"unet/{FILE}.safetensors"])
def test_links_elsewhere(folder, name, target):
    file = folder / name
    file.unlink()
    if target == "fifo":
        os.mkfifo(file)
    else:
        file.symlink_to(file.name if target == "itself" else target)
    assert_refused(folder, file.name)
