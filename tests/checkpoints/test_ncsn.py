import argparse
import builtins
import io
import json
import os
import pickle
import random
import zipfile
from dataclasses import asdict

import pytest
import torch
from safetensors import safe_open
from support import REFERENCE, relative

from prescore.checkpoints import ncsn
from prescore.checkpoints.ncsn import PUBLISHED, matches, read
from prescore.checkpoints.stored import build, build_network
from prescore.errors import PrescoreError
from prescore.models.ncsn import NCSN, NCSNv2

yaml = pytest.importorskip("yaml")

NETWORKS = ["ncsn-28", "ncsn-16", "ncsnv2-16", "ncsnv2-28", "ncsnv2-deeper-32", "ncsnv2-deepest-32"]
DATA_SETS = {"ncsnv2": "CIFAR10", "deeper": "LSUN", "deepest": "FFHQ"}
DATA = {"dataset": "CIFAR10", "image_size": 8, "channels": 1, "logit_transform": False, "random_flip": True}
MODEL = {"ngf": 2, "num_classes": 3, "sigma_begin": 1, "sigma_end": 0.01}
V2 = {"sigma_dist": "geometric", "normalization": "InstanceNorm++", "nonlinearity": "elu", "ema": True}


def small(version=2, seed=0, **arguments):
    generator = torch.Generator().manual_seed(seed)
    sizes = {"ngf": 2, "num_classes": 3, "generator": generator} | arguments
    return NCSN(1, **sizes) if version == 1 else NCSNv2(1, sigma_begin=1, **sizes)


def averaged(network):
    return {name: 0.5 * value for name, value in network.state_dict().items() if name != "sigmas"}


def checkpoint(network, ema=True, step=7):
    """The list that the training code saves: NCSN's is the first two items."""
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    sum(parameter.sum() for parameter in network.parameters()).backward()
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    items = [type(network.state_dict())(state), optimiser.state_dict()]
    optimiser.step()
    if isinstance(network, NCSNv2):
        items += [2, step, *([averaged(network)] if ema else [])]
    return items


def save(path, items, zipped=True):
    torch.save(items, path, _use_new_zipfile_serialization=zipped)
    return path


def configuration(data=DATA, model=MODEL | V2):
    return yaml.dump({"data": data, "model": model, "training": {"n_iters": 3}})


@pytest.fixture
def path(tmp_path):
    """Where a checkpoint goes, with the yml of `small` beside it."""
    (tmp_path / "config.yml").write_text(configuration())
    return tmp_path / "checkpoint_7.pth"


