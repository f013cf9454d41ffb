"""Many samples in few files: a folder of shards, each an .npz or a tar in the layout of WebDataset.

    settings.json               what decides the samples, with the number of seeds that a shard is for
    000003000-000003999.npz     samples of those of its seeds that were asked for, as in any .npz of `prescore sample`
    000003000-000003999.tar     or so: 000003000.png (.npy of numbers) and 000003000.json, with its seed, for each
    index.json                  which shards there are, and their samples, once all that were asked for are there

The shard of a seed follows from the seed alone, so that a run may go on, grow, and be shared by any number of
processes. A shard appears whole or not at all; one that grows is replaced.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prescore.data.arrays import open_array, read_text
from prescore.data.guards import reading
from prescore.data.layout import PICTURES, channel_axis, stored_layout
from prescore.data.sets import INDEX, SHARD, open_images, shards_of
from prescore.data.tars import SETTINGS as HEAD
from prescore.data.tars import SUFFIX, key_of, open_tar, tar_of
from prescore.errors import PrescoreError, check_choice, is_whole
from prescore.files import in_turn, write_atomically
from prescore.images import as_png, is_picture, npy_of
from prescore.output.files import Folder, Settings, names_in, refuse_other_settings, save_samples, take_folder
from prescore.processes import Processes

LARGEST = 2**62  # seeds for which a shard can be


class Shards(Folder):
    """One file for each `size` seeds that follow each other, written as soon as its samples are drawn, and an index.

    A folder that already holds samples is completed, provided that its settings are the same.

    Args:
        size: seeds for which a shard is.
        as_numbers: keep float32 in the units of the data, not clipped to their range, instead of uint8.
        kind: of the files, in `KINDS`.
        others: as those of `Output`.
    """

    names = ("[0-9]*-[0-9]*.npz", "[0-9]*-[0-9]*.tar", INDEX)

    def __init__(
        self,
        path: Path,
        seeds: Sequence[int],
        settings: Settings,
        size: int,
        as_numbers: bool = False,
        kind: str = "npz",
    ) -> None:
        check_choice("shard_format", kind, KINDS)
        self.kind = KINDS[kind]
        if not is_whole(size) or not 1 <= size <= LARGEST:
            raise PrescoreError(f"shard_size: {size!r} is not a positive whole number, such as 1000")
        self.path, self.size, self.as_numbers = path, size, as_numbers
        self.known: dict[Path, frozenset[int]] = {}  # the seeds of shards that were looked into
        ordered = sorted(seeds)
        self.blocks = {self._file(k * size): list(own) for k, own in groupby(ordered, lambda seed: seed // size)}
        super().__init__(
            path,
            ordered,
            {**settings, "shard_size": size, "float": as_numbers} | ({} if kind == "npz" else {"shard_format": kind}),
        )

    def check(self) -> None:
        """As `Folder.check`; and PrescoreError if two shards are for the same seeds."""
        super().check()
        with reading(self.path):
            shards_of(self.path)

    def present(self) -> set[int]:
        there, present = names_in(self.path), set[int]()
        for file, seeds in self.blocks.items():
            if file.name not in there:
                continue
            if not self.known.get(file, frozenset()).issuperset(seeds):  # it may have grown
                self.known[file] = self._seeds_of(file)
            present |= self.known[file].intersection(seeds)
        return present

    def units(self, batch_size: int) -> list[list[Sequence[int]]]:
        return [[seeds[k : k + batch_size] for k in range(0, len(seeds), batch_size)] for seeds in self.blocks.values()]

    def add(self, seeds: Sequence[int], images: Tensor) -> None:
        take_folder(self.path, self.settings, self.batch_size)
        self.taken.append((seeds, images))
        file = self._file(seeds[0])
        drawn = {seed for part, _ in self.taken for seed in part}
        if drawn.union(self.known.get(file, ())).issuperset(self.blocks[file]):
            self._write(file)

    def finish(self, processes: Processes) -> None:
        """Write the index, if nothing is missing of what all processes draw."""
        processes.wait()
        if processes.is_first and len(self.present()) == len(self.seeds):
            there = names_in(self.path)
            files = [file for file in shards_of(self.path) if file.name in there]
            shards = {file.name: len(self.known.get(file) or self._seeds_of(file)) for file in files}
            index = {"samples": sum(shards.values()), "shard_size": self.size, "shards": shards}
            write_atomically(self.path / INDEX, (json.dumps(index, indent=1) + "\n").encode())

    def _write(self, file: Path) -> None:
        """Write the samples that were taken, with those that the shard has, which another run may just have written."""
        with in_turn(self.path):
            parts = list(self.taken)
            if file.name in names_in(self.path):
                had = self._seeds_of(file)
                parts = [(seeds, images) for seeds, images in parts if not had.issuperset(seeds)]
                parts = [_without(part, had) for part in parts] + [self.kind.read(file)]
            seeds = [seed for part, _ in parts for seed in part]
            order = sorted(range(len(seeds)), key=seeds.__getitem__)
            if len({(part.shape[1:], part.dtype) for _, part in parts}) > 1:
                raise PrescoreError(f"{file}: damaged, its samples are of another shape or type; delete it")
            images = torch.cat([part for _, part in parts])[order]
            (self.path / INDEX).unlink(missing_ok=True)  # it would not be true any more
            self.kind.save(file, images, [seeds[k] for k in order], self.settings)
        self.known[file], self.taken = frozenset(seeds), []

    def _seeds_of(self, file: Path) -> frozenset[int]:
        """Those of a shard that holds samples of this run's settings, one for each. Raises PrescoreError."""
        with reading(file):
            before, seeds, rows = self.kind.look_into(file)
        first = int(SHARD.fullmatch(file.name)[1])  # type: ignore[index]
        is_whole_shard = 0 < len(set(seeds)) == len(seeds) == rows
        if not is_whole_shard or not first <= min(seeds) <= max(seeds) < first + self.size:
            raise PrescoreError(f"{file}: damaged, its seeds are not those of its samples; delete it")
        refuse_other_settings(file, before if isinstance(before, dict) else {}, self.settings)
        return frozenset(seeds)

    def _file(self, seed: int) -> Path:
        first = seed // self.size * self.size
        return self.path / f"{first:09d}-{first + self.size - 1:09d}{self.kind.suffix}"


