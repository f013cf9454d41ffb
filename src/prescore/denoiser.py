"""The denoiser contract, its equivalent parameterisations, and wrappers that turn native models into denoisers.

Everything that samples works with one kind of function,

    denoise(x, sigma, **condition) -> x0,    D(x, sigma) = E[x0 | x],    x = x0 + sigma n,    n ~ N(0, I),

where x has shape (B, *event), sigma is 0-d or (B,), and the result has the shape of x. x is *unscaled*: a model that
was trained on x_t = s(t) (x0 + sigma(t) n) is wrapped so that its scale s(t) and its time t stay inside. Conditions
(a class label, a text embedding) are keyword arguments whose names are the model's own.

Networks predict the score, the noise, the velocity or a preconditioned residual instead of x0. All of these are
affine in x0 at fixed x and sigma, so that each is one line away from every other (Tweedie's formula):

    score     grad log p(x; sigma) = (D - x) / sigma^2
    noise     eps = (x - D) / sigma
    velocity  v = alpha eps - sigma_vp x0, with alpha = 1 / sqrt(1 + sigma^2), sigma_vp = sigma alpha
    EDM       F = (D - c_skip x) / c_out
    flow      n - x0 = x_t - D over t, with x_t = (1 - t) x0 + t n = x / (1 + sigma), t = sigma / (1 + sigma)

Velocity is defined in the variance-preserving coordinates alpha x = alpha x0 + sigma_vp n, in which it is the
derivative of the data's rotation into noise. In unscaled coordinates v = (eps - sigma x0) / sqrt(1 + sigma^2) and
x0 = (x / sqrt(1 + sigma^2) - sigma v) / sqrt(1 + sigma^2).

Sources: Efron, "Tweedie's formula and selection bias", JASA 2011, https://doi.org/10.1198/jasa.2011.tm11181;
Karras et al., "Elucidating the design space of diffusion-based generative models" (EDM), NeurIPS 2022,
https://arxiv.org/abs/2206.00364, eq. 3, 7 and Table 1; Salimans and Ho, "Progressive distillation for fast sampling
of diffusion models", ICLR 2022, https://arxiv.org/abs/2202.00512, appendix D (velocity); Ho and Salimans,
"Classifier-free diffusion guidance", 2022, https://arxiv.org/abs/2207.12598, eq. 6.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, NamedTuple, overload

import torch
from torch import Tensor

from prescore.defaults import SamplingDefaults
from prescore.errors import PrescoreError, SamplingError, check_choice, check_interval, check_number, is_whole
from prescore.schedule import RectifiedFlow, Schedule, TabulatedVE, VariancePreserving, float64

Denoise = Callable[..., Tensor]
NOTE = "raised by the model"
ROUNDING = 1e-6  # of a noise level that is meant to be an end of a schedule
SHAPED = (RuntimeError, ValueError, IndexError)  # what a wrong shape of x raises in a network, and how it says so
SHAPES = re.compile(r"shapes? |sizes? of tensor|channels|mat1 and mat2|must match|to unpack|Dimension out of range")
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A denoising function together with what a sampler has to know about it.

    Attributes:
        function: `(x, sigma, **condition) -> x0`, x of shape (B, *event_shape), sigma 0-d or (B,).
        event_shape: shape of one sample, channels first.
        sigma_min, sigma_max: noise levels between which the model is meant to be used, 0 <= sigma_min < sigma_max. By
            default those that the function knows, if it is made by `from_noise_prediction` and its like; not beyond.
        data_range: interval of the clean data as the model sees it; None where none is known, as for latents and
            vectors. Then data and statistics are taken to be in the model's own units.
        data_mean_removed: whether the mean of the training data was subtracted from it.
        dtype, device: what the function wants its arguments to be; of one made by `from_score` and its like, what the
            network inside wants.
        name: for messages and tables.
        network_calls: network calls that one call of the function makes, for counting (2 with guidance).
        statistics: `prescore.Statistics` of its data, or the path of their file, if the model brings them.
        sampling: how its authors sample it, if that is known.

    Raises:
        PrescoreError: an attribute is out of its range.
    """

    function: Denoise
    event_shape: tuple[int, ...]
    sigma_min: float = math.nan
    sigma_max: float = math.nan
    data_range: tuple[float, float] | None = None
    data_mean_removed: bool = False
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    name: str = ""
    network_calls: int = 1
    statistics: object = None
    sampling: SamplingDefaults | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise PrescoreError(f"function: {type(self.function).__name__} cannot be called as function(x, sigma)")
        check_shape(self.event_shape)
        for end in ("sigma_min", "sigma_max"):
            check_number(end, value := getattr(self, end))
            if math.isnan(value):
                object.__setattr__(self, end, getattr(self.function, end, None) or math.nan)
        if math.isnan(self.sigma_min) or math.isnan(self.sigma_max):
            raise PrescoreError("sigma_min, sigma_max: the function does not know its noise levels; give both numbers")
        if not (0 <= self.sigma_min < self.sigma_max < math.inf):
            raise PrescoreError(
                f"sigma_min {self.sigma_min} and sigma_max {self.sigma_max}: 0 <= sigma_min < sigma_max < inf is needed"
            )
        low, high = getattr(self.function, "sigma_min", None), getattr(self.function, "sigma_max", None)
        if low and high and not low * (1 - ROUNDING) <= self.sigma_min < self.sigma_max <= high * (1 + ROUNDING):
            raise PrescoreError(
                f"sigma_min, sigma_max: {self.sigma_min:g} to {self.sigma_max:g} given, the schedule of the function "
                f"has noise from {low:g} to {high:g}"
            )
        if self.data_range is not None:
            check_interval("data_range", self.data_range)
        if not isinstance(self.dtype, torch.dtype) or not self.dtype.is_floating_point:
            raise PrescoreError(f"dtype: {self.dtype!r} given; a floating-point torch.dtype is needed")
        if not isinstance(self.device, torch.device):
            raise PrescoreError(f"device: {self.device!r} given; a device, such as torch.device('cpu'), is needed")
        if not isinstance(self.statistics, str | Path | None) and not hasattr(self.statistics, "moments"):
            raise PrescoreError(
                f"statistics: {type(self.statistics).__name__} given; prescore.Statistics or the path of their file is "
                "needed"
            )
        if not isinstance(self.name, str):
            raise PrescoreError(f"name: {self.name!r} given; text is needed")
        if not is_whole(self.network_calls) or self.network_calls < 1:
            raise PrescoreError(f"network_calls: {self.network_calls!r} is not a positive whole number")
        if isinstance(self.function, Conversion) and self.dtype in HALF and self.function.network_dtype is None:
            object.__setattr__(self, "function", replace(self.function, network_dtype=self.dtype))

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        """E[x0 | x] at noise level sigma; the condition goes to the model as it is."""
        return self.function(x, sigma, **condition)

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """Shape of what a sample stands for: its own, unless the model is one of latents."""
        return self.event_shape

    @property
    def picture_range(self) -> tuple[float, float] | None:
        """Interval of the values of what a sample stands for, if it is known."""
        return self.data_range

    def decode(self, x: Tensor) -> Tensor:
        """What samples stand for, (B, *picture_shape): themselves, unless the model is one of latents."""
        return x


