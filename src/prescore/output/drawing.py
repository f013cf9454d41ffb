"""Samples of a plan, drawn batch by batch into files, by one process or many."""

import copy
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from tqdm import tqdm

from prescore.denoiser import Denoiser, Evaluator
from prescore.errors import PrescoreError, SampleWarning, is_whole
from prescore.images import to_uint8
from prescore.limits import is_exhausted
from prescore.noise import check_seeds
from prescore.output import open_output
from prescore.output.files import Output, Settings
from prescore.output.trajectory import Trajectory
from prescore.plan import Plan, examination
from prescore.processes import Processes, Share, parse_share, processes_on
from prescore.samplers import Progress
from prescore.samplers.base import fill

USUAL_BATCH = 16
LARGEST_BATCH = 4096  # that is tried
GAIN = 0.95  # of the time for a sample in half the batch, above which a larger one is of no use
PATIENCE = timedelta(days=30)  # of a process that is ready, with the others
AUTO = "auto"
Condition = Callable[[Sequence[int]], Mapping[str, Tensor] | None]


@dataclass(frozen=True)
class Written:
    """What `write_samples` did.

    Attributes:
        path: where the samples are.
        samples: how many of them were drawn now, by all processes.
        calls: network calls that all processes made, for a batch each.
        seconds: that it took.
        batch_size: samples in each call.
        is_complete: whether all seeds of all shares are there; a file always is.
        warnings: what is doubtful about the samples that this process drew, and what to do (`prescore.examine`).
    """

    path: Path
    samples: int
    calls: int
    seconds: float
    batch_size: int
    is_complete: bool
    warnings: tuple[str, ...] = ()


