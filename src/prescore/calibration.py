"""Everything that samplers may know beside the network, measured in one call."""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from prescore.data import DataWarning
from prescore.denoiser import Denoiser, check_condition
from prescore.errors import ModelWarning, PrescoreError, check_interval, is_whole
from prescore.gaussian import doubt_of, measure_shrinkage, trusted_level
from prescore.grid import geometric
from prescore.limits import MOST_LEVELS, MOST_SAMPLES, check_count, check_size
from prescore.plan import plan, reference_of, seen_by
from prescore.plan.known import Known
from prescore.samplers import make_sampler
from prescore.samplers.base import steps_for_calls
from prescore.samplers.calibrated import FEWEST, FINE, KEPT, RULES, USUAL_TRAJECTORIES, USUAL_TRIES, measure_steps
from prescore.samplers.fitting import MOST_CALLS, USUAL_FITTED, fit_weights
from prescore.samplers.starting import START_STEPS, STARTS, USUAL_STARTS, measure_start
from prescore.statistics import ModelStatistics, Statistics, in_range, measure_moments, score_statistics
from prescore.statistics.batches import USUAL, Batch, batches, checked
from prescore.statistics.score import USUAL_LEVELS
from prescore.tuned import TRIED_SOLVERS, TRIED_STEPS

USUAL_DATA = 200  # samples of data
ENOUGH = 50  # samples, of which the variance of a coordinate has a standard error of 20 %; 200 have 10 %
USUAL_OWN = 64  # samples of a model that stand for data
FEWEST_OWN = 4
CAREFUL, FEWEST_CAREFUL = 40, 8  # evaluations of the model for each of them
FIRST, SECOND = "unipc", "p-ode-3m"  # the solvers that draw them: without statistics, and with those of the first
USUAL_BATCH = 64
CHANNELS = (1, 2, 3, 4)  # of pictures


def calibrate(
    data: Tensor | np.ndarray | Iterable[Batch],
    *,
    data_range: tuple[float, float] | None = None,
    axes: int | None = None,
    components: int | None = None,
    model: Denoiser | None = None,
    calls: int | Sequence[int] | None = None,
    condition: Mapping[str, Tensor] | None = None,
    levels: int = USUAL_LEVELS,
    trajectories: int = USUAL_TRAJECTORIES,
    tries: int | None = None,
    fitted: int | None = None,
    batch_size: int = USUAL_BATCH,
    progress: bool = False,
) -> Statistics:
    """Measure the statistics of data, and of a model of them.

    Args:
        data, axes, components: as `prescore.statistics.measure_moments` takes them. With a model the data are read
            twice, so an iterator will not do.
        data_range: (lowest, highest) value the data may have; by default (0, 1) for bytes and pictures, events of
            three axes. Others, and those of a model that knows no range, may have any.
        model: whose score on the data, and whose solvers' steps, are to be measured too.
        calls: numbers of network calls, or one, for which noise levels are tried, and the weights of `p-fit` fitted;
            by default levels are tried for a range of them from 4 to 20, and no weights fitted.
        condition: named tensors with a row for each of the data, or one for all, passed to the model as keyword
            arguments; trajectories take the rows in turn.
        levels: at how many noise levels to measure the score, at least 2.
        trajectories: on how many samples to measure steps; 0 leaves this out.
        tries: on how many of these to try noise levels; 0 leaves this out.
        fitted: to how many samples to fit weights for these calls, 0 or at least 2; by default 48.
        batch_size: samples in one network call.
        progress: show bars that count network calls, on a terminal.

    Returns:
        Statistics in the range of the data or, with a model, of the model's data.

    Raises:
        PrescoreError: the data are not what `measure_moments` takes or of another shape than the model's, an argument
            is out of its range, or one would do nothing without a model.
        SamplingError: the model returned a wrong shape or values that are not finite.

    Warns:
        DataWarning: the data are fewer than ENOUGH.
        ModelWarning: the model errs more than the Gaussian model of the data.

    Cost: that of `measure_moments`; with a model, for each batch, `levels` network calls, as many again if it errs more
    than the Gaussian model at high noise, and those of `measure_steps` and `fit_weights`.
    """
    data = _as_samples(data)
    if data_range is not None:
        check_interval("data_range", data_range)
    condition = None if condition is None else check_condition(condition)
    if model is None:
        for name, value in {"calls": calls, "condition": condition}.items():
            if value is not None:
                raise PrescoreError(f"{name}: does nothing without a model")
        moments = measure_moments(data, data_range=data_range or USUAL, axes=axes, components=components)
        _doubt_few(moments.count, USUAL_DATA)
        return Statistics(moments=moments)
    measurement = _Measurement(model, calls, condition, levels, trajectories, tries, fitted, batch_size, progress)
    if isinstance(data, Iterator):
        raise PrescoreError(
            "data: an iterator is read once, and a model needs them twice; give a tensor or a DataLoader"
        )
    limits = None if data_range is None and model.data_range is None else data_range or USUAL
    moments = measure_moments(data, data_range=limits, axes=axes, components=components)
    if model.event_shape != moments.event_shape:
        raise PrescoreError(
            f"model: {model.name or 'it'} makes samples {model.event_shape}, the data are {moments.event_shape}"
        )
    _doubt_few(moments.count, USUAL_DATA)
    statistics = in_range(Statistics(moments=moments), model.data_range)
    seen = _Seen(data, moments.data_range, model, statistics.moments.mean if model.data_mean_removed else None)
    interval = model.data_range
    if interval is not None and model.data_mean_removed:
        interval = (interval[0] - interval[1], interval[1] - interval[0])
    return measurement.of(statistics, seen, interval)


