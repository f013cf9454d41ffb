"""A run, decided in one place: a model, what is known of its data, and what was asked for become a sampler on its noise
levels, with everything that decides a sample beside its seed, and the reasons for what was chosen.

Whoever runs a sampler by its name runs a `Plan`: `draw`, the command line, comparisons, experiments and benchmarks.
"""

import inspect
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from numbers import Real
from pathlib import Path
from typing import Any

from torch import Tensor

from prescore.denoiser import Denoise, Denoiser, Evaluator, check_shape, clipped
from prescore.errors import ModelWarning, PrescoreError, SampleWarning, check_choice, check_number, is_whole, suggest
from prescore.examine import Examination
from prescore.gaussian import GAUSSIANS, Gaussian, doubt_of, gaussian, trusted_level
from prescore.grid import GRIDS, check_apart, check_grid
from prescore.limits import MOST_LEVELS, MOST_SAMPLES, check_count, check_size
from prescore.noise import NoiseSource, check_seeds
from prescore.operators import Identity
from prescore.operators.skew import RollSkew
from prescore.precondition import (
    PIXEL_MASKS,
    Preconditioner,
    PublishedMask,
    frequency_preconditioner,
    is_mask,
    load_mask,
    radial_preconditioner,
)
from prescore.presets import PresetWarning, find_preset
from prescore.samplers import (
    AlphaRelation,
    AnnealedLangevin,
    Entry,
    Fitted,
    PredictorCorrector,
    Sampler,
    choose_alpha,
    choose_sampler,
    find_sampler,
)
from prescore.samplers import make_sampler as make
from prescore.samplers import sample as run
from prescore.samplers.base import steps_for_calls
from prescore.samplers.calibrated import errors_of, levels_source, prediction_of
from prescore.samplers.choose import choose_measured, describe_errors
from prescore.samplers.subspace import BlockMeans, orthonormal, subspace_denoiser
from prescore.samplers.table import which_take
from prescore.statistics import FittedWeights, Statistics, in_range, load_statistics
from prescore.tuned import HIDING, SMALL, WIDE

