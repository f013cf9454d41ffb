"""Statistics as files: safetensors, with what is not a tensor as JSON in the metadata.

Tensors `mean`, `mean_square`, `power`, `power_centred`, all float64, and, but for early files, `cosine_variance` and
`scales`.
Metadata, each value JSON except the first:
format = prescore-statistics, format_version, library_version, count, event_shape, axes, data_range (null if none
is known), minimum, maximum; and samples_of, where samples of a model were measured in the place of data, its name.
With principal components the tensors `components`, `component_variances`; with the score of a model the tensors
`score_levels`, `score_square`, `residual_square` and the metadata score_count, score_model; with a shrinkage the
tensors `shrinkage_levels`, `shrinkage_edges`, `shrinkage_weights`. With the errors of steps
the tensors `step_levels`, `step_widths`, `step_variances`, `step_shares`, `step_errors_data`, `step_errors_gaussian`
(rows first, last, inner) and the metadata step_count, step_model and, where levels were tried, step_tried: by solver
and number of steps a rule, a name or a number. With a model that was measured under classifier-free guidance the
metadata guidance, its weight; where starts were measured, the metadata starts, their distances and the error of the
difference. With fitted weights the metadata fits, by number of steps T what is no tensor of a `FittedWeights`, and for
each T the tensors `fit_T_levels`, `fit_T_edges`, `fit_T_weights`, `fit_T_gains`. Readers that know none of these pass
over them.
"""

import hashlib
import json
from math import inf, isfinite, prod
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from prescore.assets import STATISTICS_SUFFIX, find
from prescore.errors import PrescoreError, has_width
from prescore.files import named_in_text, write_atomically
from prescore.statistics.fit import POINTS, FittedWeights
from prescore.statistics.moments import Moments
from prescore.statistics.record import ModelStatistics, Statistics
from prescore.statistics.score import ScoreStatistics
from prescore.statistics.shrinkage import Shrinkage
from prescore.statistics.steps import PREDICTIONS, Rule, SolverErrors, StepErrors, Tuning, is_rule

FORMAT, FORMAT_VERSION = "prescore-statistics", 1
DIGITS = 16  # of a digest
FARTHEST = 2.0  # widths of the data range between the values of data, which lie in it but for rounding
TENSORS = ("mean", "mean_square", "power", "power_centred")
COSINE, SCALES = "cosine_variance", "scales"
COMPONENTS = ("components", "component_variances")
SCORE = ("score_levels", "score_square", "residual_square")
SHRINKAGE = ("levels", "edges", "weights")
STEPS = ("step_levels", "step_widths", "step_variances", "step_shares")
FIT = ("levels", "edges", "weights", "gains")
STEP_ERRORS = {prediction: f"step_errors_{prediction}" for prediction in PREDICTIONS}
# What values raise that are missing, of another type, too large for theirs, or nested too deep for the JSON reader.
DAMAGE = (KeyError, TypeError, ValueError, OverflowError, RecursionError)
NOT_NEGATIVE = (*TENSORS[1:3], COSINE, SCALES, *COMPONENTS[1:], *SCORE[1:], *STEPS[1:], *STEP_ERRORS.values())


