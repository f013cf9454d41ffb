"""The decision: a model, what is known of its data, and what was asked for become a `Plan`."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from prescore.denoiser import Denoise, Denoiser, clipped
from prescore.errors import ModelWarning, PrescoreError, check_choice, check_number, is_whole
from prescore.gaussian import Gaussian
from prescore.grid import check_grid
from prescore.limits import MOST_LEVELS, check_count
from prescore.operators import Identity
from prescore.plan.known import Known, reference_of, statistics_or_mask
from prescore.plan.levels import AUTO, evaluations_of, on_grid, steps_of
from prescore.plan.model import denoiser_of, through_subspace
from prescore.plan.options import check_taken, options_of, own_defaults, wanted_of
from prescore.plan.preconditioning import check_alone, check_mask, disc, related, scaled, strength_of, with_skew
from prescore.plan.preset import by_preset
from prescore.plan.record import REASON, Plan
from prescore.precondition import Preconditioner, PublishedMask
from prescore.samplers import Fitted, Sampler, choose_sampler, find_sampler
from prescore.samplers import make_sampler as make
from prescore.samplers.choose import choose_measured, describe_errors
from prescore.samplers.starting import STARTS, from_noise
from prescore.statistics import Statistics

SAMPLER_LEFT = ("sampler", AUTO)  # which a preset names then
USUAL_CALLS = 10  # evaluations of the model that a sample takes if nothing is said


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
    start: str | None = None,
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
        start: where samples start: "noise", sigma_max n, or "gaussian", the noisy data N(mu, C + sigma_max^2) of the
            Gaussian model. By default as the sampler does, samplers with a reference from the second; with
            sampler="auto" from that which serves the model better, if `calibrate` measured it.
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
        decided = plan(model, **by_preset(preset, model, asked | options))
        return replace(decided, settings={"preset": preset, **decided.settings})
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
    statistics, mask = statistics_or_mask(statistics)
    given = {"event_shape": event_shape, "sigma_min": sigma_min, "sigma_max": sigma_max, "data_range": data_range}
    denoiser = denoiser_of(model, statistics, given)
    known = Known(denoiser, statistics, mask)
    if mask is not None:
        check_mask("statistics", mask, denoiser, "" if sampler == AUTO else sampler)
    spaces: dict[str, Any] = {}
    if subspace is not None:
        denoiser, spaces = through_subspace(known, subspace, switch)
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
    begin: Gaussian | None = None
    is_automatic = sampler == AUTO
    if start is not None:
        check_choice("start", start, STARTS)
    is_open = sampler == AUTO and start is None and sigma_max is None and grid is None
    if is_open and (trusted := known.trusted) is not None:
        reasons["sigma_max"] = "from here on up the Gaussian model of the data, with which it starts, errs less"
        begin = reference_of(known.needed)
        denoiser, known = known.limited(trusted)
        if known.is_shrunk:
            reasons["sigma_max"] += "; below it the network is shrunk towards that model where it errs more"
    is_measured = is_automatic or find_sampler(sampler).cls is Fitted
    is_measured = is_measured and (grid is None or (isinstance(grid, str) and grid == AUTO))
    if sigma_max is None and is_measured and (level := known.measured_from) is not None:
        reasons["sigma_max"] = f"the model was measured from here on (it knows noise up to {denoiser.sigma_max:g})"
        denoiser, known = known.limited(level)
    if sampler == AUTO:
        if calls is None and steps is None and (grid is None or isinstance(grid, str)):
            calls = USUAL_CALLS * denoiser.network_calls
        evaluations = evaluations_of(denoiser, calls, steps, grid)
        is_free = not options and (grid is None or (isinstance(grid, str) and grid == AUTO))
        is_usual = is_free and all(value is None for value in (alpha, pixel, basis, reference, preconditioner))
        fit = known.fit(evaluations) if is_usual and known.is_measured_alike else None
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
        known_options = inspect.signature(plan).parameters.keys() - {"model", "options"}
        asked_for = (*options, *(name for name, value in asked.items() if value is not None))
        check_taken(sampler, asked_for, known_options)
        if grid is None and known.has_levels:
            grid = AUTO
        elif grid is None:
            reasons["grid"] = known.why_usual(sampler)
    is_usual = sigma_max is None and (grid is None or (isinstance(grid, str) and grid != AUTO))
    is_usual = is_usual and find_sampler(sampler).cls is not Fitted
    if is_usual and (hiding := known.hiding) is not None:
        reasons["sigma_max"] = f"it hides the data (the model knows noise up to {denoiser.sigma_max:g})"
        denoiser, known = known.limited(hiding)
    entry, facts = find_sampler(sampler), dict[str, object](spaces)
    facts |= {"shrinkage": "measured"} if known.is_shrunk else {}
    if alpha is not None and "alpha" in entry.options:
        options, alpha = {**options, "alpha": alpha}, None
    made: dict[str, Any] = {name: value for name, value in objects.items() if value is not None}
    asked_options = set(options)
    if radial is not None:
        check_alone("radial", entry, sampler, made, {"alpha": alpha, "pixel": pixel, "alpha_relation": alpha_relation})
        made["preconditioner"] = disc(radial, denoiser.event_shape)
    if alpha_relation is not None and alpha is not None:
        raise PrescoreError("alpha_relation: does nothing beside an alpha")
    for name, of_pixels in {"pixel_alpha": pixel_alpha, "pixel_mask": pixel_mask}.items():
        if of_pixels is not None and not pixel:
            raise PrescoreError(f"{name}: belongs to pixel")
    for_grid = bool(reasons) or (isinstance(grid, str) and grid == AUTO)
    wanted = wanted_of(sampler, known, made, alpha if alpha_relation is None else AUTO, pixel, basis, for_grid)
    facts |= {name: value.label or type(value).__name__ for name, value in made.items()}
    facts |= {"radial": list(radial)} if radial is not None else {}
    own = own_defaults(denoiser, entry, options, steps, calls, "preconditioner" in (*wanted, *made))
    if own and denoiser.sampling is not None:
        options = {**own, **options}
        facts["defaults"] = f"{', '.join(own)} of {denoiser.sampling.configuration or 'the checkpoint'}"

    def on_levels(**objects: Any) -> Sampler:
        method = make(sampler, steps=steps, **objects, **options)
        if calls is not None:
            method = replace(method, steps=steps_of(sampler, method, denoiser, calls))
        method, spread = on_grid(sampler, method, known, grid, rho, (sigma_min, sigma_max) != (None, None))
        facts.update(spread)
        return method

    if mask is not None and "preconditioner" not in wanted:
        raise PrescoreError(f"statistics: {mask.source} does nothing beside a preconditioner that is given")
    if "preconditioner" in wanted:
        bare = on_levels(preconditioner=Preconditioner(Identity())) if alpha in (None, AUTO) else None
        if alpha_relation is not None and bare is not None:
            T = len(bare.levels(denoiser.sigma_min, denoiser.sigma_max)) - 1
            strength, reason = related(alpha_relation, T, bool(pixel))
        else:
            strength, reason = strength_of(alpha, sampler, bare, known, bool(pixel))
        made["preconditioner"], scaling = scaled(known, strength, bool(pixel), pixel_mask, pixel_alpha)
        facts |= scaling
        reasons |= {"alpha": reason} if reason else {}
    if skew is not None or omega is not None:
        check_alone("skew", entry, sampler, {}, {})
        made["preconditioner"] = with_skew(made.get("preconditioner"), skew, omega)
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
    if start is None and is_automatic and begin is None and (better := known.better_start(levels)) is not None:
        start, reasons["start"] = better
    has_reference = getattr(method, "reference", None) is not None
    if start == "gaussian" and not has_reference:
        known.require("start", with_model=False)
        begin = reference_of(known.needed)
    if begin is not None and has_reference:
        begin = None  # the sampler starts so by itself
    if start is not None and (prior := asked_options & {"prior", "precondition_prior"}):
        raise PrescoreError(f"{prior.pop()}: says where samples start, as start does; give one of them")
    if start == "noise":
        begin = from_noise(denoiser.event_shape)
    if start is not None:
        facts["start"] = start
    elif begin is not None:
        facts["start"] = begin.label
    by_statistics = [argument for argument in wanted if argument != "preconditioner" or mask is None]
    if subspace is not None and not levels[0] > spaces["switch"]:
        raise PrescoreError(f"switch: {spaces['switch']} is above all noise levels of the run, up to {levels[0]:g}")
    starts_so = begin is not None and start != "noise"
    if by_statistics or subspace is not None or starts_so or facts.get("grid") == AUTO:
        facts |= known.facts
    settings = {
        "sampler": sampler,
        "steps": len(levels) - 1,
        "sigma_min": denoiser.sigma_min,
        "sigma_max": denoiser.sigma_max,
        **options_of(method, (*entry.fixed, *entry.options), options),
        **{f"{name}{REASON}": reason for name, reason in reasons.items()},
        **facts,
    }
    each = method.total_calls(len(levels) - 1, final_zero=levels[-1].item() == 0)
    total = None if each is None else each * denoiser.network_calls
    doubts = known.doubts
    measured = {
        "choice of the sampler": "sampler" in reasons and known.is_scored,
        "levels": facts.get("grid") == AUTO or (start is None and begin is not None),
        "weights": "weights" in facts,
    }
    used = [name for name, is_used in measured.items() if is_used]
    if used and not known.is_measured_alike:
        doubts = (*doubts, known.misguided(used))
    for doubt in doubts:
        warnings.warn(doubt, ModelWarning, stacklevel=2)
    read = known.at_hand
    return Plan(denoiser, sampler, method, levels, total, settings, reasons, doubts, begin, read, known.found)