def check_shape(event_shape: object) -> None:
    """Raise PrescoreError unless this is the shape of a sample: a row of positive whole numbers."""
    if not isinstance(event_shape, Sequence) or isinstance(event_shape, str) or not event_shape:
        raise PrescoreError(f"event_shape: {event_shape!r} is not a shape such as (3, 32, 32)")
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in event_shape):
        raise PrescoreError(f"event_shape: {tuple(event_shape)} is not a shape such as (3, 32, 32)")


class Evaluator:
    """How a model is called: in its own precision and on its own device, its answers checked, its calls counted.

    Args:
        denoiser: `(x, sigma, **condition) -> x0`, called with x of shape (B, *event) and a 0-d or (B,) sigma, in its
            own `dtype` and on its own `device` if it has these attributes or parameters, else in float32 on the CPU.
        condition: named tensors of B rows, passed as keyword arguments.
        dtype: of the answers, float32 or float64.
        on_call: is told the network calls of each call.

    Attributes:
        device, model_dtype: where and in which precision the model is called.
        given_dtype: of what it is given, which for a `Conversion` is float32 at least.
        step_dtype: as precise as an answer is, float32 at least: what a step is computed in.
        calls: of the network so far.
        last: the last answer.
        where: where in a run that is, for messages.
        diagnosis: what is known about why values may not be finite, for messages.
    """

    def __init__(
        self,
        denoiser: Denoise,
        condition: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype = torch.float64,
        on_call: Callable[[int], object] = int,
    ) -> None:
        parameter = next(denoiser.parameters(), None) if isinstance(denoiser, torch.nn.Module) else None
        self.device = torch.device(getattr(parameter, "device", getattr(denoiser, "device", "cpu")))
        self.model_dtype = getattr(parameter, "dtype", getattr(denoiser, "dtype", torch.float32))
        self.given_dtype = given_dtype(denoiser, self.model_dtype)
        self.denoiser, self.dtype, self.on_call = denoiser, dtype, on_call
        single_or_better = torch.promote_types(self.model_dtype, torch.float32)
        self.step_dtype = dtype if dtype == torch.float32 else single_or_better
        self.condition = {name: rows.to(self.device) for name, rows in (condition or {}).items()}
        self.calls, self.calls_each = 0, getattr(denoiser, "network_calls", 1)
        self.where = ""
        self.diagnosis: Callable[[], str] = str
        self.last = torch.empty(0)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x0, like x, in `dtype` on the model's device.

        What the model is given, and what it returns, is copied: it may write into the one and return the other again.

        Raises:
            SamplingError: the model returned another shape, or values that are no floating-point numbers or not finite;
                or its first call failed on the shape of x.
            Exception: of the model's own, with a note that says where it was raised; see `failure_of`.
        """
        given = [t.to(self.device, self.given_dtype, copy=True) for t in (x, sigma)]
        try:
            x0 = self.denoiser(*given, **{name: rows.clone() for name, rows in self.condition.items()})
        except SamplingError as error:
            raise SamplingError(f"{error} {self.where}") from None
        except Exception as error:
            if not self.calls and isinstance(error, SHAPED) and SHAPES.search(text := str(error)):
                shape, kind = tuple(x.shape[1:]), type(error).__name__
                raise SamplingError(
                    f"event_shape: the model does not take samples of shape {shape}, and failed {self.where} ({kind}: "
                    f"{text}); give the shape that it was trained on"
                ) from error
            error.add_note(f"{NOTE} {self.where}".rstrip())
            raise
        self.calls += self.calls_each
        self.on_call(self.calls_each)
        check_answer(x0, x, "the model", self.where)
        self.check_finite(x0, "the output of the model")
        self.last = x0.to(self.device, self.dtype, copy=True)
        return self.last

    def check_finite(self, values: Tensor, what: str) -> None:
        """Raise SamplingError unless all values are finite."""
        # The sum is one pass without a temporary; it is finite in float64 exactly when every term is.
        if not torch.isfinite(values.sum(dtype=torch.float64)):
            hint = self.diagnosis()
            raise SamplingError(f"{what} is not finite {self.where}{': ' + hint if hint else ''}")


def check_condition(condition: Mapping[str, object] | None) -> dict[str, Tensor]:
    """The condition of a run as a dictionary of tensors; lists and arrays of numbers become some.

    Raises:
        PrescoreError: it is no mapping of names to tensors, or to what becomes one, with a row for each sample.
    """
    if condition is not None and not isinstance(condition, Mapping):
        raise PrescoreError(
            f"condition: {type(condition).__name__} given; tensors by the names of the model's arguments are needed, "
            'as in {"class_labels": labels}'
        )
    return {name: _as_rows(name, rows) for name, rows in (condition or {}).items()}


def _as_rows(name: str, rows: object) -> Tensor:
    try:
        tensor = rows if isinstance(rows, Tensor) else torch.as_tensor(rows)
    except (TypeError, ValueError, RuntimeError):
        tensor = torch.zeros(())
    if tensor.ndim == 0:
        raise PrescoreError(f"condition {name!r}: a tensor with a row for each sample, or one for all, is needed")
    return tensor.float() if tensor.dtype == torch.float64 and not isinstance(rows, Tensor) else tensor


def condition_rows(condition: Mapping[str, object] | None, n: int) -> dict[str, Tensor]:
    """The condition of n samples: n rows of each, of which one may have been given for all.

    Raises:
        PrescoreError: as `check_condition`, or there is another number of rows.
    """
    rows = check_condition(condition)
    for name, values in rows.items():
        if len(values) not in (1, n):
            raise PrescoreError(
                f"condition {name!r} has {len(values)} rows for {n} samples; one for each, or one, is needed"
            )
    return {name: values.expand(n, *values.shape[1:]) for name, values in rows.items()}


def given_dtype(denoiser: Denoise, dtype: torch.dtype) -> torch.dtype:
    """In what a denoiser of this precision takes its arguments: a `Conversion`, guided or not, in float32 at least."""
    converts = getattr(getattr(denoiser, "function", denoiser), "converts", False)
    return torch.promote_types(dtype, torch.float32) if converts else dtype


def failure_of(error: BaseException) -> str | None:
    """In one line, what a model raised while it was sampled from, and where; None if this was not raised by a model."""
    where, *more = [note for note in getattr(error, "__notes__", ()) if note.startswith((NOTE, "it was called"))] or [
        ""
    ]
    hint = f" ({more[0]})" if more else ""
    return f"{where.replace(NOTE, 'the model failed')}: {type(error).__name__}: {error}{hint}" if where else None


def check_answer(answer: object, x: Tensor, who: str, where: str = "") -> None:
    """Raise SamplingError unless what a model returned is a tensor of floating-point numbers in the shape of x."""
    if not isinstance(answer, Tensor):
        found = type(answer).__name__
    elif answer.is_nested or answer.layout != torch.strided or answer.is_quantized or answer.is_meta:
        kinds = {"nested": answer.is_nested, "quantised": answer.is_quantized, "meta": answer.is_meta}
        found = f"a {next((kind for kind, is_so in kinds.items() if is_so), 'sparse')} tensor"
    elif answer.shape != x.shape:
        found = str(tuple(answer.shape))
    elif not answer.is_floating_point():
        raise SamplingError(f"{who} returned {answer.dtype} instead of floating-point numbers {where}".rstrip())
    else:
        return
    raise SamplingError(f"{who} returned {found} instead of shape {tuple(x.shape)} {where}".rstrip())


def expand(sigma: Tensor, x: Tensor) -> Tensor:
    """sigma, 0-d or (B,), in the dtype and on the device of x (B, *event), shaped to broadcast against it.

    Raises:
        PrescoreError: sigma has another shape.

    >>> expand(torch.tensor([1.0, 2.0]), torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 1, 1, 1])
    """
    sigma = _level(sigma, x, x.dtype)
    return sigma.reshape(-1, *(1,) * (x.ndim - 1)) if sigma.ndim else sigma


def per_sample(sigma: Tensor, x: Tensor) -> Tensor:
    """sigma, 0-d or (B,), in float64 and one for each sample of x, (B,): for network times and other functions of it.

    Raises:
        PrescoreError: sigma has another shape.
    """
    return _level(sigma, x, torch.float64).expand(len(x))


def denoised_from_score(score: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """D = x + sigma^2 score. Here and below x is (B, *event), sigma () or (B,), the result like x."""
    return x + expand(sigma, x) ** 2 * score


def score_from_denoised(denoised: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """grad log p(x; sigma) = (D - x) / sigma^2, sigma > 0."""
    return (denoised - x) / expand(sigma, x) ** 2


def denoised_from_noise(noise: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """D = x - sigma eps."""
    return x - expand(sigma, x) * noise


def noise_from_denoised(denoised: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """eps = (x - D) / sigma, sigma > 0."""
    return (x - denoised) / expand(sigma, x)


def denoised_from_velocity(velocity: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """D = (alpha x - sigma v) alpha, alpha = 1 / sqrt(1 + sigma^2); x is unscaled."""
    alpha = (1 + expand(sigma, x) ** 2).rsqrt()
    return (alpha * x - expand(sigma, x) * velocity) * alpha


def velocity_from_denoised(denoised: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """v = alpha (eps - sigma D), eps = (x - D) / sigma, sigma > 0; x is unscaled."""
    alpha = (1 + expand(sigma, x) ** 2).rsqrt()
    return alpha * (noise_from_denoised(denoised, x, sigma) - expand(sigma, x) * denoised)


def denoised_from_flow(velocity: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """D = (x - sigma v) / (1 + sigma), v = n - x0 of x_t = (1 - t) x0 + t n; x is unscaled."""
    level = per_sample(sigma, x)
    return expand(1 / (1 + level), x) * x - expand(level / (1 + level), x) * velocity


class Coefficients(NamedTuple):
    """D = c_skip x + c_out F(c_in x, c_noise)."""

    c_skip: Tensor | float
    c_out: Tensor | float
    c_in: Tensor | float
    c_noise: Tensor


def edm_coefficients(sigma: Tensor, sigma_data: float = 0.5) -> Coefficients:
    """EDM's preconditioning of the network (Table 1), in the shape of sigma > 0; sigma_data is the std of the data.

    c_skip = sd^2 / (sigma^2 + sd^2), c_out = sigma sd / sqrt(sigma^2 + sd^2), c_in = 1 / sqrt(sigma^2 + sd^2),
    c_noise = log(sigma) / 4.
    """
    total = (sigma**2 + sigma_data**2).sqrt()
    return Coefficients((sigma_data / total) ** 2, sigma * sigma_data / total, 1 / total, sigma.log() / 4)


def ve_coefficients(sigma: Tensor) -> Coefficients:
    """Those of a VE network in EDM's form (Table 1): c_skip = 1, c_out = sigma, c_in = 1, c_noise = log(sigma / 2)."""
    return Coefficients(1.0, sigma, 1.0, (sigma / 2).log())


