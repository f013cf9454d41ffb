"""The processes that share a run: one by default, several when `torchrun` starts them.

    torchrun --nproc-per-node 8 -m prescore train DATA --device cuda ...

Every process holds the whole network, takes its share of each batch, and averages its gradients with the others' (data
parallelism). Hugging Face Accelerate finds the devices and the other processes; without `torchrun` it is not needed.
On several machines the folder of the run must be one that all of them see.
"""

import atexit
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prescore.device import open_device
from prescore.errors import PrescoreError


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

    def wait(self) -> None:
        """Until all processes are here."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()


@contextmanager
def processes_on(device: torch.device | str) -> Iterator[Processes]:
    """The processes of this run.

    Raises:
        PrescoreError: the device cannot be used; or there are several processes and Accelerate is missing.
    """
    device = open_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes(device)
        return
    try:
        from accelerate import Accelerator
    except ImportError:
        raise PrescoreError("several processes need Accelerate; pip install 'prescore[train]'") from None
    accelerator = Accelerator(cpu=device.type == "cpu")
    yield Processes(accelerator.device, accelerator.process_index, accelerator.num_processes, accelerator)
    # Not yet: another run may follow. And not after an error: the others may be waiting, and would be waited for.
    atexit.register(_part)


def _part() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
