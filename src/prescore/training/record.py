"""What a run leaves behind for people: losses as CSV and in TensorBoard, and pictures."""

import csv
import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from prescore.errors import PrescoreError
from prescore.files import write_atomically

LOSSES = "loss.csv"
LOSS_WINDOW = 500  # steps over which the reported loss is averaged


class Record:
    """Losses of a run, one a step, in memory until they are written.

    Args:
        folder: of the run. Its loss.csv is read and goes on after step `step`; later rows are dropped.
        step: of the checkpoint that the run goes on from.
        writer: a TensorBoard writer, or None. If it cannot write, the run goes on without it.
        note: is told so.

    Raises:
        PrescoreError: loss.csv is damaged.
    """

    def __init__(self, folder: Path, step: int, writer: Any = None, note: Callable[[str], None] | None = None) -> None:
        self.path, self.writer, self.note = folder / LOSSES, writer, note
        self.losses = {k: loss for k, loss in _read(self.path).items() if k <= step}
        self.window = deque(self.losses.values(), LOSS_WINDOW)

    def add(self, step: int, loss: float, learning_rate: float, steps_per_second: float) -> None:
        """The loss of step number `step`, from 1."""
        self.losses[step] = loss
        self.window.append(loss)
        values = {"loss": loss, "learning_rate": learning_rate, "steps_per_second": steps_per_second}
        for name, value in values.items():
            self._tell("add_scalar", name, value, step)

    def add_pictures(self, step: int, x: Tensor, data_range: tuple[float, float]) -> None:
        """Images (N, C, H, W) in the units of the model."""
        if x.ndim == 4 and x.shape[1] in (1, 3):
            low, high = data_range
            self._tell("add_images", "samples", ((x - low) / (high - low)).clamp(0, 1).float().cpu(), step)

    @property
    def recent(self) -> float:
        """Mean loss of the last 500 steps."""
        return math.fsum(self.window) / len(self.window) if self.window else math.nan

    def write(self) -> None:
        """Replaces loss.csv."""
        rows = "".join(f"{step},{loss:.6f}\n" for step, loss in self.losses.items())
        write_atomically(self.path, f"step,loss\n{rows}".encode())
        self._tell("flush")

    def close(self) -> None:
        self._tell("close")

    def _tell(self, method: str, *arguments: object) -> None:
        """Let TensorBoard's writer do something, as long as there is one that can."""
        if self.writer is None:
            return
        try:
            getattr(self.writer, method)(*arguments)
        except OSError as error:
            self.writer = None
            if self.note is not None:
                self.note(f"TensorBoard's file cannot be written ({error.strerror or error}); only loss.csv is")


def tensorboard_writer(folder: Path, step: int, note: Callable[[str], None]) -> Any:
    """A writer that replaces what an earlier attempt wrote after step `step`; None, and a note, where there is none."""
    try:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(folder, purge_step=step + 1)
    except ImportError:
        note("TensorBoard is not installed, so only loss.csv is written; pip install '.[train]' in the clone")
    except OSError as error:
        note(f"TensorBoard's file cannot be written ({error.strerror or error}); only loss.csv is")
    return None


def _read(path: Path) -> dict[int, float]:
    if not path.exists():
        return {}
    try:
        with open(path, newline="") as file:
            return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise PrescoreError(f"{path}: damaged ({error}); delete it to go on without its losses") from None