def denoised_from_edm(raw: Tensor, x: Tensor, sigma: Tensor, sigma_data: float = 0.5) -> Tensor:
    """D = c_skip x + c_out F, F the raw output of an EDM network."""
    c = edm_coefficients(expand(sigma, x), sigma_data)
    return c.c_skip * x + c.c_out * raw


def edm_from_denoised(denoised: Tensor, x: Tensor, sigma: Tensor, sigma_data: float = 0.5) -> Tensor:
    """F = (D - c_skip x) / c_out, sigma > 0."""
    c = edm_coefficients(expand(sigma, x), sigma_data)
    return (denoised - c.c_skip * x) / c.c_out


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
    inputs = lambda x, sigma: (x.clone(), per_sample(sigma, x).to(x.dtype, copy=True))  # noqa: E731
    return Conversion(score, inputs, denoised_from_score)


def from_noise_prediction(
    model: Denoise, schedule: Schedule, *, time_scale: float = 1.0, integer_time: bool = False
) -> Denoise:
    """Denoiser of a model `model(s(t) x, time, **condition)` that predicts the noise eps (DDPM, VP, Stable Diffusion).

    Args:
        model: it is called with x_t = s(t) x, (B, *event), and a time for each sample, (B,).
        schedule: hides the time: t = schedule.t(sigma).
        time_scale: time = time_scale t; 999 for the VP models of score_sde and EDM, 1 for a `Tabulated` index.
        integer_time: round the time to the nearest integer (dtype int64), for models with a table of embeddings.

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
    return _from_native(model, schedule, lambda x0, x, sigma: x0, time_scale, integer_time)


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

    def inputs(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        level = per_sample(sigma, x)
        time = 1 / (1 + level) if data_first else schedule.t(level)
        return expand(schedule.scale(level), x) * x, (time_scale * time).to(x.dtype)

    def output(velocity: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        return denoised_from_flow(-velocity if data_first else velocity, x, sigma)

    return Conversion(model, inputs, output, sigma_min=schedule.sigma_min, sigma_max=schedule.sigma_max)


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
    schedule = TabulatedVE(levels.flip(0) if is_falling else levels)

    def place(sigma: Tensor) -> Tensor:
        t = schedule.t(sigma)
        return t.round() if integer_time else t

    def inputs(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        t = place(per_sample(sigma, x))
        j = schedule.t_max - t if is_falling else t
        return x.clone(), j.long() if integer_time else j.to(x.dtype)

    def output(raw: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        level = per_sample(sigma, x)
        if predicts == "score":
            return x + expand(level * schedule.sigma(place(level)), x) * raw
        return raw if predicts == "x0" else denoised_from_noise(raw, x, sigma)

    return Conversion(model, inputs, output, sigma_min=schedule.sigma_min, sigma_max=schedule.sigma_max)


def from_edm(model: Denoise, sigma_data: float = 0.5) -> Denoise:
    """Denoiser of a raw EDM network `model(c_in x, c_noise, **condition)`; c_noise is (B,)."""

    return _from_coefficients(model, lambda sigma: edm_coefficients(sigma, sigma_data))


def from_ve(model: Denoise) -> Denoise:
    """Denoiser of a raw VE network in EDM's form: D = x + sigma F(x, log(sigma / 2)); the label is (B,)."""

    return _from_coefficients(model, ve_coefficients)


