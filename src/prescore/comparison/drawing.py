"""Drawing and measuring the runs of a comparison that are not there yet."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from prescore.comparison.reference import ReferenceFigures, SampleMeasure, profile
from prescore.comparison.runs import Result, Run
from prescore.denoiser import Denoiser, Evaluator
from prescore.errors import PrescoreError, SamplingError
from prescore.limits import is_exhausted
from prescore.metrics import Conditioning
from prescore.metrics.measuring import finite
from prescore.processes import Processes
from prescore.samplers import Progress
from prescore.samplers.base import fill

Condition = Callable[[Sequence[int]], Mapping[str, Tensor]]  # that of the samples of some seeds


class Store(Protocol):
    """What keeps the runs."""

    @property
    def place(self) -> str:
        """Where they are, as a message has it; empty if they are nowhere when the process ends."""

    def open(self) -> None:
        """Prepare to keep something."""

    def result(self, run: Run) -> Result | None:
        """What came of a run, if it is finished."""

    def keep(self, run: Run, seeds: Sequence[int], pictures: Tensor | None, result: Result) -> None:
        """Keep what came of a run."""

    def figures(self, shape: tuple[int, ...]) -> ReferenceFigures | None:
        """What is known of the true samples of this shape, if it was kept."""

    def keep_figures(self, figures: ReferenceFigures) -> None:
        """Keep that."""


def draw_missing(
    runs: Iterable[Run],
    store: Store,
    seeds: Sequence[int],
    batch_size: int,
    condition_of: Condition | None,
    measure: Callable[[], SampleMeasure],
    value_range: tuple[float, float] | None,
    progress: bool = True,
    processes: Processes | None = None,
) -> None:
    """Draw and measure the runs that the store does not hold yet.

    Args:
        runs: all of them.
        store: of what came of them.
        seeds: of the samples, the same in each run.
        batch_size: samples in every network call; the last batch is filled up to it.
        condition_of: what the model is called with.
        measure: opens what measures them; called only if something is to be done.
        value_range: of the samples, which are mapped from it to [0, 1] before they are measured; None leaves them.
        progress: show a bar on a terminal.
        processes: that share the runs, in a store that all of them see; each draws whole runs, and waits for the last.
    """
    processes = processes or Processes(torch.device("cpu"))
    distinct = {run.key: run for run in runs}
    denoiser = next(iter(distinct.values())).plan.denoiser
    keys = processes.agreed([run.key for run in distinct.values() if store.result(run) is None])
    missing = [distinct[key] for key in processes.share.of(keys)]
    if not keys and store.figures(denoiser.picture_shape) is not None:
        return
    measured_by = measure()
    store.open()
    if processes.is_first:
        store.keep_figures(measured_by.figures)
    batches = [list(seeds[k : k + batch_size]) for k in range(0, len(seeds), batch_size)]
    calls = {run.key: run.calls * len(batches) for run in distinct.values()}
    done = sum(calls.values()) - sum(calls[run.key] for run in missing)
    with tqdm(
        total=sum(calls.values()),
        initial=done,
        unit="call",
        disable=None if progress and processes.is_first else True,
        leave=False,
    ) as bar:
        try:
            if missing:
                _warm_up(denoiser, batches[0], condition_of)
            for run in missing:
                bar.set_description(f"{run.name}, {run.calls} call{'s' * (run.calls != 1)}")
                pictures, result = _draw(run, batches, batch_size, condition_of, bar)
                if pictures is not None:
                    result = _measured(result, pictures, value_range, measured_by)
                store.keep(run, seeds, pictures, result)
                done += calls[run.key]
                bar.update(done - bar.n)
        except KeyboardInterrupt:
            left = sum(store.result(run) is None for run in missing)
            if not store.place:
                raise
            finished = f"{len(distinct) - left} of {len(distinct)} runs are in {store.place}"
            raise KeyboardInterrupt(f"{finished}, the same command draws the others") from None
        except Exception as error:
            if is_exhausted(error):
                raise PrescoreError(f"batch_size: {batch_size} samples do not fit into memory; lower it") from None
            raise
    processes.wait()


def _warm_up(denoiser: Denoiser, seeds: Sequence[int], condition_of: Condition | None) -> None:
    """Call the network once, so that what only a first call takes time for is in no run's seconds.

    What is wrong with its answer is said of each run.
    """
    condition = condition_of(seeds) if condition_of else {}
    x = torch.zeros(len(seeds), *denoiser.event_shape, dtype=denoiser.dtype, device=denoiser.device)
    sigma = torch.tensor(denoiser.sigma_max, dtype=denoiser.dtype, device=denoiser.device)
    with suppress(SamplingError), torch.no_grad():
        Evaluator(denoiser, condition)(x, sigma)


def _draw(
    run: Run, batches: Sequence[list[int]], size: int, condition_of: Condition | None, bar: tqdm
) -> tuple[Tensor | None, Result]:
    """The pictures of a run, float32, with the seconds it took and its conditioning; or why there are none."""
    seconds, pictures, done, conditioning = 0.0, [], bar.n, Conditioning()

    def advance(progress: Progress) -> None:
        conditioning(progress)
        bar.update(done + progress.calls - bar.n)

    for seeds in batches:
        condition = condition_of(seeds) if condition_of else None
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
    return torch.cat(pictures), Result(seconds=seconds, conditioning=finite(conditioning.values))


def _measured(
    result: Result, pictures: Tensor, value_range: tuple[float, float] | None, measure: SampleMeasure
) -> Result:
    low, high = value_range or (0.0, 1.0)
    found = measure((pictures - low) / (high - low))
    return replace(
        result,
        metrics=finite({name: estimate.value for name, estimate in found.estimates.items()}),
        deviations={name: estimate.deviations for name, estimate in found.estimates.items()},
        notes=list(found.notes),
        spectrum=profile(found.power, tuple(pictures.shape[1:])),
    )
