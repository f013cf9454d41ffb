"""Denoisers made of networks that predict the score, the noise, the velocity, a flow or a preconditioned residual, and
that know noise by a time, an index or a label of their own."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from prescore.denoiser.calling import Denoise, check_answer
from prescore.denoiser.formulas import (
    Coefficients,
    denoised_from_flow,
    denoised_from_noise,
    denoised_from_score,
    denoised_from_velocity,
    edm_coefficients,
    expand,
    per_sample,
    ve_coefficients,
)
from prescore.errors import PrescoreError, check_choice, check_number
from prescore.schedule import RectifiedFlow, Schedule, TabulatedVE, VariancePreserving, float64


@dataclass(frozen=True, eq=False)
class Conversion:
    """A denoiser made of a network that predicts something else.

    It computes in float32 at least, because half precision cannot tell a time of 998 from 999, nor hold x at high
    noise. The network alone is called in its own precision, with a time in float32 at least.

    Attributes:
        model: the network, `model(x_in, time, **condition)`, x_in of shape (B, *event), time (B,).
        inputs: `(x, sigma) -> (x_in, time)`.
        output: `(what the network returned, x, sigma) -> x0`.
        network_dtype: of x_in; None is that of the network's matrices or, if it has none, of x.
        sigma_min, sigma_max: noise levels that the network knows, if its schedule says so.
    """

    model: Denoise
    inputs: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    output: Callable[[Tensor, Tensor, Tensor], Tensor]
    network_dtype: torch.dtype | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    converts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not callable(self.model):
            raise PrescoreError(f"model: {type(self.model).__name__} cannot be called as model(x, time)")

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        x_in, time = self.inputs(wide, sigma)
        parameters = self.model.parameters() if isinstance(self.model, torch.nn.Module) else ()
        own = (p.dtype for p in parameters if p.ndim > 1 and p.is_floating_point())
        x_in = x_in.to(self.network_dtype or next(own, x.dtype))
        answer = self.model(x_in, time, **condition)
        check_answer(answer, x, "the network")
        return self.output(answer.to(wide), wide, sigma).to(x)


def from_score(score: Denoise) -> Denoise:
    """Denoiser of a model `score(x, sigma, **condition)`, sigma (B,), that returns grad log p of unscaled x."""
    return Conversion(score, _unscaled_inputs, denoised_from_score)


def _unscaled_inputs(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    return x.clone(), per_sample(sigma, x).to(x.dtype, copy=True)


def from_noise_prediction(
    model: Denoise, schedule: Schedule, *, time_scale: float = 1.0, integer_time: bool = False
) -> Denoise:
    """Denoiser of a model `model(s(t) x, time, **condition)` that predicts the noise eps (DDPM, VP, Stable Diffusion).

    Args:
        model: it is called with x_t = s(t) x, (B, *event), and a time for each sample, (B,).
        schedule: hides the time: t = schedule.t(sigma).
        time_scale: time = time_scale t: the unit in which the model was given its time in training. 999 for the VP
            models of score_sde and EDM, where t is from 0 to 1; 1 for an index into the table of a `Tabulated`.
        integer_time: round the time to the nearest whole number (dtype int64), for a model that looks it up in a table
            of embeddings; else it has fractions between the entries of a table.

    Returns:
        A function that knows the noise levels of the schedule, as its `sigma_min` and `sigma_max`.

    Raises:
        PrescoreError: the schedule is none.
    """
    return _from_native(model, schedule, denoised_from_noise, time_scale, integer_time)


def from_velocity(
    model: Denoise, schedule: VariancePreserving, *, time_scale: float = 1.0, integer_time: bool = False
) -> Denoise:
    """Denoiser of a model `model(s(t) x, time, **condition)` that predicts v; see `from_noise_prediction`.

    Raises:
        PrescoreError: the schedule is none, or not variance preserving.
    """
    _check_schedule(schedule, preserves_variance=True)
    return _from_native(model, schedule, denoised_from_velocity, time_scale, integer_time)


def from_x0(model: Denoise, schedule: Schedule, *, time_scale: float = 1.0, integer_time: bool = False) -> Denoise:
    """Denoiser of a model `model(s(t) x, time, **condition)` that predicts x0; see `from_noise_prediction`.

    Raises:
        PrescoreError: the schedule is none.
    """
    return _from_native(model, schedule, _as_it_is, time_scale, integer_time)


def _as_it_is(x0: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    return x0


def from_flow(model: Denoise, *, time_scale: float = 1000.0, data_first: bool = False) -> Denoise:
    """Denoiser of a flow matching model `model(x_t, time, **condition)`, x_t = (1 - t) x0 + t n, n independent of x0.

    D = x_t - t v, which is exact at both ends: at t = 1 (`prescore.schedule.flow.FAR`) the network sees n alone. A
    shift of the time is one of the levels, not of the network: see `RectifiedFlow`.

    After reflow, or minibatch optimal-transport coupling, n is not independent of x0. Then v is no posterior mean:
    solvers with noise at every step, and those with a Gaussian reference, do not apply, and few steps of Euler's
    method (`ddim`) serve best.

    Args:
        model: it returns v = n - x0, and is called with a time for each sample, (B,).
        time_scale: time = time_scale t; 1000 for Stable Diffusion 3 and its like, 1 for torchcfm.
        data_first: the model counts from the data's side: x_t = t x0 + (1 - t) n, v = x0 - n.

    Returns:
        A function that knows the noise levels of `RectifiedFlow`.
    """
    schedule = RectifiedFlow()
    if isinstance(time_scale, bool) or not isinstance(time_scale, int | float) or not 0 < time_scale < math.inf:
        raise PrescoreError(f"time_scale: {time_scale!r} is not a positive number")

    inputs = partial(_flow_inputs, schedule, time_scale, data_first)
    output = _denoised_from_data_first if data_first else denoised_from_flow
    return Conversion(model, inputs, output, sigma_min=schedule.sigma_min, sigma_max=schedule.sigma_max)


def _flow_inputs(
    schedule: RectifiedFlow, time_scale: float, data_first: bool, x: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor]:
    level = per_sample(sigma, x)
    time = 1 / (1 + level) if data_first else schedule.t(level)
    return expand(schedule.scale(level), x) * x, (time_scale * time).to(x.dtype)


def _denoised_from_data_first(velocity: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    return denoised_from_flow(-velocity, x, sigma)


def from_table(
    model: Denoise, sigmas: Tensor | Sequence[float], *, predicts: str = "score", integer_time: bool = True
) -> Denoise:
    """Denoiser of a model `model(x, j, **condition)` of unscaled x, s = 1, that knows noise by its index in a table.

    Args:
        model: it is called with x = x0 + sigma n, (B, *event), and an index for each sample, (B,).
        sigmas: the noise levels, rising or falling with j = 0, 1, ...
        predicts: "score" (NCSN), "noise" or "x0".
        integer_time: take the nearest level in log sigma (j of dtype int64), for models with a table of embeddings;
            of a score that level's noise prediction is kept. Else j has fractions, linear in log sigma.

    Returns:
        A function that knows the lowest and the highest level, as its `sigma_min` and `sigma_max`.

    Raises:
        PrescoreError: the levels neither rise nor fall, or another prediction.
    """
    check_choice("predicts", predicts, ("score", "noise", "x0"))
    levels = float64(sigmas)
    is_falling = levels.ndim == 1 and len(levels) > 1 and bool(levels[0] > levels[-1])
    table = _Table(TabulatedVE(levels.flip(0) if is_falling else levels), is_falling, predicts, integer_time)
    low, high = table.schedule.sigma_min, table.schedule.sigma_max
    return Conversion(model, table.inputs, table.output, sigma_min=low, sigma_max=high)


@dataclass(frozen=True, eq=False)
class _Table:
    """How a model of `from_table` is called; its levels rise in the schedule."""

    schedule: TabulatedVE
    is_falling: bool
    predicts: str
    integer_time: bool

    def place(self, sigma: Tensor) -> Tensor:
        t = self.schedule.t(sigma)
        return t.round() if self.integer_time else t

    def inputs(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        t = self.place(per_sample(sigma, x))
        j = self.schedule.t_max - t if self.is_falling else t
        return x.clone(), j.long() if self.integer_time else j.to(x.dtype)

    def output(self, raw: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        level = per_sample(sigma, x)
        if self.predicts == "score":
            return x + expand(level * self.schedule.sigma(self.place(level)), x) * raw
        return raw if self.predicts == "x0" else denoised_from_noise(raw, x, sigma)


def from_edm(model: Denoise, sigma_data: float = 0.5) -> Denoise:
    """Denoiser of a raw EDM network `model(c_in x, c_noise, **condition)`; c_noise is (B,)."""

    return _from_coefficients(model, partial(edm_coefficients, sigma_data=sigma_data))


def from_ve(model: Denoise) -> Denoise:
    """Denoiser of a raw VE network in EDM's form: D = x + sigma F(x, log(sigma / 2)); the label is (B,)."""

    return _from_coefficients(model, ve_coefficients)


