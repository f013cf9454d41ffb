"""Doors from other libraries: one file or folder each, which alone imports that library."""

from contextlib import suppress
from typing import Any

from torch import Tensor

from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.noise import NoiseSource
from prescore.plan import Plan, plan
from prescore.samplers.table import find_sampler

# What stands in where the levels that a caller lists are too few for a solver: the same method of a lower order.
LOWER = {"p-ode-3m": "p-ode-2m", "p-ode-2m": "p-ode-1", "p-sde-2m": "p-seeds-1", "p-seeds-3": "p-seeds-2"}
LOWER |= {"p-seeds-2": "p-seeds-1", "seeds-3": "seeds-2", "seeds-2": "seeds-1", "dpmpp-3m": "dpmpp-2m"}
LOWER |= dict.fromkeys(("dpmpp-2m", "dpmpp-2s", "dpm-solver-2", "unipc"), "ddim") | {"dpm-solver-3": "dpm-solver-2"}


def plan_on(levels: Tensor, denoiser: Denoiser, name: str, **planned: Any) -> Plan:
    """The sampler of this name on the noise levels of a caller, of a lower order where they are few.

    Options of the sampler that the lower one has no use for are left out then.

    Args:
        levels: strictly decreasing, at least two.
        denoiser, planned: as `prescore.plan` takes them.

    Raises:
        PrescoreError: as `prescore.plan`.
    """
    if len(levels) > 3 or name not in LOWER:
        return plan(denoiser, sampler=name, grid=levels, **planned)
    with suppress(PrescoreError):
        return plan(denoiser, sampler=name, grid=levels, **planned)
    lower = LOWER[name]
    idle = set(find_sampler(name).options) - set(find_sampler(lower).options)
    return plan_on(levels, denoiser, lower, **{key: value for key, value in planned.items() if key not in idle})


class Given(NoiseSource):
    """Of one draw, the standard normal noise z (B, *event) that a caller gives."""

    def __init__(self, z: Tensor) -> None:
        self.z = z
        self.event_shape, self.dtype, self.device = tuple(z.shape[1:]), z.dtype, z.device

    def __call__(self) -> Tensor:
        return self.z