AUTO = "auto"  # a sampler, noise levels, or a strength that is to be chosen
USUAL_CALLS = 10  # evaluations of the model that a sample takes if nothing is said
RHO = 7.0  # of the grid "karras"
WEAKEST_ALPHA = 1e4  # what stands for no preconditioner among the settings
DETAIL_HIDDEN = 4.0  # noise, in standard deviations of the detail, in which subspace diffusion may take it as Gaussian
FEW = 16  # steps, fewer than which are enough for any sampler
SAMPLER_LEFT = ("sampler", AUTO)  # which a preset names then
INSTEAD = (
    {"calls", "steps", "grid"},
    {"alpha", "alpha_relation", "radial", "preconditioner"},
)  # of each, what is given
MADE_FROM = ("alpha", "alpha_relation", "pixel", "radial", "skew", "basis")  # objects are made from these
SKEWS = {"S1": 1, "S2": 10, "S3": 100}  # the papers' S: places that they roll images by
ZERO_SKEWS = ("S", "S4", "S5", "S6")
PLAIN = (bool, int, float, str, tuple)  # types of what stands among the settings as it is
ELSE = {"grid": "usual", "statistics": "unused"}  # what stands for settings that were not made
SHOWN = 22  # levels that a plan shows
ROUNDING = 1e-9  # of a level that is meant to be an end of the noise range


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run is.

    Attributes:
        denoiser: the model, limited to the noise range of the run.
        name: of the sampler, in `prescore.SAMPLERS`.
        sampler: ready to run.
        levels: its noise levels, (T + 1,), decreasing, float64.
        calls: network calls of a sample; None if the sampler makes as many as its tolerance needs.
        settings: everything that decides a sample beside its seed and the model's weights, as JSON values.
        reasons: why "sampler", "grid", "alpha" and "weights" are what they are, for those that were chosen, and why
            "statistics" are not used, if they were given and are not.
        warnings: what is doubtful about the run, and what to do.
        start: the Gaussian model of the data, of whose noisy data at the highest level, N(mu, C + sigma^2), samples are
            made where the sampler would begin with noise alone; or None.
        statistics: of the data in the model's own coordinates, where the run has read some: what samples are held
            against.
        found: (lowest, highest) value of the data in the statistics, where the run has read some.
    """

    denoiser: Denoiser
    name: str
    sampler: Sampler
    levels: Tensor
    calls: int | None
    settings: Mapping[str, object]
    reasons: Mapping[str, str]
    warnings: Sequence[str] = ()
    start: Gaussian | None = None
    statistics: Statistics | None = None
    found: tuple[float, float] | None = None

    @property
    def picture_range(self) -> tuple[float, float] | None:
        """What pictures are scaled by: the range that the model knows, or the values that were found in its data."""
        return self.denoiser.picture_range or self.found

    @property
    def steps(self) -> int:
        return len(self.levels) - 1

    def sample(self, seeds: Iterable[int], **how: Any) -> Tensor:
        """One sample for each seed in the model's own coordinates; `how` and errors are those of `prescore.sample`."""
        if self.start is not None and how.get("initial") is None:
            numbers = check_seeds(seeds)
            noise = NoiseSource(numbers, self.denoiser.event_shape, draw=how.get("draw", 0))
            seeds, how = numbers, {**how, "initial": self.start.noisy(noise(), self.levels[0]), "draw": noise.draw}
        return run(self.denoiser, self.sampler, seeds=seeds, **how)

    def __repr__(self) -> str:
        calls = "as many network calls as its tolerance needs" if self.calls is None else f"{self.calls} network calls"
        steps = f"{self.steps} step{'s' if self.steps > 1 else ''}"
        interval = self.denoiser.data_range
        lines = [f"Plan: {self.name} on {self.denoiser.name or 'the model'}, {steps}, {calls} a sample"]
        lines += [f"noise levels: {self.shown_levels}"]
        lines += [f"data range: {interval[0]:g} to {interval[1]:g}"] if interval else []
        chosen = ELSE | dict(self.settings)
        shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in chosen.items()}
        lines += [f"{name} = {shown[name]}: {reason}" for name, reason in self.reasons.items()]
        said = {"sampler", "steps", "grid", *self.reasons, *self.sampler.unused(self.levels)}
        others = (
            f"{name} {value}"
            for name, value in self.settings.items()
            if name.removesuffix("_chosen") not in said and value is not None
        )
        lines += [f"settings: {', '.join(others)}", *(f"warning: {text}" for text in self.warnings)]
        return "\n  ".join(lines)

    @property
    def shown_levels(self) -> str:
        """The noise levels in three digits; of more than SHOWN, those in the middle left out."""
        levels = [f"{level:.3g}" for level in self.levels.tolist()]
        left = len(levels) - SHOWN
        return ", ".join(levels if left <= 0 else [*levels[: SHOWN // 2], f"({left} more)", *levels[-SHOWN // 2 :]])


def plan(
    model: Denoise,
    *,
    preset: str | None = None,
    sampler: str = AUTO,
    calls: int | None = None,
    steps: int | None = None,
    grid: str | Tensor | Sequence[float] | None = None,
    rho: float | None = None,
    statistics: Statistics | PublishedMask | str | Path | None = None,
    basis: str | None = None,
    alpha: float | str | None = None,
    pixel: bool | None = None,
    pixel_alpha: float | None = None,
    pixel_mask: str | None = None,
    alpha_relation: Mapping[int, float] | None = None,
    radial: tuple[float, float] | None = None,
    skew: str | None = None,
    omega: float | None = None,
    reference: Gaussian | None = None,
    preconditioner: Preconditioner | None = None,
    subspace: Denoiser | None = None,
    switch: float | None = None,
    clip: str | None = None,
    event_shape: Sequence[int] | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    data_range: tuple[float, float] | None = None,
    **options: Any,
) -> Plan:
    """Decide a run.

    Args:
        model: what `prescore.load` returns, a `Denoiser`, or a function `(x, sigma) -> x0`.
        preset: a name in `prescore.presets.PRESETS`, the settings of a paper's table, which what else is given
            overrides. One for another model than this warns (`PresetWarning`).
        sampler: a name in `prescore.SAMPLERS`, or "auto": chosen by the number of calls and the statistics.
        calls: the most network calls that a sample may take; as many steps are taken as they allow. With
            sampler="auto" by default enough for USUAL_CALLS evaluations of the model.
        steps: or the number of steps; by default that of the sampler that is named.
        grid: the noise levels, a decreasing row of numbers; or how to spread them: a name in `prescore.grid.GRIDS`, or
            "auto", levels that serve the model, from what `calibrate` measured of it. By default the sampler's usual
            ones, or with sampler="auto" levels that serve the model if they are known.
        rho: of grid="karras", by default 7.
        statistics: of the model's data, or the path of their file; by default those that the model brings. Or a mask of
            the authors of PDS (`prescore.load_mask`) or the path of its .npy, of which samplers that take a
            preconditioner make theirs with a given alpha; nothing else can be had from one.
        basis: in which the Gaussian model of the data is diagonal, for samplers that have one: "cosine" (the default),
            "frequency", "pixel", "pca" or, the default of vectors, "covariance".
        alpha: strength of a preconditioner, at least 1, which is the strongest; "auto", and the default of samplers
            that need one, is to choose it by `choose_alpha`. Samplers with an option of this name (EDM's) get that.
        pixel: whether the preconditioner scales pixels as well as frequencies.
        pixel_alpha: alpha of the pixels, by default that of the frequencies.
        pixel_mask: what pixels are scaled by, a name in `prescore.precondition.PIXEL_MASKS`: "log", the papers'
            logarithm (the default), "square", as in the authors' code, or "mean", the mean image over its largest
            value, which takes no alpha; or the path of the authors' mask of pixels, an .npy.
        alpha_relation: alphas that were measured, {T: alpha}, of which that for the steps of this run is predicted
            (`AlphaRelation`, fitted to relative errors).
        radial: (R, lam), the mask of the papers' NCSN experiments instead of one from statistics: a disc of R times the
            height of the image.
        skew, omega: a skew-symmetric term of Langevin dynamics, "S1", "S2" or "S3", and its weight.
        reference, preconditioner: objects made by hand, instead of those that are made from the statistics.
        subspace: for subspace diffusion, a model of the means of blocks of pixels, such as 2x2, in the same data range.
            It is called in the model's place at noise levels above `switch`; the detail is then a Gaussian of one
            variance, by the statistics (`prescore.samplers.subspace.subspace_denoiser`).
        switch: by default DETAIL_HIDDEN times the standard deviation of the detail.
        clip: bring the model's predictions of x0 into the range of the data: "range" cuts them off, "dynamic" is
            dynamic thresholding (`prescore.denoiser.clipped`). For networks that overshoot; it changes what is sampled.
        event_shape: of a sample, for a function; by default that of the statistics.
        sigma_min, sigma_max: noise range, which a function needs, and a `Denoiser` may be limited to.
        data_range: of a function's data, by default that of the statistics, if they know one.
        options: hyper-parameters of the sampler (`prescore samplers NAME` lists them).

    Raises:
        PrescoreError: something that was asked for is unknown, does not fit the rest, or would do nothing.

    Warns:
        ModelWarning: what was measured of the model makes its samples doubtful.
    """
    if preset is not None:
        filled = {name: value for name, value in locals().items() if name not in ("model", "preset", "options")}
        asked = {name: value for name, value in filled.items() if value is not None and (name, value) != SAMPLER_LEFT}
        return _by_preset(preset, model, asked | options)
    for name, value in {"sigma_min": sigma_min, "sigma_max": sigma_max, "rho": rho}.items():
        if value is not None:
            check_number(name, value)
    if pixel is not None and not isinstance(pixel, bool):
        raise PrescoreError(f"pixel: {pixel!r} given; True or False is needed")
    if not isinstance(sampler, str):
        kind = type(sampler).__name__
        raise PrescoreError(f"sampler: {kind} given; a name is needed (prescore.sample runs a sampler itself)")
    if grid is not None and not isinstance(grid, str):
        grid = check_grid(grid)
    mask: PublishedMask | None = None
    if isinstance(statistics, PublishedMask) or is_mask(statistics):
        mask = statistics if isinstance(statistics, PublishedMask) else load_mask(str(statistics))
        statistics = None
    elif isinstance(statistics, str | Path):
        statistics = load_statistics(statistics)
    given = {"event_shape": event_shape, "sigma_min": sigma_min, "sigma_max": sigma_max, "data_range": data_range}
    denoiser = _denoiser(model, statistics, given)
    known = _Known(denoiser, statistics, mask)
    if mask is not None:
        _check_mask("statistics", mask, denoiser, "" if sampler == AUTO else sampler)
    spaces: dict[str, Any] = {}
    if subspace is not None:
        denoiser, spaces = _through_subspace(known, subspace, switch)
        known = replace(known, denoiser=denoiser)
    elif switch is not None:
        raise PrescoreError("switch: belongs to subspace")
    if clip is not None:
        denoiser, spaces = clipped(denoiser, clip), {**spaces, "clip": clip}
        known = replace(known, denoiser=denoiser)
    if calls is not None and (not is_whole(calls) or calls < 1):
        raise PrescoreError(f"calls: {calls!r} is not a positive whole number")
    check_count("calls", calls or 0, MOST_LEVELS)
    if calls is not None and (steps is not None or (grid is not None and not isinstance(grid, str))):
        raise PrescoreError("calls: says how long the run is, as steps or a list of noise levels do; give one of them")
    objects = {"reference": reference, "preconditioner": preconditioner}
    reasons: dict[str, str] = {}
    start: Gaussian | None = None
    if sampler == AUTO and sigma_max is None and grid is None and (trusted := known.trusted) is not None:
        reasons["sigma_max"] = "from here on up the Gaussian model of the data, with which it starts, errs less"
        start = reference_of(known.needed)
        denoiser, known = known.limited(trusted)
    if sampler == AUTO:
        if calls is None and steps is None and (grid is None or isinstance(grid, str)):
            calls = USUAL_CALLS * denoiser.network_calls
        evaluations = _evaluations(denoiser, calls, steps, grid)
        is_free = not options and (grid is None or (isinstance(grid, str) and grid == AUTO))
        is_usual = is_free and all(value is None for value in (alpha, pixel, basis, reference, preconditioner))
        fit = known.fit(evaluations) if is_usual else None
        choice = choose_sampler(evaluations, known.statistics) if fit is None else choose_measured(fit)
        sampler, reasons["sampler"] = choice.name, choice.reason
        asked = {
            "alpha": alpha,
            "pixel": pixel,
            "basis": basis,
            "reference": reference,
            "preconditioner": preconditioner,
            "alpha_relation": alpha_relation,
            "radial": radial,
            "skew": skew,
        }
        _check_taken(sampler, (*options, *(name for name, value in asked.items() if value is not None)))
        if grid is None and known.has_levels:
            grid = AUTO
        elif grid is None:
            reasons["grid"] = known.why_usual(sampler)
    is_usual = sigma_max is None and (grid is None or (isinstance(grid, str) and grid != AUTO))
    is_usual = is_usual and find_sampler(sampler).cls is not Fitted
    if is_usual and (span := known.span) is not None and denoiser.sigma_max > WIDE * span:
        hidden = hiding_level(denoiser, known.statistics)
        if denoiser.sigma_min < hidden < denoiser.sigma_max:
            reasons["sigma_max"] = f"it hides the data (the model knows noise up to {denoiser.sigma_max:g})"
            denoiser, known = known.limited(hidden)
    entry, facts = find_sampler(sampler), dict[str, object](spaces)
    if alpha is not None and "alpha" in entry.options:
        options, alpha = {**options, "alpha": alpha}, None
    made: dict[str, Any] = {name: value for name, value in objects.items() if value is not None}
    asked_options = set(options)
    if radial is not None:
        _check_alone("radial", entry, sampler, made, {"alpha": alpha, "pixel": pixel, "alpha_relation": alpha_relation})
        made["preconditioner"] = _radial(radial, denoiser.event_shape)
    if alpha_relation is not None and alpha is not None:
        raise PrescoreError("alpha_relation: does nothing beside an alpha")
    for name, of_pixels in {"pixel_alpha": pixel_alpha, "pixel_mask": pixel_mask}.items():
        if of_pixels is not None and not pixel:
            raise PrescoreError(f"{name}: belongs to pixel")
    for_grid = bool(reasons) or (isinstance(grid, str) and grid == AUTO)
    wanted = _wanted(sampler, known, made, alpha if alpha_relation is None else AUTO, pixel, basis, for_grid)
    facts |= {name: value.label or type(value).__name__ for name, value in made.items()}
    facts |= {"radial": list(radial)} if radial is not None else {}
    own = _own_defaults(denoiser, entry, options, steps, calls, "preconditioner" in (*wanted, *made))
    if own and denoiser.sampling is not None:
        options = {**own, **options}
        facts["defaults"] = f"{', '.join(own)} of {denoiser.sampling.configuration or 'the checkpoint'}"

    def on_levels(**objects: Any) -> Sampler:
        method = make(sampler, steps=steps, **objects, **options)
        if calls is not None:
            method = replace(method, steps=_steps(sampler, method, denoiser, calls))
        method, spread = _on_grid(sampler, method, known, grid, rho, (sigma_min, sigma_max) != (None, None))
        facts.update(spread)
        return method

    if mask is not None and "preconditioner" not in wanted:
        raise PrescoreError(f"statistics: {mask.source} does nothing beside a preconditioner that is given")
    if "preconditioner" in wanted:
        bare = on_levels(preconditioner=Preconditioner(Identity())) if alpha in (None, AUTO) else None
        if alpha_relation is not None and bare is not None:
            T = len(bare.levels(denoiser.sigma_min, denoiser.sigma_max)) - 1
            strength, reason = _related(alpha_relation, T, bool(pixel))
        else:
            strength, reason = _strength(alpha, sampler, bare, known, bool(pixel))
        made["preconditioner"] = known.frequency_part(strength)
        facts |= {"alpha": strength, "pixel": bool(pixel)} | dict(mask.facts if mask else {})
        if pixel:
            part, own_facts = _pixel_part(known, pixel_mask, pixel_alpha, strength)
            made["preconditioner"] @= part
            facts |= own_facts
        facts |= {} if pixel_alpha is None else {"pixel_alpha": float(pixel_alpha)}
        reasons |= {"alpha": reason} if reason else {}
    if skew is not None or omega is not None:
        _check_alone("skew", entry, sampler, {}, {})
        made["preconditioner"] = _with_skew(made.get("preconditioner"), skew, omega)
        facts |= {"skew": skew, "omega": omega}
    if "reference" in wanted:
        made["reference"] = reference_of(known.needed, basis)
        facts["basis"] = made["reference"].label
    if "statistics" in wanted:
        made["statistics"] = known.needed
    if known.given is not None and not wanted and not for_grid and subspace is None:
        reasons["statistics"] = f"given, but {sampler} has no use for them"
    method = on_levels(**made)
    levels = method.levels(denoiser.sigma_min, denoiser.sigma_max)
    method.check(denoiser.event_shape, levels)
    if isinstance(method, Fitted):
        fit = known.fit(len(levels) - 1)
        is_usual = reference is None and facts.get("basis") == reference_of(known.needed).label
        if fit is None or not method.is_fitted(levels):
            raise PrescoreError(known.unfitted(len(levels) - 1))
        if not is_usual:
            name = "reference" if basis is None else "basis"
            raise PrescoreError(f"{name}: the weights of p-fit were fitted around another Gaussian model of the data")
        facts["weights"] = "fitted"
        reasons |= {} if "sampler" in reasons else {"weights": describe_errors(fit)}
    for option, beside in method.unused(levels).items():
        if option in asked_options:
            raise PrescoreError(f"{option}: does nothing in sampler {sampler!r} with {beside}")
    reasons |= {"grid": str(facts.pop("grid_chosen"))} if "grid_chosen" in facts else {}
    if start is not None and getattr(method, "reference", None) is not None:
        start = None  # the sampler starts so by itself
    if start is not None:
        facts["start"] = start.label
    by_statistics = [argument for argument in wanted if argument != "preconditioner" or mask is None]
    if subspace is not None and not levels[0] > spaces["switch"]:
        raise PrescoreError(f"switch: {spaces['switch']} is above all noise levels of the run, up to {levels[0]:g}")
    if by_statistics or subspace is not None or start is not None or facts.get("grid") == AUTO:
        facts |= known.facts
    settings = {
        "sampler": sampler,
        "steps": len(levels) - 1,
        "sigma_min": denoiser.sigma_min,
        "sigma_max": denoiser.sigma_max,
        **_options(method, (*entry.fixed, *entry.options), options),
        **{f"{name}_chosen": reason for name, reason in reasons.items()},
        **facts,
    }
    each = method.total_calls(len(levels) - 1, final_zero=levels[-1].item() == 0)
    total = None if each is None else each * denoiser.network_calls
    for doubt in known.doubts:
        warnings.warn(doubt, ModelWarning, stacklevel=2)
    doubts, read = known.doubts, known.at_hand
    return Plan(denoiser, sampler, method, levels, total, settings, reasons, doubts, start, read, known.found)


def draw(
    model: Denoise,
    n: int = 16,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    condition: Mapping[str, Tensor] | None = None,
    progress: bool = True,
    **planned: Any,
) -> Tensor:
    """Draw samples in the units of the data, by a plan.

    Args:
        model: as `plan` takes it.
        n, seed: number of samples, and the seed of the first; the next ones count up.
        batch_size: samples in one network call; all at once by default.
        condition: named tensors, arrays or lists of n rows, or of one for all, passed to the model as keyword
            arguments.
        progress: show a bar that counts network calls, on a terminal.
        planned: everything else that `plan` takes, such as sampler, calls, statistics.

    Warns:
        ModelWarning: as `plan`.
        SampleWarning: values far outside the data's range, or energies far from the data's (`prescore.examine`).

    Returns:
        (n, *shape): samples, or what they decode to if the model is one of latents; float64 on the model's device.

    Raises:
        PrescoreError: as `plan` and `prescore.sample`.
    """
    decided = plan(model, **planned)
    if not is_whole(n) or n < 1:
        raise PrescoreError(f"n: {n!r} samples asked for; at least 1 is needed")
    check_count("n", n, MOST_SAMPLES)
    check_size("n", n, 8 * prod(decided.denoiser.event_shape))
    if not is_whole(seed):
        raise PrescoreError(f"seed: {seed!r} is not a whole number")
    x = decided.sample(range(seed, seed + n), batch_size=batch_size, condition=condition, progress=progress)
    for doubt in examined(decided, x):
        warnings.warn(doubt, SampleWarning, stacklevel=2)
    return decided.denoiser.decode(x)


def examination(plan: Plan) -> Examination:
    """What samples of this plan are held against."""
    denoiser = plan.denoiser
    return Examination(None if denoiser.data_mean_removed else denoiser.data_range, plan.statistics)


def examined(plan: Plan, x: Tensor) -> tuple[str, ...]:
    """What is doubtful about samples of a plan, (N, *event) in the model's own coordinates, one line each."""
    found = examination(plan)
    found.add(x)
    return found.doubts


def hiding_level(denoiser: Denoiser, statistics: Statistics | None = None) -> float:
    """The noise that hides the data: `HIDING` times the largest root mean square of a coordinate in the cosine basis.

    Usual levels start here where a model knows more noise: a step from farther up would do nothing but take a call, and
    leave wide gaps to the others.

    Args:
        denoiser: the model.
        statistics: as it sees its data; without, their root mean square is taken to be a quarter of the largest value
            in the data range, or 1 where none is known, a quarter of their power to be in one coordinate, and the
            coordinates to be `SMALL` at least, since a range may be a guess.
    """
    if statistics is None:
        largest = max(map(abs, denoiser.data_range or (-4.0, 4.0)))
        return HIDING * max(prod(denoiser.event_shape), SMALL) ** 0.5 * largest / 8
    reference = reference_of(statistics)
    square = reference.variances + reference.transform(reference.mean[None].double())[0] ** 2
    return HIDING * square.max().sqrt().item()


def seen_by(denoiser: Denoiser, statistics: Statistics) -> Statistics:
    """The statistics of the data as a model sees them: in its data range, and less their mean if it was removed."""
    seen = in_range(statistics, denoiser.data_range)
    return replace(seen, moments=seen.moments.centred()) if denoiser.data_mean_removed else seen


def reference_of(statistics: Statistics, basis: str | None = None) -> Gaussian:
    """The Gaussian model of the data in one of the bases of `GAUSSIANS`. Raises PrescoreError for another."""
    if basis is None:
        return gaussian(statistics)
    check_choice("basis", basis, GAUSSIANS)
    return GAUSSIANS[basis](statistics)


@dataclass(frozen=True)
class _Known:
    """What is known of a model's data: the statistics that were given or that the model brings, read when they are
    first needed; and a mask, of which preconditioners are made instead."""

    denoiser: Denoiser
    given: Statistics | None
    mask: PublishedMask | None = None

    @cached_property
    def read(self) -> Statistics | None:
        """As they were given; None if there are none."""
        found = self.denoiser.statistics if self.given is None else self.given
        if isinstance(found, str | Path):
            found = load_statistics(found)
        if found is not None and not isinstance(found, Statistics):
            raise PrescoreError(f"statistics: {type(found).__name__} given; prescore.Statistics or a path is needed")
        if found is not None and found.event_shape != self.denoiser.event_shape:
            raise PrescoreError(
                f"statistics: they are of events of shape {found.event_shape}, the model's have "
                f"{self.denoiser.event_shape}"
            )
        return found

    @cached_property
    def statistics(self) -> Statistics | None:
        """As the model sees the data; None if there are none."""
        return None if self.read is None else seen_by(self.denoiser, self.read)

    @property
    def span(self) -> float | None:
        """Width of the data: of their range, or of the values that were found; None if nothing is known of it."""
        if self.denoiser.data_range is not None:
            low, high = self.denoiser.data_range
            return high - low
        return None if self.statistics is None else self.statistics.moments.maximum - self.statistics.moments.minimum

    @property
    def trusted(self) -> float | None:
        """The level from which on the network serves, if it does not at the highest ones."""
        statistics = self.statistics
        level = None if statistics is None or statistics.model.score is None else trusted_level(statistics)
        return level if level is not None and level > self.denoiser.sigma_min else None

    def limited(self, sigma_max: float) -> tuple[Denoiser, "_Known"]:
        """The model limited to less noise, and the same of it."""
        own: dict[str, Any] = {"statistics": self.read} if self.given is None else {}
        denoiser = replace(self.denoiser, sigma_max=sigma_max, **own)
        return denoiser, _Known(denoiser, self.given, self.mask)

    @property
    def needed(self) -> Statistics:
        assert self.statistics is not None
        return self.statistics

    def frequency_part(self, alpha: float) -> Preconditioner:
        """What scales frequencies."""
        if self.mask is not None:
            return self.mask.preconditioner(alpha)
        return frequency_preconditioner(self.needed, alpha)

    def require(self, option: str, with_model: bool) -> None:
        """Raise PrescoreError unless there are statistics, which this option needs."""
        if self.statistics is None:
            name, own = self.denoiser.name or "the model", " --model MODEL" if with_model else ""
            raise PrescoreError(
                f"{option}: {name} comes without statistics of its data; measure them with `prescore calibrate DATA"
                f"{own} --out FILE` or prescore.calibrate (without data --from-model MODEL, prescore.calibrate_model), "
                "and give them as statistics"
            )

    @property
    def has_levels(self) -> bool:
        """Whether levels were measured for the model's noise range."""
        errors = None if self.statistics is None else self.statistics.model.steps
        return errors is not None and errors.is_for(self.denoiser.sigma_min, self.denoiser.sigma_max)

    def fit(self, steps: int) -> FittedWeights | None:
        """What was fitted for so many steps in the model's noise range."""
        fit = None if self.statistics is None else self.statistics.tuning.fits.get(steps)
        return fit if fit is not None and fit.is_for(self.denoiser.sigma_min, self.denoiser.sigma_max) else None

    def unfitted(self, steps: int) -> str:
        """That no weights were fitted for a run of so many steps, and what would be right."""
        fitted = [n for n in self.needed.tuning.fits if self.fit(n) is not None]
        known = f"; they were for {', '.join(map(str, sorted(fitted)))}" if fitted else ""
        return (
            f"sampler: no weights were fitted for p-fit with {steps} steps on these noise levels{known}; fit them by "
            f"`prescore calibrate DATA --model MODEL --calls {steps * self.denoiser.network_calls} --out FILE`"
        )

    def why_usual(self, sampler: str) -> str:
        """Why a sampler takes its usual levels where it might take some that were measured."""
        errors = None if self.statistics is None else self.statistics.model.steps
        if errors is None:
            return f"that of {sampler}; none was measured for the model (`prescore calibrate --model` does)"
        low, high = errors.levels[-1], errors.levels[0]
        return (
            f"that of {sampler}; what was measured is for noise from {low:.3g} to {high:.3g} (calibrate the model "
            "limited to this range)"
        )

    @property
    def doubts(self) -> tuple[str, ...]:
        """What was measured of the model that makes its samples doubtful."""
        statistics = self.__dict__.get("statistics")  # those that the run has read
        doubt = statistics and statistics.model.score and doubt_of(statistics, self.denoiser.sigma_max)
        return (doubt,) if doubt else ()

    @property
    def at_hand(self) -> Statistics | None:
        """As `statistics`, but no file is read for it."""
        is_file = isinstance(self.denoiser.statistics if self.given is None else self.given, str | Path)
        return self.__dict__.get("statistics") if is_file else self.statistics

    @property
    def found(self) -> tuple[float, float] | None:
        """(Lowest, highest) value of the data, if the run has read statistics of them."""
        statistics = self.at_hand
        return None if statistics is None else (statistics.moments.minimum, statistics.moments.maximum)

    @property
    def facts(self) -> dict[str, object]:
        statistics = self.needed
        name = statistics.source or statistics.measured_on
        return {"statistics": name, **({"statistics_sha256": statistics.digest} if statistics.digest else {})}


def _on_grid(
    name: str,
    sampler: Sampler,
    known: _Known,
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


def _denoiser(model: Denoise, statistics: Statistics | None, given: Mapping[str, Any]) -> Denoiser:
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


def _through_subspace(known: _Known, subspace: Denoiser, switch: float | None) -> tuple[Denoiser, dict[str, Any]]:
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


def _wanted(
    sampler: str,
    known: _Known,
    made: Mapping[str, object],
    alpha: object,
    pixel: bool | None,
    basis: str | None,
    for_grid: bool,
) -> list[str]:
    """Which arguments of the sampler are to be made from statistics.

    Args:
        made: those that were made by hand.
        for_grid: whether noise levels or the choice of the sampler come from the statistics, which then have a use.
    """
    entry = find_sampler(sampler)
    asked = {"alpha": ("preconditioner", alpha), "pixel": ("preconditioner", pixel), "basis": ("reference", basis)}
    for option, (argument, value) in asked.items():
        if value is not None and not entry.takes(argument):
            raise PrescoreError(f"{option}: sampler {sampler!r} cannot use a {argument}")
        if value is not None and argument in made:
            raise PrescoreError(f"{option}: does nothing beside a {argument} that is given")
    taken = [a for a in ("preconditioner", "reference", "statistics") if entry.takes(a) and a not in made]
    needs = {"preconditioner": alpha, "reference": basis}
    is_given = known.given is not None or known.mask is not None
    wanted = [a for a in taken if a in entry.needs or is_given or needs.get(a) is not None]
    if pixel is not None and "preconditioner" not in wanted:
        raise PrescoreError("pixel: there is no preconditioner; give alpha or statistics")
    if wanted and not (known.mask is not None and wanted == ["preconditioner"]):
        given = [option for option, value in (("alpha", alpha), ("basis", basis)) if value is not None]
        known.require((*given, "sampler")[0], with_model="statistics" in wanted)
    return wanted


def _by_preset(name: str, model: Denoise, given: Mapping[str, Any]) -> Plan:
    """The plan of a preset, in which what is given counts more."""
    preset = find_preset(name)
    own = dict(preset.options)
    if given.get("sampler", own["sampler"]) != own["sampler"]:  # then only what both have
        entry = find_sampler(given["sampler"])
        parts = set(MADE_FROM) if entry.takes("preconditioner") else set()
        own = {key: value for key, value in own.items() if key in {*entry.options, "steps", "calls"} | parts}
    for group in INSTEAD:
        if group & given.keys():
            own = {key: value for key, value in own.items() if key not in group}
    if not given.get("pixel", True) or "radial" in given:
        own.pop("pixel", None)
    published = getattr(model, "sampling", None)
    shape = getattr(model, "event_shape", None) or given.get("event_shape") or preset.shape
    if other := preset.misfit(tuple(shape), () if published is None else published.configurations):
        warnings.warn(f"the preset {name} is for {other}; its settings may not suit", PresetWarning, stacklevel=4)
    decided = plan(model, **{**own, **given})
    return replace(decided, settings={"preset": name, **decided.settings})


def _check_alone(
    option: str, entry: Entry, sampler: str, made: Mapping[str, object], others: Mapping[str, object]
) -> None:
    """Raise PrescoreError unless the sampler can use a preconditioner, and nothing else says what it is to be."""
    if not entry.takes("preconditioner"):
        raise PrescoreError(f"{option}: sampler {sampler!r} cannot use a preconditioner")
    for name, value in {**others, "preconditioner": made.get("preconditioner")}.items():
        if value is not None and value is not False:
            raise PrescoreError(f"{option}: does nothing beside {name}")


def _radial(radial: tuple[float, float], shape: tuple[int, ...]) -> Preconditioner:
    """The disc of the papers' NCSN experiments, its radius a share of the height."""
    if not isinstance(radial, tuple | list) or len(radial) != 2:
        raise PrescoreError(f"radial: {radial!r} given; two numbers are needed, such as 0.2,1.6")
    for value in radial:
        check_number("radial", value)
    R, lam = radial
    return radial_preconditioner(shape, R * shape[-2] if len(shape) > 1 else R, lam)


def _check_mask(option: str, mask: PublishedMask, denoiser: Denoiser, sampler: str) -> None:
    """Raise PrescoreError unless a mask fits the model, and the sampler, if one is named, takes a preconditioner."""
    if not sampler or not find_sampler(sampler).takes("preconditioner"):
        raise PrescoreError(
            f"{option}: {mask.source} is a mask, of which a preconditioner is made and nothing else; name a sampler "
            "that takes one, such as pds, or measure statistics by `prescore calibrate DATA --out FILE`"
        )
    if mask.event_shape != tuple(denoiser.event_shape):
        raise PrescoreError(
            f"{option}: {mask.source} is a mask for events of shape {mask.event_shape}, the model's have "
            f"{tuple(denoiser.event_shape)}"
        )


def _pixel_part(
    known: _Known, mask: str | None, alpha: float | None, strength: float
) -> tuple[Preconditioner, Mapping[str, object]]:
    """What scales pixels, by default as strongly as frequencies are scaled, and what of it decides a sample."""
    if mask == "mean" and alpha is not None:
        raise PrescoreError("pixel_alpha: does nothing beside the pixel_mask 'mean'")
    alpha = strength if alpha is None else alpha
    if mask is not None and is_mask(mask):
        stored = load_mask(mask, "pixel")
        _check_mask("pixel_mask", stored, known.denoiser, "pds")
        return stored.preconditioner(alpha), stored.facts
    if known.mask is not None:
        raise PrescoreError("pixel_mask: a mask of frequencies says nothing of pixels; give the authors' .npy of these")
    check_choice("pixel_mask", mask or "log", PIXEL_MASKS)
    return PIXEL_MASKS[mask or "log"](known.needed, alpha), {} if mask is None else {"pixel_mask": mask}


def _with_skew(M: Preconditioner | None, skew: str | None, omega: float | None) -> Preconditioner:
    """A preconditioner, or the identity, with a skew-symmetric term."""
    if skew is None or omega is None:
        raise PrescoreError("skew, omega: give both, the term and its weight, such as S1 and 1000")
    check_number("omega", omega)
    if skew in ZERO_SKEWS:
        raise PrescoreError(f"skew: {skew!r} is the zero operator on real samples; {', '.join(SKEWS)} do something")
    check_choice("skew", skew, SKEWS)
    return replace(M or Preconditioner(Identity()), skew=RollSkew((SKEWS[skew],) * 2), omega=float(omega))


def _related(pairs: Mapping[int, float], T: int, pixel: bool) -> tuple[float, str]:
    """alpha by the papers' relation, and why."""
    relation = AlphaRelation.fit(pairs, 2 if pixel else 1, relative=True)
    strength = float(f"{min(relation.alpha(T), WEAKEST_ALPHA):.3g}")
    line = f"(1 + 1/alpha){'^2' if pixel else ''} - 1 = {relation.a:.3g}/T {relation.b:+.3g}"
    if strength < 1:
        raise PrescoreError(f"alpha_relation: {line} gives {strength} at T = {T}, below 1; measure one at fewer steps")
    return strength, f"{line} by the alphas given"


def _own_defaults(
    denoiser: Denoiser,
    entry: Entry,
    given: Mapping[str, object],
    steps: int | None,
    calls: int | None,
    is_preconditioned: bool,
) -> dict[str, Any]:
    """The options that the model was published with, of the samplers that it was published for, but for those given.

    A model that is published without a corrector keeps the sampler's own beside a preconditioner, which needs one. A
    step size of Langevin dynamics belongs to a number of steps, and is left out where that is another.
    """
    published = denoiser.sampling
    if published is None or entry.cls not in (PredictorCorrector, AnnealedLangevin):
        return {}
    own = {name: value for name, value in published.options(entry.options).items() if name not in given}
    idle: set[str] = set()
    if is_preconditioned and published.corrector == "none":
        idle |= {"predictor", "corrector"}
    elif {**own, **given}.get("corrector") == "none":
        idle |= {"snr", "corrector_steps"}
    if calls is not None:
        idle.add("level_steps")
    each = given.get("level_steps", own.get("level_steps"))
    if steps is None or not isinstance(each, int) or steps * each != published.iterations:
        idle.add("step_size")
    return {name: value for name, value in own.items() if name not in idle}


def _strength(
    alpha: float | str | None, name: str, bare: Sampler | None, known: _Known, pixel: bool
) -> tuple[float, str]:
    """alpha as a number, and why if it was left to be chosen.

    Args:
        bare: then, the sampler on its levels without preconditioner.
    """
    if bare is None:
        if not isinstance(alpha, Real) or isinstance(alpha, bool):
            raise PrescoreError(f"alpha: {alpha!r} given; a number, at least 1, or auto is needed")
        return float(alpha), ""
    if not isinstance(bare, PredictorCorrector):
        raise PrescoreError(
            f"alpha: is chosen for predictor-corrector samplers only; give sampler {name!r} a number, such as 5 "
            "(1 is the strongest)"
        )
    if known.mask is not None:
        raise PrescoreError(f"alpha: cannot be chosen from the mask {known.mask.source}; give a number, such as 5")
    denoiser = known.denoiser
    choice = choose_alpha(bare, known.needed, denoiser.sigma_min, denoiser.sigma_max, pixel=pixel)
    # Three digits are all that matters, and do not depend on how a processor rounds.
    return float(f"{min(choice.alpha, WEAKEST_ALPHA):.3g}"), choice.reason


def _check_taken(chosen: str, given: Iterable[str]) -> None:
    """Raise PrescoreError if the sampler that was chosen has nothing to do with something that was given."""
    entry = find_sampler(chosen)
    for name in given:
        argument = ("reference" if name == "basis" else "preconditioner") if name in MADE_FROM else name
        if not entry.takes(argument) and not entry.takes(name):
            able = which_take(argument) or which_take(name)
            if not able:
                known = inspect.signature(plan).parameters.keys() - {"model", "options"}
                raise PrescoreError(f"{name}: there is no such option; {suggest(name, sorted(known))}")
            raise PrescoreError(
                f"{name}: sampler 'auto' takes {chosen!r}, which does not use it; name one that does, such as {able[0]}"
            )


def _evaluations(denoiser: Denoiser, calls: int | None, steps: int | None, grid: str | Tensor | None) -> int:
    """Of the model, by a sampler that evaluates it once a step, for what was asked for."""
    if calls is not None:
        return max(1, calls // denoiser.network_calls)
    if steps is not None:
        return steps if isinstance(steps, int) and steps > 0 else 1  # the sampler says what is wrong with it
    assert grid is not None
    return max(1, len(grid) - 1)


def _steps(name: str, sampler: Sampler, denoiser: Denoiser, calls: int) -> int:
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


def _options(sampler: Sampler, names: Iterable[str], given: Mapping[str, object]) -> dict[str, object]:
    """The sampler's options as JSON values; those that are none in words, if they were given."""
    values: dict[str, object] = {}
    for name in names:
        value = getattr(sampler, name)
        if value is None or isinstance(value, PLAIN):
            values[name] = list(value) if isinstance(value, tuple) else value
        elif name in given:
            values[name] = repr(value)
    return values
