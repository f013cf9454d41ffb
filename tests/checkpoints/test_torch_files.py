import io
import pickle
import resource
import struct
import zipfile

import pytest
import torch

from prescore.checkpoints import torch_files
from prescore.checkpoints.tensors import check_tensors
from prescore.checkpoints.torch_files import load_torch
from prescore.errors import PrescoreError

ORDERED = b"ccollections\nOrderedDict\n"
MANY = 1_000_001


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.pth"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def write(path, instructions, zipped):
    """A file of torch.save around the instructions of a pickle."""
    content = b"\x80\x02" + instructions + b"."
    if not zipped:
        head = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {"little_endian": True}]
        path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + content + pickle.dumps([], 2))
        return
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in {"data.pkl": content, "version": b"3\n", "byteorder": b"little"}.items():
            archive.writestr(f"archive/{name}", part)


BOMBS = {
    "lists": b"](" + b"]" * MANY + b"e",
    "mappings": b"](" + b"}" * MANY + b"e",
    "calls": b"](" + ORDERED + b"q\x00)R" + b"h\x00)R" * 100_000 + b"e",
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", BOMBS)
def test_what_a_pickle_makes_is_counted(path, name, zipped):
    write(path, BOMBS[name], zipped)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PrescoreError, match="its pickle has more than 1000000 instructions or 100000 calls"):
        load_torch(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 100_000  # KiB


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("attribute", ["items", "keys", "values", "get", "pop", "__len__", "__iter__", "__class__"])
def test_attributes_that_a_pickle_sets_are_gone(path, attribute, zipped):
    """By BUILD, with which torch keeps `_metadata`."""
    state = ORDERED + b")Rq\x00" + text("a") + b"K\x01s}" + text(attribute) + b"K\x03sb"
    write(path, b"](" + state + b"h\x00\x85e", zipped)
    first, (second,) = load_torch(path)
    assert first is second
    assert vars(first) == {}
    assert list(first.items()) == [("a", 1)]
    with pytest.raises(PrescoreError, match="its model: 'a' is not a plain tensor"):
        check_tensors("its model", first)


def test_a_mapping_inside_itself_is_read(path):
    write(path, b"}q\x00X\x01\x00\x00\x00ah\x00s", zipped=True)
    content = load_torch(path)
    assert content["a"] is content


def test_versions_that_torch_keeps_of_modules_are_read_over(path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    assert load_torch(path).keys() == {"weight", "bias"}


@pytest.mark.parametrize("name", ["\x1b[2J/data.pkl", "a\nb/data.pkl"])
def test_names_of_members_are_shown_as_text(path, name):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, b"\x80\x02N.")
        archive.writestr(name.replace("data.pkl", "byteorder"), b"little")
    damaged = stream.getvalue().replace(b"\x80\x02N.", b"\x80\x02M.", 1)
    path.write_bytes(damaged)
    with pytest.raises(PrescoreError, match="the check sum of its member") as caught:
        load_torch(path)
    assert str(caught.value).isprintable()


def test_large_checkpoints_are_within_the_limits(path):
    """1500 weights (NCSN++ for CIFAR-10 has 1000) with their average and the moments of an optimiser."""
    part = 50
    numbers = [[torch.zeros(2, 2, 2, 2) for _ in range(part)] for _ in range(4)]
    moments = {
        k: {"step": torch.tensor(7.0), "exp_avg": numbers[0][k], "exp_avg_sq": numbers[1][k]} for k in range(part)
    }
    optimizer = {"state": moments, "param_groups": [{"lr": 1e-3, "params": list(range(part))}]}
    model = {f"module.layer_{k}.weight": value for k, value in enumerate(numbers[2])}
    torch.save({"optimizer": optimizer, "model": model, "ema": numbers[3]}, path)
    names = [name for name, _ in torch_files._instructions(path)]
    assert 2 * 1500 / part * len(names) < torch_files.MAX_STEPS
    assert 2 * 1500 / part * names.count("REDUCE") < torch_files.MAX_CALLS
