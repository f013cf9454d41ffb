"""The contract: a denoising function together with what a sampler has to know about it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from prescore.defaults import SamplingDefaults
from prescore.denoiser.calling import Denoise
from prescore.denoiser.conversions import Conversion
from prescore.errors import PrescoreError, check_interval, check_number, is_whole

ROUNDING = 1e-6  # of a noise level that is meant to be an end of a schedule
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
        guidance: weight of the classifier-free guidance inside, 1 without; by default that of the function, if it is
            made by `guided`.

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
    guidance: float = math.nan

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
        check_number("guidance", self.guidance)
        if math.isnan(self.guidance):
            object.__setattr__(self, "guidance", getattr(self.function, "guidance", 1.0))
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
