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
from prescore.data.layout import PICTURES, stored_layout
from prescore.errors import PrescoreError
from prescore.files import check_writable, sweep, write_once, writing
from prescore.images import check_picture, save_grid, save_npz, save_png

FOREIGN = (".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".npy", ".pt", ".zip", ".safetensors", ".mat")
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
    with contextlib.suppress(OSError, PrescoreError), open(file, "rb") as stream:
        found = parse_json(stream.read(MAX_JSON_BYTES + 1))
    if not isinstance(found, dict):
        raise PrescoreError(f"{file}: cannot be read; choose another folder")
    return found


def refuse_other_settings(folder: Path, before: Settings, settings: Settings) -> None:
    """Raise PrescoreError if what the folder holds was drawn with other settings."""
    for name in {**before, **settings}:
        old, new = before.get(name, "not given"), settings.get(name, "not given")
        if old != new:
            raise PrescoreError(
                f"{folder}: holds samples drawn with {name} = {old}, now it is {new}; choose another folder"
            )


def take_folder(folder: Path, settings: Settings) -> None:
    """Write the settings into a folder, unless they are there: of two runs that begin at once the first has it.

    Raises:
        PrescoreError: it has other settings, or cannot be written.
    """
    make_folder(folder)
    file = folder / SETTINGS
    if file.exists() or not write_once(file, (json.dumps(settings, indent=1) + "\n").encode()):
        refuse_other_settings(folder, read_settings(file), settings)


class Output:
    """A file that is written when all samples are there.

    Args:
        path: the file.
        seeds: of all samples that are wanted.
        settings: everything that decides the samples, JSON values.
    """

    as_numbers = False  # whether samples are taken as float32 in the units of the data, not as uint8

    def __init__(self, path: Path, seeds: Sequence[int], settings: Settings) -> None:
        self.path, self.seeds, self.settings = path, list(seeds), settings
        self.batches: list[Tensor] = []
        self.check()

    def check(self) -> None:
        """Raise PrescoreError now if the samples could not be written when they are drawn."""
        check_writable(self.path)

    def missing(self) -> list[int]:
        """The seeds whose samples are still to be drawn."""
        return self.seeds

    def add(self, seeds: Sequence[int], images: Tensor) -> None:
        """Take the samples (B, *event) of these seeds; they come in the order of `missing`."""
        self.batches.append(images)

    def finish(self) -> None:
        """Write what is not yet written."""

    def remains(self) -> str:
        """What an interrupted run leaves behind."""
        return f"nothing is written to {self.path}"


class Grid(Output):
    """One PNG with all samples."""

    def finish(self) -> None:
        save_grid(self.path, torch.cat(self.batches))


class Arrays(Output):
    """An .npz with `images` (uint8, channels last) or, of other events, `samples`; their `layout`, `seeds`, and
    `settings` (JSON)."""

    def finish(self) -> None:
        samples = torch.cat(self.batches)
        layout = stored_layout(samples.shape[1:])
        name, axis = ("images", -1) if layout == PICTURES else ("samples", 1)
        arrays = {
            name: samples.movedim(1, axis).numpy(),
            "layout": np.array(layout),
            "seeds": np.array(self.seeds, dtype=np.uint64),
            "settings": np.array(json.dumps(self.settings)),
        }
        save_npz(self.path, arrays)


class Numbers(Arrays):
    """The same with the samples as float32, in the units of the data and not clipped to their range."""

    as_numbers = True


class Folder(Output):
    """One PNG a sample, named by its seed, written as soon as its batch is drawn, and settings.json.

    A folder that already holds samples is completed, provided that its settings are the same.
    """

    def check(self) -> None:
        """Raise PrescoreError if the folder cannot be made or written, or holds samples of other settings."""
        check_folder(self.path)
        sweep(self.path, SETTINGS, "[0-9]*.png")
        self._check_settings()

    def missing(self) -> list[int]:
        return [seed for seed in self.seeds if not self._file(seed).exists()]

    def add(self, seeds: Sequence[int], images: Tensor) -> None:
        take_folder(self.path, self.settings)
        for seed, image in zip(seeds, images, strict=True):
            save_png(self._file(seed), image)

    def remains(self) -> str:
        count = len(self.seeds) - len(self.missing())
        return f"{count} of {len(self.seeds)} samples are in {self.path}, the same command draws the others"

    def _file(self, seed: int) -> Path:
        return self.path / f"{seed:06d}.png"

    def _check_settings(self) -> None:
        """Refuse to mix samples of other settings, or of unknown ones, with these."""
        file = self.path / SETTINGS
        if not file.exists():
            if len(self.missing()) < len(self.seeds):
                raise PrescoreError(f"{self.path}: holds samples but no settings.json; choose another folder")
            return
        refuse_other_settings(self.path, read_settings(file), self.settings)


def open_output(
    path: Path, seeds: Sequence[int], settings: Settings, event_shape: tuple[int, ...], *, as_numbers: bool = False
) -> Output:
    """The output that a path stands for: .png a grid, .npz arrays, anything else a folder.

    Args:
        event_shape: of one sample.
        as_numbers: keep the numbers as they are, which only an .npz can.

    Raises:
        PrescoreError: it cannot be written, holds samples of other settings, or cannot hold samples of that shape.
    """
    kind, is_folder = path.suffix.lower(), os.path.isdir(path)
    if as_numbers and (kind != ".npz" or is_folder):
        raise PrescoreError(f"--float: {path} holds bytes; name an .npz file")
    if is_folder or kind not in (".png", ".npz", *FOREIGN):
        check_picture(event_shape)
        return Folder(path, seeds, settings)
    if kind == ".npz":
        as_numbers = as_numbers or stored_layout(event_shape) != PICTURES
        return (Numbers if as_numbers else Arrays)(path, seeds, settings)
    if kind == ".png":
        check_picture(event_shape)
        return Grid(path, seeds, settings)
    raise PrescoreError(f"{path}: {kind} files are not written; name a .png (a grid), an .npz (arrays) or a folder")
