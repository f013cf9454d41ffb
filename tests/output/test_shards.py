"""Many samples in shards: what is in them, what a run that goes on does, and who reads them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from prescore.data import load_images, open_images
from prescore.errors import PrescoreError
from prescore.output.shards import Shards, index_of
from prescore.processes import Processes

ALONE = Processes(torch.device("cpu"))


def images_of(seeds: list[int]) -> torch.Tensor:
    return torch.tensor([seed % 251 for seed in seeds], dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 3)


def fill(folder: Path, seeds: list[int], batch_size: int = 3, only: int | None = None) -> list[list[int]]:
    """The seeds of the batches that were drawn; only the first few units on request."""
    shards = Shards(folder, seeds, {"model": "a"}, 4)
    present, drawn = shards.present(), []
    for unit in shards.units(batch_size)[:only]:
        for batch in (batch for batch in unit if not present.issuperset(batch)):
            new = [seed for seed in batch if seed not in present]
            shards.add(new, images_of(new))
            drawn.append(list(batch))
    shards.finish(ALONE)
    return drawn


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_what_is_written(tmp_path: Path) -> None:
    drawn = fill(tmp_path, [9, 0, 1, 2, 3, 4])
    assert drawn == [[0, 1, 2], [3], [4], [9]]  # no batch lies in two shards
    names = ["000000000-000000003.npz", "000000004-000000007.npz", "000000008-000000011.npz"]
    assert sorted(content(tmp_path)) == [*names, "index.json", "settings.json"]
    with np.load(tmp_path / names[0]) as shard:
        assert shard["seeds"].tolist() == [0, 1, 2, 3]
        assert shard["images"].shape == (4, 2, 3, 1)
        assert json.loads(str(shard["settings"])) == {"model": "a", "shard_size": 4, "float": False}
    assert index_of(tmp_path) == dict(zip(names, [4, 1, 1], strict=True))


def test_a_run_that_was_cut_off_or_grows_ends_as_one_that_was_not(tmp_path: Path) -> None:
    fill(tmp_path / "whole", [*range(11), 17])
    fill(tmp_path / "parts", [*range(6)], only=1)
    assert index_of(tmp_path / "parts") is None
    assert fill(tmp_path / "parts", [*range(6)]) == [[4, 5]]
    assert fill(tmp_path / "parts", [*range(11), 17]) == [[4, 5, 6], [7], [8, 9, 10], [17]]
    assert fill(tmp_path / "parts", [*range(11), 17]) == []
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_other_settings_and_foreign_files_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "f", [0])
    with pytest.raises(PrescoreError, match="holds samples drawn with shard_size = 4, now it is 5; choose another"):
        Shards(tmp_path / "f", [0], {"model": "a"}, 5)
    with pytest.raises(PrescoreError, match="drawn with float = False, now it is True"):
        Shards(tmp_path / "f", [0], {"model": "a"}, 4, as_numbers=True)
    with pytest.raises(PrescoreError, match="shard_size: 0 is not a positive whole number, such as 1000"):
        Shards(tmp_path / "f", [0], {"model": "a"}, 0)
    (tmp_path / "f" / "000000000-000000003.npz").write_bytes(b"PK")
    with pytest.raises(PrescoreError, match=r"000000000-000000003\.npz: cannot be read"):
        Shards(tmp_path / "f", [0], {"model": "a"}, 4).present()


def test_shards_are_read_as_one_set(tmp_path: Path) -> None:
    seeds = [0, 1, 2, 3, 4, 5, 9, 1_000_000_007]
    fill(tmp_path / "f", seeds)
    assert torch.equal(load_images(tmp_path / "f"), images_of(seeds))
    some = open_images([tmp_path / "f"], n=5, seed=1)
    assert some.shape == (5, 1, 2, 3)
    assert torch.equal(torch.cat(list(some.batches(2))), load_images(tmp_path / "f", n=5, seed=1))
    both = open_images([tmp_path / "f", tmp_path / "f" / "000000004-000000007.npz"])
    batches = list(both.batches(3))
    assert max(map(len, batches)) == 3
    assert torch.equal(torch.cat(batches), images_of([*seeds, 4, 5]))
    assert torch.equal(torch.cat(list(both.take([0, 8]).batches(3))), images_of([0, 4]))
