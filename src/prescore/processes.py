"""The processes that share a run: one by default, several when a launcher starts them.

    torchrun --nproc-per-node 8 -m prescore train DATA --device cuda ...
    accelerate launch --num-processes 8 -m prescore sample MODEL --samples 50000 ...

Every process holds the whole network. In training it takes its share of each batch and averages its gradients with the
others' (data parallelism); in sampling it draws whole batches of its own, and nothing is exchanged before the end.
Hugging Face Accelerate finds the devices and the other processes; without a launcher it is not needed. On several
machines the folder of the run must be one that all of them see.
"""

import atexit
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prescore.device import open_device
from prescore.errors import PrescoreError, is_whole

Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """One of `count` shares of some work, number `index` from 0."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not (is_whole(self.index) and is_whole(self.count) and 0 <= self.index < self.count):
            raise PrescoreError(
                f"share: number {self.index!r} of {self.count!r}; from 0 to one less than those are needed"
            )

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every count-th of the items, so that the shares differ by one at most and are disjoint."""
        return items[self.index :: self.count]


def parse_share(text: str, environment: Mapping[str, str] = os.environ) -> Share:
    """The share that "3/16", the third of sixteen, stands for; of "slurm" that of this task of a SLURM array, of this
    task of an srun, or of this task of an srun in a task of an array.

    Raises:
        PrescoreError: it is neither, or SLURM started no more than one task.

    >>> parse_share("3/16")
    Share(index=2, count=16)
    """
    if text == "slurm":
        arrays, steps = _share_of_array(environment), _share_of_step(environment)
        if arrays is None and steps is None:
            raise PrescoreError(
                "shard: slurm given, but this is no task of a SLURM array (sbatch --array), nor of srun"
            )
        outer, inner = arrays or Share(), steps or Share()
        return Share(outer.index * inner.count + inner.index, outer.count * inner.count)
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        raise PrescoreError(f"shard: {text!r} given; one of several, as in 1/16 to 16/16, or slurm is needed")
    return Share(number - 1, count)


def _share_of_array(environment: Mapping[str, str]) -> Share | None:
    """That of a task of a SLURM array; None in no array. Raises PrescoreError if it cannot be told."""
    names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "STEP", "COUNT")]
    if names[0] not in environment:
        return None
    try:
        task, first, last, step, count = (int(environment[name]) for name in names)
    except (KeyError, ValueError):
        raise PrescoreError(
            "shard: slurm given, but SLURM_ARRAY_TASK_MIN, MAX, STEP and COUNT do not say of what"
        ) from None
    if step < 1 or len(range(first, last + 1, step)) != count or task not in range(first, last + 1, step):
        raise PrescoreError("shard: slurm given, but the tasks of the array are not evenly numbered, as in 0-15")
    return Share((task - first) // step, count)


def _share_of_step(environment: Mapping[str, str]) -> Share | None:
    """That of a task that srun started; None without srun, where there are no numbers."""
    try:
        return Share(int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"]))
    except (KeyError, ValueError):
        return None


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Attributes:
        device: of this process.
        rank, count: its number, from 0, and how many there are.
        accelerator: of Accelerate; None for a single process.
    """

    device: torch.device
    rank: int = 0
    count: int = 1
    accelerator: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def shares(self, batch_size: int, accumulate: int) -> list[tuple[int, int]]:
        """(first, last + 1) of the examples of a batch that this process takes, in `accumulate` equal parts.

        Raises:
            PrescoreError: the batch cannot be cut into as many equal parts.
        """
        if accumulate < 1:
            raise PrescoreError(f"accumulate: {accumulate} is less than 1")
        parts = self.count * accumulate
        if batch_size % parts:
            raise PrescoreError(
                f"batch_size: {batch_size} examples cannot be shared equally by {self.count} processes in {accumulate} "
                f"parts; take a multiple of {parts}"
            )
        size = batch_size // parts
        return [
            (first * size, (first + 1) * size) for first in range(self.rank * accumulate, (self.rank + 1) * accumulate)
        ]

    def joined(self, objective: nn.Module) -> nn.Module:
        """The objective, averaging the gradients of its backward passes over the processes."""
        return objective if self.accelerator is None else self.accelerator.prepare(objective)

    def apart(self, objective: nn.Module, is_apart: bool) -> AbstractContextManager[Any]:
        """Inside, backward passes add to the gradients of this process alone."""
        return self.accelerator.no_sync(objective) if self.accelerator is not None and is_apart else nullcontext()

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes."""
        return values if self.accelerator is None else self.accelerator.reduce(values, "mean")

    @property
    def share(self) -> Share:
        """That of this process."""
        return Share(self.rank, self.count)

    def total(self, value: int) -> int:
        """Sum over the processes."""
        if self.accelerator is None:
            return value
        return int(self.accelerator.reduce(torch.tensor(value, device=self.device), "sum").item())

    def gathered(self, items: list[Item]) -> list[Item]:
        """Those of all processes, by rank."""
        if self.accelerator is None:
            return items
        from accelerate.utils import gather_object

        return gather_object(items)

    def agreed(self, value: Item) -> Item:
        """The value that the first process has, of whatever type."""
        if self.accelerator is None:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()


@contextmanager
def processes_on(device: torch.device | str, patience: timedelta | None = None) -> Iterator[Processes]:
    """The processes of this run.

    Args:
        device: cpu, or cuda, of which each process has one of its own.
        patience: how long they wait for each other; by default what PyTorch has, 10 to 30 minutes.

    Raises:
        PrescoreError: the device cannot be used; or there are several processes and Accelerate is missing.
    """
    device = open_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes(device)
        return
    try:
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs
    except ImportError:
        raise PrescoreError("several processes need Accelerate; pip install '.[train]' in the clone") from None
    handlers = [] if patience is None else [InitProcessGroupKwargs(timeout=patience)]
    accelerator = Accelerator(cpu=device.type == "cpu", kwargs_handlers=handlers)
    yield Processes(accelerator.device, accelerator.process_index, accelerator.num_processes, accelerator)
    # Not yet: another run may follow. And not after an error: the others may be waiting, and would be waited for.
    atexit.register(_part)


def _part() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
