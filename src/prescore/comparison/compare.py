"""Samplers beside each other on one model, in one call."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prescore.comparison.drawing import draw_missing
from prescore.comparison.reference import Reading, ReferenceFigures, open_reference
from prescore.comparison.runs import Result, Run, estimates_of, parse_run, plan_runs, split_runs
from prescore.denoiser import Denoiser, condition_rows
from prescore.errors import PrescoreError, check_choice, is_whole
from prescore.jackknife import indistinguishable, with_error
from prescore.limits import MOST_SAMPLES, check_count
from prescore.metrics.evaluation import HIGHER_IS_BETTER
from prescore.metrics.sets import SetStatistics
from prescore.noise import check_seeds
from prescore.statistics import Statistics


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """One sampler with one number of network calls.

    Attributes:
        sampler: as it was asked for.
        allowed: network calls of a sample that were asked for.
        calls, steps: those that it made.
        seconds: that sampling took, without the network's first call and without measuring; None if it failed.
        metrics: by name; None is a value that is not finite.
        errors: their standard errors over draws of as many other seeds, beside the same true samples; None is unknown,
            as it is of fewer than ten samples. `prescore.jackknife` says how they are found.
        deviations: what each of ten blocks of seeds adds to an error; the error of the difference of two runs is the
            root of the sum of squares of the differences of theirs.
        notes: what to know about the metrics, one line each.
        failure: why there are no samples, if there are none.
        samples: (n, *shape), float32, or None.
    """

    sampler: str
    allowed: int
    calls: int
    steps: int
    seconds: float | None
    metrics: Mapping[str, float | None]
    errors: Mapping[str, float | None]
    deviations: Mapping[str, Sequence[float] | None] = field(repr=False)
    notes: Sequence[str]
    failure: str | None
    samples: Tensor | None = field(repr=False)


@dataclass(frozen=True, eq=False)
class Compared:
    """What came of a comparison.

    Attributes:
        runs: by number of calls and then by sampler.
        floor, floor_errors: metrics of as many true samples beside the other true ones, where these are known, and
            their standard errors.
        spectrum: power of true samples on rings of equal frequency, where it is known.
    """

    runs: Sequence[ComparedRun]
    floor: Mapping[str, float | None] | None
    floor_errors: Mapping[str, float | None] | None
    spectrum: Sequence[float] | None

    def best(self, metric: str, allowed: int) -> list[ComparedRun]:
        """The best run by a metric among those that were allowed so many calls, and all that cannot be told from it at
        95 % by the differences over the same seeds; none if there are fewer than ten samples.

        Raises:
            PrescoreError: no run has this metric.
        """
        known = {name for run in self.runs for name in run.metrics}
        check_choice("metric", metric, sorted(known))
        of = {k: estimates_of(run.metrics, run.deviations) for k, run in enumerate(self.runs) if run.allowed == allowed}
        found = {k: estimates[metric] for k, estimates in of.items() if metric in estimates}
        return [self.runs[k] for k in indistinguishable(found, metric in HIGHER_IS_BETTER)]

    def __repr__(self) -> str:
        names = list(dict.fromkeys(name for run in self.runs for name in run.metrics))
        rows = [["sampler", "calls", "seconds", *names]]
        for run in self.runs:
            seconds = run.failure or f"{run.seconds:.3g}"
            rows.append(
                [
                    run.sampler,
                    str(run.calls),
                    seconds,
                    *(_text(run.metrics.get(name), run.errors.get(name)) for name in names),
                ]
            )
        if self.floor is not None:
            rows.append(
                [
                    "true samples",
                    "",
                    "",
                    *(_text(self.floor.get(name), (self.floor_errors or {}).get(name)) for name in names),
                ]
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        notes = dict.fromkeys(note for run in self.runs for note in run.notes)
        return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def compare(
    model: Denoiser,
    samplers: str | Sequence[str],
    calls: int | Sequence[int],
    *,
    reference: Tensor | np.ndarray | SetStatistics | str | Path | None = None,
    features: str | None = None,
    metrics: Collection[str] | None = None,
    reference_n: int | None = None,
    data_range: tuple[float, float] | None = None,
    n: int = 64,
    seed: int = 0,
    batch_size: int = 64,
    statistics: Statistics | str | Path | None = None,
    start: str | None = None,
    condition: Mapping[str, Tensor] | None = None,
    progress: bool = False,
) -> Compared:
    """Draw the same seeds by several samplers with several numbers of network calls, and measure them.

    Args:
        model: a denoiser.
        samplers: names, each with options and grid where they are not the usual ones, as
            "pds[alpha=4,pixel]", "dpmpp-2m@karras", "auto"; in a row, or as text with commas.
        calls: numbers of network calls that each may make, or one.
        reference: true samples (N, *event), as `prescore.evaluate` takes them; by default the power spectrum in the
            statistics of the model's data, where they are known.
        features: what sees the samples, a name in `prescore.metrics.EXTRACTORS`; by default means of 2 x 2 pixels, and
            the numbers themselves of what is no picture.
        metrics: names in `prescore.metrics.METRICS`; by default all that are possible.
        reference_n: take at most so many true samples, by default 5000.
        data_range: of true samples that are floating-point numbers, as `prescore.evaluate` takes it.
        n, seed: samples of each run, and the seed of the first.
        batch_size: samples in one network call.
        statistics: of the model's data, or the path of their file; by default those that the model brings.
        start: where samples start, "noise" or "gaussian", as `prescore.plan` takes it, of all samplers that do not say
            their own, as "auto[start=noise]" does.
        condition: named tensors of n rows, or of one for all, passed to the model as keyword arguments.
        progress: show a bar on a terminal.

    Raises:
        PrescoreError: a sampler is unknown or cannot run on this model, or an argument does not fit the others.
    """
    if not isinstance(model, Denoiser):
        raise PrescoreError(f"model: {type(model).__name__} given; a prescore.Denoiser is needed")
    names = split_runs(samplers) if isinstance(samplers, str) else list(samplers)
    for name in names:
        parse_run(name)
    numbers = sorted({calls} if isinstance(calls, int) else set(calls))
    if not names or not numbers or not all(is_whole(number) and number > 0 for number in numbers):
        raise PrescoreError("samplers, calls: at least one of each is needed, calls as positive whole numbers")
    for argument, value in {"n": n, "batch_size": batch_size}.items():
        if not is_whole(value) or value < 1:
            raise PrescoreError(f"{argument}: {value!r} is not a positive whole number")
    check_count("n", n, MOST_SAMPLES)
    seeds = check_seeds(range(seed, seed + n))
    rows = condition_rows(condition, n)
    statistics = str(statistics) if isinstance(statistics, Path) else statistics
    runs = plan_runs(model, names, numbers, statistics, start=start)
    given = Path(reference) if isinstance(reference, str) else reference
    given = torch.from_numpy(given) if isinstance(given, np.ndarray) else given
    reading = Reading(features, None if metrics is None else list(metrics), reference_n, {"data_range": data_range})
    beside = open_reference(given, reading, model, statistics, n, seed)
    kept = _Kept()

    def condition_of(some: Sequence[int]) -> dict[str, Tensor]:
        return {name: values[[k - seed for k in some]] for name, values in rows.items()}

    draw_missing(runs, kept, seeds, min(batch_size, n), condition_of, beside.measure, beside.value_range, progress)
    return Compared([kept.run(run) for run in runs], kept.known.floor, kept.known.floor_errors, kept.known.spectrum)


class _Kept:
    """Runs in memory."""

    place = ""

    def __init__(self) -> None:
        self.results: dict[str, tuple[Result, Tensor | None]] = {}
        self.known = ReferenceFigures()

    def open(self) -> None:
        pass

    def result(self, run: Run) -> Result | None:
        return self.results[run.key][0] if run.key in self.results else None

    def keep(self, run: Run, seeds: Sequence[int], pictures: Tensor | None, result: Result) -> None:
        self.results[run.key] = result, pictures

    def figures(self, shape: tuple[int, ...]) -> ReferenceFigures | None:
        return None

    def keep_figures(self, figures: ReferenceFigures) -> None:
        self.known = figures

    def run(self, run: Run) -> ComparedRun:
        result, samples = self.results[run.key]
        return ComparedRun(
            run.name,
            run.allowed,
            run.calls,
            run.steps,
            result.seconds,
            result.metrics or {},
            result.errors,
            result.deviations or {},
            result.notes,
            result.failure,
            samples,
        )


def _text(value: float | None, error: float | None) -> str:
    return "" if value is None else with_error(value, error)
