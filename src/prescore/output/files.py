"""Where samples go: a grid, arrays, or a folder that an interrupted run leaves usable."""

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prescore.checkpoints.arguments import MAX_JSON_BYTES, parse_json
from prescore.data.guards import open_regular
from prescore.data.layout import PICTURES, stored_layout
from prescore.errors import PrescoreError
from prescore.files import check_writable, sweep, write_once, writing
from prescore.images import save_grid, save_npz, save_png
from prescore.plan.record import REASON
from prescore.processes import Processes

HELD = (".png", ".npz", ".tar")  # endings of what a folder of samples holds
BATCH = "batch_size"  # among the settings of a folder
SETTINGS = "settings.json"  # in a folder, what decides its samples
Settings = Mapping[str, object]


def check_folder(path: Path) -> None:
    """Raise PrescoreError now if a folder could not be made or written later."""
    with writing(path):
        nearest = next(place for place in (path, *path.absolute().parents) if _exists(place))
        with tempfile.TemporaryFile(dir=nearest):
            pass


def _exists(path: Path) -> bool:
    """Whether there is something, be it a link that leads nowhere. Raises OSError if the system does not say."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def make_folder(path: Path) -> None:
    """Make a folder, with those above it, unless it is there. Raises PrescoreError."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def read_settings(file: Path) -> Settings:
    """The settings that a folder keeps. Raises PrescoreError if the file is not what this library writes."""
    found: object = None
    with contextlib.suppress(OSError, PrescoreError), open_regular(file) as stream:
        found = parse_json(stream.read(MAX_JSON_BYTES + 1))
    if not isinstance(found, dict):
        raise PrescoreError(f"{file}: cannot be read; choose another folder")
    return found


def refuse_other_settings(folder: Path, before: Settings, settings: Settings) -> None:
    """Raise PrescoreError if what the folder holds was drawn with other settings.

    The size of its batches counts where it is among the settings, because it decides more than how samples are rounded.
    Reasons do not: what was chosen is among the settings itself.
    """
    ignored = {BATCH} - settings.keys()
    for name in (name for name in {**before, **settings} if name not in ignored and not name.endswith(REASON)):
        old, new = before.get(name, "not given"), settings.get(name, "not given")
        if old != new:
            raise PrescoreError(
                f"{folder}: holds samples drawn with {name} = {old}, now it is {new}; choose another folder"
            )


def take_folder(folder: Path, settings: Settings, batch_size: int | None = None) -> None:
    """Write the settings into a folder, unless they are there: of two runs that begin at once the first has it.

    Args:
        batch_size: with which the folder is begun, if that is to be known; another one is no other setting.

    Raises:
        PrescoreError: it has other settings, or cannot be written.
    """
    make_folder(folder)
    file = folder / SETTINGS
    kept = settings if batch_size is None else {BATCH: batch_size, **settings}
    if file.exists() or not write_once(file, (json.dumps(kept, indent=1) + "\n").encode()):
        refuse_other_settings(folder, read_settings(file), settings)


class Output:
    """A file that is written when all samples are there.

    Args:
        path: the file.
        seeds: of all samples that are wanted.
        settings: everything that decides the samples, JSON values.
    """

    as_numbers = False  # whether samples are taken as float32 in the units of the data, not as uint8
    is_folder = False  # whether samples are written as they come, so that several runs can fill it

    def __init__(self, path: Path, seeds: Sequence[int], settings: Settings) -> None:
        self.path, self.seeds, self.settings = path, seeds, as_stored(settings)
        self.taken: list[tuple[Sequence[int], Tensor]] = []
        self.check()

    def check(self) -> None:
        """Raise PrescoreError now if the samples could not be written when they are drawn."""
        check_writable(self.path)

    def present(self) -> set[int]:
        """The seeds, of those that are wanted, whose samples are written."""
        return set()

    def batched(self, batch_size: int) -> str | None:
        """Take the size of the batches that are drawn from now on; in one line, what is doubtful about it."""
        return None

    def units(self, batch_size: int) -> list[list[Sequence[int]]]:
        """All the work, whatever is there already: units of batches of seeds; one process draws a unit."""
        return [[self.seeds[k : k + batch_size]] for k in range(0, len(self.seeds), batch_size)]

    def add(self, seeds: Sequence[int], images: Tensor) -> None:
        """Take the samples (B, *event) of these seeds, a batch of `units`, without those that are present."""
        self.taken.append((seeds, images))

    def finish(self, processes: Processes) -> None:
        """Write what is not yet written, when each process has drawn its units."""
        parts = processes.gathered(self.taken)
        if processes.is_first:
            place = {seed: k for k, seed in enumerate(self.seeds)}
            images = torch.cat([part for _, part in parts])
            order = torch.tensor([place[seed] for seeds, _ in parts for seed in seeds]).argsort()
            self.write(images[order])

    def write(self, images: Tensor) -> None:
        """Write all samples (N, *event)."""
        raise TypeError(f"{type(self).__name__} does not say how it is written")

    def remains(self) -> str:
        """What an interrupted run leaves behind."""
        return f"nothing is written to {self.path}"


