"""What the tests of training share: tiny settings, tiny data, and what a run left in its folder."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from prescore.training.data import TrainingData
from prescore.training.loop import RunOptions
from prescore.training.recipes import find_recipe, with_options
from prescore.training.state import checksum
from prescore.training.store import ENTRY

SHORT = {"steps": 6, "batch_size": 4, "warmup": 2, "cooldown": 2}
SMALL = {"model_channels": 8, "channel_mult": (1, 2), "channel_mult_emb": 1, "attn_resolutions": ()}
QUIET = RunOptions(progress=False)


def digits(count=12, side=4, seed=0, channels=1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, side, side), generator=generator, dtype=torch.uint8)


def tiny(recipe="edm", data=None, **changes):
    """(task, config) of a recipe, in its smallest form."""
    small = SMALL if recipe in ("edm", "ve", "vp", "flow") else {"model_channels": 4}
    settings, config = with_options(find_recipe(recipe), SHORT | small | changes)
    return settings.task(TrainingData(digits()) if data is None else data), config


def newest(folder) -> Path:
    return max(Path(folder).glob("checkpoint-*.safetensors"))


def tensors(folder) -> dict[str, Tensor]:
    """Those of the newest checkpoint, in memory: the file may change."""
    return {name: value.clone() for name, value in load_file(newest(folder)).items()}


def rewrite(path, change):
    """Replaces a checkpoint by one whose facts and tensors were changed, with the right checksum."""
    found = load_file(path)
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()[ENTRY])
    change(facts, found)
    if "crc32" in facts:
        facts["crc32"] = checksum(found)
    save_file(found, path, metadata={ENTRY: json.dumps(facts)})


def assert_equal(a, b) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
