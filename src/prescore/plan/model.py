"""The model of a run, with all that has to be known of it, joined with one of block means where that is given."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prescore.denoiser import Denoise, Denoiser, Evaluator, check_shape
from prescore.errors import PrescoreError, check_number
from prescore.plan.known import Known
from prescore.samplers.subspace import BlockMeans, orthonormal, subspace_denoiser
from prescore.statistics import Statistics

DETAIL_HIDDEN = 4.0  # noise, in standard deviations of the detail, in which subspace diffusion may take it as Gaussian


def denoiser_of(model: Denoise, statistics: Statistics | None, given: Mapping[str, Any]) -> Denoiser:
    """The model with all that has to be known of it, limited to the noise range asked for.

    Args:
        given: what was said of it, by the names of a `Denoiser`'s attributes; None is nothing.
    """
    if isinstance(model, str | Path):
        raise PrescoreError(f"model: {str(model)!r} is a name; open it first, by prescore.load({str(model)!r})")
    if not callable(model):
        raise PrescoreError(f"model: {type(model).__name__} cannot be called as model(x, sigma)")
    told = {name: value for name, value in given.items() if value is not None}
    if not isinstance(model, Denoiser):
        return _wrapped(model, statistics, told)
    for name in told.keys() & {"event_shape", "data_range"}:
        own = getattr(model, name)
        if own is not None and tuple(told[name]) != tuple(own):
            raise PrescoreError(f"{name}: {tuple(told[name])} given, the model's own is {own}")
    low, high = told.get("sigma_min", model.sigma_min), told.get("sigma_max", model.sigma_max)
    if low < model.sigma_min or high > model.sigma_max:
        noise = f"{model.sigma_min:g} to {model.sigma_max:g}"
        raise PrescoreError(f"sigma_min, sigma_max: {low:g} to {high:g} asked for, the model knows noise from {noise}")
    return replace(model, sigma_min=low, sigma_max=high, data_range=told.get("data_range", model.data_range))


def _wrapped(function: Denoise, statistics: Statistics | None, told: Mapping[str, Any]) -> Denoiser:
    """A function or an `nn.Module` with what is told, else what it says of itself, else what the statistics say."""
    known: dict[str, Any] = {}
    for name in ("event_shape", "sigma_min", "sigma_max", "data_range"):
        said = (told.get(name), getattr(function, name, None), getattr(statistics, name, None))
        known[name] = next((value for value in said if value is not None), None)
        if known[name] is None and name != "data_range":
            raise PrescoreError(f"{name}: the function does not say it; give it, or wrap it by prescore.Denoiser")
    check_shape(known["event_shape"])
    known |= {"event_shape": tuple(known["event_shape"]), "data_range": known["data_range"]}
    evaluator = Evaluator(function)
    return Denoiser(function, dtype=evaluator.model_dtype, device=evaluator.device, **known)


def through_subspace(known: Known, subspace: Denoiser, switch: float | None) -> tuple[Denoiser, dict[str, Any]]:
    """The model with that of block means above the switch, and what of them decides a sample."""
    fine = known.denoiser
    if not isinstance(subspace, Denoiser):
        raise PrescoreError(f"subspace: {type(subspace).__name__} given; a Denoiser is needed, as of prescore.load")
    for name in ("data_range", "data_mean_removed"):
        if getattr(subspace, name) != getattr(fine, name):
            raise PrescoreError(
                f"subspace: its {name} is {getattr(subspace, name)}, the model's {getattr(fine, name)}; the means of "
                "blocks of the same data are needed"
            )
    known.require("subspace", with_model=False)
    blocks = BlockMeans(tuple(fine.event_shape), tuple(subspace.event_shape))
    mean, variance = blocks.moments_of(known.needed)
    if switch is None:
        switch = float(f"{DETAIL_HIDDEN * variance**0.5:.3g}")
    check_number("switch", switch)
    both = subspace_denoiser(fine, orthonormal(subspace, blocks), switch, variance=variance, mean=mean)
    name = subspace.name or "x".join(map(str, subspace.event_shape))
    return replace(both, sigma_max=min(both.sigma_max, fine.sigma_max)), {"subspace": name, "switch": float(switch)}