class Grid(Output):
    """One PNG with all samples."""

    def write(self, images: Tensor) -> None:
        save_grid(self.path, images)


def save_samples(path: Path, images: Tensor, seeds: Sequence[int], settings: Settings) -> None:
    """Write samples (N, *event) as an .npz: `images`, channels last, or, of other events, `samples`; their `layout`,
    `seeds`, and `settings` (JSON)."""
    layout = stored_layout(images.shape[1:])
    name, axis = ("images", -1) if layout == PICTURES else ("samples", 1)
    arrays = {
        name: images.movedim(1, axis).numpy(),
        "layout": np.array(layout),
        "seeds": np.array(seeds, dtype=np.uint64),
        "settings": np.array(json.dumps(settings)),
    }
    save_npz(path, arrays)


class Arrays(Output):
    """An .npz as `save_samples` writes it, of uint8."""

    def write(self, images: Tensor) -> None:
        save_samples(self.path, images, self.seeds, self.settings)


class Numbers(Arrays):
    """The same with the samples as float32, in the units of the data and not clipped to their range."""

    as_numbers = True


class Folder(Output):
    """One PNG a sample, named by its seed, written as soon as its batch is drawn, and settings.json.

    A folder that already holds samples is completed, provided that its settings are the same.
    """

    is_folder = True
    batch_size: int | None = None  # of this run, once it is known
    names: tuple[str, ...] = ("[0-9]*.png",)  # of its files, glob patterns

    def check(self) -> None:
        """Raise PrescoreError if the folder cannot be made or written, or holds samples of other settings."""
        check_folder(self.path)
        sweep(self.path, SETTINGS, *self.names)
        self._check_settings()

    def present(self) -> set[int]:
        there = names_in(self.path)
        return {seed for seed in self.seeds if self._file(seed).name in there}

    def batched(self, batch_size: int) -> str | None:
        self.batch_size, file = batch_size, self.path / SETTINGS
        before = read_settings(file).get(BATCH, batch_size) if file.exists() else batch_size
        if before == batch_size or BATCH in self.settings:
            return None
        return (
            f"{self.path}: was begun with batches of {before} samples, now they are of {batch_size}: a sample may "
            f"differ within rounding from that of a run of one size; batch_size {before} goes on alike"
        )

    def add(self, seeds: Sequence[int], images: Tensor) -> None:
        take_folder(self.path, self.settings, self.batch_size)
        for seed, image in zip(seeds, images, strict=True):
            save_png(self._file(seed), image)

    def finish(self, processes: Processes) -> None:
        processes.wait()

    def remains(self) -> str:
        there = len(self.present())
        return f"{there} of {len(self.seeds)} samples are in {self.path}, the same command draws the others"

    def _file(self, seed: int) -> Path:
        return self.path / f"{seed:06d}.png"

    def _check_settings(self) -> None:
        """Refuse to mix samples of other settings, or of unknown ones, with these."""
        file = self.path / SETTINGS
        if not file.exists():
            if any(name.lower().endswith(HELD) for name in names_in(self.path)):
                raise PrescoreError(f"{self.path}: holds samples but no settings.json; choose another folder")
            return
        refuse_other_settings(self.path, read_settings(file), self.settings)


def names_in(folder: Path) -> set[str]:
    """Of the files in a folder that are not empty; none if it is not there. Raises PrescoreError."""
    with writing(folder):
        try:
            with os.scandir(folder) as entries:
                return {entry.name for entry in entries if entry.is_file() and entry.stat().st_size}
        except FileNotFoundError:
            return set()


def as_stored(settings: Settings) -> Settings:
    """The settings as they are read again from JSON. Raises PrescoreError if they are no JSON values."""
    try:
        return json.loads(json.dumps(dict(settings), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise PrescoreError(f"settings: JSON values are needed ({error})") from None
