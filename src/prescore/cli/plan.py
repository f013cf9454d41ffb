"""What `prescore sample` was asked for: resolved, and refused where it does not fit, before anything is drawn."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import prescore
from prescore.assets import STATISTICS_SUFFIX, find, shipped_models
from prescore.checkpoints.detect import locate
from prescore.checkpoints.detect import open_model as open_any
from prescore.checkpoints.labels import Classes, classes_of
from prescore.checkpoints.stored import ModelDescription
from prescore.cli.options import AUTO, options_of
from prescore.cli.report import show
from prescore.denoiser import Denoiser
from prescore.device import open_device
from prescore.errors import PrescoreError, check_choice, suggest
from prescore.grid import check_grid, geometric, iddpm, karras, uniform_t
from prescore.noise import check_seeds
from prescore.precondition import (
    Statistics,
    frequency_preconditioner,
    in_range,
    load_statistics,
    pixel_preconditioner,
)
from prescore.precondition.gaussian import (
    Gaussian,
    cosine_gaussian,
    frequency_gaussian,
    gaussian,
    pca_gaussian,
    pixel_gaussian,
)
from prescore.samplers import (
    DEIS,
    PNDM,
    AnnealedLangevin,
    EDMChurn,
    EDMFlow,
    Exponential,
    PredictorCorrector,
    ReverseSDE,
    Sampler,
    UniPC,
    choose_alpha,
    choose_sampler,
    find_sampler,
)
from prescore.samplers.calibrated import errors_of, prediction_of, rule_text
from prescore.schedule import VP

DEFAULT_ALPHA = 5.0  # of samplers for which it cannot be chosen
WEAKEST_ALPHA = 1e4
BASES = {"cosine": cosine_gaussian, "frequency": frequency_gaussian, "pixel": pixel_gaussian, "pca": pca_gaussian}
# Arguments of samplers that `open_statistics` makes.
FROM_STATISTICS = ("preconditioner", "reference", "statistics")
DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
RHO = 7.0
# Ways to spread n noise levels over a range.
GRIDS: Mapping[str, Callable[..., Tensor]] = {
    "karras": karras,
    "geometric": geometric,
    "uniform-t": lambda n, low, high, final_zero: uniform_t(_vp(low, high), n, final_zero),
    "iddpm": iddpm,
}
PLAIN = (bool, int, float, str, tuple)  # types of what may stand among the settings
# Options that act only through others, and the values of these that leave them idle. Two are those of the noise levels:
# whether they are the sampler's usual ones, and whether they end in 0.
IDLE: Mapping[type, Sequence[tuple[tuple[str, ...], Mapping[str, object]]]] = {
    PredictorCorrector: (
        (("snr", "corrector_steps", "first", "norm"), {"corrector": "none"}),
        (("form", "precondition_prior"), {"preconditioner": None}),
    ),
    ReverseSDE: ((("schedule",), {"predictor": "none", "usual_grid": False}),),
    AnnealedLangevin: ((("denoise",), {"final_zero": False}),),
    EDMFlow: ((("alpha",), {"order": 1}),),
    EDMChurn: ((("S_tmin", "S_tmax", "S_noise"), {"S_churn": 0.0}),),
    PNDM: (
        (("schedule",), {"variant": "s-pndm", "usual_grid": False}),
        (("schedule",), {"variant": "plms", "usual_grid": False}),
    ),
    DEIS: (
        (("warmup",), {"degree": 0}),
        (("variable",), {"degree": 0, "usual_grid": False}),
    ),
    Exponential: ((("warm_up",), {"corrector": True}),),
    UniPC: (
        (("lower_order_final", "warmup"), {"p": 1}),
        (("lower_order_final",), {"p": 2, "final_zero": True}),  # that step has order 1 in any case
        (("B", "prediction"), {"p": 1, "corrector": False}),  # DDIM
        (("B",), {"p": 3, "warmup": "runge-kutta", "lower_order_final": False}),
    ),
}


def open_model(
    name: str,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    config: str | None = None,
    weights: str = "ema",
    device: str | None = None,
    dtype: str = "float32",
    channels_last: bool = False,
    compile: bool = False,
) -> tuple[ModelDescription, Denoiser]:
    """The model, on its device, limited to the noise levels asked for."""
    check_choice("dtype", dtype, DTYPES)
    description, denoiser = open_any(
        name,
        config=config,
        weights=weights,
        device=None if device is None else open_device(device),
        dtype=DTYPES[dtype],
        channels_last=channels_last,
        compile=compile,
    )
    low = denoiser.sigma_min if sigma_min is None else sigma_min
    high = denoiser.sigma_max if sigma_max is None else sigma_max
    if low < denoiser.sigma_min or high > denoiser.sigma_max:
        own = f"{denoiser.sigma_min:g} to {denoiser.sigma_max:g}"
        raise PrescoreError(f"sigma_min, sigma_max: {low:g} to {high:g} asked for, the model knows noise from {own}")
    return description, replace(denoiser, sigma_min=low, sigma_max=high)


class ChosenClasses(NamedTuple):
    """The classes that the seeds take in turn.

    The seed itself chooses: a sample then stays the same whatever the others are.
    """

    classes: Classes
    indices: list[int]

    def condition(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """That of the samples of these seeds."""
        return self.classes.condition([self.indices[seed % len(self.indices)] for seed in seeds])


def choose_classes(description: ModelDescription, text: str | None) -> ChosenClasses | None:
    """The classes in a list such as "3,1,4"; None for a model that is to draw without one.

    Raises:
        PrescoreError: the model has no classes, or needs one, or there is no such class.
    """
    if (kind := description.arguments.get("class_embed_type")) in ("timestep", "identity"):
        raise PrescoreError(
            f"--class: the model {description.name} takes a {kind} embedding, which only Python can give"
        )
    classes = classes_of(description)
    if text is None and (classes is None or classes.optional):
        return None
    if classes is None:
        raise PrescoreError(f"--class: the model {description.name} has no classes")
    if text is None:
        raise PrescoreError(f"--class: is missing; the model draws one of its classes 0 to {classes.count - 1}")
    try:
        indices = [int(word) for word in text.split(",")]
    except ValueError:
        raise PrescoreError(f"--class: {text!r} given; a class, or several as in 0,1,2, are needed") from None
    classes.condition(indices)
    return ChosenClasses(classes, indices)


def open_statistics(
    model: str,
    denoiser: Denoiser,
    sampler: str,
    file: str | None,
    alpha: str | None,
    pixel: bool | None,
    basis: str | None,
    plain: Callable[[], Sampler],
    for_grid: bool = False,
) -> tuple[dict[str, Any], dict[str, object]]:
    """What the sampler is to be given that is made from statistics of the data, and what it was made from.

    Args:
        plain: the sampler on its noise levels without a preconditioner, from which alpha is chosen.
        for_grid: whether the noise levels come from the statistics, which then are not idle.

    Raises:
        PrescoreError: there are no statistics, or an option would do nothing.
    """
    entry = find_sampler(sampler)
    uses = {"--alpha": ("preconditioner", alpha), "--pixel, --no-pixel": ("preconditioner", pixel)}
    for option, (argument, value) in (uses | {"--basis": ("reference", basis)}).items():
        if value is not None and not entry.takes(argument):
            raise PrescoreError(f"{option}: sampler {sampler!r} cannot use a {argument}")
    taken = [argument for argument in FROM_STATISTICS if entry.takes(argument)]
    if file is not None and not taken and not for_grid:
        raise PrescoreError(f"--statistics: sampler {sampler!r} has no use for statistics")
    asked = {"preconditioner": alpha, "reference": basis}
    wanted = [a for a in taken if a in entry.needs or file is not None or asked.get(a) is not None]
    if pixel is not None and "preconditioner" not in wanted:
        raise PrescoreError("--pixel, --no-pixel: there is no preconditioner; give --alpha or --statistics")
    if not wanted:
        return {}, {}
    given = [option for option, value in (("--alpha", alpha), ("--basis", basis)) if value is not None]
    reason = (*given, f"--sampler {sampler}")[0]
    statistics, facts = _load_statistics(model, file, reason, with_model="statistics" in wanted)
    made: dict[str, Any] = {}
    if "preconditioner" in wanted:
        strength, chosen = _strength(alpha, statistics, denoiser, bool(pixel), plain)
        M = frequency_preconditioner(statistics, strength)
        made["preconditioner"] = M @ pixel_preconditioner(statistics, strength) if pixel else M
        facts |= {"alpha": strength, "pixel": bool(pixel), **chosen}
    statistics = in_range(statistics, denoiser.data_range)
    if "reference" in wanted:
        made["reference"] = model_gaussian(statistics, denoiser, basis)
        facts |= {"basis": made["reference"].label}
    if "statistics" in wanted:
        made["statistics"] = statistics
    return made, facts


def _load_statistics(
    model: str, file: str | None, reason: str, with_model: bool
) -> tuple[Statistics, dict[str, object]]:
    """The statistics in a file, or those that a shipped model comes with, and what they are.

    Args:
        reason: the option that needs them.
        with_model: whether it needs what `calibrate` measures of the model.
    """
    if file is None and model not in shipped_models():
        own = f" --model {model}" if with_model else ""
        raise PrescoreError(
            f"{reason}: {model} comes without statistics of its data; "
            f"measure them with `prescore calibrate DATA{own}` and name them with --statistics FILE"
        )
    path = find(file or model, STATISTICS_SUFFIX)
    return load_statistics(path), {"statistics": file or model, "statistics_sha256": _digest(path)}


def model_gaussian(statistics: Statistics, denoiser: Denoiser, basis: str | None = None) -> Gaussian:
    """The Gaussian model of the data as a model sees them, of statistics in its data range."""
    if basis is not None and basis not in BASES:
        raise PrescoreError(f"basis: unknown value {basis!r}; {suggest(basis, BASES)}")
    reference = (BASES[basis] if basis else gaussian)(statistics)
    # A model whose data have their mean removed is at 0 where the data are at their mean.
    mean = torch.zeros_like(reference.mean) if denoiser.data_mean_removed else reference.mean
    return replace(reference, mean=mean)


def _strength(
    alpha: str | None, statistics: Statistics, denoiser: Denoiser, pixel: bool, plain: Callable[[], Sampler]
) -> tuple[float, dict[str, object]]:
    """alpha as a number, and why if it was left to be chosen."""
    if alpha not in (None, AUTO):
        try:
            return float(str(alpha)), {}
        except ValueError:
            raise PrescoreError(f"alpha: {alpha!r} given; a number, at least 1, or auto is needed") from None
    sampler = plain()
    if not isinstance(sampler, PredictorCorrector):
        if alpha == AUTO:
            raise PrescoreError("alpha: auto is for predictor-corrector samplers; give a number")
        return DEFAULT_ALPHA, {}
    ours = in_range(statistics, denoiser.data_range)
    choice = choose_alpha(sampler, ours, denoiser.sigma_min, denoiser.sigma_max, pixel=pixel)
    # Three digits are all that matters, and do not depend on how a processor rounds.
    return float(f"{min(choice.alpha, WEAKEST_ALPHA):.3g}"), {"alpha_chosen": choice.reason}


def refuse_idle(name: str, sampler: Sampler, levels: Tensor, given: Iterable[str]) -> None:
    """Raise PrescoreError if one of the options that were given does nothing in this sampler on these levels."""
    of_levels = {"usual_grid": sampler.grid is None, "final_zero": levels[-1].item() == 0}
    for idle, values in (rule for cls in type(sampler).__mro__ for rule in IDLE.get(cls, ())):
        found = {field: of_levels[field] if field in of_levels else getattr(sampler, field) for field in values}
        useless = [option for option in given if option in idle]
        if useless and found == values:
            flag = options_of(find_sampler(name))[useless[0]].flag
            why = " and ".join(f"{field} = {'none' if v is None else show(v)}" for field, v in values.items())
            raise PrescoreError(f"{flag}: does nothing in sampler {name!r} with {why}")


def chosen_sampler(
    model: str, denoiser: Denoiser, file: str | None, calls: int | None
) -> tuple[str, bool, dict[str, object]]:
    """The sampler to take for a number of calls, whether its noise levels can be chosen too, and why it was taken.

    Raises:
        PrescoreError: no number of calls is given.
    """
    if calls is None:
        raise PrescoreError("--sampler auto: needs --calls N, the most network calls that a sample may take")
    statistics = None
    if file is not None or model in shipped_models():
        statistics = in_range(load_statistics(find(file or model, STATISTICS_SUFFIX)), denoiser.data_range)
    choice = choose_sampler(calls, statistics)
    errors = None if statistics is None else statistics.step_errors
    has_grid = errors is not None and errors.is_for(denoiser.sigma_min, denoiser.sigma_max)
    return choice.name, has_grid, {"sampler_chosen": choice.reason}


def measured_grid(
    model: str, denoiser: Denoiser, sampler: str, file: str | None, steps: int
) -> tuple[Tensor, dict[str, object]]:
    """The levels that the statistics recommend for so many steps of a sampler, and what they come from.

    Raises:
        PrescoreError: there are no statistics, or not of the model's steps over its noise range.
    """
    statistics, facts = _load_statistics(model, file, "--grid auto", with_model=True)
    errors = errors_of(in_range(statistics, denoiser.data_range))
    errors.check_range(denoiser.sigma_min, denoiser.sigma_max)
    rule = errors.rule(sampler, prediction_of(sampler), steps)
    source = f"{rule_text(rule)}, {'tried' if errors.tried.get(sampler) else 'measured'} on {errors.model}"
    return errors.levels_by(rule, steps), {"grid": AUTO, "grid_chosen": source, **facts}


def choose_grid(
    sampler: Sampler,
    denoiser: Denoiser,
    grid: str | None,
    rho: float | None,
    is_narrowed: bool,
    measured: Callable[[int], tuple[Tensor, dict[str, object]]],
) -> tuple[Sampler, dict[str, object]]:
    """The sampler on the noise levels asked for, and what they are: its usual ones, spread otherwise, or listed.

    Args:
        grid: a name in `GRIDS`, "auto", numbers with commas between them, or None.
        rho: of the grid "karras".
        is_narrowed: whether a noise range was asked for, in which a list of levels has no part.
        measured: the levels that "auto" stands for, for a number of steps, and what they come from.
    """
    if rho is not None and grid != "karras":
        raise PrescoreError("--rho: belongs to --grid karras")
    if grid is None:
        return sampler, {}
    low, high = denoiser.sigma_min, denoiser.sigma_max
    if grid == AUTO:
        levels, source = measured(len(sampler.levels(low, high)) - 1)
        return replace(sampler, steps=None, grid=levels), source
    if grid in GRIDS:
        usual = sampler.levels(low, high)
        final_zero = usual[-1].item() == 0
        shape = {"rho": RHO if rho is None else rho} if grid == "karras" else {}
        levels = GRIDS[grid](len(usual) - final_zero, low, high, final_zero=final_zero, **shape)
        return replace(sampler, steps=None, grid=levels), {"grid": grid, **shape}
    levels = check_grid(_numbers(grid))
    if is_narrowed:
        raise PrescoreError("--sigma-min, --sigma-max: do nothing beside a list of noise levels")
    positive = levels[levels > 0]
    if positive[0] > high or positive[-1] < low:
        bad = positive[0] if positive[0] > high else positive[-1]
        raise PrescoreError(f"grid: level {bad:g} asked for, the model knows noise from {low:g} to {high:g}")
    return replace(sampler, grid=levels), {"grid": levels.tolist()}


def resolve(
    model: str, denoiser: Denoiser, name: str, sampler: Sampler, others: Mapping[str, object]
) -> dict[str, object]:
    """Everything that decides a sample beside its seed, as JSON values.

    Raises:
        PrescoreError: the sampler cannot run on this model.
    """
    levels = sampler.levels(denoiser.sigma_min, denoiser.sigma_max)
    sampler.check(denoiser.event_shape, levels)
    entry = find_sampler(name)
    words = {option: getattr(sampler, option) for option in options_of(entry)}
    values = {option: value for option, value in entry.fixed.items() if isinstance(value, PLAIN)} | words
    return {
        "prescore": prescore.__version__,
        "model": model,
        "model_sha256": _digest(locate(model)),
        "sampler": name,
        "steps": len(levels) - 1,
        "sigma_min": denoiser.sigma_min,
        "sigma_max": denoiser.sigma_max,
        **{option: list(value) if isinstance(value, tuple) else value for option, value in values.items()},
        **others,
    }


def count_seeds(seed: int, n: int) -> list[int]:
    """n seeds from `seed` on."""
    if n < 1:
        raise PrescoreError(f"n: {n} samples asked for; at least 1 is needed")
    return check_seeds(range(seed, seed + n))


def _vp(low: float, high: float) -> VP:
    """The VP schedule of linear betas, over the times of a noise range."""
    vp = VP()
    return replace(vp, t_min=vp.t(low).item(), t_max=vp.t(high).item())


def _numbers(grid: str) -> list[float]:
    try:
        return [float(word) for word in grid.split(",")]
    except ValueError:
        known = f"{', '.join((*GRIDS, AUTO))}, or decreasing numbers such as 50,10,2,0.5,0"
        raise PrescoreError(f"grid: {grid!r} given; it may be {known}") from None


def _digest(path: Path) -> str:
    """Enough of the SHA-256 of a file, or of all files in a folder, to tell whether it is still the same."""
    if path.is_dir():
        inside = "".join(f"{p.relative_to(path)} {_digest(p)}\n" for p in sorted(path.rglob("*")) if p.is_file())
        return hashlib.sha256(inside.encode()).hexdigest()[:16]
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