def refusal(path, **arguments):
    with pytest.raises(PrescoreError) as caught:
        build(read(path, **arguments))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_recorded_networks_in_the_published_layout(name, zipped, tmp_path):
    file = REFERENCE / "ncsn" / f"net-{name}.safetensors"
    if not file.exists():
        pytest.skip(f"no recorded numbers ncsn/{file.name} beside the repository")
    with safe_open(file, "pt") as opened:
        tensors, metadata = {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata()  # noqa: SIM118
    recorded = {f"module.{key}": tensors[f"param/{key}"] for key in json.loads(metadata["state_dict_order"])}
    config = json.loads(metadata["config"])
    tower = "deepest" if "deepest" in name else "deeper" if "deeper" in name else "ncsnv2"
    config["data"]["dataset"] = DATA_SETS[tower]
    (tmp_path / "config.yml").write_text(yaml.dump(config))
    path = save(tmp_path / "checkpoint.pth", [recorded, {"state": {}, "param_groups": []}], zipped)
    assert matches(path)
    stored = read(path)
    x, labels = tensors["in/x"], tensors["in/labels"]
    sigma = torch.tensor(stored.description.preconditioning_arguments["sigmas"])[labels]
    levels = tensors.get("sigmas", tensors.get("param/sigmas"))
    assert relative(sigma, levels[labels]) < 1e-7
    levels = sigma.reshape(-1, 1, 1, 1)
    with torch.no_grad():
        found = build(stored)(x, sigma)
        exact = (build(stored, dtype=torch.float64)(x.double(), sigma.double()) - x) / levels.double() ** 2
    assert relative(found, x + levels**2 * tensors["out"]) < 1e-6
    for k in range(len(x)):
        # Levels are float32 in the network, and v1's are made here: the scores agree as these do.
        assert relative(exact[k], tensors["out_f64"][k]) < (1e-9 if "v2" in name else 1e-7)


@pytest.mark.parametrize("zipped", [True, False])
def test_ema_or_raw(path, zipped):
    network = small()
    save(path, checkpoint(network), zipped)
    raw, ema = read(path, weights="raw"), read(path)
    assert (raw.description.weights, ema.description.weights) == ("raw", "ema")
    for name, value in network.state_dict().items():
        assert torch.equal(ema.state[name], value if name == "sigmas" else 0.5 * value)
        assert raw.state[name].shape == value.shape
    assert build_network(ema).tower == network.tower
    assert ema.description.training == {"format": "NCSNv2 checkpoint", "data": "CIFAR10", "epoch": 2, "step": 7}
    assert (ema.description.name, ema.description.event_shape) == ("checkpoint_7", (1, 8, 8))
    assert (ema.description.sigma_min, ema.description.sigma_max) == pytest.approx((0.01, 1.0))
    save(path, checkpoint(network, ema=False), zipped)
    assert read(path).description.weights == "raw"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations(name, tmp_path):
    published = PUBLISHED[name]
    sizes = {"num_classes": published.num_classes, "ngf": published.ngf}
    with torch.device("meta"):
        if name.endswith("v2"):
            ends = {"sigma_begin": published.sigma_begin, "sigma_end": published.sigma_end}
            network = NCSNv2(3, variant=ncsn.TOWER_OF[published.dataset], **sizes, **ends)
        else:
            network = NCSN(published.channels, **sizes)
    arguments = {"channels": published.channels, "rescaled": False} | sizes
    state = network.state_dict()
    expected = (type(network).__name__, arguments.items())
    found = ncsn._network(state, published)
    assert found[0] == expected[0]
    assert expected[1] <= found[1].items()
    assert len(found[2]) == published.num_classes


def test_yml_of_a_log_folder(path):
    """The training code writes its namespaces and the device with marks of Python objects."""
    log = argparse.Namespace(data=argparse.Namespace(**DATA), model=argparse.Namespace(**MODEL))
    log.device = torch.device("cuda", 0)
    text = yaml.dump(log, default_flow_style=False)
    assert "!!python/object:argparse.Namespace" in text
    assert "!!python/object/apply:torch.device" in text
    path.with_name("config.yml").write_text(text)
    save(path, checkpoint(small(1)))
    stored = read(path)
    assert stored.description.network == "NCSN"
    assert stored.description.preconditioning_arguments["sigmas"] == pytest.approx([1, 0.1, 0.01])
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert build(stored)(x, torch.tensor(0.5)).shape == x.shape


def test_which_configuration_is_taken(path):
    save(path, checkpoint(small(1)))
    plain = path.with_name("config.yml")
    other = plain.rename(path.with_name("mine.yml"))
    assert read(path).description == read(path, config=str(other)).description
    path.with_name("third.yml").write_text(configuration())
    assert "there are 2 yml files beside it; give the path of its yml or one of mnist-ncsn," in refusal(path)
    path.with_name("config.yml").write_text(configuration(DATA | {"image_size": 12, "rescaled": True}))
    assert read(path).description.event_shape == (1, 12, 12)
    assert read(path).description.data_range == (-1.0, 1.0)
    assert "no published configuration; did you mean mnist-ncsn" in refusal(path, config="mnist-nscn")
    assert "ngf is 64, but it is 2 in the checkpoint" in refusal(path, config="mnist-ncsn")


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        ({"channels": 3}, {}, "channels is 3, but it is 1 in the checkpoint"),
        ({"dataset": "FFHQ"}, {}, "the network for the data set FFHQ is deepest, but it is ncsnv2 in the checkpoint"),
        ({"logit_transform": True}, {}, "logit_transform: networks of data in logits"),
        ({"image_size": "8"}, {}, "image_size: '8' is not valid"),
        ({"image_size": 0}, {}, "event_shape = (1, 0, 0)"),
        ({"image_size": 10**9}, {}, "image_size: 1000000000 is not valid"),
        ({"rescaled": 1}, {}, "rescaled: 1 is not valid"),
        ({}, {"num_classes": 4}, "num_classes is 4, but it is 3 in the checkpoint"),
        ({}, {"sigma_begin": 50}, "sigma_begin is 50, but it is 1.0 in the checkpoint"),
        ({}, {"sigma_end": float("nan")}, "sigma_end: nan is not valid"),
        ({}, {"ngf": None}, "the entry 'ngf' is missing"),
        ({}, {"nonlinearity": "relu"}, "nonlinearity: 'relu' is not supported, only elu is"),
        ({}, {"sigma_dist": ["x"] * 1000}, "sigma_dist: ['x', 'x',"),
    ],
)
def test_a_yml_that_does_not_fit(path, data, model, message):
    save(path, checkpoint(small()))
    path.with_name("config.yml").write_text(configuration(DATA | data, MODEL | V2 | model))
    assert message in refusal(path)


