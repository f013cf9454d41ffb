"""Everything that samplers may know beside the network, measured in one call."""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from prescore.denoiser import Denoiser
from prescore.errors import ModelWarning, PrescoreError, check_interval, is_whole
from prescore.gaussian import doubt_of
from prescore.grid import geometric
from prescore.limits import MOST_LEVELS, check_count, check_size
from prescore.plan import reference_of, seen_by
from prescore.samplers.calibrated import FINE, KEPT, USUAL_TRAJECTORIES, USUAL_TRIES, measure_steps
from prescore.statistics import ModelStatistics, Statistics, in_range, measure_moments, score_statistics
from prescore.statistics.batches import Batch, batches, checked
from prescore.statistics.score import USUAL_LEVELS

CHANNELS = (1, 2, 3, 4)  # of pictures


def calibrate(
    data: Tensor | np.ndarray | Iterable[Batch],
    *,
    data_range: tuple[float, float] = (0.0, 1.0),
    axes: int | None = None,
    components: int | None = None,
    model: Denoiser | None = None,
    calls: int | Sequence[int] | None = None,
    condition: Mapping[str, Tensor] | None = None,
    levels: int = USUAL_LEVELS,
    trajectories: int = USUAL_TRAJECTORIES,
    tries: int | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> Statistics:
    """Measure the statistics of data, and of a model of them.

    Args:
        data, data_range, axes, components: as `prescore.statistics.measure_moments` takes them. With a model the data
            are read twice, so an iterator will not do.
        model: whose score on the data, and whose solvers' steps, are to be measured too.
        calls: numbers of network calls, or one, for which noise levels are tried; by default a range of them
            from 4 to 20.
        condition: named tensors with a row for each of the data, or one for all, passed to the model as keyword
            arguments; trajectories take the rows in turn.
        levels: at how many noise levels to measure the score.
        trajectories: on how many samples to measure steps; 0 leaves this out.
        tries: on how many of these to try noise levels; 0 leaves this out.
        batch_size: samples in one network call.
        progress: show bars that count network calls, on a terminal.

    Returns:
        Statistics in the range of the data or, with a model, of the model's data.

    Raises:
        PrescoreError: the data are not what `measure_moments` takes or of another shape than the model's, an argument
            is out of its range, or one would do nothing without a model.
        SamplingError: the model returned a wrong shape or values that are not finite.

    Warns:
        ModelWarning: the model errs more than the Gaussian model of the data.

    Cost: that of `measure_moments`; with a model, for each batch, `levels` network calls, and that of `measure_steps`.
    """
    data = _as_samples(data)
    check_interval("data_range", data_range)
    if model is None:
        for name, value in {"calls": calls, "condition": condition}.items():
            if value is not None:
                raise PrescoreError(f"{name}: does nothing without a model")
        return Statistics(moments=measure_moments(data, data_range=data_range, axes=axes, components=components))
    if not isinstance(model, Denoiser):
        raise PrescoreError(
            f"model: {type(model).__name__} given; a denoiser that says its noise range is needed, from prescore.load "
            "or as prescore.Denoiser(function, event_shape, sigma_min, sigma_max)"
        )
    calls = [calls] if isinstance(calls, int) else calls
    for name, value in {"levels": levels, "trajectories": trajectories, "batch_size": batch_size}.items():
        if not is_whole(value) or value < 0:
            raise PrescoreError(f"{name}: {value!r} is not a whole number, at least 0")
    if tries is not None and not 0 <= tries <= trajectories:
        raise PrescoreError(f"tries: {tries} given; 0 to {trajectories}, the number of trajectories, are possible")
    check_count("levels", levels, MOST_LEVELS)
    coordinates = min(math.prod(model.event_shape), KEPT)
    check_size("trajectories", trajectories, 2 * 8 * FINE * coordinates)
    if isinstance(data, Iterator):
        raise PrescoreError(
            "data: an iterator is read once, and a model needs them twice; give a tensor or a DataLoader"
        )
    moments = measure_moments(data, data_range=data_range, axes=axes, components=components)
    if model.event_shape != moments.event_shape:
        raise PrescoreError(
            f"model: {model.name or 'it'} makes samples {model.event_shape}, the data are {moments.event_shape}"
        )
    statistics = in_range(Statistics(moments=moments), model.data_range)
    seen = _Seen(data, data_range, model, statistics.moments.mean if model.data_mean_removed else None)
    low, high = model.data_range
    score = score_statistics(
        model,
        seen,
        geometric(levels, model.sigma_min, model.sigma_max),
        data_range=(low - high, high - low) if model.data_mean_removed else None,
        condition=condition,
        batch_size=batch_size,
        progress=progress,
    )
    measured = Statistics(moments=statistics.moments, model=ModelStatistics(score=score))
    if doubt := doubt_of(measured):
        warnings.warn(doubt, ModelWarning, stacklevel=2)
    if trajectories == 0:
        return measured
    steps, tuning = measure_steps(
        model,
        reference_of(seen_by(model, measured)),
        trajectories=trajectories,
        tries=USUAL_TRIES if tries is None else tries,
        calls=calls,
        condition=condition,
        batch_size=batch_size,
        progress=progress,
    )
    return Statistics(moments=measured.moments, model=ModelStatistics(score=score, steps=steps), tuning=tuning)


def _as_samples(data: Tensor | np.ndarray | Iterable[Batch]) -> Tensor | Iterable[Batch]:
    """The data as `measure_moments` takes them.

    Raises:
        PrescoreError: they look like something else than samples (N, C, *axes): channels last, one picture alone, or a
            list of pictures that are not stacked.
    """
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
        raise PrescoreError(f"data: {shape} is one picture; about 200 of them, (N, C, H, W), are needed")
    if data.ndim == 4 and shape[-1] in CHANNELS and min(shape[1:3]) > max(CHANNELS):
        raise PrescoreError(f"data: {shape} has its channels last; data.permute(0, 3, 1, 2) puts them first")
    if len(data) == 1:
        raise PrescoreError("data: 1 sample given; at least 2, and rather 200, are needed")
    return data


class _Seen:
    """The batches of data as a model sees them: in its range, and less their mean if it was removed."""

    def __init__(
        self, data: Tensor | Iterable[Batch], data_range: tuple[float, float], model: Denoiser, mean: Tensor | None
    ) -> None:
        self.data, self.data_range, self.model_range, self.mean = data, data_range, model.data_range, mean

    def __iter__(self) -> Iterator[Tensor]:
        (low, high), (new_low, new_high) = self.data_range, self.model_range
        for x in batches(self.data):
            if x.dtype == torch.uint8:
                seen = checked(x, self.model_range)
            else:
                seen = new_low + (x.double() - low) / (high - low) * (new_high - new_low)
            yield seen if self.mean is None else seen - self.mean
