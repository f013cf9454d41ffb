"""Training of a small image denoiser: one function, resumable bit for bit.

Every random number of step k is a function of (seed, k) alone, and what a step changes (weights, average, Adam's
moments) is stored in full precision, so a run that was stopped and resumed ends with the same weights as one that
was not. The learning rate warms up, stays, and falls linearly to 0 at the end: until it has begun to fall, a run may
be resumed with another number of steps, and ends as if that number had been given from the start.
"""

import csv
import dataclasses
import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from prescore.checkpoints.native import ModelDescription, read_safetensors, save_model
from prescore.errors import PrescoreError, suggest
from prescore.files import write_atomically
from prescore.models.precond import EDMPrecond
from prescore.models.song_unet import SongUNet
from prescore.training.ema import ema_decay, ema_update
from prescore.training.losses import LogNormal, LogUniform, denoising_loss, edm_weight, stratified

CHECKPOINT = "checkpoint.safetensors"
MODEL = "model.safetensors"
LOSSES = "loss.csv"
NOISES = ("log-uniform", "log-normal")
PRECISIONS = ("float32", "bfloat16")
LOSS_WINDOW = 500  # steps over which the reported loss is averaged


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that, together with the data, decides the trained weights.

    Attributes:
        steps, batch_size: number of optimizer steps, and of images in each.
        learning_rate: of Adam, reached after `warmup` steps and falling to 0 over the last `cooldown` steps.
        clip: largest norm of a gradient.
        ema_decay: decay of the weight average, in [0, 1).
        noise: "log-uniform" over [sigma_min, sigma_max], or "log-normal" with P_mean and P_std.
        sigma_min, sigma_max: range of noise levels, in units of the data; also that of the finished model.
        sigma_data: root mean square of the data; None measures it.
        data_range: smallest and largest value of the data as the model sees them; uint8 images are scaled to it.
        flip: mirror each image, left to right, with probability 1/2.
        precision: of the network's passes, "float32" or mixed "bfloat16"; the weights are always float32.
        seed: decides the initial weights and every draw.
        model_channels, channel_mult, channel_mult_emb, num_blocks, attn_resolutions, dropout: see `SongUNet`.

    Raises:
        PrescoreError: a value is out of its range or unknown.
    """

    steps: int = 10000
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: int = 200
    cooldown: int = 2500
    clip: float = 1.0
    ema_decay: float = 0.999
    noise: str = "log-uniform"
    sigma_min: float = 0.01
    sigma_max: float = 50.0
    P_mean: float = -1.2
    P_std: float = 1.2
    sigma_data: float | None = None
    data_range: tuple[float, float] = (0.0, 1.0)
    flip: bool = False
    precision: str = "float32"
    seed: int = 0
    model_channels: int = 32
    channel_mult: tuple[int, ...] = (1, 1, 2, 3)
    channel_mult_emb: int = 2
    num_blocks: int = 1
    attn_resolutions: tuple[int, ...] = (8,)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "model_channels", "channel_mult_emb", "num_blocks"):
            if getattr(self, name) < 1:
                raise PrescoreError(f"{name}: {getattr(self, name)} is less than 1")
        for name in ("learning_rate", "clip", "P_std"):
            if not 0 < getattr(self, name) < math.inf:
                raise PrescoreError(f"{name}: {getattr(self, name)} is not a positive number")
        for name in ("warmup", "cooldown", "seed"):
            if getattr(self, name) < 0:
                raise PrescoreError(f"{name}: {getattr(self, name)} is negative")
        for name in ("ema_decay", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise PrescoreError(f"{name}: {getattr(self, name)} is not in [0, 1)")
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise PrescoreError(f"sigma_min {self.sigma_min}, sigma_max {self.sigma_max}: 0 < min < max is needed")
        if self.sigma_data is not None and not 0 < self.sigma_data < math.inf:
            raise PrescoreError(f"sigma_data: {self.sigma_data} is not a positive number")
        if not -math.inf < self.data_range[0] < self.data_range[1] < math.inf:
            raise PrescoreError(f"data_range: {self.data_range} is not an interval (lowest, highest)")
        if self.noise not in NOISES:
            raise PrescoreError(f"noise: unknown {self.noise!r}, {suggest(self.noise, NOISES)}")
        if self.precision not in PRECISIONS:
            raise PrescoreError(f"precision: unknown {self.precision!r}, {suggest(self.precision, PRECISIONS)}")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of step `step` (from 0)."""
        left = (self.steps - step) / self.cooldown if self.cooldown else 1.0
        return self.learning_rate * min(1.0, (step + 1) / max(self.warmup, 1), left)

    def network_arguments(self, event_shape: tuple[int, ...]) -> dict[str, Any]:
        """Keyword arguments of `SongUNet` for images of this shape (C, R, R)."""
        channels, resolution, _ = event_shape
        names = ("model_channels", "channel_mult", "channel_mult_emb", "num_blocks", "attn_resolutions", "dropout")
        image = {"img_resolution": resolution, "in_channels": channels, "out_channels": channels}
        return image | {name: getattr(self, name) for name in names}

    @property
    def levels(self) -> LogUniform | LogNormal:
        """Distribution of the noise levels."""
        if self.noise == "log-uniform":
            return LogUniform(self.sigma_min, self.sigma_max)
        return LogNormal(self.P_mean, self.P_std)


