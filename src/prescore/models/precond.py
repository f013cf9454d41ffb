"""Preconditioned denoisers D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) around a raw network F.

Whatever a network predicts, its denoiser in unscaled coordinates x = x0 + sigma n is of this form: the four columns of
Table 1 of Karras et al. (eq. 7), and the networks that predict a score, the noise, the velocity or the sample. With
alpha = 1 / sqrt(1 + sigma^2), a schedule's scale s and time t, and the nearest label j of a table of noise levels:

    name           c_skip                   c_out                          c_in        c_noise
    edm            sd^2/(sigma^2 + sd^2)    sigma sd/sqrt(sigma^2 + sd^2)  1/sqrt(..)  ln(sigma)/4
    ve             1                        sigma                          1           ln(sigma/2)
    vp             1                        -sigma                         alpha       (M - 1) t(sigma)
    iddpm          1                        -sigma                         alpha       M - 1 - argmin_j |u_j - sigma|
    score          1                        sigma^2                        1           sigma
    score-labels   1                        sigma sigma_j                  1           j
    noise          1                        -sigma                         s(sigma)    time_scale t(sigma)
    velocity       alpha^2                  -sigma alpha                   s(sigma)    time_scale t(sigma)
    sample         0                        1                              s(sigma)    time_scale t(sigma)
    flow           1/(1 + sigma)            -sigma/(1 + sigma)             1/(1+sigma) time_scale sigma/(1 + sigma)

Sources: T. Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022,
https://arxiv.org/abs/2206.00364, Table 1; Y. Song et al., "Score-Based Generative Modeling through Stochastic
Differential Equations", 2021, https://arxiv.org/abs/2011.13456 (score, and noise by the label 999 t); Y. Song and
S. Ermon, "Improved Techniques for Training Score-Based Generative Models", 2020, https://arxiv.org/abs/2006.09011
(score at labels); T. Salimans and J. Ho, "Progressive Distillation", 2022, https://arxiv.org/abs/2202.00512 (velocity).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from prescore.denoiser import Coefficients, edm_coefficients, expand, ve_coefficients
from prescore.errors import PrescoreError, check_choice
from prescore.schedule import IDDPM, VP, Cosine, Schedule, SubVP, Tabulated, VariancePreserving, float64

# Noise schedules of networks that are given a time, by the name that a description gives them.
KINDS: Mapping[str, Callable[..., Schedule]] = MappingProxyType(
    {"vp": VP, "subvp": SubVP, "cosine": Cosine, "tabulated": Tabulated}
)


class Precond(nn.Module, ABC):
    """A raw network `model` with c_skip, c_out, c_in, c_noise of its training recipe.

    Shapes: x (B, C, R, R), sigma 0-d or (B,), positive -> (B, C, R, R) in the dtype of x. The network is called as
    `model(c_in x, c_noise, **condition)`: the image in the dtype of the network's weight matrices; c_noise (B,) or (1,)
    as integers, where it counts, or else in float32 at least, because half precision cannot tell 998 from 999.
    The condition (class labels, ...) has the names of the network's own arguments.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @abstractmethod
    def coefficients(self, sigma: Tensor) -> Coefficients:
        """(c_skip, c_out, c_in, c_noise) at positive noise levels of any shape."""

    @property
    def dtype(self) -> torch.dtype:
        """That of the network's matrices; frozen frequencies, which are vectors, may have another."""
        return next((p.dtype for p in self.model.parameters() if p.ndim > 1), torch.get_default_dtype())

    def forward(self, x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        c_skip, c_out, c_in, c_noise = self.coefficients(expand(sigma, x))
        c_noise = c_noise.flatten()
        if c_noise.is_floating_point():
            c_noise = c_noise.to(torch.promote_types(self.dtype, torch.float32))
        F_x = self.model((c_in * x).to(self.dtype), c_noise, **condition)
        F_x = getattr(F_x, "sample", F_x)  # diffusers' networks return an object that has the tensor as its `sample`
        # A network that also predicts a variance (iDDPM) has more output channels than x; D takes the first ones.
        return c_skip * x + c_out * F_x[:, : x.shape[1]].to(x.dtype)


class EDMPrecond(Precond):
    """c_skip = sd^2/(s^2 + sd^2), c_out = s sd/sqrt(s^2 + sd^2), c_in = 1/sqrt(s^2 + sd^2), c_noise = ln(s)/4.

    s = sigma; sd = `sigma_data`, the root mean square of the data in their own units.
    """

    def __init__(self, model: nn.Module, sigma_data: float = 0.5) -> None:
        super().__init__(model)
        if not sigma_data > 0:
            raise PrescoreError(f"sigma_data = {sigma_data}; a positive number is needed")
        self.sigma_data = sigma_data

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return edm_coefficients(sigma, self.sigma_data)


class VEPrecond(Precond):
    """c_skip = 1, c_out = sigma, c_in = 1, c_noise = ln(sigma/2): F is minus the predicted noise."""

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return ve_coefficients(sigma)


class ScorePrecond(Precond):
    """D = x + sigma^2 F(x, sigma): F is the score of unscaled x."""

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return Coefficients(1.0, sigma**2, 1.0, sigma)


class ScoreLabelsPrecond(Precond):
    """D = x + sigma sigma_j F(x, j): F is the score at the noise levels of a table, which are known by their index j.

    At a level between those of the table the nearest one in ln sigma stands in, and what is kept is the noise that it
    predicts, -sigma_j F: its size does not depend on the level.

    Args:
        sigmas: the levels, positive, in the order in which the network counts them.
    """

    sigmas: Tensor

    def __init__(self, model: nn.Module, sigmas: Sequence[float]) -> None:
        super().__init__(model)
        self.register_buffer("sigmas", _table("sigmas", sigmas))
        if not (self.sigmas > 0).all():
            raise PrescoreError("sigmas: the noise levels must be positive")

    def coefficients(self, sigma: Tensor) -> Coefficients:
        sigmas = self.sigmas.double()
        label = (float64(sigma).flatten()[:, None].log() - sigmas.log()).abs().argmin(1)
        return Coefficients(1.0, sigma * sigmas[label].reshape(sigma.shape).to(sigma.dtype), 1.0, label)


class TimePrecond(Precond):
    """A network that is given s(t) x and time_scale t, t the time of a noise schedule.

    Args:
        schedule: {"kind": name in `KINDS`, **its arguments}.
        time_scale: 999 for score_sde's VP networks, 1 for an index into a table.
        integer_time: round the time to the nearest integer, for networks with a table of embeddings.
        levels: noise levels of the kind "tabulated", where they are not in `schedule`.

    Attributes:
        family: the schedules that this prediction is defined for.
    """

    family: type = Schedule

    def __init__(
        self,
        model: nn.Module,
        schedule: Mapping[str, Any],
        time_scale: float = 1.0,
        integer_time: bool = False,
        levels: Sequence[float] | None = None,
    ) -> None:
        super().__init__(model)
        if not 0 < time_scale < math.inf:
            raise PrescoreError(f"time_scale = {time_scale}; a positive number is needed")
        self.schedule = _schedule(schedule, levels)
        if not isinstance(self.schedule, self.family):
            raise PrescoreError(f"schedule: this prediction is defined for {self.family.__name__} ones only")
        self.time_scale, self.integer_time = time_scale, integer_time
        if isinstance(self.schedule, Tabulated):
            self.register_buffer("levels", self.schedule.levels)

    def scale_and_time(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """c_in and c_noise."""
        time = self.time_scale * self.schedule.t(sigma)
        return self.schedule.scale(sigma).to(sigma.dtype), time.round().long() if self.integer_time else time


class NoisePrecond(TimePrecond):
    """D = x - sigma F: F predicts the noise (DDPM, score_sde's VP and sub-VP networks)."""

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return Coefficients(1.0, -sigma, *self.scale_and_time(sigma))


class VelocityPrecond(TimePrecond):
    """D = alpha (alpha x - sigma F): F predicts the velocity v = alpha eps - sigma alpha x0 of a VP schedule."""

    family = VariancePreserving

    def coefficients(self, sigma: Tensor) -> Coefficients:
        alpha = (sigma**2 + 1).rsqrt()
        return Coefficients(alpha**2, -sigma * alpha, *self.scale_and_time(sigma))


class SamplePrecond(TimePrecond):
    """D = F: F predicts x0."""

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return Coefficients(0.0, 1.0, *self.scale_and_time(sigma))


class FlowPrecond(Precond):
    """D = x_t - t F, x_t = (1 - t) x0 + t n = x / (1 + sigma), t = sigma / (1 + sigma): F predicts n - x0.

    Args:
        time_scale: the network is given time_scale t.
    """

    def __init__(self, model: nn.Module, time_scale: float = 1000.0) -> None:
        super().__init__(model)
        if not 0 < time_scale < math.inf:
            raise PrescoreError(f"time_scale = {time_scale}; a positive number is needed")
        self.time_scale = time_scale

    def coefficients(self, sigma: Tensor) -> Coefficients:
        scale = 1 / (1 + float64(sigma))
        t = float64(sigma) * scale
        return Coefficients(scale.to(sigma), -t.to(sigma), scale.to(sigma), (self.time_scale * t).to(sigma))


class VPPrecond(NoisePrecond):
    """c_skip = 1, c_out = -sigma, c_in = 1/sqrt(sigma^2 + 1), c_noise = (M - 1) t(sigma): F predicts the noise.

    t(sigma) is the inverse of the VP schedule of beta(t) = beta_d t + beta_min; M is the number of training steps.
    """

    def __init__(self, model: nn.Module, beta_d: float = 19.9, beta_min: float = 0.1, M: int = 1000) -> None:
        super().__init__(model, {"kind": "vp", "beta_d": beta_d, "beta_min": beta_min}, time_scale=M - 1)


class IDDPMPrecond(Precond):
    """c_skip = 1, c_out = -sigma, c_in = 1/sqrt(sigma^2 + 1), c_noise = M - 1 - argmin_j |u_j - sigma|.

    The levels u_0 > ... > u_M = 0 are a buffer, because those of published checkpoints were computed in float32 and
    differ from the exact ones of `prescore.schedule.IDDPM`, which are the default, by up to 5e-4.
    """

    u: Tensor

    def __init__(self, model: nn.Module, u: Sequence[float] | None = None) -> None:
        super().__init__(model)
        self.register_buffer("u", IDDPM().u.float() if u is None else _table("u", u))
        if not (self.u.diff() < 0).all() or self.u[-1] != 0:
            raise PrescoreError("u: the noise levels must decrease and end in 0")

    def coefficients(self, sigma: Tensor) -> Coefficients:
        index = (sigma.flatten()[:, None] - self.u.to(sigma.dtype)).abs().argmin(1)
        return Coefficients(1.0, -sigma, (sigma**2 + 1).rsqrt(), (len(self.u) - 2 - index).to(sigma.dtype))


PRECONDITIONINGS: Mapping[str, type[Precond]] = MappingProxyType(
    {
        "edm": EDMPrecond,
        "ve": VEPrecond,
        "vp": VPPrecond,
        "iddpm": IDDPMPrecond,
        "score": ScorePrecond,
        "score-labels": ScoreLabelsPrecond,
        "noise": NoisePrecond,
        "velocity": VelocityPrecond,
        "sample": SamplePrecond,
        "flow": FlowPrecond,
    }
)


def _table(name: str, values: Sequence[float] | Tensor) -> Tensor:
    """Noise levels as one row of finite numbers; float64 unless they are a tensor already."""
    try:
        table = values if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError):  # no numbers, or rows of unequal length
        table = torch.empty(0)
    if table.ndim != 1 or len(table) < 2 or not table.isfinite().all():
        raise PrescoreError(f"{name}: at least two finite noise levels in one row are needed")
    return table


def _schedule(description: Mapping[str, Any], levels: Sequence[float] | Tensor | None) -> Schedule:
    arguments = dict(description)
    kind = arguments.pop("kind", None)
    check_choice("schedule kind", kind, KINDS)
    if levels is not None:
        arguments["levels"] = levels
    if "levels" in arguments:
        arguments["levels"] = _table("levels", arguments["levels"])
    try:
        return KINDS[kind](**arguments)
    except TypeError as error:
        raise PrescoreError(f"schedule: the kind {kind!r} cannot be made from these arguments ({error})") from None
