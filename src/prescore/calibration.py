"""Everything that samplers may know beside the network, measured in one call."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.grid import geometric
from prescore.limits import MOST_LEVELS, check_count, check_size
from prescore.plan import reference_of, seen_by
from prescore.samplers.calibrated import FINE, KEPT, USUAL_TRAJECTORIES, USUAL_TRIES, measure_steps
from prescore.statistics import ModelStatistics, Statistics, in_range, measure_moments, score_statistics
from prescore.statistics.batches import Batch, batches, checked
from prescore.statistics.score import USUAL_LEVELS


def calibrate(
    data: Tensor | Iterable[Batch],
    *,
    data_range: tuple[float, float] = (0.0, 1.0),
    axes: int | None = None,
    components: int | None = None,
    model: Denoiser | None = None,
    calls: Sequence[int] | None = None,
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
        calls: numbers of network calls for which noise levels are tried; by default a range of them from 4 to 20.
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

    Cost: that of `measure_moments`; with a model, for each batch, `levels` network calls, and that of `measure_steps`.
    """
    if model is None:
        for name, value in {"calls": calls, "condition": condition}.items():
            if value is not None:
                raise PrescoreError(f"{name}: does nothing without a model")
        return Statistics(moments=measure_moments(data, data_range=data_range, axes=axes, components=components))
    if trajectories < 0:
        raise PrescoreError(f"trajectories: {trajectories} is negative; 0 leaves the steps out")
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
