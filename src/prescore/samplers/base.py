"""What a sampler is, and the loop that drives one.

A sampler is a frozen set of hyper-parameters with one pure function,

    step(denoise, x, sigma, sigma_next, state, noise) -> (x, state)

from noise level sigma to the lower sigma_next, in unscaled coordinates x = x0 + sigma n. What a step has to
remember travels in `state`, never in the sampler, so two trajectories may interleave. `sample` owns everything
else: the noise levels, the random numbers, the float64 state, the count of network calls, the progress bar, and
the checks that turn a misbehaving model into one clear sentence.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor
from tqdm import tqdm

from prescore.denoiser import Denoise, Evaluator, condition_rows
from prescore.errors import PrescoreError, check_choice, is_whole
from prescore.grid import check_apart, check_grid, check_range, geometric
from prescore.limits import MOST_LEVELS, MOST_SAMPLES, check_count, check_size
from prescore.noise import NoiseSource, check_seeds
from prescore.operators import Identity
from prescore.precondition import Preconditioner
from prescore.schedule import Schedule

HELD = 4  # states of a batch that any sampler holds at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampler:
    """Hyper-parameters common to all samplers.

    Args:
        steps: number T of steps. The noise levels are then the sampler's usual ones over the model's range.
        grid: or the noise levels themselves, a decreasing 1-D tensor that may end in 0; T + 1 levels make T steps.
            With neither, `steps` is the class's `usual_steps`.

    Raises:
        PrescoreError: both are given, `steps` is not a positive integer, `grid` is not a valid grid, or an option is
            none of the words in `choices`.
    """

    steps: int | None = None
    grid: Tensor | None = None

    family: ClassVar[str]
    usual_steps: ClassVar[int] = 50
    choices: ClassVar[Mapping[str, Sequence[str]]] = {}  # the words that an option may be, where there are few

    def __post_init__(self) -> None:
        own = {name for name, hint in inspect.get_annotations(type(self)).items() if "ClassVar" not in str(hint)}
        if lost := own - {field.name for field in fields(self)}:
            raise TypeError(
                f"{type(self).__name__}: {', '.join(sorted(lost))} would be lost; decorate the class by "
                "@dataclass(frozen=True, kw_only=True, eq=False)"
            )
        if self.steps is not None and self.grid is not None:
            raise PrescoreError("steps and grid: give one of them, the grid already fixes the number of steps")
        if self.steps is not None and (not is_whole(self.steps) or self.steps < 1):
            raise PrescoreError(f"steps: {self.steps!r} is not a positive whole number")
        check_count("steps", self.steps or 0, MOST_LEVELS)
        if self.grid is not None:
            object.__setattr__(self, "grid", check_grid(self.grid))
        for name, words in self.choices.items():
            if not isinstance(value := getattr(self, name), Schedule):
                check_choice(name, value, words)

    @property
    def order(self) -> int:
        """Order of convergence in the step: of the state if the steps are deterministic, else of its moments (weak)."""
        return 1

    @property
    def strong_order(self) -> float | None:
        """Order of convergence along one Brownian path; None for a deterministic sampler."""
        return 1 if self.stochastic else None

    @property
    def stochastic(self) -> bool:
        """Whether the steps draw random numbers (the initial state always does)."""
        return True

    def levels(self, sigma_min: float | None, sigma_max: float | None) -> Tensor:
        """Decreasing noise levels, float64, shape (T + 1,): the given grid, or the usual one on the range."""
        if self.grid is not None:
            return self.grid
        if sigma_min is None or sigma_max is None:
            raise PrescoreError(
                "the model does not say its noise range: give the sampler a grid of noise levels, "
                "or wrap the model as prescore.Denoiser(function, event_shape, sigma_min, sigma_max)"
            )
        check_range(sigma_min, sigma_max)
        return check_grid(check_apart(self.usual_levels(sigma_min, sigma_max, self.steps or self.usual_steps)))

    def usual_levels(self, sigma_min: float, sigma_max: float, steps: int) -> Tensor:
        """T levels in geometric progression from sigma_max to sigma_min, then 0."""
        return geometric(steps, sigma_min, sigma_max, final_zero=True)

    def initial(self, noise: NoiseSource, sigma: Tensor) -> Tensor:
        """The state at the highest level: sigma_max n."""
        return sigma * noise()

    def start(self, levels: Tensor) -> Any:
        """The state that the first step receives; `levels` are all the noise levels to come."""
        return None

    def step(
        self, denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: Any, noise: NoiseSource
    ) -> tuple[Tensor, Any]:
        """One step from sigma to sigma_next < sigma (0-d float64 tensors); x has shape (B, *event)."""
        raise TypeError(f"{type(self).__name__} does not define a step")

    def total_calls(self, steps: int, final_zero: bool = True) -> int | None:
        """Network calls that `steps` steps take on a grid that does (or does not) end in 0; None if not known."""
        return steps

    def check(self, event_shape: tuple[int, ...], levels: Tensor) -> None:
        """Raise PrescoreError if this sampler cannot run on these events and levels."""

    def unused(self, levels: Tensor) -> dict[str, str]:
        """Options that do nothing beside the others on these levels, and beside what; `prescore.plan` refuses them."""
        return {}

    def diagnosis(self, event_shape: tuple[int, ...], levels: Tensor) -> str:
        """What the sampler knows about why its state may have diverged; empty if nothing."""
        return ""


def steps_for_calls(sampler: Sampler, calls: int, final_zero: bool = True) -> int:
    """The largest number of steps of this sampler that take at most `calls` network calls.

    Args:
        sampler: its own number of steps is not looked at.
        calls: of the network, for one sample.
        final_zero: whether the noise levels will end in 0, as all usual ones do.

    Raises:
        PrescoreError: `calls` is not a positive whole number, the sampler's calls are not known before, or even one
            step takes more.

    >>> steps_for_calls(Sampler(), 10)
    10
    """
    if not isinstance(calls, int) or calls < 1:
        raise PrescoreError(f"calls: {calls!r} is not a positive whole number")
    check_count("calls", calls, MOST_LEVELS)
    least = sampler.total_calls(1, final_zero)
    if least is None:
        raise PrescoreError("calls: this sampler makes as many as its tolerance needs; give it tolerances instead")
    if least > calls:
        raise PrescoreError(f"calls: {calls} given, but one step of this sampler takes {least}")
    return next(steps for steps in range(calls, 0, -1) if (sampler.total_calls(steps, final_zero) or 0) <= calls)


@dataclass(frozen=True, kw_only=True, eq=False)
class Preconditionable(Sampler):
    """A sampler that can use a preconditioner.

    Args:
        preconditioner: M; none is the plain sampler.
    """

    preconditioner: Preconditioner | None = None

    @property
    def M(self) -> Preconditioner:
        """The preconditioner, or the identity."""
        return self.preconditioner or Preconditioner(Identity())

    def check(self, event_shape: tuple[int, ...], levels: Tensor) -> None:
        self.M.check(event_shape)


def iterations_factor(original_steps: int | None, steps: int) -> float:
    """c = T0 / T: the factor by which T steps are fewer than the T0 that a step size is meant for; 1 without a T0.

    Raises:
        PrescoreError: T0 is not a positive whole number, or too large for one of steps.
    """
    if original_steps is None:
        return 1.0
    if not is_whole(original_steps) or original_steps < 1:
        raise PrescoreError(f"original_steps: {original_steps!r} is not a positive whole number, such as 1000")
    check_count("original_steps", original_steps, MOST_LEVELS)
    return original_steps / steps


@dataclass(frozen=True)
class Progress:
    """What a callback receives after each step.

    Attributes:
        step: index of the step just taken, from 0.  steps: their number T.
        sigma, sigma_next: noise levels before and after it.
        x: state after it, (B, *event).  denoised: the last prediction of x0 in it, (B, *event).
        calls: network calls of this batch so far.  seeds: the seeds of this batch.
        state: what the sampler will remember in its next step, with the rows that fill up a short batch.
    """

    step: int
    steps: int
    sigma: float
    sigma_next: float
    x: Tensor
    denoised: Tensor
    calls: int
    seeds: Sequence[int]
    state: Any


def score(denoise: Denoise, x: Tensor, sigma: Tensor) -> Tensor:
    """grad log p(x; sigma) = (D(x, sigma) - x) / sigma**2 (Tweedie)."""
    return (denoise(x, sigma) - x).div_(sigma**2)


def fill(rows: Tensor, size: int) -> Tensor:
    """The rows (B, ...), the last one repeated until they are `size` >= B."""
    return rows[torch.arange(size).clamp(max=len(rows) - 1)]


def sample(
    denoiser: Denoise,
    sampler: Sampler,
    *,
    seeds: Iterable[int],
    event_shape: Sequence[int] | None = None,
    batch_size: int | None = None,
    callback: Callable[[Progress], None] | None = None,
    progress: bool = True,
    condition: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float64,
    initial: Tensor | None = None,
    draw: int = 0,
) -> Tensor:
    """Draw one sample for each seed.

    Sample k is a function of seed k alone, up to the rounding of the network: one that is called with another number of
    rows, or on another number of threads or another device, may sum in another order. With the same `batch_size`,
    threads and device a run gives the same bits, and its sample k has the same bits in any other run that has it at
    the same place of its batch. At another place it may differ in the last ones; networks of convolutions do not.

    Args:
        denoiser: any function `(x, sigma) -> x0`, such as what `prescore.load` returns. It is called with x of
            shape (B, *event) and a 0-d sigma, in its own `dtype` and on its own `device` if it has these
            attributes or parameters, else in float32 on the CPU.
        sampler: from `prescore.make_sampler`.
        seeds: one integer for each sample.
        event_shape: shape of one sample; needed if the denoiser has no attribute `event_shape`.
        batch_size: samples in every network call; all at once by default. A short batch is filled up by repeating its
            last sample, which costs what a whole one does, except where a sampler's norm="batch" makes a sample depend
            on its batch-mates.
        callback: receives a `Progress` after each step of each batch.
        progress: show a bar that counts network calls, on a terminal.
        condition: named tensors, arrays or lists of N rows, one for each sample, or of one for all, passed to the
            denoiser as keyword arguments.
        dtype: of the state between the calls. A step is computed in the precision of the network's answer, float32
            at least, and added to the state.
        initial: states at the highest noise level, (N, *event), where the sampler would draw them, for a run that
            goes on from another.
        draw: index of the first draw of each sample; a run that goes on from another takes draws of its own.

    Returns:
        Samples in the model's own coordinates, shape (N, *event), in `dtype` on the model's device.

    Raises:
        PrescoreError: an argument does not fit the others.
        SamplingError: the model returned a wrong shape, or the state is no longer finite.
    """
    if not isinstance(sampler, Sampler):
        raise PrescoreError(
            f"sampler: {type(sampler).__name__} given; a sampler from prescore.make_sampler is needed (prescore.draw "
            "takes names)"
        )
    shape = _event_shape(denoiser, event_shape)
    if isinstance(seeds, Sized):
        check_count("seeds", len(seeds), MOST_SAMPLES)
        check_size("seeds", len(seeds), dtype.itemsize * math.prod(shape))
    numbers = check_seeds(seeds)
    levels = sampler.levels(getattr(denoiser, "sigma_min", None), getattr(denoiser, "sigma_max", None))
    sampler.check(shape, levels)
    _check_reference(sampler, denoiser)
    if dtype not in (torch.float32, torch.float64):
        raise PrescoreError(
            f"dtype: {dtype} given; the state is float32 or float64 (the network has a dtype of its own)"
        )
    size = len(numbers) if batch_size is None else batch_size
    if not is_whole(size) or size < 1:
        raise PrescoreError(f"batch_size: {batch_size!r} is not a positive whole number")
    check_size("seeds" if batch_size is None else "batch_size", size, HELD * dtype.itemsize * math.prod(shape))
    conditions = condition_rows(condition, len(numbers))
    if initial is not None and initial.shape != (len(numbers), *shape):
        raise PrescoreError(f"initial: shape {tuple(initial.shape)} instead of {(len(numbers), *shape)}")
    batches = [slice(first, first + size) for first in range(0, len(numbers), size)]
    is_filled = getattr(sampler, "norm", None) != "batch"
    calls = sampler.total_calls(len(levels) - 1, final_zero=levels[-1].item() == 0)
    total = None if calls is None else len(batches) * calls * getattr(denoiser, "network_calls", 1)
    with tqdm(total=total, unit="call", disable=None if progress else True, leave=False) as bar, torch.no_grad():
        parts = []
        for batch in batches:
            own = numbers[batch]
            B = size if is_filled else len(own)
            rows = {name: fill(values[batch], B) for name, values in conditions.items()}
            model = Evaluator(denoiser, rows, dtype, bar.update)
            seeds = [*own, *own[-1:] * (B - len(own))]
            noise = NoiseSource(seeds, shape, dtype=model.step_dtype, device=model.device, draw=draw)
            first = None if initial is None else fill(initial[batch], B).to(model.device)
            parts.append(_trajectory(model, sampler, levels.to(model.device), noise, callback, first, own))
    return torch.cat(parts)


def _trajectory(
    model: Evaluator,
    sampler: Sampler,
    levels: Tensor,
    noise: NoiseSource,
    callback: Callable[[Progress], None] | None,
    first: Tensor | None,
    seeds: Sequence[int],
) -> Tensor:
    """The samples of these seeds, which are the first of the batch's; the others fill it up."""
    x = (sampler.initial(noise, levels[0]) if first is None else first).to(model.dtype)
    state, steps = sampler.start(levels), len(levels) - 1
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        model.where = f"at step {i + 1} of {steps} (sigma = {sigma.item():.4g})"
        model.diagnosis = lambda: sampler.diagnosis(noise.event_shape, levels)
        x, state = sampler.step(model, x, sigma, sigma_next, state, noise)
        model.check_finite(x, "the state of the sampler")
        if callback is not None:
            own, last = x[: len(seeds)], model.last[: len(seeds)]
            callback(Progress(i, steps, sigma.item(), sigma_next.item(), own, last, model.calls, seeds, state))
    return x[: len(seeds)]


