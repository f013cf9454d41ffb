"""What a run learns: the interface between the training loop and a recipe.

A `Task` knows the data, the network and the loss. The loop knows the optimizer, the average, the processes and the
files. They meet in a step like this, with `part` the share of one process:

    draw = task.draw(batch_size, generator)         every random number of the step, of all processes
    batch = task.batch(draw.part(first, last))      the examples of this process, as named tensors
    loss = objective(step, **batch)                 a 0-d mean over them

Because the numbers are drawn for the whole batch and each process takes its share, the number of processes does not
change what is learned.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from prescore.checkpoints.stored import at_most_parts
from prescore.data.guards import memory
from prescore.errors import PrescoreError
from prescore.training.data import TrainingData

MOST_PARTS = 50_000  # modules, parameters and buffers of a network: far above what is trained


class Settings(Protocol):
    """Settings of a recipe: a frozen dataclass whose fields are JSON values, with an Args section that explains them.

    Its fields become options of `prescore train`.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def unused(self) -> Mapping[str, str]:
        """Fields that do nothing beside the others, and what they would belong to."""

    def task(self, data: TrainingData) -> "Task":
        """What is learned from these data.

        Raises:
            PrescoreError: the settings and the data do not fit together.
        """


@dataclass(frozen=True)
class Draw:
    """The random numbers of a step.

    Attributes:
        numbers: named tensors whose first axis is the batch.
        seed: of torch's own generator while the loss is computed, if the network draws from it (dropout).
    """

    numbers: Mapping[str, Tensor]
    seed: int | None = None

    def part(self, first: int, last: int) -> dict[str, Tensor]:
        """Those of examples first to last - 1 of the batch."""
        return {name: value[first:last] for name, value in self.numbers.items()}


class Task(ABC):
    """Data, network and loss of a run.

    Attributes:
        settings: what it was made from.
        data: what is learned from.
        measured: JSON values that were measured on the data, and that the learned weights depend on.
        data_range: of what `preview` returns.
    """

    settings: Settings
    data: TrainingData
    measured: Mapping[str, Any]
    data_range: tuple[float, float]

    @abstractmethod
    def build(self, generator: torch.Generator) -> nn.Module:
        """The network with its initial weights: what is optimized, averaged and stored."""

    @abstractmethod
    def objective(self, network: nn.Module) -> nn.Module:
        """A module around the network, called as objective(step, **batch), that returns the loss, 0-d."""

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Draw:
        """Every random number of a step of `count` examples, on the CPU."""

    @abstractmethod
    def batch(self, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the objective needs for these examples, on the CPU."""

    @abstractmethod
    def preview(self, network: nn.Module, count: int, seed: int) -> Tensor:
        """A few outputs that show what was learned, (count, *shape), in evaluation mode."""

    @abstractmethod
    def load(self, path: str | Path) -> dict[str, Tensor]:
        """Weights that the network may begin with instead of random ones: those of a model of the same network.

        Args:
            path: of the model file, or the name of a shipped model.

        Raises:
            PrescoreError: it cannot be read, or holds another network; names the first thing that differs.
        """

    @abstractmethod
    def save(
        self, path: Path, weights: Mapping[str, Tensor], name: str, training: dict[str, Any], kind: str = "ema"
    ) -> None:
        """Writes the model file, atomically; `training` holds facts about the run, `kind` of weights is ema or raw."""


def check_size(make: Callable[[], nn.Module]) -> None:
    """Raise PrescoreError now if a network would be too large to be built and trained here; it is made without memory.

    Weights, their average, gradients and the optimiser's moments take 20 bytes for each number.
    """
    too_many = f"the network has more than {MOST_PARTS} parts; make it smaller"
    try:
        with torch.device("meta"), at_most_parts(MOST_PARTS, too_many):
            numbers = sum(p.numel() for p in make().parameters())
    except (RuntimeError, OverflowError):  # of sizes that no number counts
        numbers = 2**63
    if 20 * numbers > (most := memory()):
        raise PrescoreError(
            f"the network has {numbers:.3g} numbers, whose training takes {20 * numbers / 1e9:.3g} GB, and there are "
            f"{most / 1e9:.3g} GB; make it smaller"
        )


def stored_dtype(weights: Mapping[str, Tensor]) -> torch.dtype:
    """float16 for a model file, or float32 if a weight is too large for it."""
    fits = all(bool(value.half().isfinite().all()) for value in weights.values())
    return torch.float16 if fits else torch.float32


def check_images(data: TrainingData, network: str, *, squares: bool = True) -> None:
    """Raise PrescoreError unless the examples are images (C, H, W), of equal sides if `squares`."""
    shape = data.event_shape
    if len(shape) != 3:
        raise PrescoreError(f"examples: shape {(len(data.examples), *shape)}; {network} needs images (N, C, H, W)")
    if squares and shape[1] != shape[2]:
        raise PrescoreError(
            f"examples: {shape[2]} x {shape[1]} pixels; {network} needs squares, as --crop, --fit or --pad make them"
        )