def write_samples(
    plan: Plan,
    out: str | Path,
    seeds: Sequence[int],
    *,
    batch_size: int | str | None = None,
    shard_size: int | None = None,
    shard_format: str | None = None,
    as_numbers: bool = False,
    condition: Condition | None = None,
    share: Share | str | None = None,
    trajectory: str | Path | None = None,
    settings: Settings | None = None,
    processes: Processes | None = None,
    before: Callable[[Output, int, int | None], None] | None = None,
    progress: bool = True,
) -> Written:
    """Draw one sample for each seed and write it: what `prescore sample` does.

    Sample k depends on seed k alone, so that files are the same whatever draws them: one process, or those that
    `torchrun` or `accelerate launch` started, each of which draws whole batches, and writes them if `out` is a folder.
    There what is written stays, and the same call draws what is missing.

    Args:
        plan: how; its model is on the device of this process.
        out: NAME.png is one grid, NAME.npz arrays, anything else a folder.
        seeds: different integers in [0, 2**64).
        batch_size: samples in every network call, the last batch filled up to it; 16 by default, or as many as there
            are seeds if these are fewer. "auto" takes what `fitting_batch` finds.
        shard_size: write the folder as shards, each for so many seeds, instead of one PNG a sample.
        shard_format: "npz", the default, or "webdataset": tars of a picture (or .npy) and a .json for each sample.
        as_numbers: float32 in the units of the data, which only an .npz or shards hold, instead of bytes; it is so
            anyway for samples that are no pictures, or of no known range.
        condition: gives the condition, named tensors of one row a seed, for the seeds of a batch.
        share: draw only this one of several equal shares, which other runs complete: a `Share`, "3/16", or "slurm" for
            that of a task of a SLURM array. `out` has to be a folder.
        trajectory: write the states after each step as well, as NAME.npy; by one process, of all samples.
        settings: JSON values that decide the samples beside the plan's, such as which model it is. A folder goes on
            only with the same.
        processes: those that share the work, if they are known already.
        before: called with the output, the size of a batch, and the network calls that this process will make (None if
            the sampler does not know), before the first of them.
        progress: show a bar, on a terminal, in the first process.

    Raises:
        PrescoreError: the samples cannot be written there, a folder has samples of other settings, a batch does not fit
            into memory, or an argument is none that is possible.
        SamplingError: as `prescore.sample`.
        KeyboardInterrupt: says what is left to be drawn.
    """
    if not isinstance(plan, Plan):
        raise PrescoreError(f"plan: {type(plan).__name__} given; what prescore.plan returns is needed")
    wanted = check_seeds(seeds)
    if len(set(wanted)) < len(wanted):
        raise PrescoreError("seeds: one of them is given twice")
    own = parse_share(share) if isinstance(share, str) else share or Share()
    all_settings = {**(settings or {}), **plan.settings}
    is_arrays = shard_size is not None or Path(out).suffix.lower() == ".npz"
    as_numbers = as_numbers or (plan.picture_range is None and is_arrays)
    output = open_output(
        Path(out),
        wanted,
        all_settings,
        plan.denoiser.picture_shape,
        as_numbers=as_numbers,
        shard_size=shard_size,
        shard_format=shard_format,
    )
    if not output.as_numbers and plan.picture_range is None:
        raise PrescoreError("model: it knows no range of values, by which pictures are scaled; write an .npz file")
    if own.count > 1 and not output.is_folder:
        raise PrescoreError(f"shard: several runs cannot write {out} together; name a folder")
    with _joined(processes, plan.denoiser.device) as processes:
        try:
            size = _batch(plan.denoiser, batch_size, wanted, condition, processes)
            if trajectory is not None and max(own.count, processes.count) > 1:
                raise PrescoreError("trajectory: it is written by one process, which draws all samples")
            states = None if trajectory is None else Trajectory(trajectory, plan, output)
            present, units = output.present(), own.of(output.units(size))
            missing = [k for k, unit in enumerate(units) if not all(map(present.issuperset, unit))]
            todo = processes.share.of(processes.agreed(missing))  # each process might see what another has just written
            batches = [batch for k in todo for batch in units[k] if not present.issuperset(batch)]
            if batches and (doubt := output.batched(size)) is not None and processes.is_first:
                warnings.warn(doubt, SampleWarning, stacklevel=2)
            calls = None if plan.calls is None else len(batches) * plan.calls
            if before is not None and processes.is_first:
                before(output, size, calls)
            start = time.perf_counter()
            with _bar(output, processes, calls, progress) as update:
                made, drawn, doubts = _draw(plan, output, batches, present, size, condition, update, states)
                output.finish(processes)
                if states is not None:
                    states.finish()
            made, drawn = processes.total(made), processes.total(drawn)
        except KeyboardInterrupt:
            again = "" if trajectory is None else "; the trajectory is lost, and needs another folder"
            raise KeyboardInterrupt(f"{output.remains()}{again}") from None
        except PrescoreError:
            raise
        except Exception as error:
            if is_exhausted(error):
                raise PrescoreError(f"batch_size: {size} samples do not fit into memory; lower it") from None
            raise
    is_complete = not output.is_folder or len(output.present()) == len(wanted)
    for doubt in doubts:
        warnings.warn(doubt, SampleWarning, stacklevel=2)
    return Written(output.path, drawn, made, time.perf_counter() - start, size, is_complete, doubts)


def fitting_batch(denoiser: Denoiser, most: int = LARGEST_BATCH, condition: Mapping[str, Tensor] | None = None) -> int:
    """The number of samples in a network call, a power of 2 or `most`, beyond which it is no faster for each of them.

    The network is called with more and more samples, until they do not fit into memory or a sample takes more than
    0.95 of its time in half the number. Another run may find another number.

    Args:
        denoiser: the model, on its device.
        most: at most so many.
        condition: named tensors of one row, if the model needs one.

    Raises:
        PrescoreError: not even one sample fits.
    """
    if not isinstance(denoiser, Denoiser):
        raise PrescoreError(f"denoiser: {type(denoiser).__name__} given; a prescore.Denoiser is needed")
    if not is_whole(most) or most < 1:
        raise PrescoreError(f"most: {most!r} is not a positive whole number")
    best, seconds, size = 0, float("inf"), 1
    sigma = torch.as_tensor(1.0 if denoiser.sigma_max is None else denoiser.sigma_max, device=denoiser.device)
    while True:
        try:
            each = _seconds(denoiser, sigma, size, condition) / size
        except Exception as error:
            if not is_exhausted(error):
                raise
            each = float("inf")
        if each > GAIN * seconds or each == float("inf"):
            break
        best, seconds = size, each
        if size == most:
            break
        size = min(2 * size, most)
    if best == 0:
        raise PrescoreError("batch_size: not even one sample fits into memory")
    if denoiser.device.type == "cuda":
        torch.cuda.empty_cache()
    return best