def save_statistics(statistics: Statistics, path: str | Path) -> None:
    """Write statistics to a file, whole or not at all.

    Raises:
        PrescoreError: the path cannot be written.
    """
    moments, score, steps = statistics.moments, statistics.model.score, statistics.model.steps
    tensors = {name: getattr(moments, name) for name in TENSORS}
    metadata = {"format": FORMAT, "format_version": json.dumps(FORMAT_VERSION)}
    metadata["library_version"] = json.dumps(statistics.version)
    for name in ("count", "event_shape", "axes", "data_range", "minimum", "maximum"):
        metadata[name] = json.dumps(getattr(moments, name))
    if statistics.samples_of:
        metadata["samples_of"] = json.dumps(statistics.samples_of)
    if statistics.model.guidance != 1:
        metadata["guidance"] = json.dumps(statistics.model.guidance)
    early = {COSINE: moments.cosine_variance, SCALES: moments.scales}
    tensors |= {name: tensor for name, tensor in early.items() if tensor is not None}
    if moments.components is not None:
        tensors |= {name: getattr(moments, name) for name in COMPONENTS}
    if score is not None:
        tensors |= dict(zip(SCORE, (score.levels, score.score_square, score.residual_square), strict=True))
        metadata |= {"score_count": json.dumps(score.count), "score_model": json.dumps(score.model)}
    if (shrinkage := statistics.model.shrinkage) is not None:
        tensors |= {f"shrinkage_{name}": getattr(shrinkage, name) for name in SHRINKAGE}
    if steps is not None:
        tensors |= dict(zip(STEPS, (steps.levels, steps.widths, steps.variances, steps.shares), strict=True))
        tensors |= {name: steps.solvers[prediction].rows for prediction, name in STEP_ERRORS.items()}
        metadata |= {"step_count": json.dumps(steps.count), "step_model": json.dumps(steps.model)}
        if rules := statistics.tuning.rules:
            metadata["step_tried"] = json.dumps({name: dict(by_steps) for name, by_steps in rules.items()})
    if starts := statistics.tuning.starts:
        metadata["starts"] = json.dumps(dict(starts))
    if fits := statistics.tuning.fits:
        tensors |= {f"fit_{T}_{name}": getattr(fit, name) for T, fit in fits.items() for name in FIT}
        metadata["fits"] = json.dumps({T: _facts(fit) for T, fit in fits.items()})
    own = {name: value.cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    write_atomically(path, save(own, metadata))


def load_statistics(path: str | Path) -> Statistics:
    """Read what `save_statistics` wrote: the statistics of a shipped model by its name, others by path.

    Raises:
        PrescoreError: the file is not there, not whole, of another format or a newer version, or inconsistent.
    """
    source, path = str(path), find(path, STATISTICS_SUFFIX)
    if path.suffix.lower() == ".npy":
        raise PrescoreError(
            f"{path}: an array and no statistics; if it is a mask of the authors of PDS, prescore.load_mask reads it, "
            "and sampler pds takes its path"
        )
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS]
        with named_in_text(path) as name, safe_open(name, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise PrescoreError(f"{path}: not a whole safetensors file ({error}); write it again") from None
    values = _values(path, metadata)
    fields = _fields(path, values)
    _check_tensors(path, tensors, fields["event_shape"])
    kept = [name for name in (*TENSORS, COSINE, SCALES, *COMPONENTS) if name in tensors]
    return Statistics(
        moments=Moments(**fields, **{name: tensors[name] for name in kept}),
        model=ModelStatistics(
            score=_score(path, values, tensors) if SCORE[0] in tensors else None,
            shrinkage=_shrinkage(path, tensors) if "shrinkage_levels" in tensors else None,
            steps=_steps(path, values, tensors) if STEPS[0] in tensors else None,
            guidance=_guidance(path, values),
        ),
        tuning=Tuning(
            rules=_rules(path, values.get("step_tried", {})),
            fits=_fits(path, values.get("fits", {}), tensors),
            starts=_starts(path, values.get("starts", {})),
        ),
        samples_of=str(values.get("samples_of", "")),
        version=str(values.get("library_version")),
        source=source,
        digest=digest,
    )


def _sized(digits: str) -> int:
    """A whole number of JSON, of a size that can be one here."""
    if len(digits) > DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _values(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """The metadata parsed, of a file in this format and of a version that this library reads."""
    if metadata.get("format") != FORMAT:
        raise PrescoreError(f"{path}: not a statistics file; `prescore calibrate` writes one")
    try:
        values = {name: json.loads(text, parse_int=_sized) for name, text in metadata.items() if name != "format"}
        newer = _whole(values["format_version"]) > FORMAT_VERSION
    except DAMAGE as error:
        _refuse(path, f"its metadata cannot be read ({error!r})")
    if newer:
        version = values["format_version"]
        raise PrescoreError(f"{path}: format version {version}, this library reads up to {FORMAT_VERSION}; upgrade it")
    return values


def _fields(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The entries of Moments that are not tensors."""
    try:
        known = values["data_range"]
        low, high = (0.0, 1.0) if known is None else (float(end) for end in known)
        fields: dict[str, Any] = {
            "count": _whole(values["count"]),
            "event_shape": tuple(_whole(n) for n in values["event_shape"]),
            "axes": _whole(values["axes"]),
            "data_range": None if known is None else (low, high),
            "minimum": float(values["minimum"]),
            "maximum": float(values["maximum"]),
        }
    except DAMAGE as error:
        _refuse(path, f"its metadata cannot be read ({error!r})")
    shape: tuple[int, ...] = fields["event_shape"]
    if not all(map(isfinite, (low, high, high - low, fields["minimum"], fields["maximum"]))):
        _refuse(path, "its metadata have numbers that are not finite")
    spread = fields["maximum"] - fields["minimum"]
    is_bounded = known is not None and not values.get("samples_of")  # which may leave the range
    in_order = low < high and 0 <= spread <= (FARTHEST * (high - low) if is_bounded else inf)
    if not in_order or not fields["axes"] <= min(3, len(shape)):
        _refuse(path, "its metadata contradict each other")
    if not has_width(low, high):
        _refuse(path, f"its data_range is {high - low:g} wide")
    return fields


def _score(path: Path, values: dict[str, Any], tensors: dict[str, Tensor]) -> ScoreStatistics:
    count, model = _source(path, values, "score")
    levels, score_square, residual_square = (tensors[name] for name in SCORE)
    _check_levels(path, SCORE[0], levels)
    return ScoreStatistics(
        levels=levels, score_square=score_square, residual_square=residual_square, count=count, model=model
    )


def _shrinkage(path: Path, tensors: dict[str, Tensor]) -> Shrinkage:
    levels = tensors["shrinkage_levels"]
    G = tensors["shrinkage_edges"].numel() + 1 if "shrinkage_edges" in tensors else 1
    shapes = {"levels": (levels.numel(),), "edges": (G - 1,), "weights": (levels.numel(), G)}
    read = {name: _tensor(path, tensors, f"shrinkage_{name}", shape) for name, shape in shapes.items()}
    _check_levels(path, "shrinkage_levels", levels)
    edges, weights = read["edges"], read["weights"]
    if not (edges.diff() < 0).all() or (weights < 0).any() or (weights > 1).any():
        _refuse(path, "the edges of its shrinkage do not decrease, or a weight is not from 0 to 1")
    return Shrinkage(**read)


def _tensor(path: Path, tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """One of them, whose shape was checked nowhere else."""
    tensor = tensors.get(name)
    if tensor is None or tuple(tensor.shape) != shape or tensor.dtype != torch.float64 or not tensor.isfinite().all():
        _refuse(path, f"tensor {name} is not float64 {shape}, all finite")
    return tensor


def _steps(path: Path, values: dict[str, Any], tensors: dict[str, Tensor]) -> StepErrors:
    count, model = _source(path, values, "step")
    levels, widths, variances, shares = (tensors[name] for name in STEPS)
    _check_levels(path, STEPS[0], levels)
    if len(widths) < 2 or not (widths.diff() > 0).all() or widths[0] <= 0:
        _refuse(path, f"tensor {STEPS[1]} is not a row of rising widths")
    solvers = {prediction: SolverErrors.of(tensors[name]) for prediction, name in STEP_ERRORS.items()}
    return StepErrors(
        levels=levels,
        widths=widths,
        variances=variances,
        shares=shares,
        solvers=solvers,
        count=count,
        model=model,
    )


def _rules(path: Path, value: Any) -> dict[str, dict[int, Rule]]:
    """The rules by solver and number of steps, which JSON has as text."""
    try:
        tried = {str(name): {int(n): rule for n, rule in rules.items()} for name, rules in value.items()}
    except (AttributeError, *DAMAGE):
        _refuse(path, "step_tried in its metadata is not a table of rules by solver and number of steps")
    for name, rules in tried.items():
        for n, rule in rules.items():
            if n < 1 or not is_rule(rule):
                _refuse(path, f"step_tried in its metadata has the rule {rule!r} for {n} steps of {name}")
    return tried


def _starts(path: Path, value: Any) -> dict[str, float]:
    """Squared distances by start."""
    if not isinstance(value, dict) or set(value) not in (set(), {"gaussian", "noise", "error"}):
        _refuse(path, "starts in its metadata are not the distances of the starts gaussian and noise, and their error")
    if not all(isinstance(number, int | float) and number >= 0 for number in value.values()):
        _refuse(path, "starts in its metadata has a distance that is no number from 0 on")
    return {name: float(number) for name, number in value.items()}


def _facts(fit: FittedWeights) -> dict[str, object]:
    """What is no tensor, as JSON has it."""
    return {"errors": dict(fit.errors), "count": fit.count, "model": fit.model}


def _fits(path: Path, values: Any, tensors: dict[str, Tensor]) -> dict[int, FittedWeights]:
    """The fitted weights by number of steps."""
    try:
        return {int(T): _fit(path, _whole(int(T)), facts, tensors) for T, facts in values.items()}
    except (AttributeError, *DAMAGE) as error:
        _refuse(path, f"fits in its metadata cannot be read ({error!r})")


def _fit(path: Path, T: int, facts: dict[str, Any], tensors: dict[str, Tensor]) -> FittedWeights:
    levels, edges, weights, gains = (tensors[f"fit_{T}_{name}"] for name in FIT)
    G = max(gains.numel(), 1)
    shapes = {"levels": (T + 1,), "edges": (G - 1,), "weights": (T, G, POINTS + 1), "gains": (G,)}
    for name, shape in shapes.items():
        _tensor(path, tensors, f"fit_{T}_{name}", shape)
    if not (levels.diff() < 0).all() or levels[-1] != 0 or not (edges.diff() < 0).all() or (gains <= 0).any():
        _refuse(path, f"the levels, edges or gains of its fit of {T} steps are not in order")
    errors = {str(name): float(error) for name, error in facts["errors"].items()}
    if "p-fit" not in errors or not all(0 <= error < inf for error in errors.values()):
        _refuse(path, f"fits in its metadata has no errors of p-fit with {T} steps, or some that are none")
    return FittedWeights(
        levels=levels,
        edges=edges,
        weights=weights,
        gains=gains,
        errors=errors,
        count=_whole(facts["count"]),
        model=str(facts["model"]),
    )


def _guidance(path: Path, values: dict[str, Any]) -> float:
    weight = values.get("guidance", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not -inf < weight < inf:
        _refuse(path, f"its guidance {repr(weight)[:50]} is not a finite number")
    return float(weight)


def _source(path: Path, values: dict[str, Any], prefix: str) -> tuple[int, str]:
    """What was measured how often: the count and the model in the metadata."""
    try:
        return _whole(values[f"{prefix}_count"]), str(values[f"{prefix}_model"])
    except DAMAGE as error:
        _refuse(path, f"its metadata cannot be read ({error!r})")


def _whole(value: object) -> int:
    """A positive whole number of JSON, which may have any number of digits. Raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**63:
        raise ValueError(f"{repr(value)[:50]} is not a positive whole number")
    return value


def _check_levels(path: Path, name: str, levels: Tensor) -> None:
    if len(levels) < 2 or not (levels.diff() < 0).all() or levels[-1] <= 0:
        _refuse(path, f"tensor {name} is not a row of decreasing noise levels")


def _check_tensors(path: Path, tensors: dict[str, Tensor], event_shape: tuple[int, ...]) -> None:
    half = (*event_shape[:-1], event_shape[-1] // 2 + 1)
    shapes: dict[str, tuple[int, ...]] = dict(zip(TENSORS, (event_shape, event_shape, half, half), strict=True))
    if COSINE in tensors:
        shapes[COSINE] = event_shape
    if SCALES in tensors:
        shapes[SCALES] = (max(tensors[SCALES].numel(), 1),)
    if COMPONENTS[0] in tensors:
        k = max(tensors[COMPONENTS[0]].numel() // prod(event_shape), 1)
        shapes |= dict(zip(COMPONENTS, ((k, *event_shape), (k,)), strict=True))
    if SCORE[0] in tensors:
        shapes |= dict.fromkeys(SCORE, (tensors[SCORE[0]].numel(),))
    if STEPS[0] in tensors:
        rows = tensors[STEPS[1]].numel() if STEPS[1] in tensors else 0
        groups = tensors[STEPS[2]].numel() if STEPS[2] in tensors else 0
        shapes |= dict(zip(STEPS, ((tensors[STEPS[0]].numel(),), (rows,), (groups,), (groups,)), strict=True))
        shapes |= dict.fromkeys(STEP_ERRORS.values(), (rows + 2, tensors[STEPS[0]].numel()))
    for name, shape in shapes.items():
        if name not in tensors:
            _refuse(path, f"tensor {name} is missing")
        if tuple(tensors[name].shape) != shape or tensors[name].dtype != torch.float64:
            _refuse(path, f"tensor {name} is {tensors[name].dtype} {tuple(tensors[name].shape)}, not float64 {shape}")
        if not torch.isfinite(tensors[name]).all():
            _refuse(path, f"tensor {name} has values that are not finite")
        if name in NOT_NEGATIVE and (tensors[name] < 0).any():
            _refuse(path, f"tensor {name} has negative values")


def _refuse(path: Path, why: str) -> NoReturn:
    raise PrescoreError(f"{path}: damaged statistics file, {why}; write it again with `prescore calibrate`")
