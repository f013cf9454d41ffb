"""Many samples in shards: what is in them, what a run that goes on does, and who reads them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from prescore.data import DataWarning, load_images, open_images
from prescore.errors import PrescoreError
from prescore.output.shards import INDEX, Shards
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
    index = json.loads((tmp_path / INDEX).read_bytes())
    assert index == {"samples": 6, "shard_size": 4, "shards": dict(zip(names, [4, 1, 1], strict=True))}


def test_a_run_that_was_cut_off_or_grows_ends_as_one_that_was_not(tmp_path: Path) -> None:
    fill(tmp_path / "whole", [*range(11), 17])
    fill(tmp_path / "parts", [*range(6)], only=1)
    assert not (tmp_path / "parts" / INDEX).exists()
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


def test_two_runs_that_grow_one_shard_keep_both(tmp_path: Path) -> None:
    """Neither had seen what the other wrote."""
    first, second = (Shards(tmp_path, seeds, {"model": "a"}, 4) for seeds in ([0, 1], [1, 2]))
    for shards, seeds in ((first, [0, 1]), (second, [1, 2])):
        shards.add(seeds, images_of(seeds))
    second.finish(ALONE)
    with np.load(tmp_path / "000000000-000000003.npz") as shard:
        assert shard["seeds"].tolist() == [0, 1, 2]
        assert shard["images"][:, 0, 0, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": np.array([0, 1, 2, 2], np.uint64)}, "damaged, its seeds are not those of its samples; delete it"),
        ({"seeds": np.array([0, 1, 2, 9], np.uint64)}, "damaged, its seeds are not those"),
        ({"images": np.zeros((3, 2, 3, 1), np.uint8)}, "damaged, its seeds are not those"),
        ({"settings": np.array('{"model": "b"}')}, "holds samples drawn with model = b, now it is a"),
        ({"images": np.zeros((2, 5, 5, 1), np.uint8)}, "damaged, its samples are of another shape or type; delete it"),
        ({"images": None}, "which array holds the images|no arrays|cannot be read|damaged"),
        ({"settings": None}, "no settings in it"),
    ],
)
def test_what_is_no_shard_of_this_run_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    growing = "images" in changes and changes["images"] is not None and len(changes["images"]) == 2
    fill(tmp_path, [0, 1] if growing else [0, 1, 2, 3])
    file = tmp_path / "000000000-000000003.npz"
    with np.load(file) as shard:
        arrays = {name: value for name, value in ({**shard, **changes}).items() if value is not None}
    np.savez(file, **arrays)
    with pytest.raises(PrescoreError, match=message):
        fill(tmp_path, [0, 1, 2, 3, 4])


def test_readers_hold_shards_against_the_index(tmp_path: Path) -> None:
    fill(tmp_path, [0, 1, 2, 3, 4])
    (tmp_path / "0.png").touch()
    with pytest.warns(DataWarning, match=r"left out, beside shards: 0\.png"):
        load_images(tmp_path)
    (tmp_path / "000000004-000000007.npz").unlink()
    with pytest.raises(PrescoreError, match=r"000000004-000000007\.npz: not there, and index\.json says 1 samples"):
        load_images(tmp_path)
    (tmp_path / INDEX).unlink()
    with pytest.warns(DataWarning, match=r"has no index\.json, so the run that fills it is not at its end"):
        assert len(load_images(tmp_path)) == 4


def test_an_empty_shard_is_drawn_again_and_not_read(tmp_path: Path) -> None:
    fill(tmp_path, [*range(8)])
    whole = content(tmp_path)
    (tmp_path / "000000004-000000007.npz").write_bytes(b"")
    with pytest.raises(PrescoreError, match=r"000000004-000000007\.npz: is empty; the command that made the folder"):
        open_images([tmp_path])
    assert fill(tmp_path, [0, 1, 2, 3]) == []  # whose shard it is not
    assert fill(tmp_path, [*range(8)]) == [[4, 5, 6], [7]]
    assert content(tmp_path) == whole


def test_two_shards_for_the_same_seeds_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, [*range(8)])
    (tmp_path / INDEX).unlink()
    for name in ("000000004-000000007.tar", "000000002-000000005.npz"):
        (tmp_path / name).write_bytes((tmp_path / "000000004-000000007.npz").read_bytes())
        with pytest.raises(PrescoreError, match=f"0+-0+3.npz and {name} are for|7.npz and {name} are for the same"):
            open_images([tmp_path])
        with pytest.raises(PrescoreError, match="are for the same seeds; keep one of them"):
            Shards(tmp_path, [0], {"model": "a"}, 4)
        (tmp_path / name).unlink()
    assert len(load_images(tmp_path)) == 8
