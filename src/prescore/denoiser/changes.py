"""Denoisers made of denoisers: guided by a condition, or held in the range of the data.

Source of guidance: Ho and Salimans, "Classifier-free diffusion guidance", 2022, https://arxiv.org/abs/2207.12598,
eq. 6.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import overload

import torch
from torch import Tensor

from prescore.denoiser.calling import Denoise, given_dtype
from prescore.denoiser.contract import Denoiser
from prescore.errors import PrescoreError, check_choice, check_number

CLIPS = ("range", "dynamic")
QUANTILE = 0.995  # of dynamic thresholding, as in its paper


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
        both calls. It knows its weight, times that of a guided `denoise`, as its `guidance`.
        For two Gaussians of one covariance it is the denoiser of the Gaussian with the mean m_u + w (m_c - m_u).
        In general it is the denoiser of no distribution.

    Raises:
        PrescoreError: weight is not finite.
    """
    check_number("weight", weight)
    if not math.isfinite(weight):
        raise PrescoreError(f"weight: {weight} is not a finite number; 1 is the model without guidance")

    function = Guided(
        denoise,
        float(weight),
        dict(unconditional or {}),
        sigma_min=getattr(denoise, "sigma_min", None),
        sigma_max=getattr(denoise, "sigma_max", None),
        guidance=float(weight) * getattr(denoise, "guidance", 1.0),
        converts=given_dtype(denoise, torch.float16) == torch.float32,
    )
    if isinstance(denoise, Denoiser):
        calls = 2 * denoise.network_calls
        return replace(denoise, function=function, network_calls=calls, guidance=function.guidance)
    return function


@dataclass(frozen=True, eq=False)
class Guided:
    """What `guided` makes of a function.

    Args:
        model, weight, unconditional: as `guided` takes them.
        sigma_min, sigma_max: noise levels that the model knows, if it says so.
        guidance: the weight, times that of the model.
        converts: whether the model computes in single precision by itself.
    """

    model: Denoise
    weight: float
    unconditional: Mapping[str, Tensor]
    sigma_min: float | None
    sigma_max: float | None
    guidance: float
    converts: bool

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        none = {name: row.expand(len(x), *row.shape[1:]) for name, row in self.unconditional.items()}
        # Of its own copies: a model may write into what it is given, and return one tensor again and again.
        without = self.model(x.clone(), sigma.clone(), **none).clone()
        return torch.lerp(without, self.model(x, sigma, **condition), self.weight)


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
    return replace(model, function=Clipped(model.function, how, *model.data_range))


@dataclass(frozen=True, eq=False)
class Clipped:
    """What `clipped` makes of the function of a model of data between low and high."""

    model: Denoise
    how: str
    low: float
    high: float

    @property
    def converts(self) -> bool:
        """Whether the model computes in single precision by itself."""
        return given_dtype(self.model, torch.float16) == torch.float32

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        x0 = self.model(x, sigma, **condition)
        if self.how == "range":
            return x0.clamp(self.low, self.high) + 0 * x0  # which leaves what is not finite to be refused
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        size = (x0 - middle).abs().flatten(1).float().quantile(QUANTILE, dim=1).clamp(min=half).to(x0.dtype)
        size = size.reshape(-1, *(1,) * (x0.ndim - 1))
        return middle + (x0 - middle).clamp(-size, size) * (half / size) + 0 * x0