def calibrate_model(
    model: Denoiser,
    *,
    n: int = USUAL_OWN,
    sample_calls: int | None = None,
    seed: int = 0,
    axes: int | None = None,
    components: int | None = None,
    calls: int | Sequence[int] | None = None,
    condition: Mapping[str, Tensor] | None = None,
    levels: int = USUAL_LEVELS,
    trajectories: int = USUAL_TRAJECTORIES,
    tries: int | None = None,
    fitted: int | None = None,
    batch_size: int = USUAL_BATCH,
    progress: bool = False,
) -> Statistics:
    """Measure a model without data: on samples that it draws itself.

    Half of the samples are drawn by `unipc`, which needs no statistics; with theirs, `p-ode-3m` draws all of them from
    the same seeds, from a start that has the mean and the variances of the data. What `calibrate` measures of data and
    model is then measured of these samples. They say nothing about data that the model does not draw, and how much it
    knows beside their Gaussian model (`left`) is what it believes itself.

    Args:
        model: a denoiser that says its noise range, conditional and guided or not.
        n: number of samples, at least 4.
        sample_calls: the most network calls that a sample may take, at least enough for 8 evaluations of the model; by
            default enough for 40, which many models need to be drawn from exactly.
        seed: of the first sample; the next ones count up.
        condition: named tensors whose rows the samples, and the trajectories, take in turn; passed to the model as
            keyword arguments. The statistics are those of all of them together.
        axes, components, calls, levels, trajectories, tries, fitted, batch_size, progress: as of `calibrate`.

    Returns:
        Statistics in the model's data range, whose `samples_of` names the model. Samples may leave the range.

    Raises:
        PrescoreError: an argument is out of its range.
        SamplingError: the model returned a wrong shape or values that are not finite.

    Warns:
        DataWarning: they are fewer than ENOUGH.
        ModelWarning: the model errs more than the Gaussian model of its own samples.

    Cost: at most `calls_to_calibrate` network calls, of at most `batch_size` samples each.
    """
    measurement = _Measurement(model, calls, condition, levels, trajectories, tries, fitted, batch_size, progress)
    sample_calls = _careful(model, n, sample_calls)
    check_size("n", n, 2 * 8 * math.prod(model.event_shape))
    if not is_whole(seed) or not 0 <= seed <= 2**64 - n:
        raise PrescoreError(f"seed: {seed!r} given; a whole number from 0 to 2**64 - {n}, that of the first, is needed")
    seeds = range(seed, seed + n)
    rows = _in_turn(condition, n)
    bare = replace(model, statistics=None)  # what it may bring was not measured here

    def drawn(name: str, count: int, statistics: Statistics | None) -> Tensor:
        return plan(bare, sampler=name, calls=sample_calls, statistics=statistics).sample(
            seeds[:count],
            batch_size=min(batch_size, count),
            condition={key: values[:count] for key, values in rows.items()},
            progress=progress,
        )

    def measured(x: Tensor, components: int | None = None) -> Statistics:
        moments = measure_moments(x, data_range=None, axes=axes, components=components)
        moments = replace(moments, data_range=model.data_range)
        return Statistics(moments=moments, samples_of=model.name or "the model")

    _doubt_few(n, USUAL_OWN)
    x = drawn(SECOND, n, measured(drawn(FIRST, n // 2, None)))
    return replace(measurement, condition=rows).of(measured(x, components), x, None)


def calls_to_calibrate(
    model: Denoiser,
    *,
    n: int = USUAL_OWN,
    sample_calls: int | None = None,
    calls: int | Sequence[int] | None = None,
    levels: int = USUAL_LEVELS,
    trajectories: int = USUAL_TRAJECTORIES,
    tries: int | None = None,
    fitted: int | None = None,
    batch_size: int = USUAL_BATCH,
) -> int:
    """The most network calls, of at most `batch_size` samples each, that `calibrate_model` makes with these arguments.

    Raises:
        PrescoreError: as `calibrate_model`.
    """
    measurement = _Measurement(model, calls, None, levels, trajectories, tries, fitted, batch_size, False)
    sample_calls = _careful(model, n, sample_calls)
    own = sum(math.ceil(count / batch_size) for count in (n // 2, n)) * sample_calls
    return own + measurement.most_calls(n)


@dataclass(frozen=True, eq=False)
class _Measurement:
    """What is to be measured of a model, by the arguments of `calibrate`, which are checked."""

    model: Denoiser
    given_calls: int | Sequence[int] | None
    condition: Mapping[str, Tensor] | None
    levels: int
    trajectories: int
    tries: int | None
    fitted: int | None
    batch_size: int
    progress: bool

    def __post_init__(self) -> None:
        model = self.model
        if not isinstance(model, Denoiser):
            raise PrescoreError(
                f"model: {type(model).__name__} given; a denoiser that says its noise range is needed, from "
                "prescore.load or as prescore.Denoiser(function, event_shape, sigma_min, sigma_max)"
            )
        for name, least in {"levels": 2, "trajectories": 0, "batch_size": 1}.items():
            if not is_whole(value := getattr(self, name)) or value < least:
                raise PrescoreError(f"{name}: {value!r} is not a whole number, at least {least}")
        for number in self.calls or ():
            if not is_whole(number) or number < 1:
                raise PrescoreError(f"calls: {number!r} is not a positive whole number")
        fitted, trajectories = self.fitted, self.trajectories
        if fitted is not None and (not is_whole(fitted) or fitted < 0 or fitted == 1):
            raise PrescoreError(f"fitted: {fitted!r} given; 0, or at least 2, is possible")
        if fitted is not None and (self.calls is None or trajectories == 0):
            what = "calls, for which weights are to be fitted" if self.calls is None else "trajectories"
            raise PrescoreError(f"fitted: does nothing without {what}")
        if self.tries is not None and not 0 <= self.tries <= trajectories:
            raise PrescoreError(
                f"tries: {self.tries} given; 0 to {trajectories}, the number of trajectories, are possible"
            )
        check_count("levels", self.levels, MOST_LEVELS)
        check_count("batch_size", self.batch_size, MOST_SAMPLES)
        coordinates = min(math.prod(model.event_shape), KEPT)
        check_size("trajectories", trajectories, 2 * 8 * FINE * coordinates)
        check_size("fitted", fitted or 0, 2 * 8 * FINE * coordinates)

    @property
    def calls(self) -> Sequence[int] | None:
        """Numbers of network calls to tune for; None for the usual ones."""
        return [self.given_calls] if isinstance(self.given_calls, int | str) else self.given_calls

    @property
    def tried(self) -> int:
        """Trajectories on which levels are tried."""
        return USUAL_TRIES if self.tries is None else self.tries

    @property
    def fits(self) -> int:
        """Trajectories to which weights are fitted."""
        count = USUAL_FITTED if self.fitted is None else self.fitted
        return count if self.calls is not None and self.trajectories else 0

    @property
    def starts(self) -> int:
        """How many samples to draw from either start."""
        return USUAL_STARTS * self.trajectories // USUAL_TRAJECTORIES

    def most_calls(self, n: int) -> int:
        """The most network calls that this takes with n data."""

        def batched(count: int) -> int:
            return math.ceil(count / self.batch_size)

        each, total = self.model.network_calls, 2 * batched(n) * self.levels  # the second time to shrink a bad network
        if self.trajectories:
            total += batched(self.trajectories) * FINE + len(STARTS) * batched(self.starts) * START_STEPS
            unipc = make_sampler("unipc")
            steps = TRIED_STEPS if self.calls is None else {steps_for_calls(unipc, n // each) for n in self.calls}
            runs = len(TRIED_SOLVERS) * len(RULES) * sum(T for T in steps if T >= FEWEST)
            total += batched(min(self.tried, self.trajectories)) * runs
            total += batched(self.fits) * MOST_CALLS * len(steps) if self.fits else 0
        return total * each

    def of(
        self, statistics: Statistics, seen: Tensor | Iterable[Tensor], limits: tuple[float, float] | None
    ) -> Statistics:
        """The statistics with what is measured of the model.

        Args:
            statistics: of the data, in the range of the model.
            seen: the data as the model sees them.
            limits: (lowest, highest) value of these, if it is known.
        """
        model = self.model
        score = score_statistics(
            model,
            seen,
            geometric(self.levels, model.sigma_min, model.sigma_max),
            data_range=limits,
            condition=self.condition,
            batch_size=self.batch_size,
            progress=self.progress,
        )
        measured = replace(statistics, model=ModelStatistics(score=score, guidance=model.guidance))
        if doubt := doubt_of(measured):
            warnings.warn(doubt, ModelWarning, stacklevel=3)
        reference = reference_of(seen_by(model, measured))
        if trusted_level(measured) is not None:
            shrinkage = measure_shrinkage(
                model,
                reference,
                seen,
                score.levels,
                limits=limits,
                condition=self.condition,
                batch_size=self.batch_size,
                progress=self.progress,
            )
            measured = replace(measured, model=replace(measured.model, shrinkage=shrinkage))
        if self.trajectories == 0:
            return measured
        # What `auto` leaves to the Gaussian model, or starts below, needs no levels.
        known = Known(replace(model, statistics=measured), measured)
        if (level := known.serving) is not None:
            model, _ = known.limited(level)
        steps, tuning = measure_steps(
            model,
            reference,
            trajectories=self.trajectories,
            tries=self.tried,
            calls=self.calls,
            condition=self.condition,
            batch_size=self.batch_size,
            progress=self.progress,
        )
        starts = measure_start(
            model,
            reference,
            steps.levels_by(tuning.rule("p-ode-3m", START_STEPS) or "gaussian", START_STEPS),
            samples=self.starts,
            condition=self.condition,
            batch_size=self.batch_size,
            progress=self.progress,
        )
        tuning = replace(tuning, starts=starts)
        if self.calls is not None and self.fits:
            fits = fit_weights(
                model,
                reference,
                steps,
                tuning,
                self.calls,
                trajectories=self.fits,
                condition=self.condition,
                batch_size=self.batch_size,
                progress=self.progress,
            )
            tuning = replace(tuning, fits=fits)
        return replace(measured, model=replace(measured.model, steps=steps), tuning=tuning)


def _doubt_few(count: int, usual: int) -> None:
    """Warn if the variances of so many samples are known badly.

    That of a coordinate which a sample has once, such as its lowest frequency, has a standard error of
    sqrt(2 / (n - 1)) of itself where the data are Gaussian, and a larger one where their tails are heavier.
    """
    if count < ENOUGH:
        error, less = (f"{math.sqrt(2 / (n - 1)):.0%}" for n in (count, usual))
        warnings.warn(
            f"{count} samples are few: the variance of a low frequency has a standard error of {error} of itself; with "
            f"{usual} it is {less}",
            DataWarning,
            stacklevel=3,
        )


def _careful(model: Denoiser, n: int, sample_calls: int | None) -> int:
    """The network calls of a sample that stands for data. Raises PrescoreError for bad numbers of either."""
    if not is_whole(n) or n < FEWEST_OWN:
        raise PrescoreError(f"n: {n!r} samples asked for; at least {FEWEST_OWN}, and rather {USUAL_OWN}, are needed")
    check_count("n", n, MOST_SAMPLES)
    least = FEWEST_CAREFUL * model.network_calls
    if sample_calls is None:
        return CAREFUL * model.network_calls
    if not is_whole(sample_calls) or sample_calls < least:
        usual = CAREFUL * model.network_calls
        raise PrescoreError(f"sample_calls: {sample_calls!r} given; at least {least}, and rather {usual}, are needed")
    check_count("sample_calls", sample_calls, MOST_LEVELS)
    return sample_calls


def _in_turn(condition: Mapping[str, Tensor] | None, n: int) -> dict[str, Tensor]:
    """The rows of a condition that n samples take in turn. Raises PrescoreError if it has none, or more than n."""
    rows = check_condition(condition)
    for name, values in rows.items():
        if not 1 <= len(values) <= n:
            raise PrescoreError(
                f"condition {name!r} has {len(values)} rows; 1 to {n}, the number of samples, are possible"
            )
    return {name: values[torch.arange(n) % len(values)] for name, values in rows.items()}


def _as_samples(data: Tensor | np.ndarray | Iterable[Batch]) -> Tensor | Iterable[Batch]:
    """The data as `measure_moments` takes them.

    Raises:
        PrescoreError: they look like something else than samples (N, C, *axes): channels last, one picture alone, or a
            list of pictures that are not stacked.
    """
    if isinstance(data, str | Path):
        raise PrescoreError(
            f"data: {str(data)[:100]!r} is a path; prescore.data.load_images reads pictures into a tensor"
        )
    if isinstance(data, Dataset):
        raise PrescoreError(f"data: a {type(data).__name__} gives single samples; a DataLoader of it gives batches")
    if isinstance(data, np.ndarray):
        data = torch.from_numpy(data)
    if isinstance(data, list | tuple) and data and all(isinstance(x, Tensor | np.ndarray) for x in data):
        if all(x.ndim == 3 and len(x) in CHANNELS for x in data):
            shape = tuple(data[0].shape)
            raise PrescoreError(f"data: a list of {len(data)} pictures {shape}; torch.stack makes one tensor of them")
        data = [torch.as_tensor(x) for x in data]
    if not isinstance(data, Tensor):
        return data
    shape = tuple(data.shape)
    if data.ndim == 3 and len(data) in CHANNELS and min(shape[1:]) > max(CHANNELS):
        raise PrescoreError(f"data: {shape} is one picture; about {USUAL_DATA} of them, (N, C, H, W), are needed")
    if data.ndim == 4 and shape[-1] in CHANNELS and min(shape[1:3]) > max(CHANNELS):
        raise PrescoreError(f"data: {shape} has its channels last; data.permute(0, 3, 1, 2) puts them first")
    if data.ndim == 2 and len(data) <= shape[1]:
        warnings.warn(
            f"data: {shape} is taken for {shape[0]} vectors of {shape[1]} numbers, too few for their covariance; one "
            "picture, or one channel of it, would be (N, C, H, W)",
            DataWarning,
            stacklevel=3,
        )
    if len(data) == 1:
        raise PrescoreError(f"data: 1 sample given; at least 2, and rather {USUAL_DATA}, are needed")
    return data


class _Seen:
    """The batches of data as a model sees them: in its range, and less their mean if it was removed."""

    def __init__(
        self,
        data: Tensor | Iterable[Batch],
        data_range: tuple[float, float] | None,
        model: Denoiser,
        mean: Tensor | None,
    ) -> None:
        self.data, self.data_range, self.model_range, self.mean = data, data_range, model.data_range, mean

    def __iter__(self) -> Iterator[Tensor]:
        for x in batches(self.data):
            if x.dtype == torch.uint8:
                seen = checked(x, self.model_range or self.data_range)
            elif self.data_range is None or self.model_range is None:
                seen = x.double()
            else:
                (low, high), (new_low, new_high) = self.data_range, self.model_range
                seen = new_low + (x.double() - low) / (high - low) * (new_high - new_low)
            yield seen if self.mean is None else seen - self.mean