@pytest.mark.parametrize("change", ["up", "negative", "infinite"])
def test_noise_levels_that_are_none(path, change):
    network = small()
    network.sigmas[1] = {"up": 2.0, "negative": -0.5, "infinite": torch.inf}[change]
    save(path, checkpoint(network))
    assert "are not positive numbers that decrease" in refusal(path)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!python/object/apply:os.system ['touch {marker}']", "python/object/apply:os.system'; refused, not run"),
        ("a: !!python/object/new:os.system ['touch {marker}']", "python/object/new:os.system'; refused, not run"),
        ("a: !!python/object/apply:builtins.eval ['1']", "builtins.eval'; refused"),
        ("a: !!python/name:os.system", "python/name:os.system'; refused"),
        ("a: !!python/module:this", "python/module:this'; refused"),
        ("a: !!python/tuple [1]", "python/tuple'; refused"),
        ("a: !!python/object:argparse.Namespace [1]", "expected a mapping node"),
        ("a: !!python/object/apply:torch.device {{a: 1}}", "expected a sequence node"),
        (f"!!{'x' * 5000} 1", "refused, not run"),
        (BOMB, "it has an alias"),
        ("a: &a [*a]", "it has an alias"),
        ("x" * 20_001, "larger than 20000 bytes"),
        ("[" * 2000, "not a yml (RecursionError"),
        ("a: 2001-13-45", "not a yml (ValueError"),
        ("a: " + "1" * 5000, "not a yml (ValueError"),
        ("a: [1", "not a yml (ParserError"),
        ("a: \x00", "not a yml (ReaderError"),
        ("? [1]\n: 2", "found unhashable key"),
        ("", "it has no section 'data'"),
        ("- data", "it has no section 'data'"),
        ("data: {{}}", "it has no section 'model'"),
    ],
)
def test_yml_files_that_are_wrong(path, text, message):
    marker = path.with_name("marker")
    save(path, checkpoint(small()))
    path.with_name("config.yml").write_text(text.replace("{marker}", str(marker)).replace("{{", "{").replace("}}", "}"))
    found = refusal(path)
    assert found.startswith("config: config.yml: ")
    assert message in found
    assert not marker.exists()


def test_a_yml_that_is_no_text(path):
    save(path, checkpoint(small()))
    path.with_name("config.yml").write_bytes(b"\xff\xfe\xfa")
    assert "config: config.yml: not a yml (UnicodeDecodeError" in refusal(path)


def test_without_pyyaml(path, monkeypatch):
    original = builtins.__import__

    def without(name, *arguments, **more):
        if name == "yaml":
            raise ImportError(name)
        return original(name, *arguments, **more)

    save(path, checkpoint(small()))
    monkeypatch.setattr(builtins, "__import__", without)
    assert refusal(path) == "config: config.yml: reading it needs PyYAML; pip install '.[yaml]' in the clone"


class Call:
    """An object whose pickle is a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


ATTACKS = {
    "system": lambda marker: Call(os.system, f"touch {marker}"),
    "eval": lambda marker: Call(eval, f"open({str(marker)!r}, 'w')"),
    "exec": lambda marker: Call(exec, f"open({str(marker)!r}, 'w')"),
    "open": lambda marker: Call(open, str(marker), "w"),
    "import": lambda marker: Call(__import__, "this"),
    "nested": lambda marker: Call(getattr, Call(__import__, "os"), "system"),
    "memory": lambda marker: Call(bytearray, 10**12),
    "load": lambda marker: Call(torch.storage._load_from_bytes, pickle.dumps(Call(os.system, f"touch {marker}"))),
    "tensor": lambda marker: Call(torch.empty, 10**12),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", [0, 1, 4])
@pytest.mark.parametrize("attack", ATTACKS)
def test_pickles_that_call_something(path, attack, place, zipped):
    marker = path.with_name("marker")
    items = checkpoint(small())
    evil = ATTACKS[attack](marker)
    items[place] = items[place] | {"module.normalizer.alpha": evil}
    save(path, items, zipped)
    found = refusal(path)
    assert "its pickle names " in found
    assert "refused, not run" in found
    assert not marker.exists()


def replaced(path, name, content, compression=zipfile.ZIP_STORED):
    """A zip archive with one member replaced."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    full = next(member for member in members if member.endswith(name))
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, old in members.items():
            archive.writestr(member, content if member == full else old)


