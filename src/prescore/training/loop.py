"""The training loop: one function, resumable bit for bit, for one process or many.

The learning rate warms up, stays, and falls linearly to 0 at the end: until it has begun to fall, a run may be resumed
with another number of steps, and ends as if that number had been given from the start.
"""

import dataclasses
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from prescore.checkpoints.stored import naming
from prescore.errors import PrescoreError, printable
from prescore.files import held, sweep, writing
from prescore.limits import check_size
from prescore.processes import Processes, processes_on
from prescore.training.config import TrainingConfig, check_least
from prescore.training.record import LOSSES, Record, tensorboard_writer
from prescore.training.state import Prepared, TrainingState, averaged_network, new_state, prepare, train_step
from prescore.training.store import PATTERN, resume, save_checkpoint
from prescore.training.task import Task

MODEL = "model.safetensors"
NUMBERS = 2 * 4  # bytes for each number of a batch, before the network sees it: the data and the noise
PICTURES = 16
SavePicture = Callable[[Path, Tensor, tuple[float, float]], None]


@dataclass(frozen=True)
class RunOptions:
    """How a run is made; but for rounding, nothing here changes what is learned, with one exception.

    With dropout, each part of a batch has masks of its own: other masks are drawn if `accumulate`, or the number of
    processes, is another. A run goes on only with the same `accumulate`.

    Args:
        name: of the model.
        device: where the network is, cpu or cuda; under torchrun each process takes its own GPU.
        accumulate: parts into which each process splits its share of a batch, to save memory.
        checkpoint_every: steps between checkpoints.
        keep: how many checkpoints are kept.
        sample_every: steps between pictures of samples; 0 for none.
        tensorboard: write losses and pictures for TensorBoard as well.
        progress: show a progress bar with the loss, the speed and the time left.

    Raises:
        PrescoreError: a number is too small, or the name is not plain text.
    """

    name: str = "model"
    device: str = "cpu"
    accumulate: int = 1
    checkpoint_every: int = 500
    keep: int = 2
    sample_every: int = 0
    tensorboard: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        check_least(self, 1, "accumulate", "checkpoint_every", "keep")
        check_least(self, 0, "sample_every")
        if not self.name.isprintable():
            raise PrescoreError(f"name: {self.name!r} given; letters, digits and signs are needed")


@dataclass(frozen=True)
class TrainingResult:
    """Where the model is, and how the run went: `loss` is the mean of the last 500 steps.

    Attributes:
        is_finished: whether all steps are made; else a signal stopped the run.
        signal: its number, where it came to this process; else 0.
        is_first: of the processes: the one that reports.
    """

    model: Path
    steps: int
    seconds: float
    loss: float
    is_finished: bool
    signal: int = 0
    is_first: bool = True


def train(
    task: Task,
    config: TrainingConfig,
    out_dir: str | Path,
    options: RunOptions | None = None,
    *,
    init: str | Path | None = None,
    save_picture: SavePicture | None = None,
) -> TrainingResult:
    """Trains what the task describes, or goes on with the run that `out_dir` holds.

    `out_dir` receives checkpoint-STEP.safetensors (everything needed to go on), model.safetensors (averaged weights in
    half precision, or in float32 where that is too narrow, for `prescore.load`), loss.csv, and on request
    samples-STEP.png and the files of TensorBoard. Every file is replaced whole; models and checkpoints are written
    every `checkpoint_every` steps, at the end, and when Ctrl-C or SIGTERM stops the run.

    Args:
        task: what is learned from what: `find_recipe("edm").settings.task(TrainingData(images))`.
        config: length, optimizer, precision, seed.
        out_dir: folder, made if needed.
        options: see `RunOptions`.
        init: fine-tuning: a stored model, or the name of a shipped one, of the network that the task describes. Its
            weights are the first ones, and the first average; the optimizer is new. The run remembers a digest of
            them, never the path, and goes on without the model; if it is given again it must be the same.
        save_picture: writes samples in the units of the model, and their range, to a path; needed for `sample_every`.

    Raises:
        PrescoreError: the device or the precision cannot be used, the batch cannot be shared by the processes, the
            folder cannot be written, is another process's at the moment, or holds a run with other settings, data or
            first weights, `init` holds another network, or the loss or a weight is not finite.
    """
    options = options or RunOptions()
    with processes_on(options.device) as processes:
        check_size("batch_size", config.batch_size, NUMBERS * math.prod(task.data.event_shape))
        processes.shares(config.batch_size, options.accumulate)
        with _folder(out_dir, processes) as out:
            return _Run(task, config, out, options, processes, init, save_picture).finish()