CLIPS = ("range", "dynamic")
QUANTILE = 0.995  # of dynamic thresholding, as in its paper


def clipped(model: Denoiser, how: str = "range") -> Denoiser:
    """The model with its predictions of x0 brought into the range of the data.

    A heuristic, and no posterior mean any more: it holds back networks that overshoot, at high noise or under guidance,
    and changes nothing where predictions lie inside. "range" cuts them off at the ends; "dynamic" divides those of a
    sample whose 0.995 quantile lies outside by it, so that few values saturate (dynamic thresholding, Saharia et al.,
    https://arxiv.org/abs/2205.11487, section 2.3, for a range that is symmetric about its middle).

    Raises:
        PrescoreError: another word; the model does not say the range of its data, or their mean was removed.
    """
    check_choice("clip", how, CLIPS)
    if model.data_range is None or model.data_mean_removed:
        raise PrescoreError("clip: the model does not say the range of its data in its own coordinates")
    low, high = model.data_range
    middle, half = (low + high) / 2, (high - low) / 2

    def predict(x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        x0 = model.function(x, sigma, **condition)
        if how == "range":
            return x0.clamp(low, high) + 0 * x0  # which leaves what is not finite to be refused
        size = (x0 - middle).abs().flatten(1).float().quantile(QUANTILE, dim=1).clamp(min=half).to(x0.dtype)
        size = size.reshape(-1, *(1,) * (x0.ndim - 1))
        return middle + (x0 - middle).clamp(-size, size) * (half / size) + 0 * x0

    return replace(model, function=predict)


@overload
def guided(denoise: Denoiser, weight: float, unconditional: Mapping[str, Tensor] | None = None) -> Denoiser: ...
@overload
def guided(denoise: Denoise, weight: float, unconditional: Mapping[str, Tensor] | None = None) -> Denoise: ...
def guided(denoise: Denoise, weight: float, unconditional: Mapping[str, Tensor] | None = None) -> Denoise:
    """Classifier-free guidance: D_u + w (D_c - D_u), D_c with the condition of the call, D_u without.

    Args:
        denoise: a denoiser that takes a condition.
        weight: w; 0 is the unconditional model, 1 the conditional one (both exactly), above 1 exaggerates.
            The usual "guidance scale" is this w; the paper's is w - 1.
        unconditional: the condition that stands for none, tensors of one row, repeated over the batch;
            by default the model is called without a condition.

    Returns:
        A denoiser that calls `denoise` twice; if that is a `Denoiser`, one with the same attributes that counts
        both calls.
        For two Gaussians of one covariance it is the denoiser of the Gaussian with the mean m_u + w (m_c - m_u).
        In general it is the denoiser of no distribution.

    Raises:
        PrescoreError: weight is not finite.
    """
    check_number("weight", weight)
    if not math.isfinite(weight):
        raise PrescoreError(f"weight: {weight} is not a finite number; 1 is the model without guidance")

    def denoise_guided(x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        none = {name: row.expand(len(x), *row.shape[1:]) for name, row in (unconditional or {}).items()}
        # Of its own copies: a model may write into what it is given, and return one tensor again and again.
        without = denoise(x.clone(), sigma.clone(), **none).clone()
        return torch.lerp(without, denoise(x, sigma, **condition), weight)

    if given_dtype(denoise, torch.float16) == torch.float32:
        denoise_guided.converts = True  # type: ignore[attr-defined]
    for end in ("sigma_min", "sigma_max"):  # of the schedule inside
        setattr(denoise_guided, end, getattr(denoise, end, None))
    if isinstance(denoise, Denoiser):
        return replace(denoise, function=denoise_guided, network_calls=2 * denoise.network_calls)
    return denoise_guided


def _from_coefficients(model: Denoise, coefficients: Callable[[Tensor], Coefficients]) -> Denoise:
    """D = c_skip x + c_out F(c_in x, c_noise), c_noise one for each sample."""

    def inputs(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return coefficients(expand(sigma, x)).c_in * x, coefficients(per_sample(sigma, x)).c_noise.to(x.dtype)

    def output(raw: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        c = coefficients(expand(sigma, x))
        return c.c_skip * x + c.c_out * raw

    return Conversion(model, inputs, output)


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

    def inputs(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        level = per_sample(sigma, x)
        time = time_scale * schedule.t(level)
        return expand(schedule.scale(level), x) * x, time.round().long() if integer_time else time.to(x.dtype)

    return Conversion(model, inputs, output, sigma_min=schedule.sigma_min, sigma_max=schedule.sigma_max)


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


def _level(sigma: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    sigma = torch.as_tensor(sigma, dtype=dtype, device=x.device)
    if sigma.shape not in ((), x.shape[:1]):
        raise PrescoreError(f"sigma of shape {tuple(sigma.shape)}: () or ({len(x)},), one for each sample, is needed")
    return sigma
