import contextlib
import functools
import io
import json
import os
import pickle
import random
import struct
import sys
import tracemalloc
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from support import REFERENCE, relative
from torch import nn

from prescore.checkpoints import edm, pickles
from prescore.checkpoints.stored import build
from prescore.errors import PrescoreError
from prescore.models import SongUNet

BUFFERS = ("resample_filter", "freqs", "u")
NETWORKS = ["song-ddpmpp", "song-ncsnpp", "song-ddpmpp-label3-augment9", "song-skip-skip"]
NETWORKS += ["adm-label3", "adm-attention-label3-augment9"]
LABELS = ("class_labels", "augment_labels")
TINY = {"img_resolution": 4, "model_channels": 8, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
TINY |= {"img_channels": 1, "model_type": "SongUNet", "dropout": 0.13}
MEGABYTE = 2**20


# A writer of files with the layout of a real one. The publisher's modules exist only while it writes.


def reconstruct(meta):
    raise AssertionError("the publisher's loader was called")


class EasyDict(dict):
    pass


PUBLISHER = {
    "torch_utils.persistence": {"_reconstruct_persistent_obj": reconstruct},
    "dnnlib.util": {"EasyDict": EasyDict},
}
for module_name, members in PUBLISHER.items():
    for member_name, member in members.items():
        member.__module__, member.__qualname__, member.__name__ = module_name, member_name, member_name


@contextlib.contextmanager
def publisher(monkeypatch):
    with monkeypatch.context() as patch:
        for name, members in PUBLISHER.items():
            module = types.ModuleType(name)
            module.__dict__.update(members)
            patch.setitem(sys.modules, name.partition(".")[0], types.ModuleType(name.partition(".")[0]))
            patch.setitem(sys.modules, name, module)
        yield


class Persistent:
    """An object that is stored with its class's source, which would leave a mark if anything executed it."""

    def __init__(self, kind, source, arguments, **state):
        self.__dict__.update(state)
        self.__dict__ |= {"_init_args": (), "_init_kwargs": arguments}
        self.hidden = (kind, source)

    def __reduce__(self):
        state = {key: value for key, value in self.__dict__.items() if key != "hidden"}
        kind, source = self.hidden
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": kind, "state": state}
        return reconstruct, (meta,)


class PersistentModule(Persistent, nn.Module):
    def __init__(self, kind, source, arguments, **state):
        nn.Module.__init__(self)
        Persistent.__init__(self, kind, source, arguments, **state)


class Writer:
    """Writes pickles of a network; `mark` is the file that appears if code of a pickle runs."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.monkeypatch, self.mark = folder, monkeypatch, folder / "mark"
        self.source = f"open({str(self.mark)!r}, 'w').close()\n" + "# layers\n" * 100

    def module(self, kind, arguments, state):
        """A module tree with the weights of a flat state dict."""
        root = PersistentModule(kind, self.source, arguments, training=False)
        for name, value in state.items():
            *parents, leaf = name.split(".")
            module = root
            for parent in parents:
                if parent not in module._modules:
                    is_container = parent in ("enc", "dec")
                    module.add_module(parent, nn.ModuleDict() if is_container else self.module("Layer", {}, {}))
                module = module._modules[parent]
            if leaf in BUFFERS:
                module.register_buffer(leaf, value)
            else:
                module.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
        return root

    def content(self, ema, **more):
        loss = Persistent("EDMLoss", self.source, {}, P_mean=-1.2, P_std=1.2, sigma_data=0.5)
        augment = Persistent("AugmentPipe", self.source, {"p": 0.12}, xflip=1e8, kinds={"xflip", "scale"})
        data = {"class_name": "training.dataset.ImageFolderDataset", "path": "train.zip", "max_size": np.int64(50_000)}
        parts = {"ema": ema, "loss_fn": loss, "augment_pipe": augment, "dataset_kwargs": EasyDict(data)}
        return parts | more

    def write(self, content, protocol=4):
        path = self.folder / "network.pkl"
        with publisher(self.monkeypatch):
            path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
        return path

    def network(self, kind="EDMPrecond", arguments=None, state=None, **more):
        """A file of one small network; its weights and arguments may be replaced."""
        weights = {f"model.{key}": value for key, value in small().state_dict().items()}
        ema = self.module(kind, TINY if arguments is None else arguments, weights if state is None else state)
        return self.write(self.content(ema, **more))


def small():
    keywords = {key: value for key, value in TINY.items() if key not in ("img_channels", "model_type")}
    return SongUNet(in_channels=1, out_channels=1, **keywords, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def writer(tmp_path, monkeypatch):
    writer = Writer(tmp_path, monkeypatch)
    yield writer
    assert not writer.mark.exists()


def recorded(name):
    path = REFERENCE / "edm" / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"no recorded numbers edm/{path.name} beside the repository")
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    state = {key: tensors[f"param/{key}"] for key in json.loads(metadata["state_dict_order"])}
    return tensors, state, json.loads(metadata["init_kwargs"]), metadata


def refusal(path):
    """The line with which a file is refused, by the reader or when its network is built."""
    with pytest.raises(PrescoreError) as caught:
        build(edm.read(path))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


# Reading


@pytest.mark.parametrize("kind", ["vp", "ve", "iddpm", "edm"])
@torch.no_grad()
def test_recorded_denoisers(writer, kind):
    tensors, state, arguments, metadata = recorded(f"precond-{kind}")
    path = writer.write(writer.content(writer.module(metadata["precond_class"], arguments, state)))
    stored = edm.read(path)
    assert edm.matches(path)
    assert list(stored.weights) == [key.removeprefix("model.") for key in state if key.startswith("model.")]
    description = stored.description
    assert (description.preconditioning, description.weights, description.name) == (kind, "ema", "network")
    assert (description.event_shape, description.data_range) == ((3, 16, 16), (-1.0, 1.0))
    denoise = build(stored)
    labels = {name: tensors[f"in/{name}"] for name in LABELS if f"in/{name}" in tensors}
    out = denoise(tensors["in/x"], tensors["in/sigma"], **labels)
    for k in range(len(out)):
        assert relative(out[k], tensors["out"][k]) < 1e-5, tensors["in/sigma"][k]


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_recorded_networks(writer, name):
    tensors, state, arguments, metadata = recorded(f"net-{name}")
    channels = arguments.pop("in_channels")
    arguments |= {"img_channels": channels, "model_type": metadata["model_class"]}
    assert arguments.pop("out_channels") == channels
    prefixed = {f"model.{key}": value for key, value in state.items()}
    denoise = build(edm.read(writer.network(arguments=arguments, state=prefixed)))
    given = [tensors.get(f"in/{key}") for key in ("x", "noise_labels", *LABELS)]
    assert relative(denoise.function.model(*given), tensors["out"]) < 1e-5


@pytest.mark.parametrize(
    ("kind", "arguments", "expected"),
    [
        ("EDMPrecond", {}, (0.002, 80.0)),
        ("EDMPrecond", {"sigma_min": 0.01, "sigma_max": 50.0}, (0.01, 50.0)),
        ("EDMPrecond", {"sigma_max": float("inf")}, (0.002, 80.0)),
        ("VEPrecond", {}, (0.02, 100)),
        ("VEPrecond", {"sigma_max": 50}, (0.02, 50)),
        ("VPPrecond", {}, (0.0010005, 152.16702)),
        ("VPPrecond", {"epsilon_t": 1e-3}, (0.010486, 152.16702)),
    ],
)
def test_noise_ranges(writer, kind, arguments, expected):
    description = edm.read(writer.network(kind, TINY | arguments)).description
    assert (description.sigma_min, description.sigma_max) == pytest.approx(expected, rel=1e-4)


def test_networks_that_are_not_named(writer):
    arguments = {key: value for key, value in TINY.items() if key != "model_type"}
    expected = {"VPPrecond": "SongUNet", "VEPrecond": "SongUNet", "EDMPrecond": "DhariwalUNet"}
    for kind, network in expected.items():
        assert edm.read(writer.network(kind, arguments)).description.network == network
    state = {"u": torch.linspace(100, 0, 11)}
    description = edm.read(writer.network("iDDPMPrecond", arguments, state)).description
    assert description.network == "DhariwalUNet"
    assert (description.arguments["in_channels"], description.arguments["out_channels"]) == (1, 2)
    assert (description.sigma_min, description.sigma_max) == (10, 100)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_protocols(writer, protocol):
    weights = {f"model.{key}": value for key, value in small().state_dict().items()}
    path = writer.write(writer.content(writer.module("EDMPrecond", TINY, weights)), protocol)
    assert edm.matches(path)
    state = edm.read(path).state
    assert all(torch.equal(value, state[key]) for key, value in small().state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_stored_precision_and_views(writer, dtype):
    weight = torch.arange(24).reshape(2, 3, 2, 2).to(dtype).to(memory_format=torch.channels_last)
    base = torch.arange(10).to(dtype)
    state = edm.read(writer.network(state={"model.a.weight": weight, "model.b.weight": base[3:7]})).state
    assert torch.equal(state["a.weight"], weight)
    assert torch.equal(state["b.weight"], base[3:7])
    assert {value.dtype for value in state.values()} == {dtype}


def test_options(writer):
    path = writer.network()
    with pytest.raises(PrescoreError, match="weights: an EDM pickle holds no 'raw' ones"):
        edm.read(path, weights="raw")
    with pytest.raises(PrescoreError, match="config: an EDM pickle holds its own"):
        edm.read(path, config="cifar10")


def test_other_files_do_not_match(writer, tmp_path):
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("a", "_reconstruct_persistent_obj")
    (tmp_path / "empty").touch()
    (tmp_path / "byte").write_bytes(b"\x80")
    (tmp_path / "text").write_text("_reconstruct_persistent_obj")
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"ema": [1, 2]}))
    for path in tmp_path.iterdir():
        assert not edm.matches(path)
    assert not edm.matches(tmp_path / "nowhere")
    assert not edm.matches(tmp_path)


# Files that are damaged or of another kind


def test_weights_that_do_not_fit(writer):
    weights = {f"model.{key}": value for key, value in small().state_dict().items()}
    name = "model.map_layer0.bias"
    cases = {
        "the weight 'map_layer0.bias' is missing": {key: value for key, value in weights.items() if key != name},
        "the weight 'extra.bias' does not belong": weights | {"model.extra.bias": torch.zeros(2)},
        "the weight 'map_layer0.bias' has shape (3,)": weights | {name: torch.zeros(3)},
        "the weight 'map_layer0.bias' has values that are not finite": weights | {name: torch.full((32,), torch.nan)},
        "the preconditioning 'edm' has no table 'bias'": weights | {"bias": torch.zeros(3)},
    }
    for message, state in cases.items():
        assert message in refusal(writer.network(state=state))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_channels": 10**9}, "the argument model_channels = 1000000000"),
        ({"num_blocks": 60_000}, "much larger than"),
        ({"img_channels": "3"}, "lacks the arguments img_resolution and img_channels"),
        ({"img_resolution": 10**30}, "event_shape"),
        ({"model_type": "Linear"}, "unknown network 'Linear'"),
        ({"model_type": [1]}, "unknown network [1]"),
        ({"sigma_data": "half"}, "the argument sigma_data = 'half'"),
        ({"sigma_data": -1}, "sigma_data"),
        ({"sigma_max": float("nan")}, "the argument sigma_max = nan"),
        ({"sigma_min": 90}, "sigma_min"),
        ({"generator": 1}, "generator"),
        ({"wings": 2}, "has no argument 'wings'"),
        ({"dropout": {"p": 1}}, "the argument 'dropout' of its network is not a number"),
        ({3: 4}, "the argument 3 of its network"),
    ],
)
def test_wrong_arguments(writer, arguments, message):
    assert message in refusal(writer.network(arguments=TINY | arguments))


def test_networks_of_another_kind(writer):
    assert refusal(writer.network("Generator")).startswith("its network is of the class 'Generator'; known: VPPrecond")
    assert refusal(writer.write({"G_ema": 1})) == "a pickle without a network 'ema'; EDM's training script writes one"
    assert "objects as EDM stores them" in refusal(writer.write({"ema": [1, 2]}))
    assert "made from named arguments" in refusal(writer.network(arguments=[1, 2]))
    path = writer.network("iDDPMPrecond")
    assert refusal(path) == "the table 'u' of its noise levels is missing"
    content = path.read_bytes().replace(b"\x8c\x07version\x94K\x06", b"\x8c\x07version\x94K\x07")
    assert "stored in version 7" in refusal(writer.write(content))
    assert "bytes follow the end" in refusal(writer.write(path.read_bytes() + b"more"))


@pytest.fixture
def whole(writer):
    """A file of few weights, most of which is structure."""
    writer.source = "# " + writer.source
    state = {"model.enc.conv.weight": torch.ones(2, 3), "model.enc.conv.bias": torch.ones(2), "model.u": torch.ones(2)}
    return writer.network(state=state).read_bytes()


def test_truncated_files(writer, whole):
    for cut in [*range(64), *range(64, len(whole), len(whole) // 200), len(whole) - 1]:
        refusal(writer.write(whole[:cut]))


def test_flipped_bytes(writer, whole):
    draw = random.Random(0)
    lines = []
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        try:  # a pickle has no check sum: a flip in a weight or in what is not looked at goes unseen
            state = edm.read(writer.write(bytes(damaged))).state
            assert sum(value.numel() for value in state.values()) <= 10
        except PrescoreError as error:
            lines.append(str(error))
    assert len(lines) > 200
    assert not any("\n" in line for line in lines)


# Files that attack


def touch(mark):
    """A command."""
    return f"touch {mark}"


class Gadget:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def call(key, *arguments):
    """Opcodes of a call of "module name"."""
    module, name = key.split(" ")
    text = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name))
    return text + b"\x93" + b"(" + b"".join(arguments) + b"tR"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def raw(value):
    return b"B" + struct.pack("<I", len(value)) + value


def as_ema(*parts):
    """A pickle {"ema": what the opcodes leave}."""
    return b"\x80\x04}" + text("ema") + b"".join(parts) + b"s."


def evil_zip(mark):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Gadget(os.system, touch(mark)), 2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return file.getvalue()


def storage(value):
    file = io.BytesIO()
    torch.save(value._typed_storage(), file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def attacks(mark):
    """Name, pickle, end of the line that refuses it, and whether Python's own reader runs into the trap."""
    system = call("posix system", text(touch(mark)))
    load = "torch.storage _load_from_bytes"
    good = storage(torch.arange(4.0))
    fourth = good.index(b"\x80\x02(X\x07\x00\x00\x00storage")
    evil_legacy = good[:fourth] + pickle.dumps(Gadget(os.system, touch(mark)), 2) + good[fourth:]
    evil_key = good.replace(b"ctorch\nFloatStorage\n", b"cposix\nsystem\n")
    empty = call("collections OrderedDict")

    def tensor(inner, *rest):
        return call("torch._utils _rebuild_tensor_v2", call(load, raw(inner)), *rest, b"\x89", empty)

    return {
        "system": (as_ema(system), "names 'posix.system'", True),
        "eval": (as_ema(call("builtins eval", text(f"open({str(mark)!r}, 'w')"))), "names 'builtins.eval'", True),
        "exec": (as_ema(call("builtins exec", text(f"open({str(mark)!r}, 'w')"))), "names 'builtins.exec'", True),
        "open": (as_ema(call("io open", text(str(mark)), text("w"))), "names 'io.open'", True),
        "protocol 0": (f"cposix\nsystem\n(S'{touch(mark)}'\ntR.".encode(), "names 'posix.system'", True),
        "INST": (f"(S'{touch(mark)}'\niposix\nsystem\n.".encode(), "its pickle uses STRING", True),
        "OBJ": (as_ema(b"(cposix\nsystem\n" + text(touch(mark)) + b"o"), "names 'posix.system'", True),
        "getattr": (
            as_ema(b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n" + text("os") + b"\x85R" + text("system") + b"tR"),
            "names 'builtins.getattr'",
            False,
        ),
        "import": (as_ema(call("builtins __import__", text("os"))), "names 'builtins.__import__'", False),
        "dotted": (as_ema(call("torch._utils os.system", text(touch(mark)))), "'torch._utils.os.system'", False),
        "dotted 2": (as_ema(call("torch storage._load_from_bytes", raw(b""))), "names 'torch.storage._load", False),
        "called result": (as_ema(empty + b"(tR"), "something else than a name is called", False),
        "called text": (as_ema(text("os.system") + text(touch(mark)) + b"\x85R"), "something else than a name", False),
        "NEWOBJ_EX": (as_ema(b"ccollections\nOrderedDict\n)}\x92"), "its pickle uses NEWOBJ_EX", False),
        "EXT1": (as_ema(b"\x82\x01"), "its pickle uses EXT1", False),
        "EXT4": (as_ema(b"\x84\x01\x00\x00\x00"), "its pickle uses EXT4", False),
        "PERSID": (as_ema(b"Pabc\n"), "its pickle uses PERSID", False),
        "BINPERSID": (as_ema(text("abc") + b"Q"), "its pickle uses BINPERSID", False),
        "BUILD of a mapping": (as_ema(empty + b"}" + text("__class__") + text("x") + b"sb"), "filled like", False),
        "BUILD of a class": (as_ema(b"ccollections\nOrderedDict\nN}" + text("x") + b"Ns\x86b"), "filled like", False),
        "BUILD of a record": (
            as_ema(call("torch.nn.modules.container ModuleDict") + b"}" + text("__setstate__") + system + b"sb"),
            "names 'posix.system'",
            True,
        ),
        "BUILD of attributes": (
            as_ema(call("torch.nn.modules.container ModuleDict") + b"}" + text("__class__") + text("x") + b"sb"),
            "objects as EDM stores them",
            False,
        ),
        "filled mapping": (as_ema(call("collections OrderedDict", b"]")), "fills a mapping in an unknown way", False),
        "torch zip inside": (as_ema(call(load, raw(evil_zip(mark)))), "not in the layout that EDM's", False),
        "legacy file inside": (as_ema(call(load, raw(evil_legacy))), "names 'posix.system'", False),
        "storage type": (as_ema(call(load, raw(evil_key))), "names 'posix.system'", False),
        "tar inside": (as_ema(call(load, raw(b"./pax".ljust(512, b"\0")))), "not in the layout", False),
        "zip bomb inside": (as_ema(call(load, raw(bomb()))), "not in the layout", False),
        "text inside": (as_ema(call(load, text("abc"))), "not bytes of the file", False),
        "large stride": (as_ema(tensor(good, b"K\x00", b"K\x02\x85", b"K\x04\x85")), "does not fit", False),
        "large offset": (as_ema(tensor(good, b"K\x03", b"K\x02\x85", b"K\x01\x85")), "does not fit", False),
        "large size": (as_ema(tensor(good, b"K\x00", b"J\xff\xff\xff\x7f\x85", b"K\x00\x85")), "does not fit", False),
        "negative stride": (
            as_ema(tensor(good, b"K\x03", b"K\x04\x85", b"J\xff\xff\xff\xff\x85")),
            "does not fit",
            False,
        ),
        "wrong tensor": (as_ema(call("torch._utils _rebuild_parameter", b"K\x01", b"\x88", empty)), "as torch", False),
        "storage claims": (
            as_ema(call(load, raw(good.replace(b"K\x04Nt", b"J\xff\xff\xff\x7fNt")))),
            "the size that it claims",
            False,
        ),
        "count claims": (
            as_ema(call(load, raw(good[:-24] + struct.pack("<q", 2**60) + good[-16:]))),
            "the size that it claims",
            False,
        ),
    }


@functools.cache
def bomb():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", b"\0" * (20 * MEGABYTE))
    return file.getvalue()


ATTACKS = list(attacks(Path("mark")))


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks(writer, name):
    content, message, _ = attacks(writer.mark)[name]
    path = writer.write(content)
    tracemalloc.start()
    try:
        assert message in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < MEGABYTE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", [name for name in ATTACKS if attacks(Path("mark"))[name][2]])
def test_attacks_are_live(tmp_path, name):
    mark = tmp_path / "mark"
    with contextlib.suppress(Exception):
        pickle.loads(attacks(mark)[name][0])
    assert mark.exists()


@pytest.mark.parametrize("place", ["loss_fn", "dataset_kwargs", "stats"])
def test_calls_anywhere_in_the_file_are_refused(writer, place):
    path = writer.network(**{place: {"deep": [1, (2, Gadget(os.system, touch(writer.mark)))]}})
    assert "names 'posix.system'" in refusal(path)


def test_calls_among_the_arguments_are_refused(writer):
    gadget = Gadget(Gadget(getattr, os, "system"), touch(writer.mark))
    with pytest.raises((TypeError, pickle.PicklingError)):  # a module cannot be written; its name can be looked up
        writer.network(arguments=TINY | {"dropout": gadget})
    gadget = Gadget(os.system, touch(writer.mark))
    assert "names 'posix.system'" in refusal(writer.network(arguments=TINY | {"dropout": gadget}))


CLAIMS = {
    "BINBYTES8": b"\x8e" + struct.pack("<Q", 2**40),
    "BINUNICODE8": b"\x8d" + struct.pack("<Q", 2**40),
    "BINBYTES": b"B" + struct.pack("<I", 2**32 - 1),
    "BINUNICODE": b"X" + struct.pack("<I", 2**32 - 1),
    "LONG4": b"\x8b" + struct.pack("<i", 2**31 - 1),
    "FRAME": b"\x95" + struct.pack("<Q", 2**60),
    "LONG_BINGET": b"j\xff\xff\xff\xff",
    "BYTEARRAY8": b"\x96" + struct.pack("<Q", 2**40),
}


def laughs(opcode, count=200):
    """A value that holds the one before twice, and so on: 2^count parts."""
    return b"K\x01\x94" + b"".join(b"h" + bytes([k]) + b"h" + bytes([k]) + opcode + b"\x94" for k in range(count))


BOMBS = {
    **CLAIMS,
    "tuples in tuples": laughs(b"\x86"),
    "nested lists": b"]" * 20_000 + b"a" * 19_999,
    "nested tuples": b")" + b"\x85" * 20_000,
    "list in itself": b"]\x94h\x00a",
    "many steps": b"N" * 60_000,
    "long number": b"\x8b" + struct.pack("<i", 100_000) + b"\x01" * 100_000,
    "tuple as a key": b"}" + laughs(b"\x86") + b"Ns",
    "tuple in a set": b"\x8f(" + laughs(b"\x86") + b"\x90",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(writer, monkeypatch, name):
    monkeypatch.setattr(edm, "MAX_STEPS", 50_000)
    path = writer.write(as_ema(BOMBS[name]))
    tracemalloc.start()
    try:
        refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 20 * MEGABYTE
    finally:
        tracemalloc.stop()


def test_arguments_without_end(writer):
    deep: list = []
    deep.append(deep)
    wide: tuple = (1,)
    for _ in range(100):
        wide = (wide, wide)
    for value in (deep, list(wide), [1] * 1000, "x" * 10**6, 10**30):
        for name in ("sigma_data", "dropout", "model_type", "img_channels", "anything"):
            refusal(writer.network(arguments=TINY | {name: value}))


def test_one_storage_under_many_names(writer):
    """A million numbers are stored once and claimed a hundred times: more bytes than the file has."""
    shared = nn.Parameter(torch.zeros(250_000), requires_grad=False)
    ema = writer.module("EDMPrecond", TINY, {})
    for k in range(100):
        ema.register_parameter(f"p{k}", shared)
    message = "its network: its tensors take 100000000 bytes, of which only 1000000 are stored"
    assert refusal(writer.write(writer.content(ema))) == message


def test_modules_inside_themselves(writer):
    twice, cyclic = (writer.module("EDMPrecond", TINY, {"model.weight": torch.zeros(2)}) for _ in range(2))
    twice._modules["again"] = twice._modules["model"]
    assert "is there twice" in refusal(writer.write(writer.content(twice)))
    cyclic._modules["model"] = nn.ModuleDict()
    cyclic._modules["model"]._modules["inner"] = cyclic._modules["model"]
    assert "is there twice" in refusal(writer.write(writer.content(cyclic)))
    deep = writer.module("EDMPrecond", TINY, {"model." + "a." * 20 + "weight": torch.zeros(2)})
    assert "inside too many others" in refusal(writer.write(writer.content(deep)))


def test_a_stream_is_left_at_the_end_of_its_pickle():
    stream = io.BytesIO(pickle.dumps([1, {"a": (2.5, None, True)}, {"b"}], 4) + b"rest")
    assert pickles.parse(stream, {}, 100) == [1, {"a": (2.5, None, True)}, {"b"}]
    assert stream.read() == b"rest"
