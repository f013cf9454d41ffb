"""The folder that keeps the runs of `prescore compare`.

It holds

    settings.json           what all runs have in common; another command goes on only if its settings are the same
    reference.json          what is known of the true images: the floor, their spectrum
    runs/SAMPLER-T.npz      images (float32, channels last), seeds, settings, as `prescore sample --float` writes them
    runs/SAMPLER-T.json     seconds, calls and metrics; written last, so that a run is finished if this is there
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prescore.checkpoints.arguments import is_number
from prescore.comparison.reference import ReferenceFigures, profile
from prescore.comparison.runs import Result, Run
from prescore.data import reading
from prescore.data.arrays import open_array
from prescore.errors import PrescoreError
from prescore.files import sweep, write_atomically
from prescore.jackknife import BLOCKS
from prescore.metrics import CONDITIONING, METRICS
from prescore.metrics.sets import image_power
from prescore.output.files import (
    SETTINGS,
    Settings,
    check_folder,
    make_folder,
    read_settings,
    refuse_other_settings,
    save_samples,
    take_folder,
)


class RunFolder:
    """The folder of a comparison.

    Args:
        path: of the folder, which need not be there.
        settings: what all runs have in common, JSON values.

    Raises:
        PrescoreError: it cannot be made or written, or holds something else, or runs of other settings.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = path, settings
        check_folder(path)
        sweep(path, SETTINGS, "reference.json", "report.html", "results.*")
        sweep(path / "runs", "*.npz", "*.json")
        if (path / SETTINGS).exists():
            refuse_other_settings(path, read_settings(path / SETTINGS), settings)
        elif path.exists() and any(path.iterdir()):
            raise PrescoreError(f"{path}: holds something, but no comparison; choose another folder")

    @property
    def place(self) -> str:
        return str(self.path)

    def open(self) -> None:
        """Make the folder, unless it is there. Raises PrescoreError if runs of other settings came before."""
        take_folder(self.path, self.settings)
        make_folder(self.path / "runs")

    def result(self, run: Run) -> Result | None:
        """What came of a run, if it is finished."""
        file = self.path / "runs" / f"{run.key}.json"
        if not file.exists():
            return None
        found = dict(read_settings(file))
        before = found.pop("settings", None)
        if not isinstance(before, dict):
            raise PrescoreError(f"{file}: cannot be read; choose another folder")
        refuse_other_settings(self.path, before, run.settings)
        result: Result = _as(Result, found, file, run.plan.denoiser.picture_shape)
        if result.failure is None and None in (result.seconds, result.conditioning, result.metrics):
            raise _damaged(file)
        return result

    def keep(self, run: Run, seeds: Sequence[int], pictures: Tensor | None, result: Result) -> None:
        """Write what came of a run, the samples first."""
        if pictures is not None:
            save_samples(self.path / "runs" / f"{run.key}.npz", pictures, seeds, run.settings)
        write_atomically(self.path / "runs" / f"{run.key}.json", _json({"settings": run.settings, **asdict(result)}))

    def pictures(self, run: Run, n: int) -> Tensor:
        """The first n samples of a finished run, (n, C, H, W)."""
        file, shape = self.path / "runs" / f"{run.key}.npz", run.plan.denoiser.picture_shape
        with reading(file), open_array(file, "images") as array:
            if array.dtype == np.float32 and array.shape == (self.settings["n"], *shape[1:], shape[0]):
                images = array.read(range(min(n, array.shape[0])))
                if np.isfinite(images).all():
                    return torch.from_numpy(images).movedim(-1, 1)
        raise _damaged(file)

    def figures(self, shape: tuple[int, ...]) -> ReferenceFigures | None:
        """What is known of the true images of this shape, if it was kept."""
        file = self.path / "reference.json"
        return _as(ReferenceFigures, dict(read_settings(file)), file, shape) if file.exists() else None

    def keep_figures(self, figures: ReferenceFigures) -> None:
        write_atomically(self.path / "reference.json", _json(asdict(figures)))


def _json(values: Mapping[str, object]) -> bytes:
    return (json.dumps(values, indent=1, allow_nan=False) + "\n").encode()


def _damaged(file: Path) -> PrescoreError:
    return PrescoreError(f"{file}: cannot be read; choose another folder")


def _as(kind: Any, values: Mapping[str, Any], file: Path, shape: tuple[int, ...]) -> Any:
    """What was kept of pictures of this shape. Raises PrescoreError if an entry is none that is written."""
    rings = len(profile(image_power(torch.zeros(1, *shape)), shape) or ())
    if values.keys() != {field.name for field in fields(kind)}:
        raise _damaged(file)
    if not all(_is_right(name, value, rings) for name, value in values.items()):
        raise _damaged(file)
    return kind(**values)


def _is_right(name: str, value: Any, rings: int) -> bool:
    """Whether an entry of a result, or of the figures of a reference, is what it should be."""
    match name:
        case "notes":
            return isinstance(value, list) and all(isinstance(note, str) for note in value)
        case "seconds" if value is not None:
            return is_number(value) and value > 0
        case "failure" if value is not None:
            return isinstance(value, str)
        case "spectrum" if value is not None:
            return isinstance(value, list) and len(value) == rings and all(is_number(p) and p >= 0 for p in value)
        case "deviations" if value is not None:
            return isinstance(value, dict) and all(
                name in METRICS
                and (parts is None or (isinstance(parts, list) and len(parts) == BLOCKS and all(map(is_number, parts))))
                for name, parts in value.items()
            )
        case "conditioning" | "metrics" | "floor" | "floor_errors" if value is not None:
            known = CONDITIONING if name == "conditioning" else METRICS
            return isinstance(value, dict) and all(
                name in known and (number is None or is_number(number)) for name, number in value.items()
            )
    return value is None