class _Run:
    """The parts of a run, put together."""

    def __init__(
        self,
        task: Task,
        config: TrainingConfig,
        out: Path,
        options: RunOptions,
        processes: Processes,
        init: str | Path | None,
        save_picture: SavePicture | None,
    ) -> None:
        self.task, self.config, self.out, self.options = task, config, out, options
        self.processes, self.save_picture = processes, save_picture
        with naming("init"):
            weights = None if init is None else task.load(init)
        self.state: TrainingState = new_state(task, config, processes, weights)
        resume(out, self.state, task, config, options.accumulate, self._note)
        processes.wait()  # nobody writes while another one reads
        self.record = Record(out, self.state.step, self._writer(), self._note)

    def finish(self) -> TrainingResult:
        """Steps up to the last one, or until the run is interrupted."""
        state, config = self.state, self.config
        before, start = state.seconds, time.perf_counter()
        first = state.step
        with _interruptible() as received, self._progress_bar() as bar, ThreadPoolExecutor(1) as helper:

            def prepared(step: int) -> Future[Prepared]:
                return helper.submit(prepare, self.task, config, self.processes, self.options.accumulate, step)

            following = prepared(state.step)
            while state.step < config.steps and not self._any(received() > 0):
                now, following = following.result(), prepared(state.step + 1)  # made while the network computes
                rate = config.learning_rate_at(state.step)
                loss = train_step(state, config, self.processes, now)
                elapsed = time.perf_counter() - start
                state.seconds = before + elapsed
                self.record.add(state.step, loss, rate, (state.step - first) / elapsed)
                bar.set_postfix(loss=f"{self.record.recent:.4f}", refresh=False)
                bar.update()
                self._write_now_and_then()
            self._save()
            self.record.close()
        return TrainingResult(
            self.out / MODEL,
            state.step,
            state.seconds,
            self.record.recent,
            is_finished=state.step >= config.steps,
            signal=received(),
            is_first=self.processes.is_first,
        )

    def _write_now_and_then(self) -> None:
        """The picture first: a run that goes on from this checkpoint does not come back to this step."""
        step, options = self.state.step, self.options
        if options.sample_every and step % options.sample_every == 0 and self.processes.is_first:
            self._check_finite()
            network = averaged_network(self.task, self.state, self.processes.device)
            samples = self.task.preview(network, PICTURES, seed=0)
            self.record.add_pictures(step, samples, self.task.data_range)
            if self.save_picture is not None:
                self.save_picture(self.out / f"samples-{step:07d}.png", samples, self.task.data_range)
        if step % options.checkpoint_every == 0 and step < self.config.steps:
            self._save()

    def _check_finite(self) -> None:
        if not all(bool(value.isfinite().all()) for value in self.state.tensors().values()):
            raise PrescoreError(
                f"learning_rate: the weights are not finite at step {self.state.step}; take a smaller one"
            )

    def _save(self) -> None:
        """The losses first: those of steps after the checkpoint are dropped when the run goes on, none are missing.

        Raises:
            PrescoreError: the weights are not finite; what was written before is left as it is.
        """
        self._check_finite()
        if not self.processes.is_first:
            return
        self.record.write()
        options = self.options
        save_checkpoint(self.out, self.state, self.task, self.config, options.accumulate, options.keep)
        facts: dict[str, Any] = {
            "steps": self.state.step,
            "seconds": round(self.state.seconds),
            "loss": round(self.record.recent, 5),
            "torch": torch.__version__,
            "config": dataclasses.asdict(self.config),
            "settings": dataclasses.asdict(self.task.settings),
        }
        if self.state.init is not None:
            facts["init"] = self.state.init
        kind = "ema" if self.config.ema_decay else "raw"
        self.task.save(self.out / MODEL, self.state.average, self.options.name, facts, kind)

    def _any(self, is_interrupted: bool) -> bool:
        """Whether one of the processes was interrupted: they stop after the same step."""
        if self.processes.count == 1:
            return is_interrupted
        return bool(self.processes.mean(torch.tensor(float(is_interrupted), device=self.processes.device)) > 0)

    def _writer(self) -> Any:
        if not (self.options.tensorboard and self.processes.is_first):
            return None
        return tensorboard_writer(self.out, self.state.step, self._note)

    def _note(self, text: str) -> None:
        if self.processes.is_first:
            print(f"prescore: {printable(text)}", file=sys.stderr)

    def _progress_bar(self) -> "tqdm[Any]":
        is_shown = self.options.progress and self.processes.is_first
        return tqdm(total=self.config.steps, initial=self.state.step, disable=not is_shown, unit="step", desc="train")


@contextmanager
def _folder(out_dir: str | Path, processes: Processes) -> Iterator[Path]:
    """The folder, without what a killed attempt left half-written; a new one goes if an error leaves it empty.

    The first of the processes holds it.
    """
    out = Path(out_dir)
    with writing(out):
        is_new = not out.exists()
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    try:
        with held(out) if processes.is_first else nullcontext():
            sweep(out, PATTERN, MODEL, LOSSES, "samples-*")
            yield out
    except BaseException:
        if is_new:
            with suppress(OSError):  # it is not empty
                out.rmdir()
        raise


@contextmanager
def _interruptible() -> Iterator[Callable[[], int]]:
    """Turns the first Ctrl-C, or SIGTERM, into the number of a signal, 0 before; the second stops at once."""
    received = 0
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def remember(number: int, _: object) -> None:
        nonlocal received
        received = number
        signal.signal(number, previous[signal.Signals(number)])

    try:
        for number in previous:
            signal.signal(number, remember)
    except ValueError:  # only the main thread may listen to signals
        yield lambda: 0
        return
    try:
        yield lambda: received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
