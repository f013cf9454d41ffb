"""Denoisers of azula as those of prescore, and the other way round.

azula's denoisers are modules `(x_t, t) -> q`, q.mean = E[x0 | x_t], x_t = alpha(t) x0 + sigma(t) n, t from 0 to 1. In
unscaled coordinates D(x, sigma) = q(alpha(t) x, t).mean at the time at which sigma(t) / alpha(t) is that level.

Source: https://github.com/francois-rozet/azula (MIT), version 0.11: `denoise.py`, `noise.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prescore.adapters.times import Times
from prescore.denoiser import Denoiser, expand, per_sample
from prescore.errors import PrescoreError


def from_azula(
    denoiser: Any,
    event_shape: Sequence[int],
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    data_range: tuple[float, float] | None = None,
    name: str = "",
) -> Denoiser:
    """A denoiser of azula, to be calibrated, planned, compared and drawn from like any other.

    Args:
        denoiser: `azula.denoise.Denoiser`, with a schedule. Conditions are passed to it as keyword arguments.
        event_shape: of a sample.
        sigma_min, sigma_max: noise range, by default that of its schedule; of azula's usual ones 1e-3 to 1e3.
        data_range: of the data, if it is known.
        name: for messages.

    Raises:
        PrescoreError: the object is no such denoiser, or the range is beyond that of its schedule.
    """
    schedule = getattr(denoiser, "schedule", None)
    if not callable(denoiser) or not callable(schedule):
        raise PrescoreError(
            f"denoiser: a {type(denoiser).__name__} given; one of azula.denoise with a schedule is needed"
        )

    def scales(times: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule(times)
        return alpha.double().expand(len(times)), sigma.double().expand(len(times))

    time_of = Times(scales, 0.0, 1.0)
    tensors = [*denoiser.parameters(), *denoiser.buffers()] if isinstance(denoiser, torch.nn.Module) else []
    like = next((t for t in tensors if t.is_floating_point()), torch.zeros(()))

    def denoise(x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        time = time_of(per_sample(sigma, x).cpu())
        alpha = scales(time)[0].to(x)
        mean: Tensor = denoiser(expand(alpha, x) * x, time.to(x), **condition).mean
        return mean

    low, high = time_of.ends
    wanted = low if sigma_min is None else sigma_min, high if sigma_max is None else sigma_max
    if wanted[0] < low * (1 - 1e-6) or wanted[1] > high * (1 + 1e-6):
        raise PrescoreError(f"sigma_min, sigma_max: {wanted} given, the schedule has noise from {low:g} to {high:g}")
    return Denoiser(
        denoise,
        tuple(event_shape),
        *wanted,
        data_range=data_range,
        dtype=torch.promote_types(like.dtype, torch.float32),
        device=like.device,
        name=name,
    )


def to_azula(denoiser: Denoiser, schedule: Any = None) -> Any:
    """A denoiser as `azula.denoise.Denoiser`, for azula's samplers and its guidance.

    Args:
        denoiser: of prescore; conditions of the call go to it.
        schedule: of azula, by default its `VESchedule` over the noise range of the denoiser.

    Raises:
        PrescoreError: azula is not installed.
    """
    try:
        import azula.denoise
        import azula.noise
    except ImportError:
        raise PrescoreError("denoisers of azula need azula; pip install azula") from None
    made = azula.noise.VESchedule(denoiser.sigma_min, denoiser.sigma_max) if schedule is None else schedule

    class Wrapped(azula.denoise.Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.schedule = made

        def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Any:
            alpha, sigma = self.schedule(t)
            level = (sigma / alpha).clamp(denoiser.sigma_min, denoiser.sigma_max)
            x = (x_t / expand(alpha, x_t)).to(denoiser.device, denoiser.dtype)
            x0 = denoiser(x, level.to(x), **condition)
            return azula.denoise.DiracPosterior(mean=x0.to(x_t))

    return Wrapped()