def _from_coefficients(model: Denoise, coefficients: Callable[[Tensor], Coefficients]) -> Denoise:
    """D = c_skip x + c_out F(c_in x, c_noise), c_noise one for each sample."""
    return Conversion(model, partial(_edm_inputs, coefficients), partial(_edm_output, coefficients))


def _edm_inputs(coefficients: Callable[[Tensor], Coefficients], x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    return coefficients(expand(sigma, x)).c_in * x, coefficients(per_sample(sigma, x)).c_noise.to(x.dtype)


def _edm_output(coefficients: Callable[[Tensor], Coefficients], raw: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    c = coefficients(expand(sigma, x))
    return c.c_skip * x + c.c_out * raw


def _from_native(
    model: Denoise,
    schedule: Schedule,
    output: Callable[[Tensor, Tensor, Tensor], Tensor],
    time_scale: float,
    integer_time: bool,
) -> Denoise:
    _check_schedule(schedule)
    check_number("time_scale", time_scale)
    if not isinstance(integer_time, bool):
        raise PrescoreError(f"integer_time: {integer_time!r} given; True or False is needed")
    inputs = partial(_native_inputs, schedule, time_scale, integer_time)
    return Conversion(model, inputs, output, sigma_min=schedule.sigma_min, sigma_max=schedule.sigma_max)


def _native_inputs(
    schedule: Schedule, time_scale: float, integer_time: bool, x: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor]:
    level = per_sample(sigma, x)
    time = time_scale * schedule.t(level)
    return expand(schedule.scale(level), x) * x, time.round().long() if integer_time else time.to(x.dtype)


def _check_schedule(schedule: object, preserves_variance: bool = False) -> None:
    """Raise PrescoreError unless this is a schedule, and one that preserves variance if it has to."""
    if isinstance(schedule, VariancePreserving if preserves_variance else Schedule):
        return
    if isinstance(schedule, type) and issubclass(schedule, Schedule):
        raise PrescoreError(f"schedule: a class given; make one of it, as in {schedule.__name__}()")
    table = "" if isinstance(schedule, Schedule) else ", or Tabulated.from_betas(betas) for a table,"
    raise PrescoreError(
        f"schedule: {type(schedule).__name__} given; one of prescore.schedule, such as VP(){table} is needed"
    )
