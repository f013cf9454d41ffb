"""Noise levels at which a sampler evaluates the network: decreasing float64 tensors, shape (n,).

Every function takes the number n of levels, both ends included, and `final_zero`, which appends a further level 0
(n levels then make n steps, n - 1 otherwise). Levels are those of the unscaled coordinates x = x0 + sigma n.

Source: Karras et al., "Elucidating the design space of diffusion-based generative models" (EDM), NeurIPS 2022,
https://arxiv.org/abs/2206.00364, Table 1, from which the default ranges are too.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.limits import MOST_LEVELS, check_count
from prescore.schedule import IDDPM, VP, Schedule

LOWEST, HIGHEST = 1e-15, 1e15  # noise levels whose squares every precision holds
CLOSEST = 1e-6  # of neighbours, relative: below, their differences are rounding


def append_zero(grid: Tensor) -> Tensor:
    """The grid with a further level 0."""
    return torch.cat([grid, grid.new_zeros(1)])


def check_grid(grid: Tensor | Sequence[float]) -> Tensor:
    """A grid that a user gave, as a float64 tensor, once it is known to be one.

    Raises:
        PrescoreError: it is not a row of at least two finite, non-negative, strictly decreasing numbers, or a
            positive one lies outside `LOWEST` to `HIGHEST`.

    >>> check_grid([80, 1, 0])
    tensor([80.,  1.,  0.], dtype=torch.float64)
    """
    try:
        levels = torch.as_tensor(grid, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        raise PrescoreError(
            "grid: not a row of numbers; give decreasing noise levels such as [50, 5, 0.5, 0]"
        ) from None
    if levels.ndim != 1 or len(levels) < 2:
        raise PrescoreError(f"grid: shape {tuple(levels.shape)}; a row of at least two noise levels is needed")
    check_count("grid", len(levels) - 1, MOST_LEVELS)
    if not levels.isfinite().all():
        raise PrescoreError(f"grid: level {int((~levels.isfinite()).nonzero()[0])} is not a finite number")
    if (levels < 0).any():
        raise PrescoreError(f"grid: level {int((levels < 0).nonzero()[0])} is negative; noise levels are >= 0")
    if (rising := levels.diff() >= 0).any():
        i = int(rising.nonzero()[0])
        raise PrescoreError(
            f"grid: noise levels must decrease, but level {i} is {levels[i]:g} and level {i + 1} is {levels[i + 1]:g}"
        )
    positive = levels[levels > 0]
    if (beyond := (positive < LOWEST) | (positive > HIGHEST)).any():
        bad = positive[beyond][0]
        raise PrescoreError(f"grid: noise level {bad:g} is not between {LOWEST:g} and {HIGHEST:g}")
    return levels


def check_apart(levels: Tensor, name: str = "steps") -> Tensor:
    """The levels of a grid that was asked for. Levels that were measured may be closer, where nothing is to be done.

    Args:
        name: of the argument that is wrong if they are too close: "grid" if it lists them.

    Raises:
        PrescoreError: two positive neighbours are not apart by `CLOSEST`: their difference is rounding, and a solver
            that extrapolates from it makes nothing but noise.
    """
    positive = levels[levels > 0]
    if (close := positive[:-1] < positive[1:] * (1 + CLOSEST)).any():
        i = int(close.nonzero()[0])
        advice = "leave one out" if name == "grid" else "take fewer, or a wider range of noise (sigma_min, sigma_max)"
        raise PrescoreError(
            f"{name}: noise levels {i} and {i + 1}, at {levels[i]:g}, are closer than one part in a million; {advice}"
        )
    return levels


def interpolate(at: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    """Values (..., L) given at rising positions (L,), linear in between and constant beyond the ends; (..., *at.shape).

    What is known at a few noise levels is read off in between, in log sigma.
    """
    positions, values = positions.to(at), values.to(at)
    i = (torch.searchsorted(positions, at.contiguous(), right=True) - 1).clamp(0, len(positions) - 2)
    share = ((at - positions[i]) / (positions[i + 1] - positions[i])).clamp(0, 1)
    return torch.lerp(values[..., i], values[..., i + 1], share)


def karras(
    n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0, final_zero: bool = False
) -> Tensor:
    """(sigma_max^(1/rho) + i/(n-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho: dense at the low levels (EDM, eq. 5).

    rho = 1 is uniform in sigma; rho -> inf is geometric.
    """
    ramp = _ramp(n, sigma_min, sigma_max, final_zero)
    if not 0 < rho < math.inf:
        raise PrescoreError(f"rho: {rho} is not a positive number")
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return _finish((high + ramp * (low - high)) ** rho, final_zero)


def geometric(n: int, sigma_min: float = 0.02, sigma_max: float = 100.0, final_zero: bool = False) -> Tensor:
    """sigma_max (sigma_min / sigma_max)^(i/(n-1)): uniform in log sigma, as in NCSN and VE models."""
    ramp = _ramp(n, sigma_min, sigma_max, final_zero)
    return _finish(sigma_max * torch.exp(ramp * math.log(sigma_min / sigma_max)), final_zero)


# Half the log-SNR is lam = -log sigma, for variance-preserving models too: uniform in one is uniform in the other.
log_snr = geometric


def uniform_t(schedule: Schedule, n: int, final_zero: bool = False) -> Tensor:
    """sigma(t) at times uniform from t_max to t_min of the schedule: the levels of VP models, for instance."""
    _check_number(n, final_zero)
    return _finish(schedule.sigma(torch.linspace(schedule.t_max, schedule.t_min, n, dtype=torch.float64)), final_zero)


def iddpm(
    n: int,
    sigma_min: float = 0.002,
    sigma_max: float = 81.0,
    schedule: IDDPM | None = None,
    final_zero: bool = False,
) -> Tensor:
    """n of the levels u_j inside [sigma_min, sigma_max], spread evenly over their indices (EDM, appendix C.3).

    Raises:
        PrescoreError: fewer than n levels lie in the range.
    """
    ramp = _ramp(n, sigma_min, sigma_max, final_zero)
    u = (schedule or IDDPM()).u
    u = u[(u >= sigma_min) & (u <= sigma_max)]
    if n > len(u):
        span = f"[{sigma_min:g}, {sigma_max:g}]"
        raise PrescoreError(f"steps: {n} levels asked for, but only {len(u)} of those of iddpm lie in {span}")
    return _finish(u[((len(u) - 1) * ramp).round().long()], final_zero)


def uniform_vp(n: int, sigma_min: float, sigma_max: float, final_zero: bool = False) -> Tensor:
    """Levels uniform in the time of the VP schedule of linear betas, as those of DDPM's networks."""
    check_range(sigma_min, sigma_max)
    vp = VP()
    return uniform_t(VP(t_min=vp.t(sigma_min).item(), t_max=vp.t(sigma_max).item()), n, final_zero)


# Ways to spread n noise levels over a range, by name; "karras" takes a rho too.
GRIDS: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {"karras": karras, "geometric": geometric, "uniform-t": uniform_vp, "iddpm": iddpm}
)


def _check_number(n: int, final_zero: bool) -> None:
    least = 1 if final_zero else 2
    if not isinstance(n, int) or n < least:
        raise PrescoreError(f"n: {n!r} noise levels; a whole number of at least {least} is needed")
    check_count("levels", n, MOST_LEVELS)


def check_range(sigma_min: float, sigma_max: float) -> None:
    """Raise PrescoreError unless both are noise levels inside `LOWEST` to `HIGHEST`, in this order."""
    if not LOWEST <= sigma_min < sigma_max <= HIGHEST:
        raise PrescoreError(
            f"sigma_min {sigma_min:g} and sigma_max {sigma_max:g}: {LOWEST:g} <= sigma_min < sigma_max <= {HIGHEST:g} "
            "is needed"
        )


def _ramp(n: int, sigma_min: float, sigma_max: float, final_zero: bool) -> Tensor:
    """i / (n - 1), i = 0..n-1, once the arguments are known to be right."""
    _check_number(n, final_zero)
    check_range(sigma_min, sigma_max)
    return torch.linspace(0, 1, n, dtype=torch.float64)


def _finish(levels: Tensor, final_zero: bool) -> Tensor:
    return append_zero(levels) if final_zero else levels
