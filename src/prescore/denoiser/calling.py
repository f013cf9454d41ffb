"""How a model is called: in its own precision and on its own device, its answers checked and its calls counted."""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from prescore.errors import PrescoreError, SamplingError

Denoise = Callable[..., Tensor]
NOTE = "raised by the model"
SHAPED = (RuntimeError, ValueError, IndexError)  # what a wrong shape of x raises in a network, and how it says so
SHAPES = re.compile(r"shapes? |sizes? of tensor|channels|mat1 and mat2|must match|to unpack|Dimension out of range")


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
            is_own = isinstance(error, PrescoreError)  # which says what is wrong
            if not self.calls and not is_own and isinstance(error, SHAPED) and SHAPES.search(text := str(error)):
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