def _without(part: tuple[Sequence[int], Tensor], seeds: frozenset[int]) -> tuple[Sequence[int], Tensor]:
    """The samples of a part that are of other seeds."""
    new = [k for k, seed in enumerate(part[0]) if seed not in seeds]
    return [part[0][k] for k in new], part[1][new]


class Npz:
    """Shards as `save_samples` writes them."""

    suffix = ".npz"
    save = staticmethod(save_samples)

    @staticmethod
    def look_into(file: Path) -> tuple[object, list[int], int]:
        """Settings, seeds, and the number of samples. Raises PrescoreError, OSError and the like."""
        settings = json.loads(read_text(file, "settings"))
        with open_array(file, "seeds") as array:
            seeds = array.read().tolist() if array.dtype == np.uint64 and len(array.shape) == 1 else []
        with open_array(file, None) as array:
            return settings, seeds, array.shape[0] if array.shape else 0

    @staticmethod
    def read(file: Path) -> tuple[list[int], Tensor]:
        """Seeds and samples (N, *event)."""
        with reading(file), open_array(file, "seeds") as array:
            seeds = array.read().tolist()
        return seeds, _samples(file)


class WebDataset:
    """Tars: of each sample a picture, or its numbers as .npy, and a .json with its seed and the layout of numbers."""

    suffix = SUFFIX

    @staticmethod
    def save(file: Path, images: Tensor, seeds: Sequence[int], settings: Settings) -> None:
        are_pictures = images.dtype == torch.uint8 and is_picture(tuple(images.shape[1:]))
        layout = stored_layout(images.shape[1:])
        files = []
        for seed, image in zip(seeds, images, strict=True):
            known = {"seed": seed} | ({} if are_pictures else {"layout": layout})
            if are_pictures:
                files.append((f"{seed:09d}.png", as_png(image)))
            else:
                numbers = image.movedim(0, -1) if layout == PICTURES else image
                files.append((f"{seed:09d}.npy", npy_of(numbers.numpy())))
            files.append((f"{seed:09d}.json", json.dumps(known).encode()))
        write_atomically(file, tar_of(files, {HEAD: json.dumps(dict(settings))}))

    @staticmethod
    def look_into(file: Path) -> tuple[object, list[int], int]:
        """As `Npz.look_into`."""
        with open_tar(file) as tar:
            names = tar.names(".npy") or tar.names(".png")
            known = [tar.known_of(name).get("seed") for name in names]
            seeds = [seed for seed in known if isinstance(seed, int) and is_whole(seed)]
            if [f"{seed:09d}" for seed in seeds] != [key_of(name) for name in names]:
                seeds = []
            return json.loads(tar.head.get(HEAD, "null")), seeds, len(names)

    @staticmethod
    def read(file: Path) -> tuple[list[int], Tensor]:
        """As `Npz.read`."""
        with reading(file), open_tar(file) as tar:
            names = tar.names(".npy") or tar.names(".png")
            seeds = [tar.known_of(name)["seed"] for name in names]
        return seeds, open_images([file]).read() if names[0].endswith(".png") else _samples(file)


KINDS: Mapping[str, Npz | WebDataset] = {"npz": Npz(), "webdataset": WebDataset()}


def _samples(file: Path) -> Tensor:
    """The numbers of a shard, (N, *event)."""
    with reading(file), open_array(file, None) as array:
        axis = channel_axis(array.name, array.shape, array.layout or PICTURES) or 0
        return torch.from_numpy(np.array(array.read())).movedim(axis, 1)