@dataclass
class TrainingState:
    """What a step changes, and a checkpoint holds."""

    denoiser: EDMPrecond
    optimizer: torch.optim.Adam
    average: dict[str, Tensor]
    step: int = 0
    seconds: float = 0.0

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor under a flat name, sharing memory with the state."""
        flat = {f"weights/{k}": v for k, v in self.denoiser.model.state_dict().items()}
        flat |= {f"average/{k}": v for k, v in self.average.items()}
        for name, parameter in self.denoiser.model.named_parameters():
            flat |= {f"adam/{name}/{k}": v for k, v in self.optimizer.state[parameter].items()}
        return flat


@dataclass(frozen=True)
class TrainingResult:
    """Where the model is, and how the run went: `loss` is the mean of the last 500 steps."""

    model: Path
    steps: int
    seconds: float
    loss: float
    is_finished: bool


def train(
    images: Tensor,
    config: TrainingConfig,
    out_dir: str | Path,
    *,
    name: str = "model",
    device: torch.device | str = "cpu",
    progress: bool = True,
    checkpoint_every: int = 500,
) -> TrainingResult:
    """Trains an EDM-preconditioned `SongUNet`, or goes on with the run that `out_dir` holds.

    `out_dir` receives checkpoint.safetensors (everything needed to go on), model.safetensors (averaged weights in
    half precision, for `load_model`) and loss.csv; both files are replaced whole every `checkpoint_every` steps, at
    the end, and when Ctrl-C stops the run.

    Args:
        images: (N, C, R, R), uint8, or floating point within config.data_range.
        config: see `TrainingConfig`.
        out_dir: folder, made if needed.
        name: of the model.
        device: where the network is; the draws are made on the CPU, so they do not depend on it.
        progress: show a progress bar with the loss, the speed and the time left.
        checkpoint_every: steps between checkpoints.

    Raises:
        PrescoreError: the images are not of that kind, the device cannot be used, `out_dir` cannot be written or holds
            a run with other settings or data, or the loss is not finite.
    """
    _check_images(images, config.data_range)
    _check_device(device)
    if checkpoint_every < 1:
        raise PrescoreError(f"checkpoint_every: {checkpoint_every} is less than 1")
    out, event_shape = _make_folder(out_dir), tuple(images.shape[1:])
    state = new_state(config, event_shape, config.sigma_data or root_mean_square(images, config.data_range), device)
    if (out / CHECKPOINT).exists():
        load_checkpoint(out / CHECKPOINT, state, config)
    losses = _read_losses(out / LOSSES, state.step)

    def save_all() -> None:
        save_checkpoint(out / CHECKPOINT, state, config)
        _write_losses(out / LOSSES, losses)
        save_model(out / MODEL, _describe(state, config, event_shape, name, losses), state.average)

    start = time.perf_counter() - state.seconds
    with _interruptible() as is_interrupted, _progress_bar(config, state, progress) as bar:
        while state.step < config.steps and not is_interrupted():
            losses.append(train_step(state, config, images))
            state.seconds = time.perf_counter() - start
            bar.set_postfix(loss=f"{_recent(losses):.4f}", refresh=False)
            bar.update()
            if state.step % checkpoint_every == 0:
                save_all()
        save_all()
    return TrainingResult(out / MODEL, state.step, state.seconds, _recent(losses), state.step >= config.steps)


def train_step(state: TrainingState, config: TrainingConfig, images: Tensor) -> float:
    """One step of the optimizer and of the average; returns the loss.

    Raises:
        PrescoreError: the loss is not finite.
    """
    generator = generator_of_step(config.seed, state.step)
    parameters = list(state.denoiser.parameters())
    device = parameters[0].device
    x0 = in_units(images[torch.randint(len(images), (config.batch_size,), generator=generator)], config.data_range)
    n = torch.randn(x0.shape, generator=generator).to(device)
    sigma = config.levels.quantile(stratified(config.batch_size, generator)).float().to(device)
    if config.flip:
        is_flipped = torch.rand(config.batch_size, generator=generator) < 0.5
        x0 = torch.where(is_flipped[:, None, None, None], x0.flip(3), x0)
    x0 = x0.to(device)
    weight = edm_weight(sigma, state.denoiser.sigma_data)
    state.denoiser.train()
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16")
    with _seeded_dropout(config.dropout, generator, device), mixed:
        loss = denoising_loss(state.denoiser, x0, sigma, n, weight)
    if not torch.isfinite(loss):
        raise PrescoreError(f"learning_rate: the loss is {loss.item()} at step {state.step}; take a smaller one")
    state.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, config.clip)
    state.optimizer.param_groups[0]["lr"] = config.learning_rate_at(state.step)
    state.optimizer.step()
    ema_update(state.average, state.denoiser.model.state_dict(), ema_decay(state.step, config.ema_decay))
    state.step += 1
    return loss.item()


def new_state(
    config: TrainingConfig, event_shape: tuple[int, ...], sigma_data: float, device: torch.device | str = "cpu"
) -> TrainingState:
    """A network with its initial weights, its average and its optimizer."""
    generator = generator_of_step(config.seed, -1)
    network = SongUNet(**config.network_arguments(event_shape), generator=generator).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, betas=(0.9, 0.99))
    for parameter in network.parameters():  # there from the start, so that a checkpoint can be loaded into them
        moments = {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    return TrainingState(EDMPrecond(network, sigma_data), optimizer, average)


def generator_of_step(seed: int, step: int) -> torch.Generator:
    """Source of all random numbers of one step; step -1 gives the initial weights."""
    word = np.random.SeedSequence((seed, step + 1)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word) >> 1)


def in_units(images: Tensor, data_range: tuple[float, float]) -> Tensor:
    """float32 images in the units of the model: uint8 ones scaled to the range, others as they are."""
    if images.dtype != torch.uint8:
        return images.float()
    low, high = data_range
    unit = images.float() / 255
    return unit if (low, high) == (0, 1) else low + (high - low) * unit


def root_mean_square(images: Tensor, data_range: tuple[float, float] = (0.0, 1.0)) -> float:
    """Root mean square of all values of `images` in the units of the model, in float64, a thousand images at a time."""
    total = sum(float(in_units(part, data_range).double().square().sum()) for part in images.split(1000))
    return math.sqrt(total / images.numel())


def save_checkpoint(path: Path, state: TrainingState, config: TrainingConfig) -> None:
    """Writes everything that `load_checkpoint` needs, atomically."""
    facts = {"step": state.step, "seconds": state.seconds, "sigma_data": state.denoiser.sigma_data}
    metadata = {"prescore-training": json.dumps(facts | {"config": dataclasses.asdict(config)})}
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.tensors().items()}
    write_atomically(path, save(tensors, metadata=metadata))


def load_checkpoint(path: Path, state: TrainingState, config: TrainingConfig) -> None:
    """Puts a checkpoint into a state made from the same settings and data.

    Raises:
        PrescoreError: it is not a checkpoint, or one of other settings or data.
    """
    metadata, tensors = read_safetensors(path)
    if "prescore-training" not in metadata:
        raise PrescoreError(f"{path}: not a checkpoint of prescore's training")
    facts = json.loads(metadata["prescore-training"])
    _check_same_run(path, facts, state, config)
    with torch.no_grad():
        for name, value in state.tensors().items():
            if name not in tensors or tensors[name].shape != value.shape:
                raise PrescoreError(f"{path}: the tensor {name!r} is missing or has another shape")
            value.copy_(tensors[name])
    state.step, state.seconds = facts["step"], facts["seconds"]


def _check_same_run(path: Path, facts: dict[str, Any], state: TrainingState, config: TrainingConfig) -> None:
    theirs, ours = facts["config"], json.loads(json.dumps(dataclasses.asdict(config)))
    lengths = ("steps", "cooldown")
    for name in theirs.keys() - set(lengths):
        if ours.get(name) != theirs[name]:
            raise PrescoreError(
                f"{name}: the run in {path.parent} has {theirs[name]}, not {ours.get(name)}; "
                f"give the same settings, or another folder"
            )
    constant_until = min(run["steps"] - run["cooldown"] for run in (theirs, ours))
    if any(theirs[name] != ours[name] for name in lengths) and facts["step"] > constant_until:
        raise PrescoreError(
            f"steps: the run in {path.parent} is at step {facts['step']} of {theirs['steps']}; with {ours['steps']} "
            f"steps, {ours['cooldown']} of them cool-down, it would have had another learning rate before that"
        )
    if facts["sigma_data"] != state.denoiser.sigma_data:
        raise PrescoreError(f"{path.parent} holds a run on other data (their root mean square differs)")


def _check_images(images: Tensor, data_range: tuple[float, float]) -> None:
    if images.ndim != 4 or images.shape[-1] != images.shape[-2] or not len(images):
        raise PrescoreError(f"images: shape {tuple(images.shape)}; (N, C, R, R) with N at least 1 is needed")
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise PrescoreError(f"images: dtype {images.dtype}; uint8, or floating point, is needed")
    low, high = float(images.min()), float(images.max())
    if not (low >= data_range[0] and high <= data_range[1]):
        raise PrescoreError(
            f"images: values from {low:g} to {high:g}; they must lie in [{data_range[0]:g}, {data_range[1]:g}]"
        )


def _check_device(device: torch.device | str) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # unknown names, and devices that torch was not built for
        reason = str(error).splitlines()[0]
        raise PrescoreError(f"device: {str(device)!r} cannot be used ({reason})") from error


def _make_folder(out_dir: str | Path) -> Path:
    try:
        Path(out_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PrescoreError(f"{out_dir}: the folder cannot be made ({error.strerror})") from error
    return Path(out_dir)


def _describe(
    state: TrainingState, config: TrainingConfig, event_shape: tuple[int, ...], name: str, losses: list[float]
) -> ModelDescription:
    facts = {"steps": state.step, "seconds": round(state.seconds), "loss": round(_recent(losses), 5)}
    return ModelDescription(
        "SongUNet",
        config.network_arguments(event_shape),
        "edm",
        {"sigma_data": state.denoiser.sigma_data},
        config.sigma_min,
        config.sigma_max,
        event_shape,
        data_range=config.data_range,
        name=name,
        training=facts | {"torch": torch.__version__, "config": dataclasses.asdict(config)},
    )


def _recent(losses: list[float]) -> float:
    window = losses[-LOSS_WINDOW:]
    return math.fsum(window) / len(window) if window else math.nan


def _read_losses(path: Path, steps: int) -> list[float]:
    """Losses of the first `steps` steps; a run that was killed may have written none of the later ones."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)][:steps]


def _write_losses(path: Path, losses: list[float]) -> None:
    rows = "".join(f"{step},{loss:.6f}\n" for step, loss in enumerate(losses, start=1))
    write_atomically(path, f"step,loss\n{rows}".encode())


def _progress_bar(config: TrainingConfig, state: TrainingState, progress: bool) -> "tqdm[Any]":
    return tqdm(total=config.steps, initial=state.step, disable=not progress, unit="step", desc="train")


@contextmanager
def _interruptible() -> Iterator[Any]:
    """Turns the first Ctrl-C into a question the loop can ask; the second one stops at once."""
    interrupted = False
    previous = signal.getsignal(signal.SIGINT)

    def remember(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, previous)

    try:
        signal.signal(signal.SIGINT, remember)
    except ValueError:  # only the main thread may listen to signals
        yield lambda: False
        return
    try:
        yield lambda: interrupted
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def _seeded_dropout(dropout: float, generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """torch's dropout takes no generator: its RNG is seeded for this step and put back."""
    if not dropout:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield
