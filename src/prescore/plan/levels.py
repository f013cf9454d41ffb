"""The noise levels of a run, and how many steps its network calls allow."""

from contextlib import suppress
from dataclasses import replace

from torch import Tensor

from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError, check_choice
from prescore.grid import GRIDS, check_apart
from prescore.plan.known import Known
from prescore.samplers import Fitted, Sampler
from prescore.samplers.base import steps_for_calls
from prescore.samplers.calibrated import errors_of, levels_source, prediction_of

AUTO = "auto"  # a sampler, noise levels, or a strength that is to be chosen
RHO = 7.0  # of the grid "karras"
FEW = 16  # steps, fewer than which are enough for any sampler
ROUNDING = 1e-9  # of a level that is meant to be an end of the noise range


def on_grid(
    name: str,
    sampler: Sampler,
    known: Known,
    grid: str | Tensor | None,
    rho: float | None,
    is_narrowed: bool,
) -> tuple[Sampler, dict[str, object]]:
    """The sampler of this name on the noise levels asked for, and what these are.

    Args:
        is_narrowed: whether a noise range was asked for, in which a list of levels has no part.
    """
    low, high = known.denoiser.sigma_min, known.denoiser.sigma_max
    if rho is not None and not (isinstance(grid, str) and grid == "karras"):
        raise PrescoreError("rho: belongs to grid karras")
    if grid is None or (isinstance(sampler, Fitted) and isinstance(grid, str) and grid == AUTO):
        return sampler, {}
    if not isinstance(grid, str):
        levels = check_apart(grid, "grid")
        if is_narrowed:
            raise PrescoreError("sigma_min, sigma_max: do nothing beside a list of noise levels")
        positive = levels[levels > 0]
        if positive[0] > high * (1 + ROUNDING) or positive[-1] < low * (1 - ROUNDING):
            bad = positive[0] if positive[0] > high else positive[-1]
            raise PrescoreError(f"grid: level {bad:g} asked for, the model knows noise from {low:g} to {high:g}")
        return replace(sampler, grid=levels), {"grid": levels.tolist()}
    check_choice("grid", grid, (*GRIDS, AUTO))
    usual = sampler.levels(low, high)
    steps, final_zero = len(usual) - 1, usual[-1].item() == 0
    if grid == AUTO:
        known.require("grid", with_model=True)
        errors, rule = errors_of(known.needed), known.needed.tuning.rule(name, steps)
        errors.check_range(low, high)
        levels = errors.levels_by(rule or prediction_of(name), steps)
        facts: dict[str, object] = {"grid": AUTO, "grid_chosen": levels_source(name, rule, errors.model)}
    else:
        shape = {"rho": RHO if rho is None else rho} if grid == "karras" else {}
        levels = check_apart(GRIDS[grid](steps + 1 - final_zero, low, high, final_zero=final_zero, **shape))
        facts = {"grid": grid, **shape}
    return replace(sampler, steps=None, grid=levels), facts


def evaluations_of(denoiser: Denoiser, calls: int | None, steps: int | None, grid: str | Tensor | None) -> int:
    """Of the model, by a sampler that evaluates it once a step, for what was asked for."""
    if calls is not None:
        return max(1, calls // denoiser.network_calls)
    if steps is not None:
        return steps if isinstance(steps, int) and steps > 0 else 1  # the sampler says what is wrong with it
    assert grid is not None
    return max(1, len(grid) - 1)


def steps_of(name: str, sampler: Sampler, denoiser: Denoiser, calls: int) -> int:
    """The most steps that so many calls of the network allow."""
    each = denoiser.network_calls
    if sampler.total_calls(1) is None:
        raise PrescoreError(f"calls: sampler {name!r} makes as many as its tolerance needs; give it tolerances instead")

    def runs_in(steps: int) -> bool:
        method = replace(sampler, steps=steps)
        with suppress(PrescoreError):
            method.check(denoiser.event_shape, method.levels(denoiser.sigma_min, denoiser.sigma_max))
            return True
        return False

    # If none of these runs, the number of steps is not the reason, and whoever checks the sampler says what is.
    needed = (sampler.total_calls(next(filter(runs_in, range(1, FEW)), 1)) or 0) * each
    if needed > calls:
        raise PrescoreError(f"calls: {calls} are too few for sampler {name!r}; it needs at least {needed}")
    return steps_for_calls(sampler, max(1, calls // each))
