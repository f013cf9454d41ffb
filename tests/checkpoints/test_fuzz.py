"""Damaged and crafted models of every format: each is opened and runs, or is refused in one line, in bounded memory.

`FUZZ=50 pytest tests/checkpoints/test_fuzz.py` tries fifty times as many.
"""

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
from fuzz import NUMBERS, ODD, OTHERS, TEXTS, damaged, mutated, to_json
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from prescore.checkpoints import open_model
from prescore.errors import PrescoreError

MEMORY = 300_000  # KiB that all of a test may take
# How often each format is damaged: opening one takes from 10 to 200 ms.
TRIES = {"native": 80, "edm": 50, "score-sde": 12, "ncsn": 12, "ncsnv2": 12, "diffusers": 12}
TRIES = {kind: count * int(os.environ.get("FUZZ", "1")) for kind, count in TRIES.items()}


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
