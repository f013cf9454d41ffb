"""Damaged and crafted models of every format: each is opened and runs, or is refused in one line, in bounded memory.

`FUZZ=50 pytest tests/checkpoints/test_fuzz.py` tries fifty times as many.
"""

import copy
import json
import os
import random
import resource
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from formats import KINDS, files_of, write
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from prescore.checkpoints import open_model
from prescore.errors import PrescoreError

MEMORY = 300_000  # KiB that all of a test may take
# How often each format is damaged: opening one takes from 10 to 200 ms.
TRIES = {"native": 80, "edm": 50, "score-sde": 12, "ncsn": 12, "ncsnv2": 12, "diffusers": 12}
TRIES = {kind: count * int(os.environ.get("FUZZ", "1")) for kind, count in TRIES.items()}


class Text(str):
    """A piece of JSON as it stands."""


NUMBERS = [0, 1, -1, 2, 0.5, 1e-300, 1e308, 28, 65_536, 2**31, 2**64, 10**9, 10**400]
TEXTS = ["", "x", "\x1b[31mred", "a\nb", "\u202eevil", "\ud800", "x" * 10_000, "NCSN", "UNet2DModel", "score-labels"]
TEXTS += ["noise", "learned", "identity", "DDIMScheduler"]
OTHERS = [None, True, [], {}, [1], [[1]], {"kind": "vp"}, {"a": 1}, [0] * 100, [1.0] * 3000, [4, 4]]
PIECES = ["NaN", "Infinity", "-Infinity", "1e999", "9" * 1000, "9" * 5000, "[" * 500 + "]" * 500, "[" * 50_000]
ODD = [*NUMBERS, *TEXTS, *OTHERS, *map(Text, [*PIECES, '{"a": 1, "a": 2}'])]
TENSORS = [torch.zeros(0), torch.zeros(()), torch.zeros(3, 3), torch.full((1,), torch.nan), torch.zeros(1).expand(9, 9)]
TENSORS += [torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool), torch.arange(3.0)]


@pytest.fixture
def bounded():
    """The memory of the process grows by no more than `MEMORY` after a first model was opened."""
    before: list[int] = []
    yield lambda: before.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before[0] < MEMORY


def attempt(path: Path, options: dict[str, Any]) -> str:
    """What becomes of a model: "opened", or the line with which it is refused."""
    try:
        _, denoise = open_model(path, **options)
    except PrescoreError as error:
        line = str(error)
        assert line.startswith(f"{path}: ")
        assert line.count(str(path)) == 1
        assert line.isprintable()
        assert len(line) <= 1000
        return line
    if max(denoise.event_shape) <= 64:
        x = torch.zeros(1, *denoise.event_shape, dtype=denoise.dtype)
        with torch.no_grad():
            assert denoise(x, torch.tensor(denoise.sigma_max)).shape == x.shape
    return "opened"


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The content truncated, or with a few bytes changed, mostly near its ends, where the structure is."""
    if draw.random() < 0.25:
        return content[: draw.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 5])):
        near = min(len(changed), draw.choice([300, 5000, len(changed)]))
        place = draw.choice([draw.randrange(near), len(changed) - 1 - draw.randrange(near)])
        changed[place] = draw.choice([changed[place] ^ 1 << draw.randrange(8), draw.randrange(256), 0, 255])
    return bytes(changed)


def mutated(value: Any, draw: random.Random, odd: list[Any]) -> Any:
    """A copy with something inside replaced, taken away or added."""
    value = copy.copy(value)
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name = draw.choice(list(value))
        match draw.randrange(10):
            case 0:
                del value[name]
            case 1:
                value[draw.choice(["items", "\x1b[31m", "x" * 300, "", "module.a"])] = draw.choice(odd)
            case _:
                value[name] = mutated(value[name], draw, odd)
        return value
    if isinstance(value, list) and value and draw.random() < 0.9:
        place = draw.randrange(len(value))
        value[place] = mutated(value[place], draw, odd)
        return value
    return draw.choice(odd)


def to_json(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)}: {to_json(member)}" for name, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_json, value)) + "]"
    return str(value) if isinstance(value, Text) else json.dumps(value)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes(kind, tmp_path, monkeypatch, bounded):
    path, options = write(kind, tmp_path, monkeypatch)
    draw, found = random.Random(kind), Counter()
    whole = {file: file.read_bytes() for file in files_of(path)}
    assert attempt(path, options) == "opened"
    bounded()
    for _ in range(TRIES[kind]):
        file = draw.choice(list(whole))
        file.write_bytes(damaged(whole[file], draw))
        found[attempt(path, options)] += 1
        file.write_bytes(whole[file])
    assert found.total() - found["opened"] > TRIES[kind] / 3
    assert attempt(path, options) == "opened"


@pytest.mark.parametrize("kind", ["native", "ncsn", "diffusers"])
def test_descriptions(kind, tmp_path, monkeypatch, bounded):
    """JSON and yml, which is read as JSON is."""
    path, options = write(kind, tmp_path, monkeypatch)
    draw, found = random.Random(kind), Counter()
    if kind == "native":
        state = load_file(path)
        with safe_open(path, "pt") as opened:
            contents = {path: json.loads(opened.metadata()["prescore"])}
    elif kind == "ncsn":
        import yaml

        contents = {file: yaml.safe_load(file.read_text()) for file in path.parent.glob("*.yml")}
    else:
        contents = {file: json.loads(file.read_text()) for file in path.rglob("*.json")}

    def put(file: Path, text: str) -> None:
        if kind == "native":
            save_file(state, file, {"prescore": text})
        else:
            file.write_text(text)

    assert attempt(path, options) == "opened"
    bounded()
    for _ in range(TRIES[kind]):
        file = draw.choice(list(contents))
        put(file, to_json(mutated(contents[file], draw, ODD)))
        found[attempt(path, options)] += 1
        put(file, to_json(contents[file]))
    assert found.total() - found["opened"] > TRIES[kind] / 5
    assert attempt(path, options) == "opened"


@pytest.mark.parametrize("kind", ["score-sde", "ncsnv2"])
def test_contents(kind, tmp_path, monkeypatch, bounded):
    """Of files of torch.save, in both layouts, with mappings that are given attributes."""
    path, options = write(kind, tmp_path, monkeypatch)
    draw, found = random.Random(kind), Counter()
    content = torch.load(path, weights_only=True)
    poisoned = OrderedDict(a=1)
    poisoned.get = 3  # type: ignore[assignment]
    odd = [*NUMBERS, *[text for text in TEXTS if text != "\ud800"], *OTHERS, *TENSORS, poisoned]
    assert attempt(path, options) == "opened"
    bounded()
    for _ in range(TRIES[kind]):
        torch.save(mutated(content, draw, odd), path, _use_new_zipfile_serialization=draw.random() < 0.5)
        found[attempt(path, options)] += 1
    assert found.total() - found["opened"] > TRIES[kind] / 5
