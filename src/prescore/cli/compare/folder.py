"""The folder that keeps the runs of `prescore compare`.

It holds

    settings.json           what all runs have in common; another command goes on only if its settings are the same
    reference.json          what is known of the true images: the floor, their spectrum
    runs/SAMPLER-T.npz      images (float32, channels last), seeds, settings, as `prescore sample --float` writes them
    runs/SAMPLER-T.json     seconds, calls and metrics; written last, so that a run is finished if this is there
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prescore.cli.compare.reference import ReferenceFigures
from prescore.cli.compare.runs import Result, Run
from prescore.cli.output import (
    SETTINGS,
    Numbers,
    Settings,
    check_folder,
    make_folder,
    read_settings,
    refuse_other_settings,
    take_folder,
)
from prescore.data import reading
from prescore.errors import PrescoreError
from prescore.files import sweep, write_atomically


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
        return _as(Result, found, file)

    def keep(self, run: Run, seeds: Sequence[int], pictures: Tensor | None, result: Result) -> None:
        """Write what came of a run, the samples first."""
        if pictures is not None:
            output = Numbers(self.path / "runs" / f"{run.key}.npz", seeds, run.settings)
            output.add(seeds, pictures)
            output.finish()
        write_atomically(self.path / "runs" / f"{run.key}.json", _json({"settings": run.settings, **asdict(result)}))

    def pictures(self, run: Run, n: int) -> Tensor:
        """The first n samples of a finished run, (n, C, H, W)."""
        file = self.path / "runs" / f"{run.key}.npz"
        with reading(file), np.load(file, allow_pickle=False) as arrays:
            if "images" in arrays:
                return torch.from_numpy(arrays["images"][:n]).movedim(-1, 1)
        raise PrescoreError(f"{file}: no images in it; choose another folder")

    @property
    def figures(self) -> ReferenceFigures | None:
        """What is known of the true images, if it was kept."""
        file = self.path / "reference.json"
        return _as(ReferenceFigures, dict(read_settings(file)), file) if file.exists() else None

    def keep_figures(self, figures: ReferenceFigures) -> None:
        write_atomically(self.path / "reference.json", _json(asdict(figures)))


def _json(values: Mapping[str, object]) -> bytes:
    return (json.dumps(values, indent=1, allow_nan=False) + "\n").encode()


def _as(kind: Any, values: Mapping[str, Any], file: Path) -> Any:
    """What was kept, if its numbers are numbers."""
    try:
        kept = [values.get("seconds"), *(values.get("spectrum") or ())]
        for name in ("metrics", "floor"):
            kept += (values.get(name) or {}).values()
        if all(number is None or isinstance(number, int | float) for number in kept):
            return kind(**values)
    except (TypeError, AttributeError):
        pass
    raise PrescoreError(f"{file}: cannot be read; choose another folder")