def _check_reference(sampler: Sampler, denoiser: Denoise) -> None:
    """Refuse a reference Gaussian of data in another range than the model's, or with a mean that the model's lack."""
    reference = getattr(sampler, "reference", None)
    if reference is not None and getattr(denoiser, "data_mean_removed", False) and reference.mean.any():
        raise PrescoreError(
            "reference: has the mean of the data, which was removed from the model's; prescore.plan takes it out"
        )
    own = getattr(reference, "data_range", None)
    model = getattr(denoiser, "data_range", None)
    if own is not None and model is not None and tuple(own) != tuple(model):
        raise PrescoreError(
            f"reference: of data in {tuple(own)}, the model's are in {tuple(model)}; map the statistics by "
            "prescore.in_range(statistics, model.data_range)"
        )


def _event_shape(denoiser: Denoise, event_shape: Sequence[int] | None) -> tuple[int, ...]:
    own = getattr(denoiser, "event_shape", None)
    if event_shape is None and own is None:
        raise PrescoreError("event_shape: the model does not say the shape of a sample; give it, such as (3, 32, 32)")
    if event_shape is not None and own is not None and tuple(event_shape) != tuple(own):
        raise PrescoreError(f"event_shape: {tuple(event_shape)} differs from the model's own {tuple(own)}")
    shape = own if event_shape is None else event_shape
    assert shape is not None
    return tuple(shape)
