"""What `prescore sample` was asked for: resolved, and refused where it does not fit, before anything is drawn."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import prescore
from prescore.assets import STATISTICS_SUFFIX, find, shipped_models
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError, suggest
from prescore.noise import check_seeds
from prescore.precondition import (
    Preconditioner,
    frequency_preconditioner,
    load_statistics,
    pixel_preconditioner,
)
from prescore.samplers import SAMPLERS, Sampler, make_sampler

DEFAULT_ALPHA = 5.0
DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Options that act only through another field of the sampler: that field, and its value that leaves them idle.
IDLE: Mapping[str, tuple[str, object]] = {
    "snr": ("corrector", "none"),
    "corrector_steps": ("corrector", "none"),
    "first": ("corrector", "none"),
    "norm": ("corrector", "none"),
    "form": ("preconditioner", None),
    "precondition_prior": ("preconditioner", None),
}


def open_model(name: str, device: str | None, dtype: str, sigma_min: float | None, sigma_max: float | None) -> Denoiser:
    """The model, on its device, limited to the noise levels asked for."""
    if dtype not in DTYPES:
        raise PrescoreError(f"dtype: unknown value {dtype!r}; {suggest(dtype, DTYPES)}")
    denoiser = prescore.load(name, device=_device(device), dtype=DTYPES[dtype])
    low = denoiser.sigma_min if sigma_min is None else sigma_min
    high = denoiser.sigma_max if sigma_max is None else sigma_max
    if low < denoiser.sigma_min or high > denoiser.sigma_max:
        own = f"{denoiser.sigma_min:g} to {denoiser.sigma_max:g}"
        raise PrescoreError(f"sigma_min, sigma_max: {low:g} to {high:g} asked for, the model knows noise from {own}")
    return replace(denoiser, sigma_min=low, sigma_max=high)


def open_preconditioner(
    model: str, sampler: str, file: str | None, alpha: float | None, pixel: bool | None
) -> tuple[Preconditioner | None, dict[str, object]]:
    """The preconditioner, if one is asked for or the sampler needs one, and what it was made from."""
    is_needed = sampler in SAMPLERS and "preconditioner" in SAMPLERS[sampler].needs
    if file is None and alpha is None and not is_needed:
        if pixel is not None:
            raise PrescoreError("--pixel, --no-pixel: there is no preconditioner; give --alpha or --preconditioner")
        return None, {}
    if file is None and model not in shipped_models():
        option = "--alpha" if alpha is not None else f"--sampler {sampler}"
        raise PrescoreError(
            f"{option}: {model} comes without statistics of its data; "
            "measure them with `prescore calibrate` and name them with --preconditioner FILE"
        )
    path = find(file or model, STATISTICS_SUFFIX)
    alpha = DEFAULT_ALPHA if alpha is None else alpha
    statistics = load_statistics(path)
    M = frequency_preconditioner(statistics, alpha)
    M = M @ pixel_preconditioner(statistics, alpha) if pixel else M
    facts = {"statistics": file or model, "statistics_sha256": _digest(path), "alpha": alpha, "pixel": bool(pixel)}
    return M, facts


def build_sampler(
    name: str, steps: int | None, preconditioner: Preconditioner | None, options: Mapping[str, object]
) -> Sampler:
    """The sampler with the options that were given (those that are not None), each of which must do something."""
    given: dict[str, Any] = {option: value for option, value in options.items() if value is not None}
    sampler = make_sampler(name, steps=steps, preconditioner=preconditioner, **given)
    for option in given:
        field, idle = IDLE.get(option, ("", ""))
        if field and getattr(sampler, field) == idle:
            flag = "--" + option.replace("_", "-")
            raise PrescoreError(f"{flag}: does nothing in sampler {name!r} with {field} = {str(idle).lower()}")
    return sampler


def resolve(
    model: str, denoiser: Denoiser, name: str, sampler: Sampler, made_from: Mapping[str, object]
) -> dict[str, object]:
    """Everything that decides a sample beside its seed, as JSON values.

    Raises:
        PrescoreError: the sampler cannot run on this model.
    """
    levels = sampler.levels(denoiser.sigma_min, denoiser.sigma_max)
    sampler.check(denoiser.event_shape, levels)
    own = (*SAMPLERS[name].fixed, *SAMPLERS[name].options)
    return {
        "prescore": prescore.__version__,
        "model": model,
        "model_sha256": _digest(find(model)),
        "dtype": str(denoiser.dtype).removeprefix("torch."),
        "sampler": name,
        "steps": len(levels) - 1,
        "sigma_min": denoiser.sigma_min,
        "sigma_max": denoiser.sigma_max,
        **{option: getattr(sampler, option) for option in own},
        **made_from,
    }


def count_seeds(seed: int, n: int) -> list[int]:
    """n seeds from `seed` on."""
    if n < 1:
        raise PrescoreError(f"n: {n} samples asked for; at least 1 is needed")
    return check_seeds(range(seed, seed + n))


def _device(name: str | None) -> torch.device | None:
    try:
        return None if name is None else torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise PrescoreError(f"device: {name!r} cannot be used ({str(error).splitlines()[0]})") from None


def _digest(path: Path) -> str:
    """Enough of a file's SHA-256 to tell whether it is still the same."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