@torch.no_grad()
def _seconds(denoiser: Denoiser, sigma: Tensor, size: int, condition: Mapping[str, Tensor] | None) -> float:
    """Of a network call with so many samples, after a first one."""
    x = torch.zeros(size, *denoiser.event_shape, dtype=denoiser.dtype, device=denoiser.device)
    rows = {name: fill(value, size) for name, value in (condition or {}).items()}
    model, found = Evaluator(denoiser, rows), []
    for _ in range(4):
        start = time.perf_counter()
        model(x, sigma)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        found.append(time.perf_counter() - start)
    return median(found[1:])


def _batch(
    denoiser: Denoiser, asked: int | str | None, seeds: Sequence[int], condition: Condition | None, processes: Processes
) -> int:
    if asked == AUTO:
        row = None if condition is None else condition(seeds[:1])
        return processes.agreed(fitting_batch(denoiser, min(LARGEST_BATCH, len(seeds)), row))
    size = min(USUAL_BATCH, len(seeds)) if asked is None else asked
    if not is_whole(size) or not isinstance(size, int) or size < 1:
        raise PrescoreError(f"batch_size: {asked!r} is not a positive whole number, nor auto")
    return size


@contextmanager
def _joined(processes: Processes | None, device: torch.device) -> Iterator[Processes]:
    if processes is not None:
        yield processes
        return
    with processes_on(device, PATIENCE) as found:
        yield found


@contextmanager
def _bar(output: Output, processes: Processes, calls: int | None, progress: bool) -> Iterator[Callable[[int], object]]:
    """Shows the calls of a single process, or the samples in a folder that several fill; yields what counts calls."""
    is_shared = processes.count > 1 and output.is_folder
    total, unit = (len(output.seeds), "sample") if is_shared else (calls, "call")
    start = len(output.present()) if is_shared else 0
    disable = None if progress and processes.is_first else True
    with tqdm(total=total, initial=start, unit=unit, disable=disable, leave=False) as bar:
        if not is_shared or bar.disable:
            yield bar.update
            return
        ended, watched = threading.Event(), copy.deepcopy(output)

        def watch() -> None:
            pause = 1.0
            while not ended.wait(pause):
                began = time.perf_counter()
                try:
                    bar.update(len(watched.present()) - bar.n)
                except PrescoreError:  # the one that draws will say it
                    return
                pause = max(1.0, 50 * (time.perf_counter() - began))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield lambda _: None
        finally:
            ended.set()
            thread.join()


def _draw(
    plan: Plan,
    output: Output,
    batches: Sequence[Sequence[int]],
    present: set[int],
    size: int,
    condition: Condition | None,
    update: Callable[[int], object],
    callback: Callable[[Progress], None] | None,
) -> tuple[int, int, tuple[str, ...]]:
    """Network calls that were made, samples that were drawn, without those that were present, and what is doubtful."""
    denoiser, made, drawn, found = plan.denoiser, 0, 0, examination(plan)
    bounds = plan.picture_range or (0.0, 1.0)  # of numbers alone they may be unknown

    def counted(x: Tensor, sigma: Tensor, **conditions: Tensor) -> Tensor:
        nonlocal made
        made += denoiser.network_calls
        update(denoiser.network_calls)
        return denoiser(x, sigma, **conditions)

    counting = replace(plan, denoiser=replace(denoiser, function=counted))
    for seeds in batches:
        rows = None if condition is None else condition(seeds)
        x = counting.sample(seeds, batch_size=size, condition=rows, callback=callback, progress=False)
        found.add(x)
        pictures = denoiser.decode(fill(x, size))[: len(seeds)]
        numbers = pictures.cpu().float() if output.as_numbers else to_uint8(pictures, bounds)
        new = [k for k, seed in enumerate(seeds) if seed not in present]
        output.add([seeds[k] for k in new], numbers[new])
        drawn += len(new)
    return made, drawn, found.doubts