def test_pickles_of_other_kinds(path):
    marker = path.with_name("marker")
    evil = {"refine1.crp.convs.0.weight": Call(os.system, f"touch {marker}")}
    for protocol in (0, 4):
        replaced(save(path, checkpoint(small())), "data.pkl", pickle.dumps(evil, protocol))
        assert matches(path)
        assert "refused, not run" in refusal(path)
        path.write_bytes(pickle.dumps(evil, protocol))
        assert not matches(path)
        assert "not a file of torch.save, damaged, or truncated" in refusal(path)
    assert not marker.exists()


def test_zip_bombs(path):
    save(path, checkpoint(small()))
    replaced(path, "data/0", bytes(50_000_000), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1_000_000
    assert refusal(path) == "its contents are larger than itself; torch.save does not compress"


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files(path, zipped):
    whole = save(path, checkpoint(small()), zipped).read_bytes()
    for part in (0, 1, 8, 14, 100, 2000, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:part])
        assert not matches(path) or not zipped
        assert "not a file of torch.save, damaged, or truncated" in refusal(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_flipped_bytes(path, zipped):
    """Damage is one line, or in what is not read, or in a number; it is never an error of another kind."""
    network = small()
    whole = save(path, checkpoint(network), zipped).read_bytes()
    expected = {name: value if name == "sigmas" else 0.5 * value for name, value in network.state_dict().items()}
    draw = random.Random(0)
    messages = []
    # The pickle comes first in both layouts, and most places are in the numbers after it.
    for place in [*draw.sample(range(20_000), 25), *draw.sample(range(len(whole)), 10)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        matches(path)
        try:
            stored = read(path)
            build(stored)
        except PrescoreError as error:
            messages.append(str(error))
        else:
            # An archive has check sums, and only the newer layout is one.
            assert not zipped or all(torch.equal(stored.state[name], expected[name]) for name in expected)
    assert len(messages) > 10
    assert not any("\n" in message for message in messages)


def changed(items, name, value):
    """Items of a checkpoint with one weight of the model and of the EMA replaced; None takes it away."""
    for mapping, full in ((items[0], f"module.{name}"), (items[4], name)):
        if value is None:
            del mapping[full]
        else:
            mapping[full] = value
    return items


@pytest.mark.parametrize("weights", ["ema", "raw"])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("begin_conv.weight", None, "the weight 'begin_conv.weight' is missing"),
        ("res2.1.conv1.bias", None, "the weight 'res2.1.conv1.bias' is missing"),
        ("begin_conv.weight", torch.zeros(2), "'begin_conv.weight' has shape (2,); 4 axes are needed"),
        ("begin_conv.weight", torch.zeros(2, 1, 5, 5), "has shape (2, 1, 5, 5), the network needs (2, 1, 3, 3)"),
        ("end_conv.bias", torch.zeros(3), "the weight 'end_conv.bias' has shape (3,), the network needs (1,)"),
        ("end_conv.bias", torch.full((1,), torch.nan), "the weight 'end_conv.bias' has values that are not finite"),
        ("end_conv.bias", torch.zeros(1, dtype=torch.int64), "the weight 'end_conv.bias' has the type torch.int64"),
        ("end_conv.bias", torch.zeros(1).expand(10**9), "'end_conv.bias' is not stored in full"),
        ("end_conv.bias", 0.0, "'end_conv.bias' is not a plain tensor"),
        ("extra", torch.zeros(1), "the weight 'extra' does not belong to this network"),
    ],
)
def test_weights_that_do_not_fit(path, name, value, message, weights):
    save(path, changed(checkpoint(small()), name, value))
    assert message.replace("'end_conv.bias' is not", "is not") in refusal(path, weights=weights)


@pytest.mark.parametrize("items", [[], [{}], {}, 3, [3, 4], [{}, {}], [{3: torch.zeros(1)}, {}], [[], {}]])
def test_other_content(path, items):
    save(path, items)
    assert not matches(path)
    refusal(path)


def test_what_does_not_match(path, tmp_path):
    assert not matches(tmp_path)
    assert not matches(path)
    stream = io.BytesIO()
    torch.save({"model": {"all_modules.0.weight": torch.zeros(1)}}, stream)
    path.write_bytes(stream.getvalue())
    assert not matches(path)
    assert "which is a list" in refusal(path)
    assert "cannot be read (No such file" in refusal(tmp_path / "missing.pth")


def test_configurations_are_plain():
    for published in PUBLISHED.values():
        assert json.loads(json.dumps(asdict(published))) == asdict(published)
