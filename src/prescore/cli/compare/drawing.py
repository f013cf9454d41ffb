"""Drawing and measuring the runs of `prescore compare` that its folder does not hold yet."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from prescore.cli.compare.folder import RunFolder
from prescore.cli.compare.reference import SampleMeasure, profile
from prescore.cli.compare.runs import Result, Run
from prescore.metrics.measuring import finite
from prescore.cli.plan import ChosenClasses
from prescore.cli.report import calls_text
from prescore.denoiser import Denoiser, Evaluator
from prescore.errors import PrescoreError, SamplingError
from prescore.limits import is_exhausted
from prescore.samplers import Progress
from prescore.samplers.base import fill


def draw_missing(
    runs: Iterable[Run],
    store: RunFolder,
    seeds: Sequence[int],
    batch_size: int,
    chosen: ChosenClasses | None,
    measure: Callable[[], SampleMeasure],
) -> None:
    """Draw and measure the runs that the folder does not hold yet.

    Args:
        runs: all of them.
        store: the folder.
        seeds: of the samples, the same in each run.
        batch_size: samples in every network call; the last batch is filled up to it.
        chosen: classes of the samples.
        measure: opens what measures them; called only if something is to be done.
    """
    distinct = {run.key: run for run in runs}
    denoiser = next(iter(distinct.values())).plan.denoiser
    missing = [run for run in distinct.values() if store.result(run) is None]
    if not missing and store.figures(denoiser.picture_shape) is not None:
        return
    measured_by = measure()
    store.open()
    store.keep_figures(measured_by.figures)
    batches = [list(seeds[k : k + batch_size]) for k in range(0, len(seeds), batch_size)]
    calls = {run.key: run.calls * len(batches) for run in distinct.values()}
    done = sum(calls.values()) - sum(calls[run.key] for run in missing)
    with tqdm(total=sum(calls.values()), initial=done, unit="call", disable=None, leave=False) as bar:
        try:
            if missing:
                _warm_up(denoiser, batches[0], chosen)
            for run in missing:
                bar.set_description(f"{run.name}, {calls_text(run.calls)}")
                pictures, result = _draw(run, batches, batch_size, chosen, bar)
                if pictures is not None:
                    result = _measured(result, pictures, denoiser.picture_range, measured_by)
                store.keep(run, seeds, pictures, result)
                done += calls[run.key]
                bar.update(done - bar.n)
        except KeyboardInterrupt:
            left = sum(store.result(run) is None for run in missing)
            finished = f"{len(distinct) - left} of {len(distinct)} runs are in {store.path}"
            raise KeyboardInterrupt(f"{finished}, the same command draws the others") from None
        except Exception as error:
            if is_exhausted(error):
                raise PrescoreError(f"batch_size: {batch_size} samples do not fit into memory; lower it") from None
            raise


def _warm_up(denoiser: Denoiser, seeds: Sequence[int], chosen: ChosenClasses | None) -> None:
    """Call the network once, so that what only a first call takes time for is in no run's seconds.

    What is wrong with its answer is said of each run.
    """
    condition = chosen.condition(seeds) if chosen else {}
    x = torch.zeros(len(seeds), *denoiser.event_shape, dtype=denoiser.dtype, device=denoiser.device)
    sigma = torch.tensor(denoiser.sigma_max, dtype=denoiser.dtype, device=denoiser.device)
    with suppress(SamplingError), torch.no_grad():
        Evaluator(denoiser, condition)(x, sigma)


def _draw(
    run: Run, batches: Sequence[list[int]], size: int, chosen: ChosenClasses | None, bar: tqdm
) -> tuple[Tensor | None, Result]:
    """The pictures of a run, float32, with the seconds it took; or why there are none."""
    seconds, pictures, done = 0.0, [], bar.n

    def advance(progress: Progress) -> None:
        bar.update(done + progress.calls - bar.n)

    for seeds in batches:
        condition = chosen.condition(seeds) if chosen else None
        start = time.perf_counter()
        try:  # the check of the last state, inside, waits for the device
            x = run.plan.sample(seeds, batch_size=size, condition=condition, callback=advance, progress=False)
        except SamplingError as error:
            return None, Result(failure=str(error))
        seconds += time.perf_counter() - start
        done += run.calls
        pictures.append(run.plan.denoiser.decode(fill(x, size))[: len(seeds)].cpu().float())
        if not pictures[-1].isfinite().all():
            return None, Result(failure="samples are beyond the range of float32")
    return torch.cat(pictures), Result(seconds=seconds)


def _measured(result: Result, pictures: Tensor, value_range: tuple[float, float], measure: SampleMeasure) -> Result:
    low, high = value_range
    metrics, notes, power = measure((pictures - low) / (high - low))
    return replace(result, metrics=finite(metrics), notes=list(notes), spectrum=profile(power, pictures.shape[-1]))
