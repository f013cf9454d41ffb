"""What a training step changes, and the step.

Every random number of step k is a function of (seed, k) alone, and all that a step changes is stored in full precision,
so a run that was stopped and resumed ends with the same weights as one that was not.
"""

import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from prescore.errors import PrescoreError
from prescore.processes import Processes
from prescore.training.config import TrainingConfig
from prescore.training.ema import ema_decay, ema_update
from prescore.training.task import Task

MIXED = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class TrainingState:
    """What a step changes, and a checkpoint holds.

    Attributes:
        objective: the network's loss.
        init: `digest` of the weights that it began with; None for random ones.
    """

    network: nn.Module
    objective: nn.Module
    optimizer: torch.optim.Adam
    average: dict[str, Tensor]
    scaler: torch.amp.GradScaler
    step: int = 0
    seconds: float = 0.0
    init: str | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor under a flat name, sharing memory with the state."""
        flat = {f"weights/{k}": v for k, v in self.network.state_dict().items()}
        flat |= {f"average/{k}": v for k, v in self.average.items()}
        for name, parameter in self.network.named_parameters():
            flat |= {f"adam/{name}/{k}": v for k, v in self.optimizer.state[parameter].items()}
        return flat


def new_state(
    task: Task, config: TrainingConfig, processes: Processes, init: Mapping[str, Tensor] | None = None
) -> TrainingState:
    """A network with its initial weights, its average and its optimizer.

    Args:
        init: the initial weights, `Task.load`; None for random ones.

    Raises:
        PrescoreError: the precision is not available on the device.
    """
    device = processes.device
    check_precision(config.precision, device)
    network = task.build(generator_of_step(config.seed, -1))
    if init is not None:
        network.load_state_dict(init)
    began_with = None if init is None else digest(network.state_dict())
    network.to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, betas=(config.beta1, config.beta2))
    for parameter in network.parameters():  # there from the start, so that a checkpoint can be loaded into them
        moments = {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
    return TrainingState(
        network, processes.joined(task.objective(network)), optimizer, average, scaler, init=began_with
    )


def averaged_network(task: Task, state: TrainingState, device: torch.device) -> nn.Module:
    """A network of its own with the averaged weights."""
    network = task.build(torch.Generator()).to(device)
    network.load_state_dict(state.average)
    return network.eval().requires_grad_(False)


@dataclass(frozen=True)
class Prepared:
    """What a process needs for a step before it can begin.

    Attributes:
        seed: of torch's own generator, see `Draw`.
        parts: the examples of this process, in parts; for each the number of its first one, and named tensors.
    """

    seed: int | None
    parts: list[tuple[int, dict[str, Tensor]]]


def prepare(task: Task, config: TrainingConfig, processes: Processes, accumulate: int, step: int) -> Prepared:
    """The random numbers and the examples of a step: a function of its number alone, so it can be called ahead."""
    draw = task.draw(config.batch_size, generator_of_step(config.seed, step))
    shares = processes.shares(config.batch_size, accumulate)
    return Prepared(draw.seed, [(first, task.batch(draw.part(first, last))) for first, last in shares])


def train_step(state: TrainingState, config: TrainingConfig, processes: Processes, prepared: Prepared) -> float:
    """One step of the optimizer and of the average; returns the loss.

    Raises:
        PrescoreError: the loss is not finite.
    """
    device, parts = processes.device, prepared.parts
    state.objective.train()
    state.optimizer.zero_grad()
    total = torch.zeros((), device=device)
    for number, (first, examples) in enumerate(parts, start=1):
        batch = {name: value.to(device) for name, value in examples.items()}
        with processes.apart(state.objective, number < len(parts)):
            with _seeded(prepared.seed, first, device), _mixed(config.precision, device):
                loss = state.objective(state.step, **batch) / len(parts)
            state.scaler.scale(loss).backward()
        total += loss.detach()
    mean = processes.mean(total).item()
    if not math.isfinite(mean):
        raise PrescoreError(f"learning_rate: the loss is {mean} at step {state.step}; take a smaller one")
    _update(state, config)
    return mean


def _update(state: TrainingState, config: TrainingConfig) -> None:
    """Moves the weights against their gradients, and the average after them."""
    state.scaler.unscale_(state.optimizer)
    if config.clip:
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), config.clip)
    state.optimizer.param_groups[0]["lr"] = config.learning_rate_at(state.step)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    ema_update(state.average, state.network.state_dict(), ema_decay(state.step, config.ema_decay))
    state.step += 1


def generator_of_step(seed: int, step: int) -> torch.Generator:
    """Source of all random numbers of one step; step -1 gives the initial weights."""
    word = np.random.SeedSequence((seed, step + 1)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word) >> 1)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """`checksum` in eight hexadecimal digits."""
    return f"{checksum(tensors):08x}"


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of all tensors, in the order of their names."""
    code = 0
    for name in sorted(tensors):
        code = zlib.crc32(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data, code)
    return code


def check_precision(precision: str, device: torch.device) -> None:
    """Raise PrescoreError if the device cannot compute in it."""
    if precision == "float16" and device.type != "cuda":
        raise PrescoreError(f"precision: float16 needs a GPU; on {device.type} take bfloat16 or float32")
    if precision == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise PrescoreError("precision: this GPU has no bfloat16; take float16 or float32")


def _mixed(precision: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, MIXED.get(precision), enabled=precision in MIXED)


@contextmanager
def _seeded(seed: int | None, first: int, device: torch.device) -> Iterator[None]:
    """torch's dropout takes no generator: its RNG is seeded for this part of the batch and put back."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed + first)
        yield
